package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// fewMessages is how many messages a stream has at most whose consumers begin with little work whatever they want.
const fewMessages = 1024

// serveInPlace answers a request on the goroutine of the client that has made it, if it is one that waits for nobody
// and takes little: that of a watcher. Handing it to a worker, and the first messages to another one, costs more
// than what they do. It reports whether it has; this node surely leads the stream.
func (r *request) serveInPlace() bool {
	if r.Verb != api.VerbConsumerCreate || !r.levelServed() {
		return false
	}
	var c api.CreateConsumerRequest
	if r.decodeCreate(&c) != nil || c.Config.IsDurable() || c.Action == api.ActionUpdate {
		return false
	}
	s, err := r.stream()
	if err != nil || !s.beginsSoon(&c.Config) || !s.creating.TryLock() {
		return false
	}
	if _, missing := s.consumer(c.Config.Name); missing == nil {
		s.creating.Unlock()
		return false
	}
	r.finish(r.createAlone(s, &c))
	return true
}

// beginsSoon reports whether a consumer finds its place, and what it delivers first, without a search.
func (s *Stream) beginsSoon(cfg *api.ConsumerConfig) bool {
	s.mu.RLock()
	first, last := s.machine.Bounds()
	s.mu.RUnlock()
	if last-first < fewMessages {
		return true
	}
	filters := cfg.Filters()
	switch cfg.DeliverPolicy {
	case api.DeliverNew:
		return true
	case api.DeliverLast, api.DeliverLastPerSubject:
		return len(filters) > 0 && !slices.ContainsFunc(filters, func(f string) bool { return !subject.ValidLiteral(f) })
	}
	return false
}
