package journal

import (
	"errors"
	"fmt"
	"log/slog"

	"millrace/storage/vfs"
)

const (
	minSegmentBytes = 16 * blockBytes
	maxSegmentBytes = 2 << 30
	maxSegmentID    = 1<<32 - 1
)

// Config configures a Log.
type Config struct {
	// FS holds the segment files. Required.
	FS vfs.FS
	// Dir is the directory of the segment files; it is made when missing. Required.
	Dir string
	// Catalog keeps the manifest. Required; one Log at a time.
	Catalog Catalog
	// SegmentBytes is the size of a segment, a multiple of 4096 between 64 KiB and 2 GiB. It bounds
	// the size of an entry. 0: 64 MiB. Existing segments keep their size.
	SegmentBytes int64
	// FirstSegmentBytes is the size of the very first segment, which Open makes and fills while the
	// caller waits. 0: the smaller of SegmentBytes and 4 MiB.
	FirstSegmentBytes int64
	// MaxQueuedBytes is how much may wait to be written before Admit answers ErrBusy; Append itself
	// always queues. 0: 128 MiB.
	MaxQueuedBytes int64
	// Logger gets what an operator should know. nil: nothing is logged.
	Logger *slog.Logger
	// OnFatal is called once, with no lock held, when a write or sync failed: nothing is
	// acknowledged any more and the process should end. It must not call Close. nil: the error is
	// logged.
	OnFatal func(error)
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 64 << 20
	}
	if c.FirstSegmentBytes == 0 {
		c.FirstSegmentBytes = min(c.SegmentBytes, 4<<20)
	}
	if c.MaxQueuedBytes == 0 {
		c.MaxQueuedBytes = 128 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnFatal == nil {
		logger := c.Logger
		c.OnFatal = func(err error) { logger.Error("journal stopped", "err", err) }
	}
	return c
}

func (c Config) validate() error {
	if c.FS == nil || c.Dir == "" || c.Catalog == nil {
		return errors.New("journal: Config needs FS, Dir and Catalog")
	}
	for _, f := range []struct {
		name  string
		bytes int64
	}{{"SegmentBytes", c.SegmentBytes}, {"FirstSegmentBytes", c.FirstSegmentBytes}} {
		if f.bytes < minSegmentBytes || f.bytes > maxSegmentBytes || f.bytes%blockBytes != 0 {
			return fmt.Errorf("journal: %s %d is not a multiple of %d between %d and %d",
				f.name, f.bytes, blockBytes, minSegmentBytes, int64(maxSegmentBytes))
		}
	}
	if c.MaxQueuedBytes < 0 {
		return fmt.Errorf("journal: MaxQueuedBytes %d is negative", c.MaxQueuedBytes)
	}
	return nil
}
