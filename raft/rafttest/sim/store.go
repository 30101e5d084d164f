package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"millrace/raft"
)

// store is a node's log store as the host and the machines use it: the real one behind a recorder of what
// it was told and answered, and behind the mutants that break it.
type store struct {
	raft.SnapshotStore
	real    worker
	logs    map[uint64]*shadow // outlives the node's process
	number  *uint64            // of the newest change
	mutant  Mutant
	changed func(*change)     // something is to be written
	failed  func() bool       // nothing is answered any more
	ghosts  map[uint64]uint64 // mutant: last index that the log admits to
	reads   int
	segment int64 // size of a segment of the journal
	log     func(format string, args ...any)
}

func (s *store) shadow(log uint64) *shadow {
	l := s.logs[log]
	if l == nil {
		l = &shadow{durable: newImage()}
		s.logs[log] = l
	}
	return l
}

// record takes a change down and returns what to call when it is durable. done may be nil.
func (s *store) record(log uint64, c change, done func()) func() {
	*s.number++
	c.number = *s.number
	l := s.shadow(log)
	l.pending = append(l.pending, c)
	s.changed(&c)
	if done == nil {
		return nil
	}
	number := c.number
	return func() {
		if s.failed() {
			return
		}
		l.answered(number)
		done()
	}
}

// entryOverhead is about what the journal needs for an entry besides its data.
const entryOverhead = 64

// Append implements raft.SnapshotStore.
func (s *store) Append(w raft.Write) {
	c := change{write: &raft.Write{Group: w.Group, Reset: w.Reset}}
	if w.Snapshot != nil {
		snapshot := *w.Snapshot
		c.write.Snapshot = &snapshot
	}
	if w.State != nil {
		state := *w.State
		c.write.State = &state
	}
	bytes := int64(0)
	for i := range w.Entries {
		c.marks = append(c.marks, markOf(&w.Entries[i]))
		bytes += int64(len(w.Entries[i].Data)) + entryOverhead
	}
	c.parts = len(c.marks) > 0 && bytes > s.segment*3/4
	if last, ok := s.ghosts[w.Group]; ok && len(w.Entries) > 0 && w.Entries[0].Index <= last+1 {
		delete(s.ghosts, w.Group)
	}
	answer := w.Done
	early := answer != nil && s.mutant.answersEarly(&w)
	if early {
		w.Done = s.record(w.Group, c, func() {})
	} else {
		w.Done = s.record(w.Group, c, answer)
	}
	if s.mutant == MutantNoHardState && w.State != nil {
		w.State = nil
	}
	s.SnapshotStore.Append(w)
	if early {
		answer()
	}
}

// Drop implements raft.SnapshotStore.
func (s *store) Drop(log uint64, done func()) {
	if done == nil {
		done = func() {}
	}
	s.SnapshotStore.Drop(log, s.record(log, change{drop: true}, done))
}

// Compact implements raft.SnapshotStore.
func (s *store) Compact(log, upTo uint64) {
	s.log("log %d: compacted up to entry %d", log, upTo)
	s.record(log, change{compact: upTo}, nil)
	s.SnapshotStore.Compact(log, upTo)
}

// PutObject implements raft.SnapshotStore.
func (s *store) PutObject(log, key uint64, data []byte, done func()) {
	sum := checksum32(data)
	s.SnapshotStore.PutObject(log, key, data, s.record(log, change{put: key, sum: &sum}, done))
}

// DeleteObjects implements raft.SnapshotStore.
func (s *store) DeleteObjects(log uint64, keys ...uint64) {
	if len(keys) == 0 {
		return
	}
	s.record(log, change{remove: keys}, nil)
	s.SnapshotStore.DeleteObjects(log, keys...)
}

// Install implements raft.SnapshotStore.
func (s *store) Install(log, index, term uint64, size uint32, ranges []raft.Range, data []byte, done func()) {
	s.changed(&change{})
	s.log("log %d: entry %d of term %d, %d bytes, is installed in parts %v", log, index, term, size, ranges)
	if s.mutant == MutantWrongRepair && done == nil && len(data) > 0 {
		data = bytes.Clone(data)
		data[0] ^= 0x10
	}
	if done != nil {
		answer := done
		done = func() {
			if !s.failed() {
				answer()
			}
		}
	}
	if s.mutant == MutantSnapshotWithoutEntries {
		s.SnapshotStore.Append(raft.Write{Group: log, Done: done})
		return
	}
	s.SnapshotStore.Install(log, index, term, size, ranges, data, done)
}

