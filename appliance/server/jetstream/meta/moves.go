package meta

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
)

// Where the replicas of a consumer are follows from its stream: its leader reads the stream from its own
// node. An entry that says where a stream shall be says so for its consumers, too; those with a change
// under way, which has to be done first, are left to Repairs. A stream's change is not done before its
// consumers have left the nodes that it leaves.

// place says where a stream or consumer shall be.
func (m *Machine) place(e *Entry, s *stream) (Effects, *api.Error) {
	if e.Consumer != "" {
		return m.placeConsumer(e, s)
	}
	if err := m.checkNodes(e.Nodes, s.Config.Replicas); err != nil {
		return Effects{}, err
	}
	moved, err := m.moveStream(s, e.Nodes)
	return Effects{Stream: s.Stream, Changed: moved}, err
}

func (m *Machine) placeConsumer(e *Entry, s *stream) (Effects, *api.Error) {
	c := s.consumers[e.Consumer]
	if c == nil {
		return Effects{}, api.ErrConsumerNotFound
	}
	if err := m.checkConsumerNodes(s, c.Config, e.Nodes); err != nil {
		return Effects{}, err
	}
	group, moved, err := m.retarget(c.Group, e.Nodes)
	if err != nil {
		return Effects{}, err
	}
	return Effects{Stream: s.Stream, Consumer: s.setGroup(c, group), Changed: moved}, nil
}

// checkConsumerNodes refuses nodes that are not the stream's, or not as many as the consumer's replicas.
func (m *Machine) checkConsumerNodes(s *stream, config *api.ConsumerConfig, nodes []uint64) *api.Error {
	if err := m.checkNodes(nodes, replicasOf(s, config)); err != nil {
		return err
	}
	of := nodesOf(s.Group.Carrying())
	if slices.ContainsFunc(nodes, func(node uint64) bool { return !slices.Contains(of, node) }) {
		return api.ErrClusterNoPeersF(noPeers + ", a consumer is where its stream is")
	}
	return nil
}

// retarget returns where a group shall be and whether that is elsewhere. A change under way has to be done
// first, but for one that gives it up, and one to nodes that were removed.
func (m *Machine) retarget(g Group, nodes []uint64) (next Group, moved bool, err *api.Error) {
	switch {
	case sameNodes(g.Carrying(), nodes):
		return g, false, nil
	case m.lost(&g): // there is nothing to copy, and there may be what nobody sees
		return g, false, api.ErrClusterNoPeersF(noPeers + ", no replica is left: all were on nodes that were removed")
	case g.Target != nil && !sameNodes(g.Members, nodes) && !m.anyRemoved(g.Target):
		return g, false, api.ErrClusterServerMemberChangeInflight
	}
	next, err = g.retarget(nodes)
	return next, err == nil, err
}

// moveStream says where a stream shall be, and with it its consumers.
func (m *Machine) moveStream(s *stream, nodes []uint64) (moved bool, err *api.Error) {
	group, moved, err := m.retarget(s.Group, nodes)
	if err != nil || !moved {
		return false, err
	}
	s.Group = group
	for _, c := range s.sorted() {
		if m.lost(&c.Group) {
			continue
		}
		nodes := m.follow(s, c.Group.ID, c.Config, c.Group.Carrying())
		if group, moved, err := m.retarget(c.Group, nodes); err == nil && moved {
			s.setGroup(c, group)
		}
	}
	return true, nil
}

// setGroup stores a consumer with that group.
func (s *stream) setGroup(c *Consumer, group Group) *Consumer {
	next := *c
	next.Group = group
	s.consumers[c.Name] = &next
	return &next
}

// replicasOf returns how many replicas a consumer is to have: no more than its stream is to have.
func replicasOf(s *stream, config *api.ConsumerConfig) int {
	of := len(s.Group.Carrying())
	if config.Replicas > 0 {
		return min(config.Replicas, of)
	}
	return of
}

