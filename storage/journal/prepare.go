package journal

import (
	"errors"
	"fmt"
	"io"
	"time"

	"millrace/storage/vfs"
)

const (
	// fillBytes is how much the filler syncs at once.
	fillBytes = 1 << 20
	// zeroBytes is how much it writes at once. The kernel keeps the file in memory in pages as large as the writes that made
	// them, and goes through all blocks of a page for each write into it: of 4 KiB into pages of 1 MiB two to four times
	// as long as into those of 256 KiB (ext4, Linux 6.18). Smaller ones make large writes slower.
	zeroBytes = 256 << 10
	// fillPause is how long it rests after each piece while there is no hurry.
	fillPause = 20 * time.Millisecond
	// bulkBytes is the mean size of batches from which zeros cost the disk more than the syncs gain.
	bulkBytes = 256 << 10
	// retryDelay is how long it waits after the disk was full.
	retryDelay = time.Second
)

// needSegmentLocked reports whether the next segment should be prepared: a quarter of the active one
// is used, or run waits. One that a full disk made small does until there is room for another.
func (l *Log) needSegmentLocked() bool {
	switch len(l.ready) {
	case 0:
		return l.starved || l.active.used-dataOffset > (l.active.capacity-dataOffset)/4
	case 1:
		return l.full != nil && l.ready[0].size < l.cfg.SegmentBytes
	}
	return false
}

// segmentReady reports whether there is a next segment; called by run only. If not, one is prepared
// now, and run is woken then.
func (l *Log) segmentReady() bool {
	l.mu.Lock()
	ready := len(l.ready) > 0
	l.starved = l.starved || !ready
	l.mu.Unlock()
	if !ready {
		signal(l.prepare)
	}
	return ready
}

// nextSegment makes the next prepared segment the active one; called by run only, when there is one.
func (l *Log) nextSegment() *segment {
	now := l.cfg.Clock()
	l.mu.Lock()
	l.active = l.ready[0]
	l.ready = l.ready[1:]
	l.starved = false
	l.taken = append(l.taken[max(0, len(l.taken)+1-maxSpares):], now)
	s := l.active
	l.mu.Unlock()
	signal(l.reclaim) // the segment before is sealed now
	return s
}

// prepareLoop keeps one segment ready. It outlives run, which may need a segment to end.
func (l *Log) prepareLoop() {
	for {
		did, err := l.prepareStep()
		switch {
		case errors.Is(err, ErrClosed):
			return
		case err != nil:
			l.fail(err)
			return
		case did:
			continue
		}
		if !l.await(l.prepare, l.until(l.prepareAt)) {
			return
		}
	}
}

// until returns what fires at a time, nil for one that is past.
func (l *Log) until(at time.Time) <-chan time.Time {
	if wait := at.Sub(l.cfg.Clock()); wait > 0 {
		return time.After(wait)
	}
	return nil
}

// prepareStep makes a segment ready if one is needed. It returns false when there is nothing to do
// yet: after the disk was full it waits for retryDelay. ErrClosed says that the log ended meanwhile.
func (l *Log) prepareStep() (did bool, err error) {
	now := l.cfg.Clock()
	l.mu.RLock()
	need := l.needSegmentLocked()
	l.mu.RUnlock()
	if !need || now.Before(l.prepareAt) {
		return false, nil
	}
	err = l.reuseOrAdd()
	full := err
	if vfs.IsNoSpace(err) {
		l.prepareAt = now.Add(retryDelay)
		err = l.addSmallSegment()
	}
	if err != nil && !vfs.IsNoSpace(err) {
		return false, err
	}
	l.setFull(full)
	return true, nil
}

// reuseOrAdd makes a segment of a spare, or a new one when there is none.
func (l *Log) reuseOrAdd() error {
	if s := l.takeSpare(); s != nil {
		return l.reuse(s)
	}
	return l.addSegment(l.cfg.SegmentBytes, l.pace)
}

// addSmallSegment uses what a disk without room for a whole segment has: a segment of half the size,
// or a quarter, and so on, none smaller than the first one. A log whose only segment is the active
// one could give nothing back. It makes none when one is ready.
func (l *Log) addSmallSegment() error {
	l.mu.RLock()
	ready := len(l.ready)
	l.mu.RUnlock()
	if ready > 0 {
		return nil
	}
	least := min(l.cfg.FirstSegmentBytes, l.cfg.SegmentBytes)
	err := vfs.ErrNoSpace
	for size := l.cfg.SegmentBytes / 2; size >= least && vfs.IsNoSpace(err); size /= 2 {
		err = l.addSegment(alignUp64(size), l.pace)
	}
	return err
}

// setFull notes whether the last try to get a segment found the disk full, and wakes run.
func (l *Log) setFull(err error) {
	l.mu.Lock()
	before := l.full
	l.full = err
	l.mu.Unlock()
	signal(l.wake)
	switch {
	case err != nil && before == nil:
		l.cfg.Logger.Error("no room for the next journal segment", "dir", l.cfg.Dir, "err", err)
	case err == nil && before != nil:
		l.cfg.Logger.Info("journal has room again", "dir", l.cfg.Dir)
	}
}

