// Package logbook keeps the last log lines of a box within a bound: in memory, and on the state
// partition once that is mounted. Nobody who writes a line waits for a disk.
//
// Reading order:
//
//	logbook.go  Book: lines in memory, readers that follow
//	files.go    the lines on the disk, in files of which the oldest is removed
package logbook

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// Bounds of what is kept in memory.
const (
	memoryLines = 4096
	memoryBytes = 1 << 20
	maxLine     = 4096 // bytes of one line; the rest is cut off
)

// Line is one line of the log.
type Line struct {
	Seq  uint64    `json:"seq"` // since this boot, from 1; 0 for lines of earlier boots
	Time time.Time `json:"time"`
	Text string    `json:"text"` // without line end
}

// Book is a log with a bound. Its methods may be called concurrently.
type Book struct {
	now func() time.Time
	wg  sync.WaitGroup

	mu      sync.Mutex
	lines   []Line // the last ones, oldest first
	bytes   int    // of their texts
	seq     uint64 // of the last line
	partial []byte // a line whose end has not been written yet
	more    chan struct{}
	stop    context.CancelFunc // of the writer; nil before Attach
	files   *files             // nil before Attach
}

// New returns a book in memory. now is the clock that lines are stamped with.
func New(now func() time.Time) *Book {
	return &Book{now: now, more: make(chan struct{})}
}

// Write takes text that consists of lines. It never fails.
func (b *Book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(p)
	added := false
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		if room := maxLine - len(b.partial); len(line) > room {
			line = line[:max(0, room)]
		}
		b.partial = append(b.partial, line...)
		if !ended {
			break
		}
		b.appendLocked(string(b.partial))
		b.partial, p, added = b.partial[:0], rest, true
	}
	if added {
		close(b.more)
		b.more = make(chan struct{})
	}
	return n, nil
}

// appendLocked adds a line and drops the oldest ones that are too many.
func (b *Book) appendLocked(text string) {
	b.seq++
	b.lines = append(b.lines, Line{b.seq, b.now().UTC(), text})
	b.bytes += len(text)
	drop := 0
	for len(b.lines)-drop > memoryLines || b.bytes > memoryBytes && drop < len(b.lines)-1 {
		b.bytes -= len(b.lines[drop].Text)
		drop++
	}
	if drop > 0 {
		clear(b.lines[:drop])
		b.lines = b.lines[drop:]
	}
}

// Tail returns the last n lines, those of earlier boots included as far as they are on the disk.
func (b *Book) Tail(n int) []Line {
	b.mu.Lock()
	memory := append([]Line(nil), b.lines[max(0, len(b.lines)-n):]...)
	f := b.files
	b.mu.Unlock()
	if f == nil || len(memory) >= n {
		return memory
	}
	// What a reader is shown of the past is a help, not a promise: files that cannot be read are left
	// out.
	return append(f.earlier(n-len(memory)), memory...)
}

// After returns lines that came after the one with that number, at most a thousand, and waits for one
// when there is none. Lines that are no longer in memory are skipped. It ends with ctx.
func (b *Book) After(ctx context.Context, seq uint64) ([]Line, error) {
	const most = 1000
	for {
		b.mu.Lock()
		var out []Line
		if new := b.seq - seq; b.seq > seq {
			from := len(b.lines) - int(min(new, uint64(len(b.lines))))
			out = append(out, b.lines[from:min(len(b.lines), from+most)]...)
		}
		more := b.more
		b.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Last returns the number of the last line.
func (b *Book) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seq
}

// Attach keeps lines in a folder from now on, at most maxBytes of them: those in memory first. An
// error means that the book goes on in memory; so it does, with failed called once, when the folder
// cannot be written any more.
func (b *Book) Attach(dir string, maxBytes int64, failed func(error)) error {
	f, err := openFiles(dir, maxBytes)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	b.mu.Lock()
	b.files, b.stop = f, stop
	b.mu.Unlock()
	b.wg.Go(func() {
		if err := b.keep(ctx, f); err != nil {
			failed(err)
		}
	})
	return nil
}

// keep writes lines as they come, until ctx ends; then those that are there.
func (b *Book) keep(ctx context.Context, f *files) error {
	var seq uint64
	for {
		lines, err := b.After(ctx, seq)
		if err != nil { // told to stop
			for _, l := range b.Tail(memoryLines) {
				if l.Seq > seq {
					lines = append(lines, l)
				}
			}
			return f.finish(lines)
		}
		if lost := lines[0].Seq - seq - 1; lost > 0 {
			if err := f.dropped(lines[0].Time, lost); err != nil {
				return err
			}
		}
		if err := f.append(lines); err != nil {
			return err
		}
		seq = lines[len(lines)-1].Seq
	}
}

// Close writes what is left and stops writing to the disk.
func (b *Book) Close() {
	b.mu.Lock()
	stop := b.stop
	b.mu.Unlock()
	if stop != nil {
		stop()
	}
	b.wg.Wait()
}
