package journal

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// choose returns the segment to give back next, nil for none. One that holds nothing which is needed goes
// at once. Others go, the one with the least first, when the log takes more than twice what is needed of
// it and Config.SlackBytes, or the disk is full.
func (l *Log) choose(now time.Time) *segment {
	m := &l.mover
	l.mu.RLock()
	due := l.appended-m.counted >= l.cfg.SegmentBytes/4 || l.full != nil && l.appended > m.counted ||
		len(l.retain) > 0 && !now.Before(m.countAt)
	var next *segment
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		if s := l.segs[id]; l.leftLocked(s) && l.deadLocked(s) {
			next = s
			break
		}
	}
	if next != nil {
		next = l.firstLocked(next)
	} else {
		next = l.nextChosenLocked()
	}
	l.mu.RUnlock()
	if next != nil || !due {
		return next
	}
	return l.chooseCounted(now)
}

// leftLocked reports whether a segment is not written any more and may be given back.
func (l *Log) leftLocked(s *segment) bool {
	at, pinned := l.mover.kept[s.id]
	return s.id < l.active.id && !s.damaged && (s.footer == (span64{}) || s.known) && !(pinned && at == l.appended)
}

// deadLocked reports whether it is plain that a segment holds nothing that is needed, but for records
// that are carried over.
func (l *Log) deadLocked(s *segment) bool {
	for id, c := range s.groups {
		g := l.groups[id]
		if g == nil {
			if at, ok := l.dropped[id]; ok && at == 0 {
				return false
			}
			continue
		}
		if l.keepsLocked(g, s.id) {
			return false
		}
		for _, r := range g.runs {
			if r.seg == s.id && r.end() > g.durableReleased+1 {
				return false
			}
		}
		if c.sparseCount > 0 && c.sparseHigh > g.durableReleased {
			return false
		}
		for _, o := range c.objects {
			if at := g.objects[o.key]; at.blob == nil && at.seg == s.id {
				return false
			}
		}
	}
	return true
}

// firstLocked returns the segment that has to be given back before s, or s. Of entries that were voided
// in an older segment and lie before the first index now, only s may still say so: an older segment with
// such entries goes first.
func (l *Log) firstLocked(s *segment) *segment {
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		if id >= s.id {
			break
		}
		older := l.segs[id]
		for group, c := range s.groups {
			if !l.voidedLocked(group, c, older) {
				continue
			}
			if !l.leftLocked(older) {
				return nil
			}
			return older // none before it has any, as they were looked at
		}
	}
	return s
}

// voidedLocked reports whether an older segment has entries of a group, before its first index, that a
// segment with the contents c replaced.
func (l *Log) voidedLocked(group uint64, c *contents, older *segment) bool {
	g, o := l.groups[group], older.groups[group]
	if g == nil || o == nil || o.rowCount == 0 {
		return false
	}
	low := c.void
	if c.sparseCount > 0 && (low == 0 || c.sparseLow < low) {
		low = c.sparseLow
	}
	if low == 0 {
		return false
	}
	lo, hi := max(low, o.low, g.released+1), min(g.base, o.high+1)
	if lo >= hi {
		return false
	}
	n := uint64(0)
	for _, r := range g.runs {
		if r = r.cut(lo, hi); r.seg == older.id && !r.moved {
			n += uint64(r.count)
		}
	}
	return n < hi-lo
}

// carryLocked returns the records of the segment that are the latest of their kind and still count.
func (l *Log) carryLocked(s *segment) []item {
	var items []item
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g, c := l.groups[id], s.groups[id]
		if g == nil {
			// The delete must outlive every older segment with something of the group in it.
			if l.dropped[id] == s.id && l.olderLocked(s.id, id, func(*contents) bool { return true }) {
				items = append(items, groupDelItem(&group{id: id, dropped: true}, nil))
			}
			continue
		}
		if g.stateSeg == s.id {
			it := item{group: g, state: g.state, hasState: true}
			it.add(8, footGroupMax)
			items = append(items, it)
		}
		// What was moved says nothing about where the log ends, or what it voided.
		if g.boundsSeg == s.id || l.mover.inLog[id] || c.void > 0 && l.olderLocked(s.id, id, func(o *contents) bool {
			return o.high >= c.void
		}) {
			items = append(items, boundsItem(g))
		}
		if g.snapSeg == s.id {
			it := item{group: g, snapshot: snapshotBlob(g.snap)}
			it.add(len(it.snapshot.payload), footGroupMax+footSnapshotBytes(g.snap))
			items = append(items, it)
		}
		var removed []uint64
		for _, key := range c.removed {
			if _, ok := g.objects[key]; !ok && l.olderLocked(s.id, id, func(o *contents) bool {
				i := o.objectAt(key)
				return i < len(o.objects) && o.objects[i].key == key
			}) {
				removed = append(removed, key)
			}
		}
		for keys := range slices.Chunk(removed, 512) {
			items = append(items, removeItem(g, keys))
		}
	}
	return items
}

