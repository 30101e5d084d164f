package index

// part is a block in use: a stored one, or the open one, whose blk and sum are nil.
type part struct {
	open *openBlock
	sum  *summary
	blk  *block
	at   pos
}

// part returns the block at p; at the end that is the open one.
func (ix *Index) part(p pos) (part, error) {
	if ix.blocks.isEnd(p) {
		return part{open: &ix.open, at: p}, nil
	}
	s := ix.blocks.at(p)
	k, err := ix.load(s)
	return part{sum: s, blk: k, at: p}, err
}

// isHead reports whether record i is the first live one of all.
func (ix *Index) isHead(v part, i int) bool {
	if v.blk == nil {
		return ix.blocks.isEnd(pos{}) && i == ix.open.head
	}
	return ix.blocks.isFirst(v.at) && i == int(v.sum.head)
}

// locate returns the block and the record of seq, live or not; -1 if there is none.
func (ix *Index) locate(seq uint64) (part, int, error) {
	p := ix.blocks.seek(seq)
	if !ix.blocks.isEnd(p) && ix.blocks.at(p).first > seq {
		return part{}, -1, nil
	}
	v, err := ix.part(p)
	if err != nil {
		return v, -1, err
	}
	return v, v.find(seq), nil
}

func (v *part) n() int {
	if v.blk == nil {
		return len(v.open.recs)
	}
	return v.blk.n
}

func (v *part) lower(seq uint64) int {
	if v.blk == nil {
		return v.open.lower(seq)
	}
	return v.blk.lower(seq)
}

// find returns the record of seq, live or not; -1 if there is none.
func (v *part) find(seq uint64) int {
	if i := v.lower(seq); i < v.n() && v.seq(i) == seq {
		return i
	}
	return -1
}

func (v *part) seq(i int) uint64 {
	if v.blk == nil {
		return v.open.recs[i].seq
	}
	return v.blk.seq(i)
}

func (v *part) record(i int) record {
	if v.blk == nil {
		return v.open.recs[i]
	}
	return v.blk.record(i)
}

// kept returns a record without what a removal has no use for: each column is another place in memory.
func (v *part) kept(i int) record {
	if v.blk == nil {
		r := v.open.recs[i]
		r.off, r.time = 0, 0
		return r
	}
	k := v.blk
	return record{seq: k.seq(i), index: k.index(i), size: uint32(k.at(colSize, i)), subject: k.subject(i)}
}

func (v *part) distance(i int) uint32 {
	if v.blk == nil {
		return v.open.recs[i].distance
	}
	return uint32(v.blk.at(colDistance, i))
}

func (v *part) subject(i int) uint32 {
	if v.blk == nil {
		return v.open.recs[i].subject
	}
	return v.blk.subject(i)
}

func (v *part) isLive(i int) bool {
	if v.blk == nil {
		return !v.open.dead.has(i)
	}
	return v.sum.isLive(i)
}

// liveAt returns the first live record at or after i; n if there is none.
func (v *part) liveAt(i int) int {
	if v.blk == nil {
		return v.open.liveAt(i)
	}
	return v.sum.liveAt(i)
}

// liveBefore returns the last live record at or before i; -1 if there is none.
func (v *part) liveBefore(i int) int {
	if v.blk == nil {
		return v.open.dead.liveBefore(i)
	}
	return v.sum.liveBefore(i)
}

// upTo returns the last record at or before seq; -1 if there is none.
func (v *part) upTo(seq uint64) int {
	i := v.lower(seq)
	if i < v.n() && v.seq(i) == seq {
		return i
	}
	return i - 1
}

// oldest returns the first live message of a subject at or after seq.
func (v *part) oldest(subject uint32, seq uint64) (uint64, bool) {
	if v.blk == nil {
		for i := v.liveAt(v.lower(seq)); i < v.n(); i = v.liveAt(i + 1) {
			if v.open.recs[i].subject == subject {
				return v.open.recs[i].seq, true
			}
		}
		return 0, false
	}
	number, ok := v.blk.numberOf(subject)
	if !ok {
		return 0, false
	}
	for i := v.sum.liveAt(v.blk.lower(seq)); i < v.blk.n; i = v.sum.liveAt(i + 1) {
		if v.blk.number(i) == number {
			return v.blk.seq(i), true
		}
	}
	return 0, false
}

// newest returns the last live message of a subject at or before seq.
func (v *part) newest(subject uint32, seq uint64) (uint64, bool) {
	if v.blk == nil {
		for i := v.liveBefore(v.upTo(seq)); i >= 0; i = v.liveBefore(i - 1) {
			if v.open.recs[i].subject == subject {
				return v.open.recs[i].seq, true
			}
		}
		return 0, false
	}
	number, ok := v.blk.numberOf(subject)
	if !ok {
		return 0, false
	}
	for i := v.sum.liveBefore(v.upTo(seq)); i >= 0; i = v.sum.liveBefore(i - 1) {
		if v.blk.number(i) == number {
			return v.blk.seq(i), true
		}
	}
	return 0, false
}
