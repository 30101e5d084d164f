package index

import "math/bits"

// deadBits marks records of one block that are not live any more.
type deadBits [BlockLen / 64]uint64

func (d *deadBits) set(i int)      { d[i/64] |= 1 << (i % 64) }
func (d *deadBits) has(i int) bool { return d[i/64]>>(i%64)&1 != 0 }

// live returns the first position at or after i that is not marked; BlockLen if there is none.
func (d *deadBits) live(i int) int {
	for i < BlockLen {
		if w := ^d[i/64] >> (i % 64); w != 0 {
			return i + bits.TrailingZeros64(w)
		}
		i = (i/64 + 1) * 64
	}
	return BlockLen
}

// liveBefore returns the last position at or before i that is not marked, -1 if there is none.
func (d *deadBits) liveBefore(i int) int {
	for i >= 0 {
		if w := ^d[i/64] << (63 - i%64); w != 0 {
			return i - bits.LeadingZeros64(w)
		}
		i = i/64*64 - 1
	}
	return -1
}

// count returns how many of the positions before i are marked.
func (d *deadBits) count(i int) int {
	n := 0
	for w := range i / 64 {
		n += bits.OnesCount64(d[w])
	}
	if i%64 != 0 {
		n += bits.OnesCount64(d[i/64] << (64 - i%64))
	}
	return n
}

// deadSet is the dead records of a stored block behind its head.
type deadSet struct {
	gen  uint64 // of the index when it was made or copied
	bits deadBits
}
