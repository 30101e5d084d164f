package raft

import (
	"sync"
	"time"
)

// heldUp is from how many tick intervals between two ticks on a node was held up.
const heldUp = 2

// attention is the time in which this node could have heard the others: that of the clock, but for the times in which
// it was held up itself. A process that stood still (a virtual machine without a processor, a stopped process, a slow
// disk under its memory) finds what the others sent meanwhile waiting for it. By the clock alone it would take all of
// them for dead before it looks, and replace leaders that are well.
//
// Invariants:
//
//  1. It never goes back, and never runs faster than the clock.
//  2. Between two calls of pass it advances by most at the utmost.
type attention struct {
	most time.Duration // between two ticks

	mu     sync.Mutex // taken with no other lock held
	ticked time.Time  // the last call of pass
	passed time.Duration
}

// newAttention begins at 0.
func newAttention(now time.Time, most time.Duration) *attention {
	return &attention{most: most, ticked: now}
}

// at returns how much of it has passed.
func (a *attention) at(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.passed + min(max(now.Sub(a.ticked), 0), a.most)
}

// pass is called once a tick. It returns how much of it has passed, and of the time since the last tick that which does
// not count.
func (a *attention) pass(now time.Time) (passed, late time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	since := max(now.Sub(a.ticked), 0)
	a.passed += min(since, a.most)
	a.ticked = now
	return a.passed, max(since-a.most, 0)
}
