package boot

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// maxQueued bounds the text that waits for the console, in bytes: some seconds of a serial line.
const maxQueued = 64 << 10

// lineOut writes text to slow outputs without making its writers wait. Text that finds no room is
// dropped and counted; on a console that is better than a box that stands still.
type lineOut struct {
	wg   sync.WaitGroup
	wake chan struct{}

	mu      sync.Mutex
	outs    []io.Writer
	queue   []byte
	dropped int
	busy    bool // text is being written
	closed  bool
}

func newLineOut(outs ...io.Writer) *lineOut {
	l := &lineOut{outs: outs, wake: make(chan struct{}, 1)}
	l.wg.Go(l.run)
	return l
}

// add adds an output.
func (l *lineOut) add(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outs = append(slices.Clone(l.outs), w) // run may be using the old list
}

// Write implements io.Writer; it never fails and never waits. p should be whole lines.
func (l *lineOut) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(p) > maxQueued {
		l.dropped++
		return len(p), nil
	}
	if l.dropped > 0 {
		l.queue = fmt.Appendf(l.queue, "millrace: %d messages dropped, the console is too slow\n", l.dropped)
		l.dropped = 0
	}
	l.queue = append(l.queue, p...)
	l.signal()
	return len(p), nil
}

func (l *lineOut) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes what is queued until close.
func (l *lineOut) run() {
	for range l.wake {
		for {
			l.mu.Lock()
			text, outs, closed := l.queue, l.outs, l.closed
			l.queue, l.busy = nil, len(text) > 0
			l.mu.Unlock()
			if len(text) == 0 {
				if closed {
					return
				}
				break
			}
			for _, w := range outs {
				// The console is the only place to tell of errors: nothing to do about one.
				_, _ = w.Write(text)
			}
		}
	}
}

// flush waits until all is written, at most so long.
func (l *lineOut) flush(most time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(most)
	for {
		l.mu.Lock()
		idle := len(l.queue) == 0 && !l.busy
		l.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// close ends the writing once all is written.
func (l *lineOut) close() {
	l.mu.Lock()
	l.closed = true
	l.signal()
	l.mu.Unlock()
	l.wg.Wait()
}
