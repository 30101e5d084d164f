package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"millrace/storage/vfs"
)

const (
	// fillBytes is how much the filler writes and syncs at once.
	fillBytes = 1 << 20
	// fillPause is how long it rests after each piece while there is no hurry.
	fillPause = 20 * time.Millisecond
	// retryDelay is how long it waits after the disk was full.
	retryDelay = time.Second
)

// needSpareLocked reports whether the next segment should be prepared: a quarter of the active one
// is used, or run waits. One that a full disk made small does until there is room for another.
func (l *Log) needSpareLocked() bool {
	switch len(l.ready) {
	case 0:
		return l.starved || l.active.used-dataOffset > (l.active.size-dataOffset)/4
	case 1:
		return l.full != nil && l.ready[0].size < l.cfg.SegmentBytes
	}
	return false
}

// nextSegment makes the next prepared segment the active one; called by run only. It waits while
// there is none and returns nil when the log is closed or failed meanwhile.
func (l *Log) nextSegment() *segment {
	for {
		l.mu.Lock()
		if len(l.ready) > 0 {
			l.active = l.ready[0]
			l.ready = l.ready[1:]
			l.starved = false
			s := l.active
			l.mu.Unlock()
			signal(l.reclaim) // the segment before is sealed now
			return s
		}
		closed := l.closed && l.full != nil || l.err != nil
		l.starved = true
		l.mu.Unlock()
		if closed {
			return nil
		}
		signal(l.prepare)
		select {
		case <-l.wake:
		case <-l.failed:
		}
	}
}

// prepareLoop keeps one zero-filled segment ready. It outlives run, which may need a segment to
// end.
func (l *Log) prepareLoop() {
	var retry <-chan time.Time
	for {
		l.mu.RLock()
		need := l.needSpareLocked()
		l.mu.RUnlock()
		if need && retry == nil {
			err := l.addSegment(l.cfg.SegmentBytes, l.pace)
			full := err
			if vfs.IsNoSpace(err) {
				retry = time.After(retryDelay)
				err = l.addSmallSegment()
			}
			switch {
			case errors.Is(err, ErrClosed):
				return
			case err == nil || vfs.IsNoSpace(err):
				l.setFull(full)
			default:
				l.fail(err)
				return
			}
			continue
		}
		select {
		case <-l.prepare:
		case <-retry:
			retry = nil
		case <-l.drained:
			return
		case <-l.failed:
			return
		}
	}
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

// addSegment makes a segment ready. The manifest knows the file before it exists, so that a crash
// leaves no stray file, and calls it live only when it is durable, so that a missing or short file
// is always damage.
func (l *Log) addSegment(size int64, pace func(filled, size int64) (enough bool, err error)) error {
	l.mu.RLock()
	id := l.nextID
	l.mu.RUnlock()
	if id == 0 {
		return errors.New("journal: segment numbers are used up")
	}
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return fmt.Errorf("make segment salt: %w", err)
	}
	h := header{id: id, size: size, salt: le.Uint64(salt[:]), node: l.node}
	m := manifestRecord{state: statePreparing, size: size, salt: h.salt}
	if err := l.cfg.Catalog.PutSegment(id, m.encode()); err != nil {
		return fmt.Errorf("register segment %d: %w", id, err)
	}
	name := segmentPath(l.cfg.Dir, id)
	file, err := l.cfg.FS.Create(name)
	if err != nil {
		return fmt.Errorf("make segment: %w", err)
	}
	err = l.fillSegment(file, h, pace)
	if err == nil {
		err = l.cfg.FS.SyncDir(l.cfg.Dir)
	}
	if err == nil {
		m.state = stateLive
		err = l.cfg.Catalog.PutSegment(id, m.encode())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make segment %s: %w", name, err), file.Close(), l.cfg.FS.Remove(name))
	}
	l.mu.Lock()
	s := newSegment(h, file)
	l.segs[id] = s
	l.ready = append(l.ready, s)
	l.nextID = id + 1
	l.mu.Unlock()
	return nil
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
	zeros := make([]byte, min(fillBytes, h.size))
	for off := int64(0); off < h.size; off += fillBytes {
		enough, err := pace(off, h.size)
		if err != nil {
			return err
		}
		if enough && reserved {
			break
		}
		if _, err := file.WriteAt(zeros[:min(fillBytes, h.size-off)], off); err != nil {
			return err
		}
		if err := file.SyncData(); err != nil {
			return err
		}
	}
	var b [blockBytes]byte
	h.encode(b[:])
	if _, err := file.WriteAt(b[:], 0); err != nil {
		return err
	}
	return file.Sync()
}

// pace leaves the disk to run: it rests between pieces as long as the filler is ahead of the use of
// the active segment, and ends the filling when run waits for the segment.
func (l *Log) pace(filled, size int64) (enough bool, err error) {
	l.mu.RLock()
	starved := l.starved
	used := float64(l.active.used) / float64(l.active.size)
	l.mu.RUnlock()
	if starved {
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
