package index

import (
	"slices"
	"sort"
)

// summary is what the heap keeps of a stored block.
//
//  1. n >= live >= 1; head is the first live record.
//  2. A record before head is dead; one behind it is dead if dead has it.
//  3. bytes is the sum of the lengths of live messages.
type summary struct {
	key                   uint64
	first, last           uint64 // sequences of the first and last record, live or not
	firstIndex, lastIndex uint64
	firstTime, lastTime   int64
	bytes                 uint64
	least, most           uint32 // subject numbers
	sum                   uint32 // checksum of the block
	n, live, head         uint16
	dead                  *deadSet // nil: none behind head
	fence                 string
}

func (s *summary) isLive(i int) bool {
	return i >= int(s.head) && (s.dead == nil || !s.dead.bits.has(i))
}

// liveAt returns the first live record at or after i; n if there is none.
func (s *summary) liveAt(i int) int {
	i = max(i, int(s.head))
	if s.dead == nil {
		return min(i, int(s.n))
	}
	return min(s.dead.bits.live(i), int(s.n))
}

// liveBefore returns the last live record at or before i; -1 if there is none.
func (s *summary) liveBefore(i int) int {
	if i < int(s.head) {
		return -1
	}
	if s.dead == nil {
		return i
	}
	return s.dead.bits.liveBefore(i) // head is live, so it is not before that
}

// liveFrom returns how many records at or after i are live.
func (s *summary) liveFrom(i int) int {
	if i <= int(s.head) {
		return int(s.live)
	}
	n := int(s.n) - i
	if s.dead != nil {
		n -= s.dead.bits.count(int(s.n)) - s.dead.bits.count(i)
	}
	return n
}

// mayHold reports whether the block may have records of a subject.
func (s *summary) mayHold(subject uint32) bool {
	return subject >= s.least && subject <= s.most && mayHold(s.fence, subject)
}

// summariesLen is how many summaries lie together: what is copied at once after a capture.
const summariesLen = 64

type summaries struct {
	gen uint64
	s   []summary // never empty
}

// blockList is the summaries of the stored blocks, by sequence.
type blockList struct {
	lists []*summaries
	n     int
}

// pos is a place in a blockList; list == len(lists) is the end.
type pos struct{ list, i int }

func (l *blockList) end() pos           { return pos{len(l.lists), 0} }
func (l *blockList) isEnd(p pos) bool   { return p.list >= len(l.lists) }
func (l *blockList) at(p pos) *summary  { return &l.lists[p.list].s[p.i] }
func (l *blockList) isFirst(p pos) bool { return p == pos{} }

func (l *blockList) after(p pos) pos {
	if p.i++; p.i == len(l.lists[p.list].s) {
		return pos{p.list + 1, 0}
	}
	return p
}

func (l *blockList) before(p pos) pos {
	if p.i > 0 {
		return pos{p.list, p.i - 1}
	}
	return pos{p.list - 1, len(l.lists[p.list-1].s) - 1}
}

// search returns the first summary for which reached, once true, stays true; the end if there is none.
func (l *blockList) search(reached func(*summary) bool) pos {
	k := sort.Search(len(l.lists), func(k int) bool { s := l.lists[k].s; return reached(&s[len(s)-1]) })
	if k == len(l.lists) {
		return l.end()
	}
	s := l.lists[k].s
	return pos{k, sort.Search(len(s)-1, func(i int) bool { return reached(&s[i]) })}
}

// seek returns the first block that ends at or after seq.
func (l *blockList) seek(seq uint64) pos {
	lo, hi := 0, len(l.lists)
	for lo < hi {
		mid := (lo + hi) / 2
		if s := l.lists[mid].s; s[len(s)-1].last < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(l.lists) {
		return l.end()
	}
	s := l.lists[lo].s
	i, hi := 0, len(s)-1
	for i < hi {
		mid := (i + hi) / 2
		if s[mid].last < seq {
			i = mid + 1
		} else {
			hi = mid
		}
	}
	return pos{lo, i}
}

// own returns the summary at p for a change, copying what a capture refers to.
func (l *blockList) own(ix *Index, p pos) *summary {
	return &l.ownList(ix, p.list).s[p.i]
}

func (l *blockList) ownList(ix *Index, k int) *summaries {
	if x := l.lists[k]; x.gen <= ix.frozen.Load() {
		l.lists[k] = &summaries{gen: ix.gen, s: slices.Clone(x.s)}
	}
	return l.lists[k]
}

func (l *blockList) add(ix *Index, s summary) {
	k := len(l.lists) - 1
	if k < 0 || len(l.lists[k].s) == summariesLen {
		l.lists = append(l.lists, &summaries{gen: ix.gen})
		k++
	}
	x := l.ownList(ix, k)
	x.s = append(x.s, s)
	l.n++
}

func (l *blockList) remove(ix *Index, p pos) {
	l.n--
	if len(l.lists[p.list].s) == 1 {
		if p.list == 0 {
			l.lists[0] = nil
			l.lists = l.lists[1:]
			return
		}
		l.lists = slices.Delete(l.lists, p.list, p.list+1)
		return
	}
	x := l.ownList(ix, p.list)
	x.s = slices.Delete(x.s, p.i, p.i+1)
}

// kill marks record i of the block at p as dead. It is live, and not the only one.
func (l *blockList) kill(ix *Index, p pos, i int, length uint32) {
	s := l.own(ix, p)
	s.live--
	s.bytes -= uint64(length)
	if i == int(s.head) {
		s.head++
		s.head = uint16(s.liveAt(int(s.head)))
		return
	}
	switch {
	case s.dead == nil:
		s.dead = &deadSet{gen: ix.gen}
	case s.dead.gen <= ix.frozen.Load():
		s.dead = &deadSet{gen: ix.gen, bits: s.dead.bits}
	}
	s.dead.bits.set(i)
}
