package journal

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/storage/vfs"
)

// Release says that nobody needs a group's entries up to upTo any more. They answer ErrCompacted at
// once, and Bounds' first is upTo+1; the index is durable within a second. Segments that hold
// nothing else are deleted after that. upTo is clamped to the last entry; what was released stays
// so.
func (l *Log) Release(group, upTo uint64) {
	l.mu.Lock()
	wake := false
	if g := l.groups[group]; g != nil && l.err == nil && !l.closed {
		if upTo = min(upTo, g.last()); upTo >= g.base {
			g.release(upTo, g.term(upTo))
			wake = l.enqueueLocked(boundsItem(g), false)
		}
	}
	l.mu.Unlock()
	if wake {
		signal(l.wake)
	}
}

// boundsItem is a BOUNDS record of a group as it is now.
func boundsItem(g *group) item {
	return item{group: g, special: kindBounds, index: g.base - 1, term: g.baseTerm, last: g.last(),
		bytes: recordSize(8)}
}

// reclaimLoop deletes segments that hold nothing any more. When the catalog has no room to note that,
// it tries again after retryDelay.
func (l *Log) reclaimLoop() {
	noRoom := false
	for {
		var retry <-chan time.Time
		if s, moved := l.evacuate(); s != nil {
			if !l.await(moved, nil) {
				return
			}
			err := l.deleteSegment(s)
			switch {
			case err == nil:
				noRoom = false
				continue
			case vfs.IsNoSpace(err):
				if !noRoom {
					l.cfg.Logger.Warn("no room to reclaim a journal segment", "err", err)
				}
				noRoom = true
				retry = time.After(retryDelay)
			default:
				l.fail(err)
				return
			}
		}
		if !l.await(l.reclaim, retry) {
			return
		}
	}
}

// await waits for c or retry, or returns false when the log ends.
func (l *Log) await(c <-chan struct{}, retry <-chan time.Time) bool {
	select {
	case <-c:
		return true
	case <-retry:
		return true
	case <-l.drained:
		return false
	case <-l.failed:
		return false
	}
}

// evacuate finds a sealed segment with no entry that is still needed - one that was too small for what
// came next never had any - and appends what else must
// outlive it. moved is closed when that is durable.
func (l *Log) evacuate() (s *segment, moved chan struct{}) {
	moved = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil
	}
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		if s = l.segs[id]; id < l.active.id && l.deadLocked(s) {
			break
		}
		s = nil
	}
	if s == nil {
		return nil, nil
	}
	items := l.carryLocked(s)
	if len(items) == 0 {
		close(moved)
		return s, moved
	}
	items[len(items)-1].done = func() { close(moved) }
	wake := false
	for _, it := range items {
		wake = l.enqueueLocked(it, true) || wake
	}
	if wake {
		signal(l.wake)
	}
	return s, moved
}

// deadLocked reports whether every entry in the segment is durably released or of a durably dropped
// group.
func (l *Log) deadLocked(s *segment) bool {
	for id, high := range s.groups {
		if at, ok := l.dropped[id]; ok {
			if at == 0 {
				return false
			}
			continue
		}
		if g := l.groups[id]; g == nil || high > g.released {
			return false
		}
	}
	return true
}

// carryLocked returns the records of the segment that are the latest of their kind and still count.
func (l *Log) carryLocked(s *segment) []item {
	var items []item
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g := l.groups[id]
		if g == nil {
			// The delete must outlive every older segment with something of the group in it.
			if l.dropped[id] == s.id && l.olderLocked(id, s.id) {
				items = append(items, item{group: &group{id: id, dropped: true}, special: kindGroupDel,
					bytes: recordSize(0)})
			}
			continue
		}
		if g.stateSeg == s.id {
			items = append(items, item{group: g, state: g.state, hasState: true, bytes: recordSize(8)})
		}
		if g.boundsSeg == s.id {
			items = append(items, boundsItem(g))
		}
	}
	return items
}

// olderLocked reports whether a segment before the given one has records of a group.
func (l *Log) olderLocked(group uint64, before uint32) bool {
	for id, s := range l.segs {
		if _, ok := s.groups[group]; ok && id < before {
			return true
		}
	}
	return false
}

// deleteSegment removes a segment from the manifest first and from the directory then, so that a
// file that the manifest calls live is never missing.
func (l *Log) deleteSegment(s *segment) error {
	m := manifestRecord{state: stateDropped, size: s.size, salt: s.salt, before: s.before, last: s.last}
	if s.last.lsn == 0 {
		m = manifestRecord{state: statePreparing, size: s.size, salt: s.salt} // no batch, no link
	}
	if err := l.cfg.Catalog.PutSegment(s.id, m.encode()); err != nil {
		return fmt.Errorf("reclaim segment %s: %w", s.file.Name(), err)
	}
	l.mu.Lock()
	delete(l.segs, s.id)
	if m.state == stateDropped {
		l.gone[s.id] = m
	}
	for id := range s.groups {
		if l.dropped[id] == s.id {
			delete(l.dropped, id)
		}
	}
	l.mu.Unlock()
	if err := l.cfg.FS.Remove(s.file.Name()); err != nil {
		return fmt.Errorf("reclaim segment: %w", err)
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	l.cfg.Logger.Info("reclaimed journal segment", "file", s.file.Name())
	if err := s.release(); err != nil {
		return fmt.Errorf("close segment %s: %w", s.file.Name(), err)
	}
	if m.state == statePreparing {
		if err := l.cfg.Catalog.DeleteSegment(s.id); err != nil && !vfs.IsNoSpace(err) {
			return fmt.Errorf("forget unused segment %d: %w", s.id, err)
		}
		return nil // without room for it, the next start forgets the segment
	}
	return l.forgetGone()
}

// forgetGone drops manifest records of reclaimed segments that no chain of batches runs through:
// those with no live segment before and none directly after them.
func (l *Log) forgetGone() error {
	l.mu.RLock()
	ids := slices.Sorted(maps.Keys(l.gone))
	for id := range l.segs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	n := 0
	for n+1 < len(ids) && l.segs[ids[n]] == nil && l.segs[ids[n+1]] == nil {
		n++
	}
	l.mu.RUnlock()
	for _, id := range ids[:n] {
		if err := l.cfg.Catalog.DeleteSegment(id); err != nil {
			return fmt.Errorf("forget reclaimed segment %d: %w", id, err)
		}
		l.mu.Lock()
		delete(l.gone, id)
		l.mu.Unlock()
	}
	return nil
}
