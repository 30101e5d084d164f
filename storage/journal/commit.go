package journal

import (
	"fmt"
	"slices"
	"time"
)

const (
	// markDelay is how long the log is idle before it writes the mark.
	markDelay = 20 * time.Millisecond
	// lazyDelay is how long writes without Done may wait for company.
	lazyDelay = time.Second
	// freedDelay is how often reclaimLoop is told at most that something was released: to wake it for each
	// batch would hold up those who wait for Done.
	freedDelay = 20 * time.Millisecond
)

// run writes what is queued until the log is closed or fails. It alone writes to the active
// segment.
func (l *Log) run() {
	defer close(l.drained)
	for {
		did, err := l.writeStep()
		if err != nil {
			l.fail(err)
			return
		}
		if !did && !l.awaitWrites() {
			return
		}
	}
}

// awaitWrites waits for what may give run something to do. It returns false when the log has failed,
// or is closed and all that has room is written.
func (l *Log) awaitWrites() bool {
	now := l.cfg.Clock()
	l.mu.RLock()
	failed, closed, waiting := l.err != nil, l.closed, len(l.fill.items) > 0
	full := l.full != nil && len(l.ready) == 0
	l.mu.RUnlock()
	stop := l.stop
	switch {
	case failed:
		return false
	case closed && waiting && !l.writer.busy:
		return true // it was closed just now, and nothing waits for company any more
	case closed && !l.writer.busy:
		if err := l.finalMark(); err != nil {
			l.fail(err)
		}
		return false
	case closed && full:
		l.writer.abandon()
		return false
	case closed:
		stop = nil // closed already; a segment is being prepared
	}
	var lazyC, idleC <-chan time.Time
	if waiting && !l.writer.busy {
		l.lazy.Reset(l.lazyFrom.Add(lazyDelay).Sub(now))
		lazyC = l.lazy.C
	}
	if l.unmarked() {
		l.idle.Reset(l.lastWrite.Add(markDelay).Sub(now))
		idleC = l.idle.C
	}
	select {
	case <-l.wake:
	case <-stop:
	case <-l.failed:
	case <-lazyC:
	case <-idleC:
		l.tellFreed()
		if _, err := l.markStep(); err != nil {
			l.fail(err)
			return false
		}
	}
	return true
}

// writeStep writes at most one batch of what is queued. It returns false when there is nothing to
// write yet, or no segment for it.
func (l *Log) writeStep() (did bool, err error) {
	if l.writer.busy {
		l.join()
	} else if !l.take() {
		return false, nil
	}
	return l.writer.step()
}

// take moves the queue to flight as soon as somebody waits for it, or it has waited for lazyDelay.
func (l *Log) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(l.fill.items) == 0 {
		return false
	}
	if !l.fill.urgent && !l.closed {
		now := l.cfg.Clock()
		if l.lazyFrom.IsZero() {
			l.lazyFrom = now
		}
		if now.Before(l.lazyFrom.Add(lazyDelay)) {
			return false
		}
	}
	l.lazyFrom = time.Time{}
	l.fill, l.flight = l.flight, l.fill
	l.writer = writer{log: l, queue: &l.flight, busy: true, doneID: l.flight.items[0].id}
	return true
}

// join lets what was queued since then follow what is in flight.
func (l *Log) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fill.items) > 0 {
		l.flight.join(&l.fill)
	}
}

// unmarked reports whether the mark lags behind.
func (l *Log) unmarked() bool { return l.latest.lsn > l.batch.seg.marked }

// tellFreed tells reclaimLoop that something was released or deleted since it was told last.
func (l *Log) tellFreed() {
	if l.freed {
		l.freed, l.freedAt = false, l.lastWrite
		signal(l.reclaim)
	}
}

// markStep writes the mark when the log has been idle for markDelay.
func (l *Log) markStep() (did bool, err error) {
	if !l.unmarked() || l.cfg.Clock().Before(l.lastWrite.Add(markDelay)) {
		return false, nil
	}
	return true, l.batch.seg.mark(l.latest.lsn)
}

