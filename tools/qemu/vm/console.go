package vm

import (
	"context"
	"io"
	"strings"
	"sync"
)

// maxConsole bounds the console text kept in memory, in bytes; the oldest half goes when it is
// full. The log file keeps everything.
const maxConsole = 8 << 20

// console collects what the guest prints on its serial line.
type console struct {
	mirror io.Writer // gets every byte too; nil for none

	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced at every write
	closed  bool
}

func newConsole(mirror io.Writer) *console {
	return &console{mirror: mirror, changed: make(chan struct{})}
}

// Write implements io.Writer for the emulator's standard output.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	if len(c.text)+len(p) > maxConsole {
		c.text = append([]byte(nil), c.text[len(c.text)/2:]...)
	}
	c.text = append(c.text, p...)
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if c.mirror != nil {
		return c.mirror.Write(p)
	}
	return len(p), nil
}

// finish wakes all waiters: nothing will be written any more.
func (c *console) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.changed)
	}
}

// String returns the text so far.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// wait returns the first of texts that the console holds, waiting for it; ok is false when the
// guest ended without printing any.
func (c *console) wait(ctx context.Context, texts ...string) (found string, ok bool, err error) {
	return c.waitFor(ctx, func(console string) (string, bool) {
		for _, t := range texts {
			if strings.Contains(console, t) {
				return t, true
			}
		}
		return "", false
	})
}

// restOfLine returns what the first line that holds text says behind it, waiting for the line's end; ok is
// false when the guest ended before.
func (c *console) restOfLine(ctx context.Context, text string) (rest string, ok bool, err error) {
	return c.waitFor(ctx, func(console string) (string, bool) {
		_, rest, _ := strings.Cut(console, text)
		rest, _, ok := strings.Cut(rest, "\n")
		return strings.TrimRight(rest, "\r"), ok
	})
}

// waitFor returns what find finds on the console, waiting until it does; ok is false when the guest ended
// before.
func (c *console) waitFor(ctx context.Context, find func(console string) (string, bool)) (found string, ok bool, err error) {
	for {
		c.mu.Lock()
		text, changed, closed := string(c.text), c.changed, c.closed
		c.mu.Unlock()
		if found, ok := find(text); ok {
			return found, true, nil
		}
		if closed {
			return "", false, nil
		}
		select {
		case <-ctx.Done():
			return "", false, ctx.Err()
		case <-changed:
		}
	}
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
