package journal

import "slices"

// place says where an entry's data stands: 12 bytes an entry is all the memory that a stored entry
// takes.
type place struct {
	seg    uint32 // segment number; 0: queued, off is then the low half of the queue id
	off    uint32 // byte offset of the data in the segment
	length uint32
}

// termRun says that entries from index on, up to the next run, have term.
type termRun struct {
	from, term uint64
}

// group is what the journal knows of one group. Guarded by Log.mu.
//
//  1. places[i] is entry base+i; there are no holes.
//  2. terms is sorted by from, and terms[0].from <= base when there are entries.
//  3. Queued entries are the last ones.
type group struct {
	id       uint64
	base     uint64 // index of places[0]; entries below are released
	baseTerm uint64 // term of entry base-1
	places   []place
	terms    []termRun
	state    HardState
	hasState bool
	dropped  bool

	released  uint64 // entries up to here are released by a durable record
	stateSeg  uint32 // segment of the latest HARDSTATE record; 0: none
	boundsSeg uint32 // segment of the latest BOUNDS record; 0: none
}

func newGroup(id uint64) *group { return &group{id: id, base: 1} }

func (g *group) last() uint64 { return g.base + uint64(len(g.places)) - 1 }

// term returns the term of an entry between base-1 and last.
func (g *group) term(index uint64) uint64 {
	if index < g.base {
		return g.baseTerm
	}
	i, found := slices.BinarySearchFunc(g.terms, index, func(r termRun, x uint64) int {
		switch {
		case r.from < x:
			return -1
		case r.from > x:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	return g.terms[i].term
}

// put stores the place of an entry with base <= index <= last+1 and voids what stands at index and
// above.
func (g *group) put(index, term uint64, p place) {
	if index <= g.last() {
		g.truncate(index)
	}
	g.places = append(g.places, p)
	if n := len(g.terms); n == 0 || g.terms[n-1].term != term {
		g.terms = append(g.terms, termRun{index, term})
	}
}

// truncate voids entries from index on.
func (g *group) truncate(index uint64) {
	g.places = g.places[:index-g.base]
	for n := len(g.terms); n > 0 && g.terms[n-1].from >= index; n-- {
		g.terms = g.terms[:n-1]
	}
}

// release forgets entries up to upTo, which may lie beyond the last one; term is the term of upTo.
func (g *group) release(upTo, term uint64) {
	if upTo < g.base {
		if upTo == g.base-1 {
			g.baseTerm = term
		}
		return
	}
	if upTo >= g.last() {
		g.places, g.terms = nil, nil
	} else {
		g.places = g.places[upTo+1-g.base:]
		for len(g.terms) > 1 && g.terms[1].from <= upTo+1 {
			g.terms = g.terms[1:]
		}
	}
	g.base, g.baseTerm = upTo+1, term
}

// written turns a queued place into a stored one, unless the entry was voided or released
// meanwhile.
func (g *group) written(index uint64, id uint32, p place) {
	if index < g.base || index > g.last() {
		return
	}
	if at := &g.places[index-g.base]; at.seg == 0 && at.off == id {
		*at = p
	}
}
