package index

// A fence tells which subjects a block has not: a Bloom filter of their numbers, three bits for each
// subject. It takes eight bits a subject and at most fenceBytes; a block of so many subjects that less
// than two bits were left for each has none, and is read instead. That is at most 0.1 bytes a message.
const (
	fenceBytes = 104
	fenceHash  = 3
)

// newFence returns the fence of subjects; empty if it would not tell enough.
func newFence(subjects []uint32) string {
	if len(subjects) == 1 || len(subjects) > fenceBytes*8/2 {
		return "" // the summary has the number itself; or too many
	}
	b := make([]byte, min(fenceBytes, len(subjects)))
	for _, s := range subjects {
		h := fenceMix(s)
		for range fenceHash {
			bit := uint32(h) % uint32(len(b)*8)
			b[bit/8] |= 1 << (bit % 8)
			h >>= 20
		}
	}
	return string(b)
}

// fenceMix spreads a number over 60 bits (the finalizer of SplitMix64).
func fenceMix(s uint32) uint64 {
	h := uint64(s) + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// mayHold reports whether a block behind the fence may have the subject.
func mayHold(fence string, subject uint32) bool {
	if fence == "" {
		return true
	}
	h := fenceMix(subject)
	for range fenceHash {
		bit := uint32(h) % uint32(len(fence)*8)
		if fence[bit/8]>>(bit%8)&1 == 0 {
			return false
		}
		h >>= 20
	}
	return true
}
