package jetstream

import (
	"fmt"
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
)

// Local is one account's streams for users in the same process, who need no connection.
type Local struct{ a *account }

// Local returns the streams of an account, nil if it may not use any.
func (e *Engine) Local(account string) *Local {
	if a := e.accounts[account]; a != nil {
		return &Local{a}
	}
	return nil
}

// Request makes an API request and returns the response. call is the subject without its prefix
// $JS.API. An unknown call is a bad request.
func (l *Local) Request(call string, body []byte) []byte {
	var response []byte
	r := &request{account: l.a, body: body, answer: func(b []byte) { response = b }}
	var ok bool
	if r.Call, ok = api.ParseCall(api.Prefix + call); !ok || r.Type == "" {
		r.fail(api.ErrBadRequest)
		return response
	}
	r.serve()
	return response
}

// Captures reports whether a stream stores what is published to a literal subject and acknowledges it.
func (l *Local) Captures(subj string) bool {
	return slices.ContainsFunc(l.a.all(), func(s *Stream) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		cfg := s.machine.Config()
		return !cfg.NoAck && !cfg.Sealed && slices.ContainsFunc(cfg.Subjects, func(filter string) bool {
			return subject.Match(filter, subj)
		})
	})
}

// Last returns the newest message of a stream on a literal subject. Errors are api.ErrStreamNotFound,
// [ErrNotStored], and those of reading.
func (l *Local) Last(name, subj string) (stream.Message, error) {
	s, err := l.a.stream(name)
	if err != nil {
		return stream.Message{}, err
	}
	seq, findErr := s.find(&api.MsgGetRequest{LastFor: subj})
	if findErr != nil {
		return stream.Message{}, findErr
	}
	m, _, loadErr := s.load(seq, nil)
	return m, loadErr
}

// Scan calls fn with the messages that are now in a stream and match filter, in order, until fn
// returns an error, which it passes on. The message's slices are borrowed.
func (l *Local) Scan(name, filter string, fn func(stream.Message) error) error {
	s, apiErr := l.a.stream(name)
	if apiErr != nil {
		return apiErr
	}
	r := newReader(s)
	filters := []string{filter}
	_, last := r.Bounds()
	for seq, ok := r.Next(0, filters); ok && seq <= last; seq, ok = r.Next(seq+1, filters) {
		m, err := r.load(seq)
		if err == ErrNotStored {
			continue
		}
		if err == nil {
			err = fn(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ConsumerRef is a durable consumer of an account.
type ConsumerRef struct {
	Stream, Name string
	Config       api.ConsumerConfig
}

// Consumers returns the account's durable consumers.
func (l *Local) Consumers() []ConsumerRef {
	var all []ConsumerRef
	for _, s := range l.a.all() {
		for name, cfg := range s.consumerConfigs() {
			if cfg.IsDurable() {
				all = append(all, ConsumerRef{s.name, name, cfg.Clone()})
			}
		}
	}
	return all
}

// Consumer returns a consumer that this node leads. It ends when the node leads it no more. The error is
// api.ErrStreamNotFound, api.ErrConsumerNotFound, or [delivery.ErrNotLeader].
func (l *Local) Consumer(name, consumer string) (*delivery.Consumer, error) {
	s := l.a.local(name)
	if s == nil {
		return nil, api.ErrStreamNotFound
	}
	c, err := s.consumer(consumer)
	if err != nil {
		return nil, fmt.Errorf("stream %q, consumer %q: %w", name, consumer, err)
	}
	if d := c.led.Load(); d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("stream %q, consumer %q: %w", name, consumer, delivery.ErrNotLeader)
}