// follow returns the nodes where a consumer is to be: of those where its stream is to be, first those that
// have it, then others, beginning with another one for each group. Nodes that were removed come last.
func (m *Machine) follow(s *stream, group uint64, config *api.ConsumerConfig, has []Member) []uint64 {
	of := nodesOf(s.Group.Carrying())
	first := int(group % uint64(len(of)))
	list := slices.Concat(of[first:], of[:first])
	rank := func(node uint64) int {
		switch {
		case m.isRemoved(node):
			return 2
		case slices.Contains(nodesOf(has), node):
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b uint64) int { return rank(a) - rank(b) })
	return list[:replicasOf(s, config)]
}

// Holds returns the name of a consumer that has yet to leave a node which its stream is to leave. Until
// there is none, a replica that leaves is not to be taken out of the stream's group.
func (m *Machine) Holds(account, stream string) (consumer string, held bool) {
	s := m.accounts[account][stream]
	if s == nil || s.Group.Target == nil {
		return "", false
	}
	to := nodesOf(s.Group.Target)
	for _, c := range s.sorted() {
		for _, list := range c.Group.lists() {
			for _, member := range list {
				if !slices.Contains(to, member.Node) && !m.isRemoved(member.Node) {
					return c.Name, true
				}
			}
		}
	}
	return "", false
}

// reported returns a group after what its leader reports of its target.
func reported(e *Entry, g Group) Group {
	if e.Op == OpFix {
		g.Fixed = true
		return g
	}
	return g.settled()
}

// placed notes that a group has the members, or begins to take out who is not of those, that it was to have. What a leader reports that does not know
// of a later target is stale.
func (m *Machine) placed(e *Entry, s *stream) (Effects, *api.Error) {
	if e.Consumer != "" {
		c := s.consumers[e.Consumer]
		if c == nil {
			return Effects{}, api.ErrConsumerNotFound
		}
		if c.Group.Target == nil || !sameMembers(c.Group.Target, e.Members) {
			return Effects{Stream: s.Stream, Consumer: c, Stale: true}, nil
		}
		return Effects{Stream: s.Stream, Consumer: s.setGroup(c, reported(e, c.Group)), Changed: e.Op == OpPlaced || !c.Group.Fixed}, nil
	}
	if s.Group.Target == nil || !sameMembers(s.Group.Target, e.Members) {
		return Effects{Stream: s.Stream, Stale: true}, nil
	}
	if _, held := m.Holds(s.Account, s.Name); held { // nobody is taken out either
		return Effects{}, api.ErrClusterServerMemberChangeInflight
	}
	changed := e.Op == OpPlaced || !s.Group.Fixed
	s.Group = reported(e, s.Group)
	return Effects{Stream: s.Stream, Changed: changed}, nil
}

// minEvict is how many members a group has at least of which one may be evicted: the others have to be able to decide
// it without that one.
const minEvict = 3

// evict says that a replica which has failed leaves a stream or consumer. Repairs gives the group another one, on the same
// node or elsewhere, with a generation and a log of its own. It is stale when the replica is no member any more.
func (m *Machine) evict(e *Entry, s *stream) (Effects, *api.Error) {
	group, fx := &s.Group, Effects{Stream: s.Stream}
	if e.Consumer != "" {
		c := s.consumers[e.Consumer]
		if c == nil {
			return Effects{}, api.ErrConsumerNotFound
		}
		group, fx.Consumer = &c.Group, c
	}
	i := slices.Index(group.Members, e.Members[0])
	switch {
	case i < 0:
		fx.Stale = true
		return fx, nil
	case group.Target != nil:
		return Effects{}, api.ErrClusterServerMemberChangeInflight
	case len(group.Members) < minEvict:
		return Effects{}, api.ErrClusterNoPeersF(noPeers + ", without the replica that has failed there are too few")
	}
	nodes := slices.Delete(nodesOf(group.Members), i, i+1)
	if e.Consumer == "" {
		moved, err := m.moveStream(s, nodes)
		return Effects{Stream: s.Stream, Changed: moved}, err
	}
	next, moved, err := m.retarget(*group, nodes)
	if err != nil {
		return Effects{}, err
	}
	return Effects{Stream: s.Stream, Consumer: s.setGroup(fx.Consumer, next), Changed: moved}, nil
}