// finalMark leaves durable evidence of the whole log behind on Close.
func (l *Log) finalMark() error {
	s := l.batch.seg
	if l.latest.lsn == 0 {
		return nil
	}
	if err := s.mark(l.latest.lsn); err != nil {
		return err
	}
	if err := s.file.SyncData(); err != nil {
		return fmt.Errorf("sync mark of %s: %w", s.file.Name(), err)
	}
	return nil
}

// writer writes one queue as a sequence of batches, one in each step. Everything before items[doneItems] and the
// entry with the id doneID is durable; up to nextItem it is encoded, in Log.batch or, while that is synced, in Log.next.
type writer struct {
	log                 *Log
	queue               *queue
	busy                bool // the queue is not finished
	doneItems, nextItem int
	doneID              uint64
	part                int // so many parts of items[nextItem], which is split, are encoded
}

// step encodes until a batch is full or the queue ends, and writes the batch. It returns false when
// there is no segment with room for what comes next.
func (w *writer) step() (did bool, err error) {
	b := w.log.batch
	for w.nextItem < len(w.queue.items) {
		it := &w.queue.items[w.nextItem]
		split := w.log.oversize(it)
		begun := b.count > 0 || w.doneItems < w.nextItem
		n, foot := it.bytes, it.foot
		if split {
			if w.part == 0 && begun {
				return true, w.flush()
			}
			n, foot = w.partSize(it)
		}
		if !b.fits(n, foot) || w.leaves(b.seg) {
			if begun {
				return true, w.flush()
			}
			if !w.log.segmentReady() {
				return false, nil
			}
			if sealed, err := w.seal(); sealed || err != nil {
				return true, err
			}
			s := w.log.nextSegment()
			b.start(s, s.end, 0)
			continue
		}
		b.foot += foot
		if !split {
			w.encode(b, it)
		} else if w.encodePart(it) {
			return true, w.flush()
		}
	}
	return true, w.flush()
}

// leaves reports whether a segment is to be left although there is room in it: it is damaged, and another one is ready.
// Behind the footer that it gets nothing may be written.
func (w *writer) leaves(s *segment) bool {
	if w.log.leave.Load() != s.id {
		return false
	}
	if s.footer != (span64{}) {
		return true
	}
	w.log.mu.RLock()
	defer w.log.mu.RUnlock()
	return len(w.log.ready) > 0
}

// seal writes the footer of the segment that the log is about to leave. It returns false when there is
// nothing to seal: the segment is empty, has its footer, or is not written any more.
func (w *writer) seal() (bool, error) {
	b := w.log.batch
	s := b.seg
	if s.last.lsn == 0 || s.footer != (span64{}) || s.capacity == s.end {
		return false, nil
	}
	p, at, sums := s.encodeFooter()
	b.start(s, s.end, 0)
	s.sealing = &tables{off: s.end + batchBytes + recordBytes + int64(at), length: uint32(len(p) - at), sums: sums}
	b.add(recordHeader{kind: kindFooter}, p)
	return true, w.flush()
}

// partSize is the room that the next part of an item takes which no segment can hold in one batch.
func (w *writer) partSize(it *item) (n, foot int) {
	switch {
	case w.part == 0 && it.headed():
		n, foot = recordSize(boundsBytes), footGroupMax
		if it.snapshot != nil {
			n += recordSize(len(it.snapshot.payload))
			foot += 24 + alignUp(len(it.snapshot.payload), 8)
		}
		return n, foot
	case w.part < it.head()+len(it.entries):
		return recordSize(len(it.entries[w.part-it.head()].Data)), footGroupMax + footEntryMax
	}
	return recordSize(8), footGroupMax
}

// head is the number of parts before the entries.
func (it *item) head() int {
	if it.headed() {
		return 1
	}
	return 0
}

