package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// Little is to be done for the first deliveries of a consumer when its stream holds no more than this, or when they are
// the last message of each of a few keys.
const (
	fewMessages = 1 << 10
	fewBytes    = 1 << 20
	fewKeys     = 8
)

// serveInPlace answers a request on the goroutine of the client that has made it, if it is one that waits for nobody
// and takes little: that of a watcher. Handing it to a worker, and the first messages to another one, costs more
// than what they do. It reports whether it has; this node surely leads the stream.
func (r *request) serveInPlace() bool {
	if r.Verb != api.VerbConsumerCreate || !r.levelServed() {
		return false
	}
	c, err := r.decodeCreate()
	if err != nil || c.Config.IsDurable() || c.Action == api.ActionUpdate {
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
	r.finish(r.createConsumer(s, c))
	return true
}

// beginsSoon reports whether a consumer finds its place, and what it delivers first, without much work.
func (s *Stream) beginsSoon(cfg *api.ConsumerConfig) bool {
	s.mu.RLock()
	messages, bytes := s.machine.Usage()
	s.mu.RUnlock()
	if messages <= fewMessages && bytes <= fewBytes {
		return true
	}
	filters := cfg.Filters()
	switch cfg.DeliverPolicy {
	case api.DeliverNew:
		return true
	case api.DeliverLast, api.DeliverLastPerSubject:
		wild := slices.ContainsFunc(filters, func(f string) bool { return !subject.ValidLiteral(f) })
		return len(filters) > 0 && len(filters) <= fewKeys && !wild
	}
	return false
}
