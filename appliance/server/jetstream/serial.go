package jetstream

import "sync"

// serial runs functions one after the other, in order, in the lane turns.
type serial struct {
	engine *Engine

	mu      sync.Mutex
	queue   []func()
	running bool
}

// add runs fn after what was added before. It does not wait.
func (s *serial) add(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, fn)
	if !s.running {
		s.running = true
		s.engine.work(turns, s.next)
	}
}

// next runs one function and lets others have the worker before the one after it.
func (s *serial) next() {
	s.mu.Lock()
	fn := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.mu.Unlock()
	fn()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running = len(s.queue) > 0; s.running {
		s.engine.work(turns, s.next)
	}
}
