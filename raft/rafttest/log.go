// Package rafttest helps to test what runs on raft. Its Log is not for use outside of tests: it
// keeps everything in memory.
package rafttest

import (
	"fmt"
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
	reads  map[uint64]error // what Entries returns for a group
}

// groupLog is the log of one group.
type groupLog struct {
	now, durable image
	writes       []write // not durable, oldest first
	done         []func()
	calling      bool // someone calls the functions of done
}

// image is the state of a log after some writes.
type image struct {
	entries []raft.Entry // of index 1 and on
	state   *raft.HardState
}

// write is a raft.Write or the deletion of a group.
type write struct {
	raft.Write
	drop bool
}

var _ raft.LogStore = (*Log)(nil)

// NewLog returns an empty log whose writes become durable by Sync.
func NewLog() *Log {
	return &Log{groups: make(map[uint64]*groupLog), reads: make(map[uint64]error)}
}

// NewSyncedLog returns an empty log whose writes are durable when Append returns.
func NewSyncedLog() *Log {
	l := NewLog()
	l.auto = true
	return l
}

// apply makes a write.
func (m *image) apply(w *write) {
	if w.drop {
		*m = image{}
		return
	}
	if len(w.Entries) > 0 {
		from := w.Entries[0].Index
		if from == 0 || from > uint64(len(m.entries))+1 {
			panic(fmt.Sprintf("BUG: group %d: write at index %d to a log of %d entries",
				w.Group, from, len(m.entries)))
		}
		m.entries = append(m.entries[:from-1], w.Entries...)
	}
	if w.State != nil {
		state := *w.State
		m.state = &state
	}
}

func (m *image) clone() image { return image{entries: slices.Clone(m.entries), state: m.state} }

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
	ids := make([]uint64, 0, len(l.groups))
	for id := range l.groups {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	slices.Sort(ids)
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
	for id, g := range l.groups {
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

// FailReads lets Entries return err for a group.
func (l *Log) FailReads(group uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads[group] = err
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
	return 1, uint64(len(l.groupLocked(group).now.entries))
}

// Term implements raft.LogStore.
func (l *Log) Term(group, index uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := l.groupLocked(group).now.entries
	if index == 0 || index > uint64(len(entries)) {
		return 0, fmt.Errorf("group %d has no entry %d, but %d", group, index, len(entries))
	}
	return entries[index-1].Term, nil
}

// Entries implements raft.LogStore.
func (l *Log) Entries(group, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reads[group]; err != nil {
		return nil, err
	}
	entries := l.groupLocked(group).now.entries
	if lo == 0 || lo >= hi || hi > uint64(len(entries))+1 {
		return nil, fmt.Errorf("group %d has no entries [%d, %d), but %d", group, lo, hi, len(entries))
	}
	size := uint64(0)
	for i := lo; i < hi; i++ {
		if size += uint64(len(entries[i-1].Data)); size > maxBytes && i > lo {
			hi = i
			break
		}
	}
	return slices.Clone(entries[lo-1 : hi-1]), nil
}

// All returns the visible entries of a group, from index 1 on.
func (l *Log) All(group uint64) []raft.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.groupLocked(group).now.entries)
}
