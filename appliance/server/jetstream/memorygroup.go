package jetstream

import (
	"fmt"
	"slices"
	"sync"
)

// memoryGroup is the group and the log of a stream with memory storage: entries live in the heap
// and end with the process. An entry is dropped when its stream needs none of its messages.
type memoryGroup struct {
	apply func(index uint64, data []byte)

	mu      sync.RWMutex
	next    uint64
	entries map[uint64][]byte
}

func newMemoryGroup(apply func(index uint64, data []byte)) *memoryGroup {
	return &memoryGroup{apply: apply, next: 1, entries: map[uint64][]byte{}}
}

// Propose stores the entry and applies it at once. Streams propose from one goroutine at a time.
func (g *memoryGroup) Propose(entry []byte) error {
	g.mu.Lock()
	index := g.next
	g.next++
	g.entries[index] = slices.Clip(entry)
	g.mu.Unlock()
	g.apply(index, entry)
	return nil
}

// ProposeControl is Propose: memory is never full.
func (g *memoryGroup) ProposeControl(entry []byte) error { return g.Propose(entry) }

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
