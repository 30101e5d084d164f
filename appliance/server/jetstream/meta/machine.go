package meta

import (
	"fmt"
	"slices"

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
//  6. Nodes that are not removed have different names; what is removed stays so.
//  7. A consumer is on nodes where its stream is, is to be or may be, or which were removed: its leader reads
//     the stream from its own node.
//  8. The invariants of [Group] hold.
//
// A configuration in the catalogue is replaced, never changed, so what lookups return stays valid.
type Machine struct {
	founder  uint64 // replica of the node that founded the cluster
	next     uint64
	accounts map[string]map[string]*stream
	nodes    map[uint64]Node // by id
}

type stream struct {
	Stream
	consumers map[string]*Consumer
}

// New returns an empty catalogue of a cluster that was founded with a replica of the meta group, among others:
// its node carries what entries of version 1 put.
func New(founder uint64) *Machine {
	return &Machine{founder: founder, next: FirstGroup, accounts: map[string]map[string]*stream{}, nodes: map[uint64]Node{}}
}

// Effects is what an entry did. Either Error is set and nothing changed, or Stream is the stream
// concerned, as it is after the entry (before it, for a delete), and Consumer the consumer, if any. An entry
// that moves a stream moves its consumers, too: a stream that changed is to be brought with all of them.
type Effects struct {
	// ID is that of the entry.
	ID string
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
	// Nodes tells that the registry of nodes changed.
	Nodes bool
	// Stale tells that a leader reported members that its group is not to have, or not any more.
	Stale bool
}

// Apply applies an encoded entry, or a snapshot that stands for all entries before it. An error means that the
// entry can not be read by this version; nothing changed and the caller must not go on.
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
		return Effects{ID: e.ID, Error: apiErr}, nil
	}
	fx.ID = e.ID
	return fx, nil
}

func (m *Machine) apply(e *Entry) (Effects, *api.Error) {
	switch e.Op {
	case OpPutStream:
		return m.putStream(e)
	case OpPutNode:
		return m.putNode(e)
	case OpRemoveNode:
		return m.removeNode(e)
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
	case OpPlace:
		return m.place(e, s)
	case OpFix, OpPlaced:
		return m.placed(e, s)
	case OpEvict:
		return m.evict(e, s)
	}
	c := s.consumers[e.Consumer]
	if c == nil {
		return Effects{}, api.ErrConsumerNotFound
	}
	fx := Effects{Stream: s.Stream, Changed: true}
	switch e.Op {
	case OpDeleteConsumer:
		delete(s.consumers, c.Name)
		fx.Consumer, fx.Removed = c, []uint64{c.Group.ID}
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
		return m.updateStream(e, old, config)
	}
	var group Group
	if e.version == entryV1 {
		group = founded(m.group(), m.founder)
	} else if err := m.checkNodes(e.Nodes, config.Replicas); err != nil {
		return Effects{}, err
	} else {
		group = newGroup(m.group(), e.Nodes)
	}
	s := &stream{
		Stream:    Stream{Account: e.Account, Name: e.Stream, Group: group, Created: e.Time.UTC(), Config: config},
		consumers: map[string]*Consumer{},
	}
	if streams == nil {
		streams = map[string]*stream{}
		m.accounts[e.Account] = streams
	}
	streams[e.Stream] = s
	return Effects{Stream: s.Stream, Created: true, Changed: true}, nil
}

// updateStream replaces a stream's configuration. Nodes matter when it asks for other ones.
func (m *Machine) updateStream(e *Entry, s *stream, config *api.StreamConfig) (Effects, *api.Error) {
	old := s.Config
	changed := !old.Equal(config)
	if e.version != entryV1 && (old.Replicas != config.Replicas || !SamePlacement(old.Placement, config.Placement)) {
		if err := m.checkNodes(e.Nodes, config.Replicas); err != nil {
			return Effects{}, err
		}
		if _, err := m.moveStream(s, e.Nodes); err != nil {
			return Effects{}, err
		}
	}
	if changed {
		s.Config = config
	}
	return Effects{Stream: s.Stream, Changed: changed}, nil
}

// SamePlacement reports whether two placements ask for the same.
func SamePlacement(a, b *api.Placement) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Cluster == b.Cluster && a.Preferred == b.Preferred && slices.Equal(a.Tags, b.Tags)
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
		fx.Removed = append(fx.Removed, c.Group.ID)
	}
	fx.Removed = append(fx.Removed, s.Group.ID)
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
	if old == nil {
		group, err := m.consumerGroup(e, s, &config)
		if err != nil {
			return Effects{}, err
		}
		fx.Consumer = &Consumer{Account: s.Account, Stream: s.Name, Name: e.Consumer, Group: group,
			Created: e.Time.UTC(), Config: &config}
		s.consumers[e.Consumer] = fx.Consumer
		return fx, nil
	}
	next := *old
	if e.version != entryV1 && old.Config.Replicas != config.Replicas {
		if next.Group, err = m.updateConsumerGroup(e, s, old, &config); err != nil {
			return Effects{}, err
		}
	}
	fx.Consumer, fx.Changed = s.setConsumer(next, &config)
	return fx, nil
}

// consumerGroup returns the group of a new consumer: on nodes that the entry names, or on those of its
// stream, beginning with another one for each group.
func (m *Machine) consumerGroup(e *Entry, s *stream, config *api.ConsumerConfig) (Group, *api.Error) {
	if e.version == entryV1 && slices.Contains(nodesOf(s.Group.Carrying()), NodeOf(m.founder)) {
		return founded(m.group(), m.founder), nil
	}
	nodes := e.Nodes
	if nodes == nil {
		nodes = m.follow(s, m.next, config, nil)
	} else if err := m.checkConsumerNodes(s, config, nodes); err != nil {
		return Group{}, err
	}
	return newGroup(m.group(), nodes), nil
}

// updateConsumerGroup returns where a consumer shall be that gets another number of replicas.
func (m *Machine) updateConsumerGroup(e *Entry, s *stream, c *Consumer, config *api.ConsumerConfig) (Group, *api.Error) {
	nodes := e.Nodes
	if nodes == nil {
		nodes = m.follow(s, c.Group.ID, config, c.Group.Carrying())
	} else if err := m.checkConsumerNodes(s, config, nodes); err != nil {
		return Group{}, err
	}
	group, _, err := m.retarget(c.Group, nodes)
	return group, err
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
