package plugins

import (
	"fmt"
	"syscall"

	"github.com/tetratelabs/wazero/experimental"
)

// linearMemory is a guest's memory outside of the Go heap: address space for the whole limit is
// reserved at once, and pages become accessible as the guest grows it. It never moves.
type linearMemory struct {
	region    []byte
	committed uint64
}

func newLinearMemory(limit uint64) (*linearMemory, error) {
	region, err := syscall.Mmap(-1, 0, int(limit), syscall.PROT_NONE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of plugin memory: %w", limit, err)
	}
	return &linearMemory{region: region}, nil
}

// Allocate implements experimental.MemoryAllocator: the one memory of the instance is this one.
func (m *linearMemory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements experimental.LinearMemory. It returns nil over the limit, which makes
// memory.grow answer -1.
func (m *linearMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.region)) {
		return nil
	}
	if size > m.committed {
		err := syscall.Mprotect(m.region[m.committed:size], syscall.PROT_READ|syscall.PROT_WRITE)
		if err != nil {
			return nil
		}
		m.committed = size
	}
	return m.region[:size:len(m.region)]
}

// Free implements experimental.LinearMemory. A second call does nothing.
func (m *linearMemory) Free() {
	if m.region != nil {
		// An unmap of a whole mapping fails only for arguments that are not a mapping.
		if err := syscall.Munmap(m.region); err != nil {
			panic("BUG: unmap plugin memory: " + err.Error())
		}
		m.region, m.committed = nil, 0
	}
}
