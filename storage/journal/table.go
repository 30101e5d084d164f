package journal

import (
	"cmp"
	"slices"
)

// run says that count entries of a group from first on stand in a segment: in its table of entries from
// row at on, or, moved, in its sparse table.
type run struct {
	first          uint64
	count, at, seg uint32
	moved          bool
}

func (r run) end() uint64 { return r.first + uint64(r.count) }

// cut returns the part of a run from lo to hi-1; count is 0 when there is none.
func (r run) cut(lo, hi uint64) run {
	lo, hi = max(lo, r.first), min(hi, r.end())
	if lo >= hi {
		return run{}
	}
	if !r.moved {
		r.at += uint32(lo - r.first)
	}
	r.first, r.count = lo, uint32(hi-lo)
	return r
}

// termRun says that entries from index on, up to the next run, have term.
type termRun struct {
	from, term uint64
}

// part says that a segment has RELOCATED records of entries between low and high.
type part struct {
	seg       uint32
	low, high uint64
}

// queuedRun says that count entries of a group from first on are not durable yet, and were queued one after
// the other.
type queuedRun struct {
	first uint64
	count uint32
	id    uint64 // of the first in the queue
}

func (q queuedRun) end() uint64 { return q.first + uint64(q.count) }

// voided is a run that an entry or a Reset voided which is not durable yet: until then the run may be what
// a crash leaves, and keeps its segment.
type voided struct {
	run
	id uint64 // of the queued entry
	by *blob  // the snapshot of the Reset
}

// pin keeps a segment until so many items are durable: until then, what something queued replaces there may
// be what a crash leaves.
type pin struct {
	seg   uint32
	until uint64
}

// group is what the journal knows of one group. Its size depends on the number of segments with entries
// of the group and of terms, not on that of entries. Guarded by Log.mu.
//
//  1. runs are sorted and apart. Together with queued they have all entries from base to last; below base
//     they have what may still be needed.
//  2. terms is sorted by from, and terms[0].from <= base when there are entries.
//  3. queued is sorted and apart, and holds the last entries. Its ids ascend.
//  4. released < base.
//  5. A segment is in runs, voided, objects or pins as long as durable records need its entries or objects.
type group struct {
	id       uint64
	base     uint64 // the log's first index
	baseTerm uint64 // term of entry base-1
	last     uint64 // the log's last index, base-1 when it is empty
	released uint64 // nobody needs entries up to here
	runs     []run
	terms    []termRun
	queued   []queuedRun
	voided   []voided
	pins     []pin
	parts    []part             // in order of the segments
	pending  map[uint64][]*blob // queued RELOCATED records by index, the oldest first
	objects  map[uint64]object
	snap     *Snapshot
	state    HardState
	hasState bool
	dropped  bool

	// What durable records say.
	durableBase     uint64
	durableReleased uint64
	stateSeg        uint32 // segment of the latest HARDSTATE record; 0: none
	boundsSeg       uint32 // segment of the latest BOUNDS record; 0: none
	snapSeg         uint32 // segment of the latest SNAPSHOT record; 0: none
}

func newGroup(id uint64) *group { return &group{id: id, base: 1, durableBase: 1} }

// term returns the term of an entry between base-1 and last.
func (g *group) term(index uint64) uint64 {
	if index < g.base {
		return g.baseTerm
	}
	return termAt(g.terms, index)
}

// termAt returns the term of an entry that term runs have.
func termAt(terms []termRun, index uint64) uint64 {
	i, found := slices.BinarySearchFunc(terms, index, func(r termRun, x uint64) int { return cmp.Compare(r.from, x) })
	if !found {
		i--
	}
	if i < 0 {
		return 0 // a hole of recovery
	}
	return terms[i].term
}

// setTerm gives count entries from first on a term.
func (g *group) setTerm(first, count, term uint64) {
	end := first + count
	if first > g.last {
		g.addTerm(first, term)
		return
	}
	if end > g.last {
		g.cutTerms(first)
		g.addTerm(first, term)
		return
	}
	after := termAt(g.terms, end)
	lo, _ := slices.BinarySearchFunc(g.terms, first, func(r termRun, x uint64) int { return cmp.Compare(r.from, x) })
	hi, _ := slices.BinarySearchFunc(g.terms, end, func(r termRun, x uint64) int { return cmp.Compare(r.from, x) })
	with := []termRun{{first, term}}
	if hi == len(g.terms) || g.terms[hi].from != end {
		with = append(with, termRun{end, after})
	}
	g.terms = slices.Replace(g.terms, lo, hi, with...)
	g.terms = slices.CompactFunc(g.terms, func(a, b termRun) bool { return a.term == b.term })
}

