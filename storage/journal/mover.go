package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// moveBatchBytes is about how much the mover appends before it waits until that is durable, so that
	// it is never long in the way of others.
	moveBatchBytes = 256 << 10
	// moveEntries is how many entries it looks at in one step.
	moveEntries = 512
	// countInterval is how long after a count the next one is made although little was appended: Retainers
	// change their mind with what is appended. After idleInterval one is made in any case.
	countInterval = 5 * time.Second
	idleInterval  = time.Minute
	// measuredSegments is in how many segments one count looks at each RELOCATED record.
	measuredSegments = 4
)

// mover gives segments back: it appends what is needed of one to the log again, waits until that is
// durable, and lets the segment go. Nothing is given up before: in between there are two copies, and
// after a crash either will do. It works in steps. Owned by reclaimLoop.
//
//  1. Entries above the commit index, which may still be voided, are not moved; they keep their segment.
//  2. Every record is checked before it is moved. A segment with one that is not what was written is
//     kept.
type mover struct {
	seg       *segment
	groups    []uint64        // of the segment, those that are still to be looked at, sorted
	key       int             // in groups[0], so many objects were looked at
	next      uint64          // in groups[0], entries before it were looked at
	inLog     map[uint64]bool // groups of which entries in the log were moved
	carried   bool
	moved     chan struct{} // closed when what was appended last is durable; nil: it is
	notBefore time.Time     // the I/O budget is used up until then

	countAt time.Time
	counted int64            // Log.appended when it counted last
	turn    int64            // number of counts
	chosen  []uint32         // segments that the last count chose and that are still to be given back
	kept    map[uint32]int64 // segments that hold entries that may be voided: Log.appended when that was found
}

// errPinned says that a segment cannot be given back yet.
var errPinned = errors.New("journal: the segment is needed")

// want is an entry that is needed of a segment: all of it that the segment has if parts is nil.
type want struct {
	index uint64
	parts []Range
	log   bool // it belongs to the log
}

// moveStep does the next bit of work of giving segments back. It returns false when there is nothing to
// do yet.
func (l *Log) moveStep(now time.Time) (did bool, err error) {
	l.mu.RLock()
	closed := l.closed
	l.mu.RUnlock()
	if closed {
		return false, nil
	}
	if did, err := l.nameFooter(); did || err != nil {
		return did, err
	}
	m := &l.mover
	if m.moved != nil {
		select {
		case <-m.moved:
			m.moved = nil
		default:
			return false, nil
		}
	}
	if now.Before(m.notBefore) {
		return false, nil
	}
	if m.seg == nil {
		s := l.choose(now)
		if s == nil {
			return false, nil
		}
		m.begin(s)
	}
	return l.evacuate(now)
}

// begin starts, or starts again, with a segment.
func (m *mover) begin(s *segment) {
	m.seg, m.groups, m.key, m.next = s, slices.Sorted(maps.Keys(s.groups)), 0, 0
	m.inLog, m.carried = make(map[uint64]bool), false
}

// nameFooter tells the manifest of the footer of a segment.
func (l *Log) nameFooter() (did bool, err error) {
	var s *segment
	l.mu.RLock()
	for id, o := range l.segs {
		if o.footer != (span64{}) && !o.known && (s == nil || id < s.id) {
			s = o
		}
	}
	l.mu.RUnlock()
	if s == nil {
		return false, nil
	}
	m := manifestRecord{state: stateLive, size: s.size, salt: s.salt, identity: s.identity, before: s.before,
		last: s.last, foot: s.footer}
	if err := l.cfg.Catalog.PutSegment(s.id, m.encode()); err != nil {
		return false, fmt.Errorf("note footer of %s: %w", s.file.Name(), err)
	}
	s.known = true
	return true, nil
}

