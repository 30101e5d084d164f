package meta

import (
	"fmt"

	"millrace/appliance/server/jetstream/api"
)

// FirstGroup is the first group id that is given to a stream or consumer. Lower ids are left to the
// node, the meta group has one of them.
const FirstGroup = 1 << 10

// Machine is the catalogue. It is not safe for concurrent use. Its invariants:
//
//  1. Group ids of streams and consumers are unique, at least FirstGroup and below next; next only
//     grows, so an id is never given again.
//  2. A stream is stored under its configuration's name, a consumer under its durable name.
//  3. Within an account no subject belongs to two streams.
//  4. No two consumers of a work-queue stream can match the same message.
//  5. Every account has a stream.
//
// A configuration in the catalogue is replaced, never changed, so what lookups return stays valid.
type Machine struct {
	next     uint64
	accounts map[string]map[string]*stream
}

type stream struct {
	Stream
	consumers map[string]*Consumer
}

// New returns an empty catalogue.
func New() *Machine {
	return &Machine{next: FirstGroup, accounts: map[string]map[string]*stream{}}
}

// Effects is what an entry did. Either Error is set and nothing changed, or Stream is the stream
// concerned, as it is after the entry (before it, for a delete), and Consumer the consumer, if any.
type Effects struct {
	// Error is the answer to the client whose request the entry was.
	Error *api.Error
	// Stream and Consumer are to be started or told their configuration when Changed is set.
	Stream   Stream
	Consumer *Consumer
	// Created tells that the stream or consumer did not exist before.
	Created bool
	// Changed tells that the catalogue changed. It is false for a put of what already was.
	Changed bool
	// Removed lists the groups to stop and drop, consumers before their stream.
	Removed []uint64
}

// Apply applies an encoded entry, or a snapshot that stands for all entries before it. An error means that the entry can not be read by this version;
// nothing changed and the caller must not go on.
func (m *Machine) Apply(entry []byte) (Effects, error) {
	if IsCheckpoint(entry) {
		return Effects{}, m.Restore(entry)
	}
	e, err := DecodeEntry(entry)
	if err != nil {
		return Effects{}, err
	}
	fx, apiErr := m.apply(e)
	if apiErr != nil {
		return Effects{Error: apiErr}, nil
	}
	return fx, nil
}

func (m *Machine) apply(e *Entry) (Effects, *api.Error) {
	if e.Op == OpPutStream {
		return m.putStream(e)
	}
	s := m.accounts[e.Account][e.Stream]
	if s == nil {
		return Effects{}, api.ErrStreamNotFound
	}
	switch e.Op {
	case OpDeleteStream:
		return m.deleteStream(s), nil
	case OpPutConsumer:
		return m.putConsumer(e, s)
	}
	c := s.consumers[e.Consumer]
	if c == nil {
		return Effects{}, api.ErrConsumerNotFound
	}
	fx := Effects{Stream: s.Stream, Changed: true}
	switch e.Op {
	case OpDeleteConsumer:
		delete(s.consumers, c.Name)
		fx.Consumer, fx.Removed = c, []uint64{c.Group}
	case OpPauseConsumer:
		config := c.Config.WithPause(e.PauseUntil)
		fx.Consumer, fx.Changed = s.setConsumer(*c, &config)
	default:
		panic(fmt.Sprintf("BUG: operation %q passed the check", e.Op))
	}
	return fx, nil
}

// group gives out the next group id.
func (m *Machine) group() uint64 {
	m.next++
	return m.next - 1
}