func (it *item) headed() bool { return it.snapshot != nil || it.special != 0 }

// encodePart adds the next part of such an item to the batch: what stands before its entries, each of
// them, its state. It returns true when that was the last one.
func (w *writer) encodePart(it *item) (done bool) {
	b := w.log.batch
	head, entries := it.head(), it.head()+len(it.entries)
	switch {
	case w.part < head:
		b.addHead(it)
	case w.part < entries:
		b.addEntries(it.group, it.entries[w.part-head:][:1])
	default:
		b.addState(it.group, it.state)
	}
	w.part++
	if w.part < entries || w.part == entries && it.hasState {
		return false
	}
	w.part = 0
	w.nextItem++
	return true
}

// abandon leaves in flight what cannot be written any more.
func (w *writer) abandon() {
	w.log.mu.Lock()
	w.log.flight.items = w.log.flight.items[w.doneItems:]
	w.log.mu.Unlock()
	w.busy = false
}

// encode adds all records of an item to a batch.
func (w *writer) encode(b *builder, it *item) {
	b.addHead(it)
	b.addEntries(it.group, it.entries)
	if it.hasState {
		b.addState(it.group, it.state)
	}
	w.nextItem++
}

// flush writes and syncs the batch, makes its entries readable from the file and calls Done for the
// items that it completed. Meanwhile aheadLoop may encode the next batch.
func (w *writer) flush() error {
	l, b := w.log, w.log.batch
	s, last, items := b.seg, l.latest, w.nextItem
	off, cold := b.off, 2*b.cold > b.size
	if b.count > 0 { // none: items without records, which wait for what is durable already
		var buf []byte
		buf, last = b.finish(l.latest)
		if s.last.lsn == 0 {
			s.file.first = last.lsn
		}
		if err := s.file.write(buf, b.sealed, b.off, last.lsn); err != nil {
			return fmt.Errorf("write batch %d to %s at offset %d: %w", last.lsn, s.file.Name(), s.physical(b.off), err)
		}
		l.next.start(s, b.off+int64(b.size), b.foot)
		if err := l.sync(s); err != nil {
			return fmt.Errorf("sync batch %d of %s: %w", last.lsn, s.file.Name(), err)
		}
		l.batch, l.next = l.next, b
		s.end = l.batch.off
		l.lastWrite = l.cfg.Clock()
	}

	l.acks.Lock()
	defer l.acks.Unlock()
	l.mu.Lock()
	if err := l.err; err != nil { // another goroutine failed meanwhile; invariant 3
		l.mu.Unlock()
		return err
	}
	if b.count > 0 {
		if s.last.lsn == 0 {
			s.before = l.latest
		}
		s.last = last
		w.completeLocked(b)
		l.batch.owed = 0
	}
	for _, it := range w.queue.items[w.doneItems:items] {
		w.queue.bytes -= int64(it.bytes)
		l.durable++
	}
	needSegment, full := l.needSegmentLocked(), l.full != nil
	l.mu.Unlock()

	if l.batch.count == 0 && l.batch != b { // nothing was encoded ahead: the buffer is used that is in the cache
		l.batch, l.next = b, l.batch
		b.start(s, s.end, 0)
	}
	l.latest = last
	for ; w.doneItems < items; w.doneItems++ {
		if done := w.queue.items[w.doneItems].done; done != nil {
			done()
		}
	}
	w.forget()
	if cold { // memory is for what is read; a state of many GB would take all of it
		s.file.uncache(off, s.end)
	}
	if needSegment {
		signal(l.prepare)
	}
	if full || l.lastWrite.Sub(l.freedAt) >= freedDelay {
		l.tellFreed()
	}
	return nil
}

// forget takes what is durable out of the queue, and ends when that is all.
func (w *writer) forget() {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	switch {
	case w.doneItems == len(w.queue.items):
		w.queue.reset()
		w.busy = false
	case w.doneItems > len(w.queue.items)/2: // not always, as it moves the others
		w.queue.items = slices.Delete(w.queue.items, 0, w.doneItems)
		w.nextItem, w.doneItems = w.nextItem-w.doneItems, 0
	}
}

