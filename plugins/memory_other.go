//go:build !linux

package plugins

import "github.com/tetratelabs/wazero/experimental"

// linearMemory is a guest's memory on the Go heap, for systems without the mmap of linux.
type linearMemory struct {
	limit     uint64
	region    []byte
	committed uint64
}

func newLinearMemory(limit uint64) (*linearMemory, error) { return &linearMemory{limit: limit}, nil }

// Allocate implements experimental.MemoryAllocator: the one memory of the instance is this one.
func (m *linearMemory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements experimental.LinearMemory. It returns nil over the limit, which makes
// memory.grow answer -1.
func (m *linearMemory) Reallocate(size uint64) []byte {
	if size > m.limit {
		return nil
	}
	if size > uint64(cap(m.region)) {
		grown := make([]byte, size, min(m.limit, 2*size))
		copy(grown, m.region)
		m.region = grown
	}
	m.region, m.committed = m.region[:size], max(m.committed, size)
	return m.region
}

// Free implements experimental.LinearMemory.
func (m *linearMemory) Free() { m.region, m.committed = nil, 0 }
