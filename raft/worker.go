package raft

import (
	"slices"
	"sync"

	"millrace/raft/core"
)

// worker runs the groups that have something to do, one after the other, and sends their messages
// together. A group is in the queue at most once, so that the queue is bounded by the number of groups.
type worker struct {
	host *Host

	mu     sync.Mutex // taken with no other lock held
	wake   sync.Cond  // the queue is not empty any more, or closed
	queue  []*Group
	ticks  bool // time has passed since the groups were told
	closed bool

	// Owned by loop.
	spare []*Group   // room for the next queue
	awake []*Group   // groups that are told the time
	rd    core.Ready // reused by all groups; holds nothing between turns
	out   outbox
}

func newWorker(h *Host) *worker {
	w := &worker{host: h, out: outbox{host: h}}
	w.wake.L = &w.mu
	return w
}

// push queues a group. The caller has set its state to queued.
func (w *worker) push(g *Group) {
	w.mu.Lock()
	w.queue = append(w.queue, g)
	first := len(w.queue) == 1
	w.mu.Unlock()
	if first {
		w.wake.Signal()
	}
}

// tick tells that one unit of time has passed. Units that a busy worker has no time for are lost.
func (w *worker) tick() {
	w.mu.Lock()
	w.ticks = true
	w.mu.Unlock()
	w.wake.Signal()
}

// loop runs queued groups until the worker is closed.
func (w *worker) loop() {
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.ticks && !w.closed {
			w.wake.Wait()
		}
		closed := w.closed
		w.mu.Unlock()
		if closed {
			return
		}
		w.batch()
	}
}

// drain does what is to be done, and reports whether there was anything.
func (w *worker) drain() (worked bool) {
	for {
		w.mu.Lock()
		more := !w.closed && (len(w.queue) > 0 || w.ticks)
		w.mu.Unlock()
		if !more {
			return worked
		}
		worked = true
		w.batch()
	}
}

// batch runs what is queued now.
func (w *worker) batch() {
	w.mu.Lock()
	ticks := w.ticks
	w.ticks = false
	w.mu.Unlock()
	if ticks {
		w.tickGroups()
	}
	w.mu.Lock()
	batch := w.queue
	w.queue = w.spare[:0]
	w.mu.Unlock()
	for i, g := range batch {
		batch[i] = nil
		g.run(&w.rd)
		if w.out.full() {
			w.out.flush()
		}
	}
	w.spare = batch
	w.out.flush()
}

// tickGroups queues the groups that are awake, and forgets those that sleep.
func (w *worker) tickGroups() {
	w.awake = slices.DeleteFunc(w.awake, func(g *Group) bool {
		g.mu.Lock()
		g.ticked = g.awake
		gone := !g.awake || g.stopped || g.err != nil
		if gone {
			g.listed = false
		}
		wake := !gone && g.wakeLocked()
		g.mu.Unlock()
		if wake {
			w.push(g)
		}
		return gone
	})
}

// close ends the loop. All groups are stopped.
func (w *worker) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wake.Signal()
}
