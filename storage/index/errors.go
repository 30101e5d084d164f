package index

import (
	"errors"
	"fmt"
)

// Errors of the package.
var (
	// ErrBlock is returned when a block is not the one that was stored: damaged, or another one.
	ErrBlock = errors.New("index: damaged block")
	// ErrSnapshot is returned when a snapshot does not decode or contradicts itself.
	ErrSnapshot = errors.New("index: damaged snapshot")
	// ErrOrder is returned for a message that does not follow the one before it.
	ErrOrder = errors.New("index: message out of order")
	// ErrNoBlock is returned by stores for a key that holds no block.
	ErrNoBlock = errors.New("index: no such block")
)

// BlockError says which block could not be read and which messages it names.
type BlockError struct {
	Key         uint64
	First, Last uint64 // sequences of its messages
	Err         error
}

// Error names the block, its messages and the reason.
func (e *BlockError) Error() string {
	return fmt.Sprintf("read index block %d of messages %d to %d: %v", e.Key, e.First, e.Last, e.Err)
}

// Unwrap returns the reason.
func (e *BlockError) Unwrap() error { return e.Err }
