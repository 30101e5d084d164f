package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

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
	// MoveBytesPerSecond is how many bytes a second may be read and appended again to give segments back of
	// which little is needed; four times as many when the disk is full. 0: 32 MiB.
	MoveBytesPerSecond int64
	// SlackBytes is how much more than twice what is needed the log may take before that begins. 0: three
	// segments.
	SlackBytes int64
	// ScrubInterval is the time in which the whole log is read once and checked, in the background; it is read no
	// faster than 32 MiB a second, and waits while there is something to be written. 0: 72 hours; negative: never.
	ScrubInterval time.Duration
	// OnDamage is called, without locks, with what is needed and was found damaged by that, or by the mover. It does
	// not block. nil: it is logged only.
	OnDamage func(Damaged)
	// Key, of KeyBytes, is the node key: new segments are encrypted with AES-256-XTS under a data key
	// that is kept in Keys, wrapped by it. Segments that are there stay as they are. nil: new segments
	// are not encrypted, and those that are cannot be read without PrevKey.
	Key []byte
	// PrevKey is the node key that the data key may still be wrapped by; Open wraps it anew under Key.
	// Without Key it only opens the encrypted segments that there are. nil: none.
	PrevKey []byte
	// Keys keeps the wrapped data key. Required with Key or PrevKey.
	Keys KeyStore
	// Manual is for simulations: the log has no goroutines, and everything happens in Work, on the
	// caller's goroutine. With equal Clock, Rand and calls it does the same operations in the same
	// order.
	Manual bool
	// Clock tells how long writes wait for company and when a full disk is tried again. nil: time.Now;
	// another one makes sense with Manual only.
	Clock func() time.Time
	// Rand makes salts, identities of files and keys; it must be fit for keys when Key is given. nil:
	// crypto/rand.
	Rand io.Reader
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
	if c.SlackBytes == 0 {
		c.SlackBytes = 3 * c.SegmentBytes
	}
	if c.MoveBytesPerSecond == 0 {
		c.MoveBytesPerSecond = 32 << 20
	}
	if c.ScrubInterval == 0 {
		c.ScrubInterval = 72 * time.Hour
	}
	if c.OnDamage == nil {
		c.OnDamage = func(Damaged) {}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
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
	for _, k := range []struct {
		name string
		key  []byte
	}{{"Key", c.Key}, {"PrevKey", c.PrevKey}} {
		if k.key != nil && len(k.key) != KeyBytes {
			return fmt.Errorf("journal: %s has %d bytes, it needs %d", k.name, len(k.key), KeyBytes)
		}
		if k.key != nil && c.Keys == nil {
			return fmt.Errorf("journal: Config needs Keys with %s", k.name)
		}
	}
	if c.MaxQueuedBytes < 0 {
		return fmt.Errorf("journal: MaxQueuedBytes %d is negative", c.MaxQueuedBytes)
	}
	if c.MoveBytesPerSecond < 0 || c.SlackBytes < 0 {
		return fmt.Errorf("journal: MoveBytesPerSecond %d or SlackBytes %d is negative", c.MoveBytesPerSecond, c.SlackBytes)
	}
	return nil
}
