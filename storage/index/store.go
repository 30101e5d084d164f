package index

// Blocks stores the blocks of one index, under keys from 1 to below 1<<62 that are used once each.
type Blocks interface {
	// Put stores a block and owns the slice, whose bytes nobody changes. It does not wait for the
	// disk. After a crash the same block may be put again under its key, or another one if the log
	// lost the messages of the first.
	Put(key uint64, block []byte)

	// Get returns a block, whose bytes nobody changes; an error such as [ErrNoBlock] if it cannot. It is called
	// by several goroutines at once.
	Get(key uint64) ([]byte, error)

	// Delete deletes blocks that no state refers to any more. Keys that hold none are ignored. It may be
	// called by the goroutine that releases a [Capture].
	Delete(keys ...uint64)

	// Keys returns the keys of all blocks, in any order. Restore asks, to find those that were given up
	// before a crash and not deleted any more.
	Keys() []uint64
}