func (g *group) addTerm(from, term uint64) {
	if n := len(g.terms); n == 0 || g.terms[n-1].term != term {
		g.terms = append(g.terms, termRun{from, term})
	}
}

func (g *group) cutTerms(from uint64) {
	n := len(g.terms)
	for n > 0 && g.terms[n-1].from >= from {
		n--
	}
	g.terms = g.terms[:n]
}

// put queues entries that follow each other, the first of which has base <= index <= last+1 and the queue id
// id, and voids what stands at its index and above.
func (g *group) put(entries []Entry, id uint64) {
	first, count := entries[0].Index, uint32(len(entries))
	if first <= g.last {
		g.void(first, voided{id: id})
	}
	if n := len(g.queued); n > 0 && g.queued[n-1].end() == first && g.queued[n-1].id+uint64(g.queued[n-1].count) == id {
		g.queued[n-1].count += count
	} else {
		g.queued = append(g.queued, queuedRun{first: first, count: count, id: id})
	}
	for i := range entries {
		g.addTerm(entries[i].Index, entries[i].Term)
	}
	g.last = g.queued[len(g.queued)-1].end() - 1
}

// void voids the entries from an index above base-1 on, by something that is not durable yet.
func (g *group) void(from uint64, by voided) {
	for _, r := range g.runs {
		if by.run = r.cut(from, r.end()); by.count > 0 {
			g.voided = append(g.voided, by)
		}
	}
	g.truncate(from)
}

// resetDurable notes that the Reset that voided runs is durable.
func (g *group) resetDurable(by *blob) {
	if len(g.voided) > 0 {
		g.voided = slices.DeleteFunc(g.voided, func(v voided) bool { return v.by == by })
	}
}

// entriesDurable notes that the count queued entries from id on, which may have voided runs, are durable.
func (g *group) entriesDurable(id uint64, count uint32) {
	if len(g.voided) > 0 {
		g.voided = slices.DeleteFunc(g.voided, func(v voided) bool { return v.by == nil && v.id-id < uint64(count) })
	}
}

// pin keeps a segment until an item that is not durable yet is; durable is how many are.
func (g *group) pin(seg uint32, until, durable uint64) {
	g.pins = slices.DeleteFunc(g.pins, func(p pin) bool { return p.until <= durable })
	if until > durable {
		g.pins = append(g.pins, pin{seg, until})
	}
}

// keepsLocked reports whether a segment has something that is replaced by what is not durable yet.
func (l *Log) keepsLocked(g *group, seg uint32) bool {
	return g.voidedIn(seg) || slices.ContainsFunc(g.pins, func(p pin) bool { return p.seg == seg && p.until > l.durable })
}

// voidedIn reports whether a segment has runs that are voided by something which is not durable yet.
func (g *group) voidedIn(seg uint32) bool {
	return slices.ContainsFunc(g.voided, func(v voided) bool { return v.seg == seg })
}

// truncate forgets the entries from an index above base-1 on.
func (g *group) truncate(from uint64) {
	n := len(g.runs)
	for n > 0 && g.runs[n-1].first >= from {
		n--
	}
	g.runs = g.runs[:n]
	if n > 0 {
		g.runs[n-1] = g.runs[n-1].cut(0, from)
	}
	q := len(g.queued)
	for q > 0 && g.queued[q-1].first >= from {
		q--
	}
	g.queued = g.queued[:q]
	if q > 0 && g.queued[q-1].end() > from {
		g.queued[q-1].count = uint32(from - g.queued[q-1].first)
	}
	g.cutTerms(from)
	g.last = min(g.last, max(from, g.base)-1)
}

// compact moves the first index to upTo+1, which may lie beyond last+1; term is the term of upTo.
func (g *group) compact(upTo, term uint64) {
	if upTo+1 < g.base {
		return
	}
	g.base, g.baseTerm = upTo+1, term
	if upTo >= g.last {
		g.last, g.terms = upTo, nil
	}
	n := 0
	for n+1 < len(g.terms) && g.terms[n+1].from <= g.base {
		n++
	}
	g.terms = slices.Delete(g.terms, 0, n)
}

