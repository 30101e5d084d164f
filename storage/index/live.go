package index

// Range is a part of an entry's data, in bytes.
type Range struct{ Off, Len uint32 }

// Live calls yield for each entry of [lo, hi) that holds messages, ascending, with where they lie in
// its data, ascending and apart, until yield returns false. parts is valid during the call.
func (ix *Index) Live(lo, hi uint64, yield func(index uint64, parts []Range) bool) error {
	var entry uint64
	var parts []Range
	for p := ix.blocks.search(func(s *summary) bool { return s.lastIndex >= lo }); ; p = ix.blocks.after(p) {
		if !ix.blocks.isEnd(p) && ix.blocks.at(p).firstIndex >= hi {
			break
		}
		v, err := ix.part(p)
		if err != nil {
			return err
		}
		for i := v.liveAt(v.lowerIndex(lo)); i < v.n(); i = v.liveAt(i + 1) {
			r := v.record(i)
			if r.index >= hi {
				break
			}
			if r.index != entry {
				if len(parts) > 0 && !yield(entry, parts) {
					return nil
				}
				entry, parts = r.index, parts[:0]
			}
			if n := len(parts); n > 0 && parts[n-1].Off+parts[n-1].Len == r.off {
				parts[n-1].Len += r.size >> 1
			} else {
				parts = append(parts, Range{r.off, r.size >> 1})
			}
		}
		if ix.blocks.isEnd(p) {
			break
		}
	}
	if len(parts) > 0 {
		yield(entry, parts)
	}
	return nil
}

// LiveBytes returns about how many bytes Live would name, from what is in the heap: blocks that begin before
// lo or end at hi or later count by their share of entries.
func (ix *Index) LiveBytes(lo, hi uint64) uint64 {
	if lo >= hi {
		return 0
	}
	var n uint64
	share := func(bytes, first, last uint64) {
		if from, to := max(first, lo), min(last, hi-1); from <= to {
			n += uint64(float64(bytes) * float64(to-from+1) / float64(last-first+1))
		}
	}
	for p := ix.blocks.search(func(s *summary) bool { return s.lastIndex >= lo }); !ix.blocks.isEnd(p); p = ix.blocks.after(p) {
		s := ix.blocks.at(p)
		if s.firstIndex >= hi {
			break
		}
		share(s.bytes, s.firstIndex, s.lastIndex)
	}
	for i := ix.open.liveAt(0); i < len(ix.open.recs); i = ix.open.liveAt(i + 1) {
		if r := &ix.open.recs[i]; r.index >= lo && r.index < hi {
			n += uint64(r.size >> 1)
		}
	}
	return n
}
