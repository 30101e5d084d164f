package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrCompacted is returned when an entry lies before the first one of its group, or, by ReadAt, when
	// what was asked for of such an entry is no longer kept.
	ErrCompacted = errors.New("journal: entry is compacted")
	// ErrUnavailable is returned when an entry lies beyond the last one of its group.
	ErrUnavailable = errors.New("journal: entry is not stored")
	// ErrUnknownGroup is returned when a group has nothing stored or was dropped.
	ErrUnknownGroup = errors.New("journal: unknown group")
	// ErrFull is returned by Admit when the disk has no room for another segment and what is left
	// of the present one is reserved for small records.
	ErrFull = errors.New("journal: disk is full")
	// ErrBusy is returned by Admit when more than Config.MaxQueuedBytes wait to be written.
	ErrBusy = errors.New("journal: too many bytes are queued")
	// ErrTooLarge is returned by Admit when an entry could not fit in a segment.
	ErrTooLarge = errors.New("journal: entry is larger than a segment can hold")
	// ErrWrongKey is returned by Open when Config.Key is not the key of the log.
	ErrWrongKey = errors.New("journal: wrong key")
	// ErrNoKey is returned by Open when the log is encrypted and Config.Key is missing.
	ErrNoKey = errors.New("journal: the log is encrypted")
	// ErrNoObject is returned when a group has no object with the key.
	ErrNoObject = errors.New("journal: no such object")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("journal: log is closed")
)

// CorruptError is returned when bytes of the journal are not what was written and acknowledged.
// Nothing is deleted or changed when it is reported.
type CorruptError struct {
	File   string // path of the segment file
	Offset int64  // byte offset in File of the first thing that cannot be trusted
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal: corrupt file %s at offset %d: %s; the data was left as it is", e.File, e.Offset,
		e.Reason)
}