// Repair implements raft.SnapshotStore.
func (s *store) Repair(log uint64, e raft.Entry, done func()) {
	s.changed(&change{})
	s.log("log %d: entry %d of term %d is repaired", log, e.Index, e.Term)
	if s.mutant == MutantWrongRepair {
		e.Data = append(bytes.Clone(e.Data), 0)
	}
	s.SnapshotStore.Repair(log, e, done)
}

// Bounds implements core.Log.
func (s *store) Bounds(log uint64) (first, last uint64) {
	first, last = s.SnapshotStore.Bounds(log)
	if ghost, ok := s.ghosts[log]; ok {
		last = min(last, max(ghost, first-1))
	}
	return first, last
}

// State implements core.Log.
func (s *store) State(log uint64) (raft.HardState, bool) {
	state, ok := s.SnapshotStore.State(log)
	if ok && s.mutant == MutantCommitFromFuture {
		_, state.Commit = s.SnapshotStore.Bounds(log)
	}
	if ghost, cut := s.ghosts[log]; cut {
		state.Commit = min(state.Commit, ghost)
	}
	return state, ok
}

// Entries implements core.Log.
func (s *store) Entries(log, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	entries, err := s.SnapshotStore.Entries(log, lo, hi, maxBytes)
	if err == nil && s.mutant == MutantNoChecksum && len(entries) > 0 {
		if s.reads++; s.reads%50 == 0 {
			e := &entries[len(entries)-1]
			if len(e.Data) > 0 {
				data := append([]byte(nil), e.Data...)
				data[len(data)-1] ^= 0x10
				e.Data = data
			}
		}
	}
	return entries, err
}

// ReadAt implements raft.SnapshotStore.
func (s *store) ReadAt(log, index uint64, off int, p []byte) error {
	err := s.SnapshotStore.ReadAt(log, index, off, p)
	if err == nil && s.mutant == MutantNoChecksum && len(p) > 0 {
		if s.reads++; s.reads%50 == 0 {
			p[0] ^= 0x10
		}
	}
	return err
}

// verify compares every log with what it must hold, and, with settle, takes what it holds for durable. It returns
// how many entries and objects are damaged.
func (s *store) verify(logs []uint64, settle bool) (damaged int, err error) {
	for _, log := range logs {
		l := s.logs[log]
		m, n, err := l.compare(s.SnapshotStore, log)
		if err != nil {
			return 0, fmt.Errorf("durability: %w", err)
		}
		damaged += n
		if settle {
			l.durable, l.pending = m, nil
		}
	}
	return damaged, nil
}

// unreadable returns the error for the first entry that is damaged.
func (s *store) unreadable(logs []uint64) error {
	for _, log := range logs {
		first, last := s.SnapshotStore.Bounds(log)
		for index := first; index <= last; index++ {
			if _, err := s.SnapshotStore.Entries(log, index, index+1, 0); errors.Is(err, raft.ErrDamaged) {
				return err
			}
		}
	}
	return nil
}

// work does a piece of the store's own work.
func (s *store) work() bool {
	if s.failed() {
		return false
	}
	return s.real.Work()
}

// admitter is a store that refuses proposals when it has no room.
type admitter interface {
	Admit(n int) error
	AdmitControl(n int) error
}

func (s *store) admit(n int) error {
	if a, ok := s.real.(admitter); ok {
		return a.Admit(n)
	}
	return nil
}

func (s *store) admitControl(n int) error {
	if a, ok := s.real.(admitter); ok {
		return a.AdmitControl(n)
	}
	return nil
}

// close ends the store in order.
func (s *store) close() error {
	if c, ok := s.real.(io.Closer); ok {
		return c.Close()
	}
	s.real.Work()
	return nil
}