// evacuate takes the next step with the segment that is being given back.
func (l *Log) evacuate(now time.Time) (did bool, err error) {
	m := &l.mover
	if len(m.groups) > 0 {
		n, err := l.copySome()
		switch {
		case errors.Is(err, errPinned):
			m.kept[m.seg.id] = l.appendedNow()
			m.seg = nil
		case errors.As(err, new(*CorruptError)):
			l.cfg.Logger.Error("keep a journal segment that is damaged", "file", m.seg.file.Name(), "err", err)
			l.mu.Lock()
			m.seg.damaged, l.hurt = true, true
			l.mu.Unlock()
			if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) && m.seg.version != version1 {
				at := max(corrupt.Offset, dataOffset)
				l.reportDamage(m.seg, []int64{at - (at-dataOffset)%sectorBytes})
			}
			m.seg = nil
		case err != nil:
			return false, err
		}
		m.notBefore = now.Add(l.budget(n))
		return true, nil
	}
	if !m.carried {
		m.carried = true
		l.mu.Lock()
		wake := l.appendLocked(l.carryLocked(m.seg))
		l.mu.Unlock()
		l.rouse(wake)
		return true, nil
	}
	l.mu.RLock()
	needed, first := l.neededLocked(m.seg), l.firstLocked(m.seg)
	l.mu.RUnlock()
	switch {
	case needed: // something happened meanwhile
		m.begin(m.seg)
		return true, nil
	case first == nil: // entries that were in the log when the segment was chosen were compacted
		m.kept[m.seg.id] = l.appendedNow()
		m.seg = nil
		return true, nil
	case first != m.seg:
		m.begin(first)
		return true, nil
	}
	if err := l.deleteSegment(m.seg); err != nil {
		return false, err
	}
	delete(m.kept, m.seg.id)
	m.seg = nil
	return true, nil
}

// budget is how long n bytes, read and written, take at Config.MoveBytesPerSecond; when space is short
// the mover may use four times as much.
func (l *Log) budget(n int) time.Duration {
	rate := l.cfg.MoveBytesPerSecond
	l.mu.RLock()
	if l.full != nil {
		rate *= 4
	}
	l.mu.RUnlock()
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

func (l *Log) appendedNow() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.appended
}

// appendLocked queues items of the mover, which waits for the last of them.
func (l *Log) appendLocked(items []item) (wake wake) {
	moved := make(chan struct{})
	if l.err != nil || l.closed {
		l.mover.moved = moved // never durable: the segment stays
		return 0
	}
	if len(items) == 0 {
		return 0
	}
	items[len(items)-1].done = func() {
		close(moved)
		signal(l.reclaim)
	}
	for i := range items {
		if b := items[i].blob; b != nil && b.kind != kindObjectDel {
			l.moved += int64(b.size())
		}
		wake = l.enqueueLocked(items[i], items[i].done != nil) | wake
	}
	l.mover.moved = moved
	return wake
}

// copySome appends some of what is needed of the segment, and returns how many bytes.
func (l *Log) copySome() (n int, err error) {
	m := &l.mover
	var copies []item
	for len(m.groups) > 0 && n < moveBatchBytes && len(copies) < moveEntries {
		group := m.groups[0]
		more, err := l.copyObjects(group, &copies, &n)
		if err == nil && !more {
			more, err = l.copyEntries(group, &copies, &n)
		}
		if err != nil {
			return 0, err
		}
		if !more {
			m.groups, m.key, m.next = m.groups[1:], 0, 0
		}
	}
	l.mu.Lock()
	copies = slices.DeleteFunc(copies, func(it item) bool { return !l.stillLocked(&it) })
	wake := l.appendLocked(copies)
	l.mu.Unlock()
	l.rouse(wake)
	return n, nil
}

// stillLocked reports whether a copy is still what should be written, and enters it into the group's
// table.
func (l *Log) stillLocked(it *item) bool {
	g := l.groups[it.group.id]
	if g == nil {
		return false
	}
	it.group = g
	b, seg := it.blob, l.mover.seg.id
	if b.kind == kindObject {
		o, ok := g.objects[b.index]
		if !ok || o.blob != nil || o.seg != seg {
			return false
		}
		g.objects[b.index] = object{blob: b}
		return true
	}
	if le.Uint32(b.payload[8:]) == 1 {
		r, ok := g.find(b.index)
		l.mover.inLog[g.id] = true
		return ok && r.seg == seg && b.index <= g.state.Commit
	}
	if b.index > g.durableReleased && b.index <= g.released {
		g.pin(seg, l.enqueued, l.durable) // without the copy, until the release is durable
	}
	return b.index > g.released
}

