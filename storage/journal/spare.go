package journal

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

const (
	// maxSpares is how many files of reclaimed segments are kept for later ones at most.
	maxSpares = 4
	// spareWindow is the time whose use of segments says how many.
	spareWindow = time.Minute
)

// wantSpareLocked reports whether the file of a segment that is reclaimed should be kept: one is
// always, and as many as were used of late. Files of another size than new ones get are not.
func (l *Log) wantSpareLocked(s *segment, now time.Time) bool {
	if s.version != version3 || s.size != l.cfg.SegmentBytes || s.last.lsn == 0 {
		return false
	}
	recent := 0
	for _, at := range l.taken {
		if now.Sub(at) < spareWindow {
			recent++
		}
	}
	return len(l.spares) < max(1, recent)
}

// takeSpare returns the oldest spare that nobody reads any more, nil for none. Nobody begins to:
// places in it are not known any more.
func (l *Log) takeSpare() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.spares {
		if s.refs.Load() == 1 {
			l.spares = slices.Delete(l.spares, i, i+1)
			return s
		}
	}
	return nil
}

// reuse makes the next segment of a spare. What the manifest says is always true: it knows the new
// name before the file has it, calls the old segment's file gone before it is renamed, and the new
// segment live when name and header are durable. A crash in between costs the file, which holds
// nothing.
func (l *Log) reuse(s *segment) error {
	h, err := l.newHeader(s.size, s.identity)
	if err != nil {
		return err
	}
	old, name := sparePath(l.cfg.Dir, s.id), segmentPath(l.cfg.Dir, h.id)
	if err := s.release(); err != nil {
		return fmt.Errorf("close spare %s: %w", old, err)
	}
	m := manifestRecord{state: statePreparing, size: h.size, salt: h.salt, identity: h.identity}
	err = l.cfg.Catalog.PutSegment(h.id, m.encode())
	if err == nil {
		err = l.cfg.Catalog.PutSegment(s.id, s.goneRecord(stateDropped).encode())
	}
	if err != nil { // without room in the catalog the spare gives way
		return errors.Join(fmt.Errorf("register segment %d: %w", h.id, err), l.removeSpare(s, old))
	}
	if err := l.cfg.FS.Rename(old, name); err != nil {
		return fmt.Errorf("reuse spare: %w", err)
	}
	file, err := l.cfg.FS.Open(name)
	if err != nil {
		return fmt.Errorf("reuse spare: %w", err)
	}
	if err = writeHeader(file, h); err == nil {
		err = l.publish(h, file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make segment %s of %s: %w", name, old, err), file.Close(), l.removeSpare(s, name))
	}
	l.setGone(s, stateDropped)
	return nil
}

// goneRecord is the manifest's value for a reclaimed segment.
func (s *segment) goneRecord(state segmentState) manifestRecord {
	return manifestRecord{state: state, size: s.size, salt: s.salt, identity: s.identity, before: s.before, last: s.last}
}

// setGone notes the state of a reclaimed segment's file. The record of one that is dropped may be
// forgotten any time after.
func (l *Log) setGone(s *segment, state segmentState) {
	l.mu.Lock()
	l.gone[s.id] = s.goneRecord(state)
	l.mu.Unlock()
}

// keepSpare gives the file of a segment that the manifest calls a spare the name of one. The segment
// keeps its handle, which readers may use.
func (l *Log) keepSpare(s *segment) error {
	if err := l.cfg.FS.Rename(segmentPath(l.cfg.Dir, s.id), sparePath(l.cfg.Dir, s.id)); err != nil {
		return fmt.Errorf("keep segment as spare: %w", err)
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	l.mu.Lock()
	l.spares = append(l.spares, s)
	l.mu.Unlock()
	return nil
}

// dropSpare deletes a spare, the newest, to give its space back. It returns false when there is none.
func (l *Log) dropSpare() (bool, error) {
	l.mu.Lock()
	n := len(l.spares) - 1
	if n < 0 {
		l.mu.Unlock()
		return false, nil
	}
	s := l.spares[n]
	l.spares = l.spares[:n]
	l.mu.Unlock()
	return true, errors.Join(l.removeSpare(s, sparePath(l.cfg.Dir, s.id)), s.release())
}

// removeSpare deletes the file of a spare that is in no list. If the manifest goes on to call it a
// spare, that it is missing is no damage.
func (l *Log) removeSpare(s *segment, name string) error {
	if err := l.cfg.FS.Remove(name); err != nil {
		return fmt.Errorf("remove spare: %w", err)
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	l.setGone(s, stateDropped)
	return nil
}

// adoptSpares takes over the spares of the manifest, renaming what a crash kept from it. Files that
// are not wanted any more, or are not what they should be, are deleted: they hold nothing. names is
// what is in the directory; the caller syncs it.
func (l *Log) adoptSpares(names []string) error {
	for _, id := range slices.Sorted(maps.Keys(l.gone)) {
		m := l.gone[id]
		if m.state != stateSpare {
			continue
		}
		old, name := segmentPath(l.cfg.Dir, id), sparePath(l.cfg.Dir, id)
		found := slices.Contains(names, filepath.Base(name))
		if slices.Contains(names, filepath.Base(old)) {
			if err := l.cfg.FS.Rename(old, name); err != nil {
				return fmt.Errorf("journal: keep segment as spare: %w", err)
			}
			found = true
		}
		var s *segment
		if found {
			var err error
			if s, err = l.openSpare(name, id, m); err != nil {
				return err
			}
		}
		if s != nil {
			l.spares = append(l.spares, s)
			continue
		}
		m.state = stateDropped
		l.gone[id] = m
		if found {
			if err := l.cfg.FS.Remove(name); err != nil {
				return fmt.Errorf("journal: remove spare: %w", err)
			}
		}
	}
	return nil
}

// openSpare opens the file of a spare, nil when it is not wanted.
func (l *Log) openSpare(name string, id uint32, m manifestRecord) (*segment, error) {
	file, err := l.cfg.FS.Open(name)
	if err != nil {
		return nil, fmt.Errorf("journal: open spare: %w", err)
	}
	h, err := checkHeader(file, id, m, l.node)
	if err != nil {
		l.cfg.Logger.Warn("a spare file is damaged and not used", "err", err)
	} else {
		s := newSegment(h, newSectorFile(h, file, nil))
		s.before, s.last = m.before, m.last
		if m.size == l.cfg.SegmentBytes && len(l.spares) < maxSpares {
			return s, nil
		}
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("journal: close spare: %w", err)
	}
	return nil, nil
}