// completeLocked puts what was just synced into the tables.
func (w *writer) completeLocked(b *builder) {
	l, s, off := w.log, b.seg, b.off
	rows := b.rows
	for i := range rows {
		rows[i].off += uint32(off)
	}
	for i := range b.added {
		a := &b.added[i]
		var c *contents
		var err error
		switch a.kind {
		case kindFooter:
			l.sealedLocked(s, span64{off, s.end - off})
			continue
		case kindEntry:
			if c, err = s.applyEntriesLocked(a.recordHeader, rows[:a.entries]); err == nil {
				w.entriesLocked(s, c, a)
			}
			rows = rows[a.entries:]
		default:
			if c, err = s.applyLocked(a.recordHeader, uint32(off)+a.off, a.data()); err == nil {
				w.recordLocked(s, c, a)
			}
		}
		if err != nil {
			panic(fmt.Sprintf("BUG: journal: wrote what it cannot read: %v", err))
		}
	}
	l.appended += s.end - off
	s.used = s.end
	if s.tables == nil {
		s.used += int64(footRoom(s.foot))
	}
}

// entriesLocked enters durable entries into their group's table. Those that were voided while they were
// queued or written are the last of them.
func (w *writer) entriesLocked(s *segment, c *contents, a *added) {
	id := w.doneID
	w.doneID += uint64(a.entries)
	g := w.log.groups[a.group]
	if g == nil {
		return // dropped meanwhile
	}
	r := run{first: a.index, count: a.entries, at: c.rowCount - a.entries, seg: s.id}
	if g.written(r, id) < a.entries {
		g.pin(s.id, w.log.enqueued, w.log.durable) // by something that is still queued
	}
}

// recordLocked enters another durable record into its group's table.
func (w *writer) recordLocked(s *segment, c *contents, a *added) {
	l := w.log
	l.freed = l.freed || a.kind == kindGroupDel || a.kind == kindBounds || a.kind == kindObjectDel
	if a.kind == kindGroupDel {
		l.dropped[a.group] = s.id
		return
	}
	g := l.groups[a.group]
	if g == nil {
		return // dropped meanwhile
	}
	switch a.kind {
	case kindHardState:
		g.stateSeg = s.id
	case kindBounds:
		b := decodeBounds(a.recordHeader, a.data())
		g.durableBase, g.durableReleased, g.boundsSeg = b.index+1, b.released, s.id
		g.trim()
	case kindSnapshot:
		g.resetDurable(a.blob)
		g.snapSeg = s.id
	case kindObject:
		if o, ok := g.objects[a.index]; ok && o.blob == a.blob {
			g.objects[a.index] = object{seg: s.id, row: c.objects[c.objectAt(a.index)].row}
		} else {
			g.pin(s.id, l.enqueued, l.durable)
		}
	case kindRelocated:
		g.relocated(s.id, a, c)
	}
}

// relocated enters a durable RELOCATED record.
func (g *group) relocated(seg uint32, a *added, c *contents) {
	rows := find(c.sparse, a.index)
	if rows[len(rows)-1].log {
		g.place(run{first: a.index, count: 1, seg: seg, moved: true})
	}
	g.addPart(seg, a.index, a.index)
	queued := slices.DeleteFunc(g.pending[a.index], func(b *blob) bool { return b == a.blob })
	if len(queued) == 0 {
		delete(g.pending, a.index)
	} else {
		g.pending[a.index] = queued
	}
}

// sealedLocked notes that the segment's footer is durable. From now on its tables are read from there.
func (l *Log) sealedLocked(s *segment, footer span64) {
	s.tables, s.sealing, s.footer = s.sealing, nil, footer
	for _, c := range s.groups {
		c.shrink()
	}
}