// copyItem is an item of the mover.
func copyItem(id uint64, b *blob, foot int) item {
	it := item{group: &group{id: id}, blob: b}
	it.add(b.size(), footGroupMax+foot)
	return it
}

// copyObjects copies the group's objects in the segment.
func (l *Log) copyObjects(group uint64, copies *[]item, n *int) (more bool, err error) {
	m := &l.mover
	for _, o := range m.seg.groups[group].objects[m.key:] {
		if *n >= moveBatchBytes {
			return true, nil
		}
		m.key++
		l.mu.RLock()
		g := l.groups[group]
		here := g != nil && g.objects[o.key].blob == nil && g.objects[o.key].seg == m.seg.id
		l.mu.RUnlock()
		if !here {
			continue
		}
		rec, err := m.seg.readRecord(o.row)
		if err == nil && (rec.kind != kindObject || rec.group != group || rec.index != o.key) {
			err = m.seg.corrupt(o.row, "a %v record stands where object %d of group %d was written", rec.kind, o.key, group)
		}
		if err != nil {
			return false, err
		}
		*copies = append(*copies, copyItem(group, &blob{kind: kindObject, index: o.key, payload: rec.data}, 16))
		*n += len(rec.data)
	}
	return false, nil
}

// copyEntries copies what is needed of the group's entries in the segment.
func (l *Log) copyEntries(group uint64, copies *[]item, n *int) (more bool, err error) {
	m := &l.mover
	wants, next, err := l.wants(m.seg, group, m.next)
	if err != nil {
		return false, err
	}
	for _, w := range wants {
		if *n >= moveBatchBytes {
			m.next = w.index
			return true, nil
		}
		blobs, read, err := l.copies(group, w)
		if err != nil {
			return false, err
		}
		for _, b := range blobs {
			*copies = append(*copies, copyItem(group, b, footMovedMax))
		}
		*n += read
	}
	m.next = next
	return next > 0, nil
}

// wants returns what is needed of a group's entries in the segment, some of them, from an index on. next
// is where to go on, 0 when that is all.
func (l *Log) wants(s *segment, group, from uint64) (out []want, next uint64, err error) {
	l.mu.RLock()
	g := l.groups[group]
	if g == nil {
		dropped := l.dropped[group] != 0
		l.mu.RUnlock()
		if !dropped {
			return nil, 0, errPinned // the drop is not durable
		}
		return nil, 0, nil
	}
	base, commit := g.durableBase, g.state.Commit
	from = max(from, g.durableReleased+1)
	var runs []run
	for _, r := range g.runs {
		if r = r.cut(from, r.end()); r.seg == s.id && r.count > 0 {
			runs = append(runs, r)
		}
	}
	c, retainer, voided := s.groups[group], l.retain[group], l.keepsLocked(g, s.id)
	l.mu.RUnlock()

	if n := len(runs); voided || n > 0 && runs[n-1].end() > max(base, commit+1) {
		return nil, 0, errPinned
	}
	lo, hi := uint64(1<<63), uint64(0)
	if c.sparseCount > 0 {
		lo, hi = c.sparseLow, c.sparseHigh+1
	}
	if len(runs) > 0 {
		lo, hi = min(lo, runs[0].first), max(hi, runs[len(runs)-1].end())
	}
	if lo, hi = max(lo, from), min(hi, base); lo < hi {
		if retainer == nil {
			out, err = l.wantsAll(s, c, runs, lo, hi)
		} else {
			if out, next, err = wantsLive(retainer, c, runs, lo, hi); err != nil {
				l.cfg.Logger.Warn("it is not known what is needed of a journal segment, all of it is kept",
					"file", s.file.Name(), "group", group, "err", err)
				return nil, 0, errPinned
			}
		}
		if err != nil || next > 0 {
			return out, next, err
		}
		if len(out) > 0 {
			return out, base, nil // then those in the log
		}
	}
	if out, err = l.wantsAbove(s, c, max(from, base)); err != nil {
		return nil, 0, err
	}
	n := 0
	for _, r := range runs {
		for index := max(r.first, base); index < r.end() && n <= moveEntries; index++ {
			out = append(out, want{index: index, log: true})
			n++
		}
	}
	slices.SortStableFunc(out, func(a, b want) int { return cmp.Compare(a.index, b.index) })
	end := min(len(out), moveEntries)
	for end < len(out) && end > 0 && out[end].index == out[end-1].index {
		end++
	}
	if end < len(out) {
		next = out[end].index
	}
	return out[:end], next, nil
}

