package delivery

import (
	"sync"
	"sync/atomic"
)

// inbox is what other goroutines leave for run.
type inbox struct {
	committed atomic.Int64 // entries of the log that were committed since run looked

	mu      sync.Mutex
	closed  bool
	acks    []ack
	pulls   []pullRequest
	events  []event
	removed []uint64
	first   uint64 // highest HeadMoved
	purged  bool   // the head moved
	silent  bool   // some of it by a purge
}

// event is a function to be run by run; if the consumer ends first, refused is called instead.
type event struct {
	run     func()
	refused func(error)
}

// pullRequest is a request as it arrived.
type pullRequest struct {
	reply string
	data  []byte
}

// take swaps the contents of the inbox with the emptied previous ones, which keep their capacity.
func (b *inbox) take(prev *inbox) {
	b.mu.Lock()
	b.acks, prev.acks = prev.acks[:0], b.acks
	b.pulls, prev.pulls = prev.pulls[:0], b.pulls
	b.events, prev.events = prev.events[:0], b.events
	b.removed, prev.removed = prev.removed[:0], b.removed
	prev.first, prev.purged, prev.silent = b.first, b.purged, b.silent
	b.first, b.purged, b.silent = 0, false, false
	b.mu.Unlock()
}

// close takes what is left and refuses everything from now on.
func (b *inbox) close(prev *inbox) {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.take(prev)
}

// ack queues an acknowledgement and reports whether it was the first.
func (b *inbox) ack(a ack) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.acks) >= maxQueuedAcks {
		return false
	}
	b.acks = append(b.acks, a)
	return len(b.acks) == 1
}

// settle queues acknowledgements of a worker, which are never dropped; false: the consumer ended.
func (b *inbox) settle(acks []ack) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.acks = append(b.acks, acks...)
	return true
}

// pull queues a pull request; false: there are too many.
func (b *inbox) pull(p pullRequest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && len(b.pulls) < maxQueuedPulls {
		b.pulls = append(b.pulls, p)
		return true
	}
	return b.closed
}

func (b *inbox) remove(seqs []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.removed = append(b.removed, seqs...)
	}
}

func (b *inbox) purge(first uint64, silent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.first, b.purged, b.silent = max(b.first, first), true, b.silent || silent
}

func (b *inbox) post(e event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.events = append(b.events, e)
	}
	return !b.closed
}

// post has run call fn; refused is called if the consumer ends before.
func (c *Consumer) post(fn func(), refused func(error)) {
	if !c.inbox.post(event{fn, refused}) {
		if refused != nil {
			refused(c.how.err())
		}
		return
	}
	c.wake()
}