// olderLocked reports whether a segment before the given one has contents of a group for which is holds.
func (l *Log) olderLocked(before uint32, group uint64, is func(*contents) bool) bool {
	for id, s := range l.segs {
		if c, ok := s.groups[group]; ok && id < before && is(c) {
			return true
		}
	}
	return false
}

// neededLocked reports whether something of the segment was not moved.
func (l *Log) neededLocked(s *segment) bool {
	for id, c := range s.groups {
		g := l.groups[id]
		if g == nil {
			if at, ok := l.dropped[id]; ok && at == 0 {
				return true
			}
			continue
		}
		if g.stateSeg == s.id || g.boundsSeg == s.id || g.snapSeg == s.id || l.keepsLocked(g, s.id) {
			return true
		}
		for _, r := range g.runs {
			if r.seg == s.id && r.end() > max(g.durableBase, g.durableReleased+1) {
				return true
			}
		}
		for _, o := range c.objects {
			if at, ok := g.objects[o.key]; ok && at.blob == nil && at.seg == s.id {
				return true
			}
		}
	}
	return false
}

// query is a question to a Retainer: how much of at most bytes is needed.
type query struct {
	seg      *segment
	contents *contents // of which the RELOCATED records are meant; nil: the entries
	retainer Retainer
	lo, hi   uint64
	bytes    int64
}

// chooseCounted counts what is needed of each segment and chooses by that.
func (l *Log) chooseCounted(now time.Time) *segment {
	m := &l.mover
	l.mu.RLock()
	m.countAt = now.Add(countInterval)
	if m.counted == l.appended {
		m.countAt = now.Add(idleInterval)
	}
	m.counted = l.appended
	full := l.full != nil
	live, queries := l.countLocked()
	l.mu.RUnlock()
	m.turn++
	l.measure(queries)
	for _, q := range queries {
		if q.contents != nil {
			live[q.seg.id] += min(q.bytes, q.contents.sparseLive)
		} else {
			live[q.seg.id] += min(q.bytes, q.retainer.LiveBytes(q.lo, q.hi))
		}
	}

	l.mu.RLock()
	defer l.mu.RUnlock()
	var left []*segment
	total, needed := int64(0), int64(0)
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		s := l.segs[id]
		if s.id >= l.active.id {
			continue
		}
		total += s.size
		live[id] = s.footprintLocked(live[id])
		needed += live[id]
		if l.leftLocked(s) {
			left = append(left, s)
		}
	}
	slices.SortStableFunc(left, func(a, b *segment) int { return cmp.Compare(live[a.id]*b.size, live[b.id]*a.size) })
	m.chosen = m.chosen[:0]
	for _, s := range left {
		n := live[s.id]
		if n > 0 && (n > s.size/2 || total <= 2*needed+l.cfg.SlackBytes) && !(full && len(m.chosen) == 0 && l.worthLocked(s, n)) {
			break
		}
		m.chosen = append(m.chosen, s.id)
		total -= s.size - n
	}
	return l.nextChosenLocked()
}

// nextChosenLocked returns the next of the segments that the last count chose.
func (l *Log) nextChosenLocked() *segment {
	m := &l.mover
	for len(m.chosen) > 0 {
		s := l.segs[m.chosen[0]]
		m.chosen = m.chosen[1:]
		if s == nil || !l.leftLocked(s) {
			continue
		}
		if s = l.firstLocked(s); s != nil {
			return s
		}
	}
	return nil
}

