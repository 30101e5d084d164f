package meta

import "slices"

// Repairs returns place entries, at most so many, for streams that have replicas on nodes that were removed or
// that are short of replicas, and for consumers that are not where their stream is to be. They lack ID and Time.
// uniqueTag is that of [Placement]. New replicas go to candidates that are online. What has a change under
// way waits for it, unless that is to a removed node; what nobody has room for stays as it is, as does that of
// which no replica is left: there is nothing to copy.
func (m *Machine) Repairs(candidates []Candidate, uniqueTag string, most int) []Entry {
	list := []Entry{}
	online := slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !c.Online })
	for _, account := range m.Accounts() {
		for _, ms := range m.Streams(account, "") {
			if len(list) >= most {
				return list
			}
			s := m.accounts[account][ms.Name]
			if nodes := m.repair(s, candidates, online, uniqueTag); nodes != nil {
				for i := range online {
					if slices.Contains(nodes, online[i].Node) && !slices.Contains(nodesOf(s.Group.Carrying()), online[i].Node) {
						online[i].Replicas++
					}
				}
				list = append(list, Entry{Op: OpPlace, Account: account, Stream: s.Name, Nodes: nodes})
				continue // its consumers move with it
			}
			for _, c := range s.sorted() {
				if nodes := m.repairConsumer(s, c); nodes != nil && len(list) < most {
					list = append(list, Entry{Op: OpPlace, Account: account, Stream: s.Name, Consumer: c.Name, Nodes: nodes})
				}
			}
		}
	}
	return list
}

// busy reports whether a group has a change under way that can be done.
func (m *Machine) busy(g *Group) bool { return g.Target != nil && !m.anyRemoved(g.Target) }

// lost reports whether no node is left that has a replica with the group's data.
func (m *Machine) lost(g *Group) bool {
	return !slices.ContainsFunc(g.Members, func(o Member) bool { return !m.isRemoved(o.Node) })
}

// Lost reports whether every replica of a stream was on nodes that were removed.
func (m *Machine) Lost(account, stream string) bool {
	s := m.accounts[account][stream]
	return s != nil && m.lost(&s.Group)
}

// repair returns where a stream is to be, nil if there is nothing to do, or nothing that can be done.
func (m *Machine) repair(s *stream, all, online []Candidate, uniqueTag string) []uint64 {
	g := &s.Group
	if m.busy(g) || m.lost(g) || len(g.Carrying()) == s.Config.Replicas && !m.anyRemoved(g.Carrying()) {
		return nil
	}
	p := PlacementOf(s.Config, uniqueTag)
	for _, list := range [][]Member{g.Members, g.Target, g.Leaving} {
		for _, member := range list {
			switch {
			case g.Fixed && !slices.Contains(g.Target, member):
				p.Avoid = append(p.Avoid, member.Node) // it may be out
			case slices.Contains(g.Leaving, member): // as any other node
			case !m.isRemoved(member.Node) && !slices.Contains(p.Keep, member.Node):
				p.Keep = append(p.Keep, member.Node)
			}
		}
	}
	from := slices.Clone(online)
	for _, c := range all {
		if !c.Online && slices.Contains(p.Keep, c.Node) {
			from = append(from, c)
		}
	}
	nodes, err := Place(from, p)
	if err != nil || sameNodes(g.Carrying(), nodes) || m.checkNodes(nodes, s.Config.Replicas) != nil {
		return nil
	}
	if _, _, err := m.retarget(*g, nodes); err != nil {
		return nil
	}
	return nodes
}

// repairConsumer returns where a consumer is to be, nil if there is nothing to do, or nothing that can be done.
func (m *Machine) repairConsumer(s *stream, c *Consumer) []uint64 {
	if m.busy(&c.Group) || m.lost(&c.Group) {
		return nil
	}
	nodes := m.follow(s, c.Group.ID, c.Config, c.Group.Carrying())
	if sameNodes(c.Group.Carrying(), nodes) || m.checkConsumerNodes(s, c.Config, nodes) != nil {
		return nil
	}
	if _, _, err := m.retarget(c.Group, nodes); err != nil {
		return nil // the change under way has to be done first
	}
	return nodes
}