// trim forgets entries that are released for good.
func (g *group) trim() {
	n := 0
	for n < len(g.runs) && g.runs[n].end() <= g.durableReleased+1 {
		n++
	}
	g.runs = slices.Delete(g.runs, 0, n)
	if len(g.runs) > 0 {
		g.runs[0] = g.runs[0].cut(g.durableReleased+1, g.runs[0].end())
	}
}

// reset voids the entries above keep and lets the log go on after index.
func (g *group) reset(keep, index, term uint64, by *blob) {
	if keep < g.last {
		g.void(keep+1, voided{by: by})
	}
	g.terms = nil
	g.base, g.baseTerm, g.last = index+1, term, index
}

// written turns the queued entries of a run, the first of which has the queue id id, into stored ones. It
// returns how many of them were not voided meanwhile.
func (g *group) written(r run, id uint64) (stored uint32) {
	g.entriesDurable(id, r.count)
	if len(g.queued) == 0 || g.queued[0].first != r.first || g.queued[0].id != id {
		return 0
	}
	q := &g.queued[0]
	stored = min(r.count, q.count)
	q.first, q.count, q.id = q.first+uint64(stored), q.count-stored, q.id+uint64(stored)
	if q.count == 0 {
		g.queued = g.queued[1:]
	}
	if len(g.queued) == 0 {
		g.queued = nil
	}
	if r = r.cut(g.durableReleased+1, r.first+uint64(stored)); r.count > 0 {
		g.add(r)
	}
	return stored
}

// add appends a run behind all others, or to the last of them.
func (g *group) add(r run) {
	if n := len(g.runs); n > 0 {
		last := &g.runs[n-1]
		if last.end() == r.first && last.seg == r.seg && last.moved == r.moved && (r.moved || last.at+last.count == r.at) {
			last.count += r.count
			return
		}
	}
	g.runs = append(g.runs, r)
}

// place gives entries a new place. It voids nothing.
func (g *group) place(r run) {
	r = r.cut(g.durableReleased+1, r.end())
	if r.count == 0 {
		return
	}
	old := g.runs
	g.runs = make([]run, 0, len(old)+2)
	i := 0
	for ; i < len(old) && old[i].first < r.first; i++ {
		if before := old[i].cut(0, r.first); before.count > 0 {
			g.add(before)
		}
		if old[i].end() > r.end() {
			break
		}
	}
	g.add(r)
	for ; i < len(old); i++ {
		if after := old[i].cut(r.end(), old[i].end()); after.count > 0 {
			g.add(after)
		}
	}
}

// find returns the run that has an entry.
func (g *group) find(index uint64) (run, bool) {
	i, found := slices.BinarySearchFunc(g.runs, index, func(r run, x uint64) int { return cmp.Compare(r.first, x) })
	if !found {
		i--
	}
	if i < 0 || g.runs[i].end() <= index {
		return run{}, false
	}
	return g.runs[i], true
}

// findQueued returns the queue id of an entry that is not durable yet, and how many were queued after it
// without a gap, itself included.
func (g *group) findQueued(index uint64) (id uint64, count uint32, ok bool) {
	i, found := slices.BinarySearchFunc(g.queued, index, func(q queuedRun, x uint64) int { return cmp.Compare(q.first, x) })
	if !found {
		i--
	}
	if i < 0 || g.queued[i].end() <= index {
		return 0, 0, false
	}
	skip := index - g.queued[i].first
	return g.queued[i].id + skip, g.queued[i].count - uint32(skip), true
}

// hole returns the first index of the log that has no place.
func (g *group) hole() (index uint64, ok bool) {
	next := g.base
	for _, r := range g.runs {
		if r.first > next {
			break
		}
		next = max(next, r.end())
	}
	for _, q := range g.queued {
		if q.first <= next {
			next = max(next, q.end())
		}
	}
	return next, next <= g.last
}

// addPart notes RELOCATED records in a segment.
func (g *group) addPart(seg uint32, low, high uint64) {
	i, found := slices.BinarySearchFunc(g.parts, seg, func(p part, seg uint32) int { return cmp.Compare(p.seg, seg) })
	if !found {
		g.parts = slices.Insert(g.parts, i, part{seg, low, high})
		return
	}
	p := &g.parts[i]
	p.low, p.high = min(p.low, low), max(p.high, high)
}

// forget removes a segment from the group's places.
func (g *group) forget(seg uint32) {
	g.runs = slices.DeleteFunc(g.runs, func(r run) bool { return r.seg == seg })
	g.parts = slices.DeleteFunc(g.parts, func(p part) bool { return p.seg == seg })
}
