package journal

import (
	"fmt"
	"hash/crc32"
	"time"
)

const (
	// maxBatchBytes bounds a batch of several writes, so that the first of them does not wait long.
	maxBatchBytes = 4 << 20
	// keepBufferBytes is the largest batch buffer that is kept for the next batch.
	keepBufferBytes = 8 << 20
	// markDelay is how long the log is idle before it writes the mark.
	markDelay = 20 * time.Millisecond
	// lazyDelay is how long writes without Done may wait for company.
	lazyDelay = time.Second
)

// builder encodes a batch. Owned by run.
type builder struct {
	buf   []byte
	seg   *segment
	count uint32
	body  uint32
	limit int     // length that the batch must not exceed
	last  link    // the latest batch of the log
	small [8]byte // payload of a small record
}

// start begins an empty batch for a segment.
func (b *builder) start(s *segment) {
	if cap(b.buf) > keepBufferBytes {
		b.buf = nil
	}
	if b.buf == nil {
		b.buf = make([]byte, 0, 64<<10)
	}
	b.buf = b.buf[:batchBytes]
	b.seg, b.count, b.body = s, 0, s.seed
	b.limit = int(min(maxBatchBytes, s.size-s.end))
}

// fits reports whether records of n bytes may join. One write of any size may be alone in a batch,
// if the segment has the room.
func (b *builder) fits(n int) bool {
	if b.count == 0 {
		return int64(len(b.buf)+n) <= b.seg.size-b.seg.end
	}
	return len(b.buf)+n <= b.limit
}

// add encodes a record and returns the offset of its payload in the batch.
func (b *builder) add(h recordHeader, data []byte) int {
	h.length = uint32(len(data))
	h.payload = crc32.Update(b.seg.seed, castagnoli, data)
	at := len(b.buf)
	b.grow(recordSize(len(data)))
	h.encode(b.buf[at:], b.seg.seed)
	b.body = crc32.Update(b.body, castagnoli, b.buf[at:at+recordBytes])
	n := copy(b.buf[at+recordBytes:], data)
	clear(b.buf[at+recordBytes+n:])
	b.count++
	return at + recordBytes
}

// grow lengthens the batch by n bytes.
func (b *builder) grow(n int) {
	need := len(b.buf) + n
	if need > cap(b.buf) {
		buf := make([]byte, len(b.buf), alignUp(max(need, 2*cap(b.buf)), blockBytes))
		copy(buf, b.buf)
		b.buf = buf
	}
	b.buf = b.buf[:need]
}

// finish completes the batch and returns its bytes and what the next batch has to follow.
func (b *builder) finish(last link) ([]byte, link) {
	h := batchHeader{count: b.count, lsn: last.lsn + 1, length: uint32(len(b.buf)), prev: last.crc, body: b.body}
	h.encode(b.buf, b.seg.seed)
	n := len(b.buf)
	b.grow(alignUp(n, blockBytes) - n)
	clear(b.buf[n:])
	return b.buf, link{h.lsn, h.crc}
}

// run writes what is queued until the log is closed or fails. It alone writes to the active
// segment.
func (l *Log) run() {
	defer close(l.drained)
	l.batch.start(l.active)
	for l.take() {
		w := writer{log: l, queue: &l.flight}
		if err := w.write(); err != nil {
			l.fail(err)
			return
		}
		l.mu.Lock()
		if w.stopped {
			l.flight.items = l.flight.items[w.doneItems:]
			l.mu.Unlock()
			return
		}
		l.flight.reset()
		l.mu.Unlock()
	}
}

// take moves the queue to flight as soon as somebody waits for it, and writes the mark when idle.
// It returns false when the log is closed and nothing is left, or has failed.
func (l *Log) take() bool {
	var lazyC, idleC <-chan time.Time
	if l.last().lsn > l.batch.seg.marked {
		l.idle.Reset(markDelay)
		idleC = l.idle.C
	}
	due := false
	for {
		l.mu.Lock()
		waiting, urgent := len(l.fill.items) > 0, l.fill.urgent || l.closed || due
		if l.err != nil {
			l.mu.Unlock()
			return false
		}
		if waiting && urgent {
			l.fill, l.flight = l.flight, l.fill
			l.fill.base = l.flight.base + uint64(len(l.flight.entries))
			l.mu.Unlock()
			return true
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			l.finalMark()
			return false
		}
		if waiting && lazyC == nil {
			l.lazy.Reset(lazyDelay)
			lazyC = l.lazy.C
		}
		select {
		case <-l.wake:
		case <-l.stop:
		case <-l.failed:
		case <-lazyC:
			due = true
		case <-idleC:
			idleC = nil
			if err := l.batch.seg.mark(l.last().lsn); err != nil {
				l.fail(err)
			}
		}
	}
}

// last is the link of the latest batch of the log. Called by run only, which alone changes it.
func (l *Log) last() link { return l.batch.last }

// finalMark leaves durable evidence of the whole log behind on Close.
func (l *Log) finalMark() {
	s := l.batch.seg
	if l.last().lsn == 0 {
		return
	}
	if err := s.mark(l.last().lsn); err != nil {
		l.fail(err)
		return
	}
	if err := s.file.SyncData(); err != nil {
		l.fail(fmt.Errorf("sync mark of %s: %w", s.file.Name(), err))
	}
}