// wantsAbove returns the entries, from an index in the log on, of which the segment has parts that were
// installed before the log got there: what comes may be a Reset that makes them readable.
func (l *Log) wantsAbove(s *segment, c *contents, from uint64) (out []want, err error) {
	if c.sparseCount == 0 || c.sparseHigh < from {
		return nil, nil
	}
	rows, err := l.allSparse(s, c)
	if err != nil {
		return nil, err
	}
	for _, r := range between(rows, from, c.sparseHigh+1) {
		if n := len(out); !r.log && (n == 0 || out[n-1].index != r.index) {
			out = append(out, want{index: r.index})
		}
	}
	return out, nil
}

// wantsLive returns what a Retainer names of entries that the segment has, and where to go on.
func wantsLive(retainer Retainer, c *contents, runs []run, lo, hi uint64) (out []want, next uint64, err error) {
	err = retainer.Live(lo, hi, func(index uint64, parts []Range) bool {
		for len(runs) > 0 && runs[0].end() <= index {
			runs = runs[1:]
		}
		sparse := c.sparseCount > 0 && index >= c.sparseLow && index <= c.sparseHigh
		if !sparse && (len(runs) == 0 || index < runs[0].first) {
			return true
		}
		if len(out) == moveEntries {
			next = index
			return false
		}
		out = append(out, want{index: index, parts: joined(parts)})
		return true
	})
	return out, next, err
}

// wantsAll returns all entries that the segment has.
func (l *Log) wantsAll(s *segment, c *contents, runs []run, lo, hi uint64) (out []want, err error) {
	sparse, err := l.allSparse(s, c)
	if err != nil {
		return nil, err
	}
	for _, r := range between(sparse, lo, hi) {
		out = append(out, want{index: r.index})
	}
	for _, r := range runs {
		for r = r.cut(lo, hi); r.count > 0; r = r.cut(r.first+1, hi) {
			out = append(out, want{index: r.first})
		}
	}
	slices.SortFunc(out, func(a, b want) int { return cmp.Compare(a.index, b.index) })
	return slices.CompactFunc(out, func(a, b want) bool { return a.index == b.index }), nil
}

// allSparse returns the whole sparse table of a group in a segment.
func (l *Log) allSparse(s *segment, c *contents) ([]sparseRow, error) {
	for {
		l.mu.RLock()
		t, rows := s.tables, slices.Clone(c.sparse)
		l.mu.RUnlock()
		if t == nil {
			return rows, nil
		}
		rows = make([]sparseRow, 0, c.sparseCount)
		var err error
		for i := uint32(0); i < c.sparseCount && err == nil; i++ {
			var b []byte
			if b, err = l.table(s, t, c.sparseAt+i*sparseBytes); err == nil {
				rows = append(rows, decodeSparse(b))
			}
		}
		if errors.Is(err, errFooter) {
			if err = l.rebuild(s.id, err); err == nil {
				continue
			}
		}
		return rows, err
	}
}

// copies reads what is wanted of an entry from the segment and returns it as RELOCATED records. n is how
// many bytes it read.
func (l *Log) copies(group uint64, w want) (blobs []*blob, n int, err error) {
	for {
		blobs, n, err = l.tryCopies(group, w)
		if !errors.Is(err, errFooter) {
			return blobs, n, err
		}
		if err = l.rebuild(l.mover.seg.id, err); err != nil {
			return nil, 0, err
		}
	}
}

