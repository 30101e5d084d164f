package journal

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/storage/vfs"
)

// reclaimLoop deletes segments that hold nothing any more, and checks the others.
func (l *Log) reclaimLoop() {
	for {
		did, err := l.reclaimStep()
		if err != nil {
			l.fail(err)
			return
		}
		if did || l.scrubStep(l.cfg.Clock()) {
			continue
		}
		if !l.await(l.reclaim, l.until(l.nextMove())) {
			return
		}
	}
}

// nextMove is when there may be something to do although nobody says so.
func (l *Log) nextMove() time.Time {
	now := l.cfg.Clock()
	at := l.mover.countAt
	l.mu.RLock()
	if len(l.retain) == 0 {
		at = time.Time{}
	}
	l.mu.RUnlock()
	for _, t := range []time.Time{l.mover.notBefore, l.reclaimAt, l.scrub.notBefore} {
		if t.After(now) && (!at.After(now) || t.Before(at)) {
			at = t
		}
	}
	return at
}

// reclaimStep does the next bit of reclaiming. It returns false when there is nothing to do yet. When the
// catalog has no room to note it, the spares give way, and then it waits for retryDelay.
func (l *Log) reclaimStep() (did bool, err error) {
	now := l.cfg.Clock()
	if now.Before(l.reclaimAt) {
		return false, nil
	}
	did, err = l.moveStep(now)
	if !vfs.IsNoSpace(err) {
		l.noRoom = l.noRoom && !did
		return did, err
	}
	if dropped, err := l.dropSpare(); dropped {
		return true, err
	}
	if !l.noRoom {
		l.cfg.Logger.Warn("no room to reclaim a journal segment", "err", err)
	}
	l.noRoom, l.reclaimAt = true, now.Add(retryDelay)
	return false, nil
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

// deleteSegment removes a segment from the manifest first and from the directory then, so that a
// file that the manifest calls live is never missing. Its file is kept as a spare when one is wanted.
func (l *Log) deleteSegment(s *segment) error {
	now := l.cfg.Clock()
	m := s.goneRecord(stateDropped)
	l.mu.RLock()
	if l.wantSpareLocked(s, now) {
		m.state = stateSpare
	}
	l.mu.RUnlock()
	if s.last.lsn == 0 {
		m = manifestRecord{state: statePreparing, size: s.size, salt: s.salt, identity: s.identity} // no batch, no link
	}
	if err := l.cfg.Catalog.PutSegment(s.id, m.encode()); err != nil {
		return fmt.Errorf("reclaim segment %s: %w", s.file.Name(), err)
	}
	l.mu.Lock()
	delete(l.segs, s.id)
	if m.gone() {
		l.gone[s.id] = m
	}
	for id := range s.groups {
		if g := l.groups[id]; g != nil {
			g.forget(s.id)
		}
		if l.dropped[id] == s.id {
			delete(l.dropped, id)
		}
	}
	l.mu.Unlock()
	l.cfg.Logger.Info("reclaimed journal segment", "file", s.file.Name(), "spare", m.state == stateSpare)
	if m.state == stateSpare {
		if err := l.keepSpare(s); err != nil {
			return err
		}
		return l.forgetGone()
	}
	if err := l.cfg.FS.Remove(s.file.Name()); err != nil {
		return fmt.Errorf("reclaim segment: %w", err)
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
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
// those with no live segment before and none directly after them. That of a spare is what keeps its
// file known, and the later ones are what its links lead to.
func (l *Log) forgetGone() error {
	l.mu.RLock()
	ids := slices.Sorted(maps.Keys(l.gone))
	for id := range l.segs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	n := 0
	for n+1 < len(ids) && l.segs[ids[n]] == nil && l.segs[ids[n+1]] == nil && l.gone[ids[n]].state != stateSpare {
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
