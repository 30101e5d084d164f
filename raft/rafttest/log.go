// Package rafttest helps to test what runs on raft. Its Log is not for use outside of tests: it
// keeps everything in memory.
package rafttest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"millrace/raft"
)

// Log is a raft.LogStore in memory. Writes are visible at once and become durable when the test
// says so; a crash leaves what was durable.
type Log struct {
	auto bool

	mu     sync.Mutex // not held while a Done is called
	groups map[uint64]*groupLog
	reads  map[uint64]badRange

	damagedEntries, damagedObjects map[place]struct{}
}

// place is an entry or object of a group.
type place struct{ group, at uint64 }

// groupLog is the log of one group.
type groupLog struct {
	now, durable image
	writes       []write // not durable, oldest first
	done         []func()
	calling      bool // someone calls the functions of done
}

var _ raft.SnapshotStore = (*Log)(nil)

// NewLog returns an empty log whose writes become durable by Sync.
func NewLog() *Log {
	return &Log{groups: make(map[uint64]*groupLog), reads: make(map[uint64]badRange),
		damagedEntries: make(map[place]struct{}), damagedObjects: make(map[place]struct{})}
}

// NewSyncedLog returns an empty log whose writes are durable when Append returns.
func NewSyncedLog() *Log {
	l := NewLog()
	l.auto = true
	return l
}

func (l *Log) groupLocked(group uint64) *groupLog {
	g := l.groups[group]
	if g == nil {
		g = &groupLog{}
		l.groups[group] = g
	}
	return g
}

// Append implements raft.LogStore.
func (l *Log) Append(w raft.Write) { l.write(write{Write: w}) }

// Drop implements raft.LogStore.
func (l *Log) Drop(group uint64, done func()) {
	l.write(write{Write: raft.Write{Group: group, Done: done}, drop: true})
}

func (l *Log) write(w write) {
	l.mu.Lock()
	g := l.groupLocked(w.Group)
	g.now.apply(&w)
	g.writes = append(g.writes, w)
	l.mu.Unlock()
	if l.auto {
		l.Sync(w.Group, 1)
	}
}

// Pending returns how many writes of a group are not durable.
func (l *Log) Pending(group uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.groupLocked(group).writes)
}

// Unsynced returns how many writes of all groups are not durable.
func (l *Log) Unsynced() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, g := range l.groups {
		n += len(g.writes)
	}
	return n
}

// Sync makes up to n of the oldest writes of a group durable, and calls their Done.
func (l *Log) Sync(group uint64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groupLocked(group)
	n = min(n, len(g.writes))
	for i := range n {
		w := &g.writes[i]
		g.durable.apply(w)
		if w.Done != nil {
			g.done = append(g.done, w.Done)
		}
	}
	g.writes = slices.Clone(g.writes[n:])
	if g.calling {
		return // the one who calls goes on with ours
	}
	g.calling = true
	for len(g.done) > 0 {
		done := g.done
		g.done = nil
		l.mu.Unlock()
		for _, f := range done {
			f()
		}
		l.mu.Lock()
	}
	g.calling = false
}

// SyncAll makes all writes durable, and calls their Done.
func (l *Log) SyncAll() {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.groups))
	l.mu.Unlock()
	for _, id := range ids {
		l.Sync(id, l.Pending(id))
	}
}

// Crash returns what a restart finds: the durable writes of each group, and as many of the oldest
// others as keep says, which reached the disk and were not answered. keep is given the number of
// them; nil keeps none.
func (l *Log) Crash(keep func(group uint64, pending int) int) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	after := NewLog()
	after.auto = l.auto
	after.damagedEntries, after.damagedObjects = maps.Clone(l.damagedEntries), maps.Clone(l.damagedObjects)
	for _, id := range slices.Sorted(maps.Keys(l.groups)) {
		g := l.groups[id]
		m := g.durable.clone()
		if keep != nil {
			for i := range keep(id, len(g.writes)) {
				m.apply(&g.writes[i])
			}
		}
		after.groups[id] = &groupLog{now: m, durable: m.clone()}
	}
	return after
}

// FailReadsBelow lets Entries return err for a group's entries before one.
func (l *Log) FailReadsBelow(group, index uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads[group] = badRange{index, err}
}

// DamageEntry makes an entry unreadable until it is stored once more.
func (l *Log) DamageEntry(group, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.damagedEntries[place{group, index}] = struct{}{}
}

// DamageObject makes an object unreadable until it is stored once more.
func (l *Log) DamageObject(group, key uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.damagedObjects[place{group, key}] = struct{}{}
}

// checkLocked returns an error when an entry is damaged.
func (l *Log) checkLocked(group, index uint64) error {
	if _, bad := l.damagedEntries[place{group, index}]; bad {
		return fmt.Errorf("group %d entry %d: %w", group, index, raft.ErrDamaged)
	}
	return nil
}

// badRange is what Entries refuses to read.
type badRange struct {
	below uint64
	err   error
}

// State implements raft.LogStore.
func (l *Log) State(group uint64) (raft.HardState, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state := l.groupLocked(group).now.state; state != nil {
		return *state, true
	}
	return raft.HardState{}, false
}

// Bounds implements raft.LogStore.
func (l *Log) Bounds(group uint64) (first, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &l.groupLocked(group).now
	return m.before + 1, m.last()
}

// Term implements raft.LogStore.
func (l *Log) Term(group, index uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &l.groupLocked(group).now
	switch {
	case index == m.before && index > 0:
		return m.beforeTerm, nil
	case index <= m.before || index > m.last():
		return 0, fmt.Errorf("group %d has no entry %d, but %d to %d", group, index, m.before+1, m.last())
	}
	return m.entries[index-m.before-1].Term, nil
}

// Entries implements raft.LogStore.
func (l *Log) Entries(group, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bad := l.reads[group]; lo < bad.below {
		return nil, bad.err
	}
	m := &l.groupLocked(group).now
	if lo <= m.before || lo >= hi || hi > m.last()+1 {
		return nil, fmt.Errorf("group %d has no entries [%d, %d), but %d to %d", group, lo, hi, m.before+1, m.last())
	}
	size := uint64(0)
	for i := lo; i < hi; i++ {
		if size += uint64(len(m.entries[i-m.before-1].Data)); size > maxBytes && i > lo {
			hi = i
			break
		}
	}
	for i := lo; i < hi; i++ {
		if err := l.checkLocked(group, i); err != nil {
			return nil, err
		}
	}
	return slices.Clone(m.entries[lo-m.before-1 : hi-m.before-1]), nil
}

// Snapshot implements raft.LogStore.
func (l *Log) Snapshot(group uint64) (raft.SnapshotMeta, bool) {
	s, ok := l.StoredSnapshot(group)
	return s.SnapshotMeta, ok
}

// All returns the visible entries of a group.
func (l *Log) All(group uint64) []raft.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.groupLocked(group).now.entries)
}