// worthLocked reports whether a segment should be given back because the disk is full: what is gained must
// be worth what the copies take, and they must leave the reserve alone.
func (l *Log) worthLocked(s *segment, live int64) bool {
	keep := func(size, restart int64) int64 { return max(size/16, min(restart, size/4)) }
	return live <= s.size*3/4 && l.roomLocked(live*5/4, keep)
}

// footprintLocked is the room that n bytes of the segment's records take with their share of headers and
// padding. A load that dies in order must not be moved for its padding.
func (s *segment) footprintLocked(n int64) int64 {
	all := int64(0)
	for _, c := range s.groups {
		all += c.rowBytes + c.sparseBytes + recordBytes*(int64(c.rowCount)+int64(c.sparseCount))
		for _, o := range c.objects {
			all += recordBytes + int64(o.length)
		}
	}
	if used := s.used - dataOffset; used > all && all > 0 {
		n = int64(float64(n) * float64(used) / float64(all))
	}
	return min(n, s.size)
}

// countLocked returns how many bytes of each segment are needed, but for what only Retainers know. Of
// the one that is written it does not count all.
func (l *Log) countLocked() (live map[uint32]int64, queries []query) {
	live = make(map[uint32]int64)
	for _, id := range slices.Sorted(maps.Keys(l.groups)) {
		g, retainer := l.groups[id], l.retain[id]
		add := func(s *segment, c *contents, lo, hi uint64, bytes int64) {
			if retainer == nil {
				live[s.id] += bytes
				return
			}
			queries = append(queries, query{s, c, retainer, lo, hi, bytes})
		}
		for _, r := range g.runs {
			s := l.segs[r.seg]
			if s == nil || s.id >= l.active.id {
				continue
			}
			c := s.groups[id]
			each := c.rowBytes / max(int64(c.rowCount), 1)
			if r.moved {
				each = c.sparseBytes / max(int64(c.sparseCount), 1)
			}
			each += recordBytes
			if in := r.cut(g.durableBase, r.end()); in.count > 0 {
				live[r.seg] += int64(in.count) * each
			}
			if before := r.cut(g.durableReleased+1, g.durableBase); before.count > 0 && !r.moved {
				add(s, nil, before.first, before.end(), int64(before.count)*each)
			}
		}
		for _, p := range g.parts {
			s := l.segs[p.seg]
			if s == nil || s.id >= l.active.id || p.high <= g.durableReleased {
				continue
			}
			c := s.groups[id]
			if p.high >= g.durableBase { // installed ahead of a Reset, or moved
				live[s.id] += c.sparseBytes
				continue
			}
			add(s, c, max(p.low, g.durableReleased+1), p.high+1,
				c.sparseBytes+int64(c.sparseCount)*recordBytes)
		}
		for _, o := range g.objects {
			live[o.seg] += int64(o.length) + recordBytes
		}
	}
	return live, queries
}

// measure looks at each RELOCATED record in the segments where that was done longest ago, and notes how
// much of them is needed. Until then all of it counts.
func (l *Log) measure(queries []query) {
	var of []query
	for _, q := range queries {
		if q.contents == nil {
			continue
		}
		if q.contents.measureTurn == 0 {
			q.contents.sparseLive = q.bytes
		}
		of = append(of, q)
	}
	slices.SortStableFunc(of, func(a, b query) int { return int(a.contents.measureTurn - b.contents.measureTurn) })
	for _, q := range of[:min(len(of), measuredSegments)] {
		rows, err := l.allSparse(q.seg, q.contents)
		if err != nil {
			continue // whoever reads it reports it
		}
		n := int64(0)
		err = q.retainer.Live(q.lo, q.hi, func(index uint64, parts []Range) bool {
			here := int64(0)
			for _, r := range find(rows, index) {
				here = max(here, int64(r.length))
			}
			needed := int64(recordBytes)
			for _, p := range parts {
				needed += int64(p.Len)
			}
			if here > 0 {
				n += min(here+recordBytes, needed)
			}
			return true
		})
		if err != nil {
			n = q.bytes // what is not known counts as needed
		}
		q.contents.sparseLive, q.contents.measureTurn = n, l.mover.turn
	}
}
