package jetstream

import (
	"fmt"
	"io"
	"slices"

	"millrace/appliance/server/jetstream/stream"
)

// streamMachine is a stream as its group sees it.
type streamMachine struct{ *Stream }

var _ Snapshotter = streamMachine{}

// Apply takes a committed entry.
func (m streamMachine) Apply(index uint64, entry []byte) { m.apply(index, entry) }

// Lead follows the leadership of the group.
func (m streamMachine) Lead(term uint64, ready bool) { m.lead(term, ready) }

// Failed takes the replica offline; the others go on.
func (m streamMachine) Failed(err error) {
	m.mu.Lock()
	m.failLocked(fmt.Errorf("group of stream %q: %w", m.name, err))
	m.mu.Unlock()
	m.lead(0, false)
}

// Snapshot captures the stream's state.
func (m streamMachine) Snapshot() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return nil, m.failed
	}
	return m.machine.Snapshot(), nil
}

// Restore replaces the stream's state.
func (m streamMachine) Restore(index uint64, state io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, before := m.machine.Usage()
	if err := m.machine.Restore(index, state); err != nil {
		return fmt.Errorf("stream %q: %w", m.name, err)
	}
	m.applied = index
	_, after := m.machine.Usage()
	m.account.book(m.storage, int64(after)-int64(before))
	m.jobs.add(m.replaced)
	return nil
}

// replaced tells the consumers that the stream's state was replaced.
func (s *Stream) replaced() {
	s.mu.RLock()
	first, _ := s.machine.Bounds()
	s.mu.RUnlock()
	for _, c := range s.allConsumers() {
		c.HeadMoved(first, false)
		c.NewMessages()
	}
}

// Live names the parts of entries that hold the stream's messages.
func (m streamMachine) Live(lo, hi uint64, yield func(index uint64, parts []stream.Range) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.failed != nil {
		return m.failed
	}
	return m.machine.Live(lo, hi, yield)
}

// LiveBytes returns about how many bytes Live would name.
func (m streamMachine) LiveBytes(lo, hi uint64) int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.machine.LiveBytes(lo, hi)
}

// indexStorage is where a stream's machine keeps its index: in objects beside the log.
func (s *Stream) indexStorage() stream.Storage {
	return stream.Storage{
		Blocks: blocks{s.account.engine.cfg.Log, s.spec.Log}, Cache: s.account.engine.blocks,
		Snapshots: true, Entries: s.entries,
	}
}

// blocks keeps the blocks of a stream's message index as objects of its group.
type blocks struct {
	log   Log
	group uint64
}

// Put stores a block; it does not wait for the disk.
func (b blocks) Put(key uint64, block []byte) { b.log.PutObject(b.group, key, block, nil) }

// Get returns a block.
func (b blocks) Get(key uint64) ([]byte, error) { return b.log.Object(b.group, key) }

// Delete deletes blocks.
func (b blocks) Delete(keys ...uint64) { b.log.DeleteObjects(b.group, keys...) }

// Keys returns the keys of all blocks. Those of the group's own objects are above.
func (b blocks) Keys() []uint64 {
	keys := b.log.ObjectKeys(b.group)
	own, _ := slices.BinarySearch(keys, ownObjects)
	return keys[:own]
}

// ownObjects is the first key that is not for machines.
const ownObjects = 1 << 62

// entries reads whole entries back, from which a damaged block of the index is made anew. It fails when
// only parts of one are left.
func (s *Stream) entries(first, last uint64, yield func(index uint64, off uint32, data []byte) error) error {
	log := s.account.engine.cfg.Log
	var buf []byte
	for index := first; index <= last; index++ {
		_, size, err := log.Stat(s.spec.Log, index)
		if err != nil {
			return err
		}
		if size == 0 {
			continue // the group's own
		}
		if cap(buf) < int(size) {
			buf = make([]byte, size)
		}
		if err := log.ReadAt(s.spec.Log, index, 0, buf[:size]); err != nil {
			return err
		}
		if err := yield(index, 0, buf[:size]); err != nil {
			return err
		}
	}
	return nil
}
