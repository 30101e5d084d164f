package index

import (
	"maps"
	"slices"
	"sync"
)

// Memory is a store of blocks in the heap, for streams that end with the process.
type Memory struct {
	mu     sync.RWMutex
	blocks map[uint64][]byte
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{blocks: map[uint64][]byte{}} }

// Put stores a block.
func (m *Memory) Put(key uint64, block []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[key] = block
}

// Get returns a block, or [ErrNoBlock].
func (m *Memory) Get(key uint64) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if b, ok := m.blocks[key]; ok {
		return b, nil
	}
	return nil, ErrNoBlock
}

// Delete deletes blocks.
func (m *Memory) Delete(keys ...uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.blocks, key)
	}
}

// Keys returns the keys of all blocks.
func (m *Memory) Keys() []uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Keys(m.blocks))
}

// Len returns the number of blocks.
func (m *Memory) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.blocks)
}
