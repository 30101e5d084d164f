package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"millrace/raft"
	"millrace/storage/vfs"
)

// ideal is a log store in memory without a format: what is wrong in a run on it is not the journal's fault. A
// crash keeps what was answered, and some of the oldest writes that were not.
type ideal struct {
	now, durable map[uint64]*idealLog
	pending      []idealWrite
	retainers    map[uint64]raft.Retainer
}

type idealWrite struct {
	log   uint64
	apply func(*idealLog)
	done  func()
}

// idealLog is one log. Its parts are replaced, never changed, so that images share them.
type idealLog struct {
	known    bool
	first    uint64
	before   uint64 // term of the entry before the first
	entries  []raft.Entry
	old      map[uint64]raft.Entry // those before the first
	objects  map[uint64][]byte
	snapshot *raft.Snapshot
	state    *raft.HardState
}

var _ raft.SnapshotStore = (*ideal)(nil)

func newIdeal() *ideal {
	return &ideal{
		now: make(map[uint64]*idealLog), durable: make(map[uint64]*idealLog), retainers: make(map[uint64]raft.Retainer),
	}
}

func newIdealLog() *idealLog {
	return &idealLog{first: 1, old: make(map[uint64]raft.Entry), objects: make(map[uint64][]byte)}
}

func get(m map[uint64]*idealLog, log uint64) *idealLog {
	if m[log] == nil {
		m[log] = newIdealLog()
	}
	return m[log]
}

func (s *ideal) write(log uint64, done func(), apply func(*idealLog)) {
	apply(get(s.now, log))
	s.pending = append(s.pending, idealWrite{log, apply, done})
}

// Work makes what is pending durable.
func (s *ideal) Work() bool {
	pending := s.pending
	s.pending = nil
	for _, w := range pending {
		w.apply(get(s.durable, w.log))
	}
	for _, w := range pending {
		if w.done != nil {
			w.done()
		}
	}
	return len(pending) > 0
}

// crash returns what a restart finds.
func (s *ideal) crash(loss vfs.Loss, rnd *rand.Rand) *ideal {
	kept := 0
	switch loss {
	case vfs.KeepUnsynced:
		kept = len(s.pending)
	case vfs.TearUnsynced:
		kept = rnd.IntN(len(s.pending) + 1)
	}
	for _, w := range s.pending[:kept] {
		w.apply(get(s.durable, w.log))
	}
	out := newIdeal()
	out.durable = s.durable
	for log, l := range s.durable {
		c := *l
		c.entries = slices.Clone(l.entries)
		c.old, c.objects = maps.Clone(l.old), maps.Clone(l.objects)
		out.now[log] = &c
	}
	return out
}

// fork returns a copy.
func (s *ideal) fork() *ideal {
	out := newIdeal()
	out.pending = s.pending
	for log, l := range s.durable {
		c := *l
		c.entries = slices.Clone(l.entries)
		c.old, c.objects = maps.Clone(l.old), maps.Clone(l.objects)
		out.durable[log] = &c
	}
	return out
}

func (l *idealLog) last() uint64 { return l.first + uint64(len(l.entries)) - 1 }

// Append implements raft.LogStore.
func (s *ideal) Append(w raft.Write) {
	entries := slices.Clone(w.Entries)
	s.write(w.Group, w.Done, func(l *idealLog) {
		l.known = true
		if w.Snapshot != nil {
			snapshot := *w.Snapshot
			l.snapshot = &snapshot
		}
		if w.Reset {
			for _, e := range l.entries {
				if e.Index <= min(w.Keep, w.Snapshot.Index) {
					l.old[e.Index] = e
				}
			}
			l.first, l.entries, l.before = w.Snapshot.Index+1, nil, w.Snapshot.Term
		}
		if len(entries) > 0 {
			from := entries[0].Index
			if from < l.first || from > l.last()+1 {
				panic(fmt.Sprintf("BUG: log %d: entry %d is appended to [%d, %d]", w.Group, from, l.first, l.last()))
			}
			l.entries = append(l.entries[:from-l.first:from-l.first], entries...)
		}
		if w.State != nil {
			state := *w.State
			l.state = &state
		}
	})
}

// Drop implements raft.LogStore.
func (s *ideal) Drop(log uint64, done func()) {
	s.write(log, done, func(l *idealLog) { *l = *newIdealLog() })
}

// Compact implements raft.SnapshotStore.
func (s *ideal) Compact(log, upTo uint64) {
	s.write(log, nil, func(l *idealLog) {
		for l.first <= upTo && len(l.entries) > 0 {
			l.old[l.first], l.before = l.entries[0], l.entries[0].Term
			l.entries = l.entries[1:]
			l.first++
		}
	})
}