// newHeader describes the next segment, in a file of a size and, if not 0, of an identity.
func (l *Log) newHeader(size int64, identity uint64) (header, error) {
	l.mu.RLock()
	id := l.nextID
	l.mu.RUnlock()
	if id == 0 {
		return header{}, errors.New("journal: segment numbers are used up")
	}
	var random [16]byte
	if _, err := io.ReadFull(l.cfg.Rand, random[:]); err != nil {
		return header{}, fmt.Errorf("make segment salt: %w", err)
	}
	h := header{version: version3, id: id, size: size, salt: le.Uint64(random[:]), node: l.node, identity: identity}
	if identity == 0 {
		h.identity = le.Uint64(random[8:])
	}
	h.cipher, h.key = l.encryption()
	return h, nil
}

// addSegment makes a segment ready. The manifest knows the file before it exists, so that a crash
// leaves no stray file, and calls it live only when it is durable, so that a missing or short file
// is always damage.
func (l *Log) addSegment(size int64, pace func(filled, size int64) (enough bool, err error)) error {
	h, err := l.newHeader(size, 0)
	if err != nil {
		return err
	}
	m := manifestRecord{state: statePreparing, size: size, salt: h.salt, identity: h.identity}
	if err := l.cfg.Catalog.PutSegment(h.id, m.encode()); err != nil {
		return fmt.Errorf("register segment %d: %w", h.id, err)
	}
	name := segmentPath(l.cfg.Dir, h.id)
	file, err := l.cfg.FS.Create(name)
	if err != nil {
		return fmt.Errorf("make segment: %w", err)
	}
	if err = l.fillSegment(file, h, pace); err == nil {
		err = l.publish(h, file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make segment %s: %w", name, err), file.Close(), l.cfg.FS.Remove(name))
	}
	return nil
}

// publish makes the name of a prepared file durable and the segment live and ready.
func (l *Log) publish(h header, file vfs.File) error {
	c, err := l.keys.segmentCipher(h)
	if err != nil {
		return err
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	m := manifestRecord{state: stateLive, size: h.size, salt: h.salt, identity: h.identity}
	if err := l.cfg.Catalog.PutSegment(h.id, m.encode()); err != nil {
		return err
	}
	s := newSegment(h, newSectorFile(h, file, c))
	l.mu.Lock()
	l.segs[h.id] = s
	l.ready = append(l.ready, s)
	l.nextID = h.id + 1
	l.mu.Unlock()
	return nil
}

// writeHeader writes the header of a segment and an empty mark, and syncs the file.
func writeHeader(file vfs.File, h header) error {
	var b [dataOffset]byte
	h.encode(b[:])
	if _, err := file.WriteAt(b[:], 0); err != nil {
		return err
	}
	return file.Sync()
}

// fillSegment reserves the blocks of a new file, writes zeros over as much of it as there is time
// for, and the header. Zeros matter for speed only: a sync that must not convert extents is faster.
// pace is asked between two pieces; nothing is skipped when the file system cannot reserve blocks,
// because run must never meet a full disk.
func (l *Log) fillSegment(file vfs.File, h header, pace func(filled, size int64) (enough bool, err error)) error {
	err := file.Allocate(h.size)
	reserved := err == nil
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for off := int64(0); off < h.size; off += fillBytes {
		enough, err := pace(off, h.size)
		if err != nil {
			return err
		}
		if enough && reserved {
			break
		}
		if err := writeZeros(file, off, min(off+fillBytes, h.size)); err != nil {
			return err
		}
		if err := file.SyncData(); err != nil {
			return err
		}
	}
	return writeHeader(file, h)
}

// writeZeros writes zeros from one offset of a file up to another one.
func writeZeros(file vfs.File, from, to int64) error {
	for ; from < to; from += zeroBytes {
		if _, err := file.WriteAt(zeros[:min(zeroBytes, to-from)], from); err != nil {
			return err
		}
	}
	return nil
}

// zeros is never written to.
var zeros [zeroBytes]byte

// pace, as the filler's argument, leaves the disk to run: it rests between pieces as long as the filler is ahead of the use of
// the active segment. It ends the filling when run waits for the segment, and when batches are so large that
// a sync's conversion of extents is nothing beside their bytes, which zeros would double.
func (l *Log) pace(filled, size int64) (enough bool, err error) {
	if l.cfg.Manual {
		return true, nil // nobody's syncs are faster for it
	}
	l.mu.RLock()
	enough = l.starved || l.active.bulk()
	used := float64(l.active.used) / float64(l.active.capacity)
	l.mu.RUnlock()
	if enough {
		return true, nil
	}
	if filled == 0 || float64(filled)/float64(size) < 2*used-0.5 {
		return false, nil
	}
	rest := time.NewTimer(fillPause)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
			return false, nil
		case <-l.prepare: // after each batch
			l.mu.RLock()
			starved := l.starved
			l.mu.RUnlock()
			if starved {
				return true, nil
			}
		case <-l.failed:
			return false, ErrClosed
		case <-l.drained:
			return false, ErrClosed
		}
	}
}