func (l *Log) tryCopies(group uint64, w want) (blobs []*blob, n int, err error) {
	l.mu.RLock()
	g := l.groups[group]
	var sources []source
	if g != nil && w.log {
		if r, ok := g.find(w.index); ok && r.seg == l.mover.seg.id {
			src := source{group: group, lo: w.index, hi: w.index + 1}
			if err = l.openSourceLocked(&src, r.cut(w.index, w.index+1)); err == nil {
				sources = []source{src}
			}
		}
	} else if g != nil && w.parts == nil {
		sources, err = l.placesInLocked(g, w.index, l.mover.seg)
	} else if g != nil {
		sources, err = l.placesLocked(g, w.index)
	}
	l.mu.RUnlock()
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if cerr := closeSources(sources); err == nil {
			err = cerr
		}
	}()
	c := copier{log: l, group: group, want: w}
	for i := range sources {
		if err := c.source(&sources[i]); err != nil {
			return nil, 0, err
		}
	}
	return c.blobs, c.read, nil
}

// placesInLocked returns where a segment has data of an entry, of one in the log only RELOCATED records.
func (l *Log) placesInLocked(g *group, index uint64, s *segment) (sources []source, err error) {
	var runs []run
	if s.groups[g.id].sparseCount > 0 {
		runs = append(runs, run{first: index, count: 1, seg: s.id, moved: true})
	}
	if r, ok := g.find(index); ok && r.seg == s.id && !r.moved && index < g.durableBase {
		runs = append(runs, r.cut(index, index+1))
	}
	for _, r := range runs {
		src := source{group: g.id, lo: index, hi: index + 1}
		if err := l.openSourceLocked(&src, r); err != nil {
			return nil, errors.Join(err, closeSources(sources))
		}
		sources = append(sources, src)
	}
	return sources, nil
}

// copier collects what is needed of one entry.
type copier struct {
	log   *Log
	group uint64
	want  want
	read  int
	blobs []*blob
}

// source looks for what is still wanted in one place of the entry.
func (c *copier) source(src *source) error {
	if c.want.parts != nil && len(c.want.parts) == 0 {
		return nil // all found
	}
	l, s := c.log, src.seg
	if !src.moved || c.want.log {
		p, err := l.place(src, c.want.index)
		if err != nil {
			return err
		}
		return c.record(s, p.row, p.moved)
	}
	rows, err := l.sparseRows(src, c.want.index)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(rows) {
		if err := c.record(s, r.row, true); err != nil {
			return err
		}
	}
	return nil
}

// record takes what is wanted out of a record. If it is in another segment, nothing has to be moved.
func (c *copier) record(s *segment, r row, moved bool) error {
	rel, head := wholeEntry(r.length), 0
	var rec record
	var err error
	if s == c.log.mover.seg {
		if rec, err = s.readRecord(r); err != nil {
			return err
		}
		c.read += len(rec.data)
		if moved {
			rel, head, err = decodeRelocated(rec.data, len(rec.data))
		}
		want := kindEntry
		if moved {
			want = kindRelocated
		}
		if err != nil || rec.kind != want || rec.group != c.group || rec.index != c.want.index {
			return s.corrupt(r, "a %v record with index %d stands where entry %d of group %d was written (%v)", rec.kind,
				rec.index, c.want.index, c.group, err)
		}
	} else if moved {
		if rel, err = s.readRanges(r); err != nil {
			return err
		}
	}
	if c.want.parts == nil {
		if s == c.log.mover.seg {
			c.add(rec, rel, rec.data[head:])
		}
		return nil
	}
	both, rest := overlap(c.want.parts, rel.ranges)
	if c.want.parts = rest; rest == nil {
		c.want.parts = []Range{}
	}
	found, data := relocated{size: rel.size, ranges: joined(both)}, []byte(nil)
	if s == c.log.mover.seg {
		for _, part := range both {
			at, _ := rel.at(int(part.Off), int(part.Len))
			at += head - rel.headBytes()
			data = append(data, rec.data[at:at+int(part.Len)]...)
		}
	}
	if s == c.log.mover.seg && len(found.ranges) > 0 {
		c.add(rec, found, data)
	}
	return nil
}

func (c *copier) add(rec record, rel relocated, data []byte) {
	rel.log = c.want.log
	c.blobs = append(c.blobs, &blob{kind: kindRelocated, entryType: rec.entryType, index: rec.index, term: rec.term,
		payload: rel.encode(), data: data})
}
