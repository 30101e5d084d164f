package jetstream

import (
	"context"
	"sync"
	"time"
)

// learners wait until this node has carried out everything that the catalogue had when they came, which the
// leader of the meta group has to say. However many they are, they ask it together, and one after the other.
type learners struct {
	catalog *catalog

	mu      sync.Mutex
	waiting []func()
	asking  bool
}

// add calls fn on a worker when the catalogue here is as new as the call. It does not wait.
func (l *learners) add(fn func()) {
	l.mu.Lock()
	l.waiting = append(l.waiting, fn)
	first := !l.asking
	l.asking = true
	l.mu.Unlock()
	if first {
		l.catalog.engine.work(learning, l.ask)
	}
}

// ask asks for those who wait now, and goes on until there are none.
func (l *learners) ask() {
	e := l.catalog.engine
	l.mu.Lock()
	list := l.waiting
	l.waiting = nil
	l.asking = len(list) > 0 && e.ctx.Err() == nil
	again := l.asking
	l.mu.Unlock()
	if !again {
		return
	}
	if l.current() {
		for _, fn := range list {
			fn()
		}
		e.work(learning, l.ask)
		return
	}
	l.mu.Lock()
	l.waiting = append(list, l.waiting...)
	l.mu.Unlock()
	time.AfterFunc(currentRetry, func() { e.work(learning, l.ask) })
}

// current waits until the catalogue here is current; false: that takes too long, or nobody can tell.
func (l *learners) current() bool {
	index, err := l.catalog.askCurrent()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(l.catalog.engine.ctx, gatherWait)
	defer cancel()
	return l.catalog.awaitCarried(ctx, index)
}
