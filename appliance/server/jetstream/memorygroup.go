package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// memoryGroup is the group and the log of a stream with memory storage: entries live in the heap
// and end with the process. An entry is dropped when its stream needs none of its messages.
type memoryGroup struct {
	machine Machine

	mu      sync.RWMutex
	next    uint64
	entries map[uint64][]byte
}

// memoryTerm is the one term of a memoryGroup, memoryReplica its one replica.
const (
	memoryTerm    = 1
	memoryReplica = 1
)

func newMemoryGroup(m Machine) *memoryGroup {
	return &memoryGroup{machine: m, next: 1, entries: map[uint64][]byte{}}
}

// lead tells the machine that it leads, as it does for ever.
func (g *memoryGroup) lead() { g.machine.Lead(memoryTerm, true) }

// Propose stores the entry and applies it at once. Streams propose from one goroutine at a time.
func (g *memoryGroup) Propose(_ uint64, entry []byte) error {
	g.mu.Lock()
	index := g.next
	g.next++
	g.entries[index] = slices.Clip(entry)
	g.mu.Unlock()
	g.machine.Apply(index, entry)
	return nil
}

// ProposeControl is Propose: memory is never full.
func (g *memoryGroup) ProposeControl(term uint64, entry []byte) error { return g.Propose(term, entry) }

// LeaseRead calls done: what was proposed is applied.
func (g *memoryGroup) LeaseRead(done func(error)) { done(nil) }

// Leader returns the one replica.
func (g *memoryGroup) Leader() (replica, term uint64) { return memoryReplica, memoryTerm }

// Status returns what there is to say.
func (g *memoryGroup) Status(context.Context) (GroupStatus, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	last := g.next - 1
	return GroupStatus{Term: memoryTerm, Lead: memoryReplica, Commit: last, Applied: last, Voters: []uint64{memoryReplica}}, nil
}

// Campaign does nothing: it leads.
func (g *memoryGroup) Campaign() {}

// TransferLeader does nothing: there is nobody else.
func (g *memoryGroup) TransferLeader(uint64) {}

// ChangeMembers refuses: what is in memory cannot be carried to other nodes.
func (g *memoryGroup) ChangeMembers(_ Change, done func(error)) {
	done(errors.New("jetstream: a stream in memory stays on its node"))
}

// Snapshot does nothing: what is not needed is dropped at once.
func (g *memoryGroup) Snapshot() {}

// Stop drops everything.
func (g *memoryGroup) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.entries)
}

// ReadAt reads from an entry; the group number is not looked at, since the log is one stream's own.
func (g *memoryGroup) ReadAt(_, index uint64, off int, p []byte) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	e, ok := g.entries[index]
	if !ok || off+len(p) > len(e) {
		return fmt.Errorf("read memory entry %d at %d: not stored", index, off)
	}
	copy(p, e[off:])
	return nil
}

// Place says that the entry is in memory.
func (g *memoryGroup) Place(_, index uint64) string { return fmt.Sprintf("memory:%d", index) }

// release drops the entries that hold no live message any more.
func (g *memoryGroup) release(dead []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, index := range dead {
		delete(g.entries, index)
	}
}