// ReadAt implements raft.SnapshotStore.
func (s *ideal) ReadAt(log, index uint64, off int, p []byte) error {
	data := get(s.now, log).at(index).Data
	if off+len(p) > len(data) {
		return fmt.Errorf("log %d: bytes [%d, %d) of entry %d, which has %d", log, off, off+len(p), index, len(data))
	}
	copy(p, data[off:])
	return nil
}

// at returns an entry before or after the first index.
func (l *idealLog) at(index uint64) raft.Entry {
	if index >= l.first && index <= l.last() {
		return l.entries[index-l.first]
	}
	return l.old[index]
}

// Stat implements raft.SnapshotStore.
func (s *ideal) Stat(log, index uint64) (term uint64, size uint32, err error) {
	e := get(s.now, log).at(index)
	if e.Index != index {
		return 0, 0, fmt.Errorf("log %d: no entry %d", log, index)
	}
	return e.Term, uint32(len(e.Data)), nil
}

// Install implements raft.SnapshotStore.
func (s *ideal) Install(log, index, term uint64, size uint32, ranges []raft.Range, data []byte, done func()) {
	data = slices.Clone(data)
	s.write(log, done, func(l *idealLog) {
		e := raft.Entry{Index: index, Term: term, Data: make([]byte, size)}
		if was := l.old[index]; was.Term == term && len(was.Data) == int(size) {
			copy(e.Data, was.Data) // other parts of it
		}
		rest := data
		for _, r := range ranges {
			rest = rest[copy(e.Data[r.Off:r.Off+r.Len], rest):]
		}
		l.old[index] = e
	})
}

// Repair implements raft.SnapshotStore. What is in memory is not damaged.
func (s *ideal) Repair(log uint64, _ raft.Entry, done func()) { s.write(log, done, func(*idealLog) {}) }

// PutObject implements raft.SnapshotStore.
func (s *ideal) PutObject(log, key uint64, data []byte, done func()) {
	data = slices.Clone(data)
	s.write(log, done, func(l *idealLog) { l.objects[key] = data })
}

// Object implements raft.SnapshotStore.
func (s *ideal) Object(log, key uint64) ([]byte, error) {
	data, ok := get(s.now, log).objects[key]
	if !ok {
		return nil, fmt.Errorf("log %d: no object %d", log, key)
	}
	return slices.Clone(data), nil
}

// DeleteObjects implements raft.SnapshotStore.
func (s *ideal) DeleteObjects(log uint64, keys ...uint64) {
	keys = slices.Clone(keys)
	s.write(log, nil, func(l *idealLog) {
		for _, key := range keys {
			delete(l.objects, key)
		}
	})
}

// ObjectKeys implements raft.SnapshotStore.
func (s *ideal) ObjectKeys(log uint64) []uint64 { return sortedKeys(get(s.now, log).objects) }

// StoredSnapshot implements raft.SnapshotStore.
func (s *ideal) StoredSnapshot(log uint64) (raft.Snapshot, bool) {
	if snapshot := get(s.now, log).snapshot; snapshot != nil {
		return *snapshot, true
	}
	return raft.Snapshot{}, false
}

// Retain implements raft.SnapshotStore. All is kept.
func (s *ideal) Retain(log uint64, r raft.Retainer) { s.retainers[log] = r }

// Snapshot implements core.Log.
func (s *ideal) Snapshot(log uint64) (raft.SnapshotMeta, bool) {
	snapshot, ok := s.StoredSnapshot(log)
	return snapshot.SnapshotMeta, ok
}

// State implements core.Log.
func (s *ideal) State(log uint64) (raft.HardState, bool) {
	if state := get(s.now, log).state; state != nil {
		return *state, true
	}
	return raft.HardState{}, false
}

// Bounds implements core.Log.
func (s *ideal) Bounds(log uint64) (first, last uint64) {
	l := get(s.now, log)
	return l.first, l.last()
}

// Term implements core.Log.
func (s *ideal) Term(log, index uint64) (uint64, error) {
	l := get(s.now, log)
	switch {
	case index+1 == l.first:
		return l.before, nil
	case index >= l.first && index <= l.last():
		return l.entries[index-l.first].Term, nil
	}
	return 0, fmt.Errorf("log %d has entries [%d, %d], not %d", log, l.first, l.last(), index)
}

// Entries implements core.Log.
func (s *ideal) Entries(log, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	l := get(s.now, log)
	if lo < l.first || lo >= hi || hi > l.last()+1 {
		return nil, fmt.Errorf("log %d has entries [%d, %d], not [%d, %d)", log, l.first, l.last(), lo, hi)
	}
	size := uint64(0)
	for i := lo; i < hi; i++ {
		if size += uint64(len(l.entries[i-l.first].Data)); size > maxBytes && i > lo {
			hi = i
			break
		}
	}
	return slices.Clone(l.entries[lo-l.first : hi-l.first]), nil
}