// writer writes one queue as a sequence of batches. Everything before items[doneItems] and
// entries[doneEntries] is durable; up to nextItem and nextEntry it is encoded.
type writer struct {
	log                    *Log
	queue                  *queue
	doneItems, nextItem    int
	doneEntries, nextEntry int
	reclaimable            bool // a release or delete became durable
	stopped                bool // the log was closed while it waited for a segment
}

func (w *writer) write() error {
	for w.nextItem < len(w.queue.items) && !w.stopped {
		it := &w.queue.items[w.nextItem]
		var err error
		if it.bytes > w.log.maxItem {
			err = w.split(it)
		} else if err = w.room(it.bytes); err == nil && !w.stopped {
			w.encode(it)
		}
		if err != nil {
			return err
		}
	}
	if w.stopped {
		return nil
	}
	return w.flush()
}

// room makes the batch ready for n more bytes: it writes the batch and takes the next segment if it
// must.
func (w *writer) room(n int) error {
	b := &w.log.batch
	if b.fits(n) {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	for !b.fits(n) {
		s := w.log.nextSegment()
		if s == nil {
			w.stopped = true
			return nil
		}
		b.start(s)
	}
	return nil
}

// encode adds all records of an item to the batch.
func (w *writer) encode(it *item) {
	b := &w.log.batch
	switch it.special {
	case kindGroupDel:
		b.add(recordHeader{kind: kindGroupDel, group: it.group.id}, nil)
	case kindBounds:
		le.PutUint64(b.small[:], it.last)
		b.add(recordHeader{kind: kindBounds, group: it.group.id, index: it.index, term: it.term}, b.small[:])
	}
	for range it.entries {
		w.encodeEntry()
	}
	if it.hasState {
		w.encodeState(it.group, it.state)
	}
	w.nextItem++
}

func (w *writer) encodeEntry() {
	b := &w.log.batch
	q := &w.queue.entries[w.nextEntry]
	off := b.add(recordHeader{
		kind:      kindEntry,
		entryType: q.Type,
		group:     q.group.id,
		index:     q.Index,
		term:      q.Term,
	}, q.Data)
	q.place = place{seg: b.seg.id, off: uint32(b.seg.end + int64(off)), length: uint32(len(q.Data))}
	w.nextEntry++
}

func (w *writer) encodeState(g *group, s HardState) {
	b := &w.log.batch
	le.PutUint64(b.small[:], s.Vote)
	b.add(recordHeader{kind: kindHardState, group: g.id, index: s.Commit, term: s.Term}, b.small[:])
}

// split writes an item that no segment can hold in one batch: its entries, then its state.
func (w *writer) split(it *item) error {
	if err := w.flush(); err != nil {
		return err
	}
	for range it.entries {
		if err := w.room(recordSize(len(w.queue.entries[w.nextEntry].Data))); err != nil || w.stopped {
			return err
		}
		w.encodeEntry()
	}
	if it.hasState {
		if err := w.room(recordSize(8)); err != nil || w.stopped {
			return err
		}
		w.encodeState(it.group, it.state)
	}
	w.nextItem++
	return w.flush()
}

// flush writes and syncs the batch, makes its entries readable from the file and calls Done for the
// items that it completed.
func (w *writer) flush() error {
	l, b := w.log, &w.log.batch
	s, last := b.seg, b.last
	if b.count > 0 { // none: items without records, which wait for what is durable already
		var buf []byte
		buf, last = b.finish(b.last)
		if _, err := s.file.WriteAt(buf, s.end); err != nil {
			return fmt.Errorf("write batch %d to %s at offset %d: %w", last.lsn, s.file.Name(), s.end, err)
		}
		if err := s.file.SyncData(); err != nil {
			return fmt.Errorf("sync batch %d of %s: %w", last.lsn, s.file.Name(), err)
		}
		s.end += int64(len(buf))
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
			s.before = b.last
		}
		s.last, s.used = last, s.end
	}
	w.completeLocked(s)
	needSpare := l.needSpareLocked()
	l.mu.Unlock()

	b.last = last
	b.start(s)
	if needSpare {
		signal(l.prepare)
	}
	if w.reclaimable {
		signal(l.reclaim)
	}
	for ; w.doneItems < w.nextItem; w.doneItems++ {
		if done := w.queue.items[w.doneItems].done; done != nil {
			done()
		}
	}
	return nil
}

// completeLocked puts what was just synced into the tables.
func (w *writer) completeLocked(s *segment) {
	l := w.log
	for ; w.doneEntries < w.nextEntry; w.doneEntries++ {
		q := &w.queue.entries[w.doneEntries]
		q.group.written(q.Index, uint32(w.queue.base)+uint32(w.doneEntries), q.place)
		s.noteLocked(q.group.id, q.Index)
	}
	for i := w.doneItems; i < w.nextItem; i++ {
		it := &w.queue.items[i]
		w.queue.bytes -= int64(it.bytes)
		if it.bytes > 0 {
			s.noteLocked(it.group.id, 0)
		}
		w.reclaimable = w.reclaimable || it.special != 0
		switch it.special {
		case kindGroupDel:
			l.dropped[it.group.id] = s.id
		case kindBounds:
			it.group.released, it.group.boundsSeg = it.index, s.id
		}
		if it.hasState {
			it.group.stateSeg = s.id
		}
	}
}
