package rafttest

import (
	"fmt"
	"maps"
	"slices"

	"millrace/raft"
)

// Compact implements raft.SnapshotStore. It becomes durable as a write does; nothing is deleted.
func (l *Log) Compact(group, upTo uint64) {
	l.write(write{Write: raft.Write{Group: group}, compact: upTo})
}

// ReadAt implements raft.SnapshotStore.
func (l *Log) ReadAt(group, index uint64, off int, p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.groupLocked(group).now.stat(index)
	if err == nil {
		err = l.checkLocked(group, index)
	}
	if err != nil {
		return fmt.Errorf("group %d: %w", group, err)
	}
	if off < 0 || off+len(p) > len(e.data) {
		return fmt.Errorf("group %d: no bytes [%d, %d) of entry %d, which has %d", group, off, off+len(p), index, len(e.data))
	}
	if e.have != nil && slices.Contains(e.have[off:off+len(p)], false) {
		return fmt.Errorf("group %d: bytes [%d, %d) of entry %d were not installed", group, off, off+len(p), index)
	}
	copy(p, e.data[off:])
	return nil
}

// Stat implements raft.SnapshotStore.
func (l *Log) Stat(group, index uint64) (term uint64, size uint32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.groupLocked(group).now.stat(index)
	if err != nil {
		return 0, 0, fmt.Errorf("group %d: %w", group, err)
	}
	return e.term, uint32(len(e.data)), nil
}

// Install implements raft.SnapshotStore.
func (l *Log) Install(group, index, term uint64, size uint32, ranges []raft.Range, data []byte, done func()) {
	l.mu.Lock()
	delete(l.damagedEntries, place{group, index})
	l.mu.Unlock()
	l.write(write{Write: raft.Write{Group: group, Done: done},
		install: &installed{index, term, size, slices.Clone(ranges), slices.Clone(data)}})
}

// Repair implements raft.SnapshotStore.
func (l *Log) Repair(group uint64, e raft.Entry, done func()) {
	l.mu.Lock()
	m := &l.groupLocked(group).now
	good := m.state != nil && e.Index > m.before && e.Index <= min(m.last(), m.state.Commit) && m.entries[e.Index-m.before-1].Term == e.Term
	if good {
		delete(l.damagedEntries, place{group, e.Index})
	}
	l.mu.Unlock()
	w := write{Write: raft.Write{Group: group, Done: done}}
	if good {
		w.repair = &e
	}
	l.write(w)
}

// PutObject implements raft.SnapshotStore.
func (l *Log) PutObject(group, key uint64, data []byte, done func()) {
	l.mu.Lock()
	delete(l.damagedObjects, place{group, key})
	l.mu.Unlock()
	l.write(write{Write: raft.Write{Group: group, Done: done}, put: &object{key, slices.Clone(data)}})
}

// Object implements raft.SnapshotStore.
func (l *Log) Object(group, key uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, ok := l.groupLocked(group).now.objects[key]
	if _, bad := l.damagedObjects[place{group, key}]; ok && bad {
		return nil, fmt.Errorf("group %d object %d: %w", group, key, raft.ErrDamaged)
	}
	if !ok {
		return nil, fmt.Errorf("group %d has no object %d", group, key)
	}
	return slices.Clone(data), nil
}

// DeleteObjects implements raft.SnapshotStore.
func (l *Log) DeleteObjects(group uint64, keys ...uint64) {
	if len(keys) > 0 {
		l.write(write{Write: raft.Write{Group: group}, del: slices.Clone(keys)})
	}
}

// ObjectKeys implements raft.SnapshotStore.
func (l *Log) ObjectKeys(group uint64) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.groupLocked(group).now.objects))
}

// StoredSnapshot implements raft.SnapshotStore.
func (l *Log) StoredSnapshot(group uint64) (raft.Snapshot, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.groupLocked(group).now.snapshot; s != nil {
		return *s, true
	}
	return raft.Snapshot{}, false
}

// Retain implements raft.SnapshotStore. The log keeps everything anyway.
func (l *Log) Retain(uint64, raft.Retainer) {}
