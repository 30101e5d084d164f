package raft

import (
	"sync"

	"millrace/raft/core"
)

// worker runs the groups that have something to do, one after the other. A group is in the queue at
// most once, so that the queue is bounded by the number of groups.
type worker struct {
	mu     sync.Mutex // taken with no other lock held
	wake   sync.Cond  // the queue is not empty any more, or closed
	queue  []*Group
	closed bool
}

func newWorker() *worker {
	w := &worker{}
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

// loop runs queued groups until the worker is closed.
func (w *worker) loop() {
	var batch []*Group
	var rd core.Ready // reused by all groups; holds nothing between turns
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.closed {
			w.wake.Wait()
		}
		if w.closed {
			w.mu.Unlock()
			return
		}
		batch, w.queue = w.queue, batch[:0]
		w.mu.Unlock()
		for i, g := range batch {
			batch[i] = nil
			g.run(&rd)
		}
	}
}

// close ends the loop. All groups are stopped.
func (w *worker) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wake.Signal()
}