func (m *Machine) putStream(e *Entry) (Effects, *api.Error) {
	streams, config := m.accounts[e.Account], e.StreamConfig
	old := streams[e.Stream]
	if old == nil && e.Action == ActionUpdate {
		return Effects{}, api.ErrStreamNotFound
	}
	if old != nil && e.Action == ActionCreate {
		if !old.Config.Equal(config) {
			return Effects{}, api.ErrStreamNameExist
		}
		return Effects{Stream: old.Stream}, nil
	}
	if old != nil {
		next, err := api.CheckStreamUpdate(old.Config, config)
		if err != nil {
			return Effects{}, err
		}
		if err := api.CheckConsumerLimits(old.Config, &next, old.configs()); err != nil {
			return Effects{}, err
		}
		config = &next
	} else if most := e.Limits.Account.MaxStreams; most > 0 && len(streams) >= most {
		return Effects{}, api.ErrMaximumStreamsLimit
	}
	if err := m.checkRoom(e, config); err != nil {
		return Effects{}, err
	}
	for name, other := range streams {
		if name != e.Stream && api.SubjectsOverlap(config.Subjects, other.Config.Subjects) {
			return Effects{}, api.ErrStreamSubjectOverlap
		}
	}
	if old != nil {
		changed := !old.Config.Equal(config)
		if changed {
			old.Config = config
		}
		return Effects{Stream: old.Stream, Changed: changed}, nil
	}
	s := &stream{
		Stream:    Stream{Account: e.Account, Name: e.Stream, Group: m.group(), Created: e.Time.UTC(), Config: config},
		consumers: map[string]*Consumer{},
	}
	if streams == nil {
		streams = map[string]*stream{}
		m.accounts[e.Account] = streams
	}
	streams[e.Stream] = s
	return Effects{Stream: s.Stream, Created: true, Changed: true}, nil
}

// checkRoom checks the reservations of config's account and of all accounts next to those of the
// other streams.
func (m *Machine) checkRoom(e *Entry, config *api.StreamConfig) *api.Error {
	var account, server int64
	for name, streams := range m.accounts {
		for _, s := range streams {
			if s.Config.Storage != config.Storage || name == e.Account && s.Name == e.Stream {
				continue
			}
			reserved := max(s.Config.MaxBytes, 0)
			server += reserved
			if name == e.Account {
				account += reserved * int64(s.Config.Replicas)
			}
		}
	}
	return e.Limits.CheckReservation(config, account, server)
}

func (m *Machine) deleteStream(s *stream) Effects {
	fx := Effects{Stream: s.Stream, Changed: true}
	for _, c := range s.sorted() {
		fx.Removed = append(fx.Removed, c.Group)
	}
	fx.Removed = append(fx.Removed, s.Group)
	delete(m.accounts[s.Account], s.Name)
	if len(m.accounts[s.Account]) == 0 {
		delete(m.accounts, s.Account)
	}
	return fx
}

func (m *Machine) putConsumer(e *Entry, s *stream) (Effects, *api.Error) {
	old := s.consumers[e.Consumer]
	request := *e.ConsumerConfig
	if old != nil {
		request.PauseUntil = old.Config.PauseUntil // only a pause request changes it
	}
	config, err := request.Normalize(s.Config, e.Limits, e.Pedantic)
	if err != nil {
		return Effects{}, err
	}
	switch {
	case old != nil && e.Action == ActionCreate && !old.Config.Equal(&config):
		return Effects{}, api.ErrConsumerAlreadyExists
	case old == nil && e.Action == ActionUpdate:
		return Effects{}, api.ErrConsumerDoesNotExist
	}
	if old == nil {
		if most := e.Limits.ConsumersOf(s.Config); most > 0 && len(s.consumers) >= most {
			return Effects{}, api.ErrMaximumConsumersLimit
		}
	} else if err := api.CheckConsumerUpdate(old.Config, &config, false); err != nil {
		return Effects{}, err
	}
	if s.Config.Retention == api.WorkQueuePolicy {
		if err := api.CheckWorkQueue(&config, s.all()); err != nil {
			return Effects{}, err
		}
	}
	fx := Effects{Stream: s.Stream, Created: old == nil, Changed: true}
	if old != nil {
		fx.Consumer, fx.Changed = s.setConsumer(*old, &config)
		return fx, nil
	}
	fx.Consumer = &Consumer{Account: s.Account, Stream: s.Name, Name: e.Consumer, Group: m.group(),
		Created: e.Time.UTC(), Config: &config}
	s.consumers[e.Consumer] = fx.Consumer
	return fx, nil
}

// setConsumer stores c with that configuration and tells whether it changed.
func (s *stream) setConsumer(c Consumer, config *api.ConsumerConfig) (*Consumer, bool) {
	if c.Config.Equal(config) {
		return s.consumers[c.Name], false
	}
	c.Config = config
	s.consumers[c.Name] = &c
	return &c, true
}
