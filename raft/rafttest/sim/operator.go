package sim

import (
	"slices"

	"millrace/raft/core"
)

// The operator of the cluster: it brings each group's members to what placements say, by the steps that a
// real one takes, again and again until they succeed. A new replica is a learner first; it is promoted when
// it has the log, in one change with the removal of those that leave.

// operate goes on with every group.
func (c *cluster) operate() {
	for _, n := range c.nodes {
		n.call(n.openAll)
	}
	for _, g := range c.groups {
		c.reconcile(g)
	}
}

// changing reports whether a group's members are not yet what placements say.
func (c *cluster) changing(group uint64) bool {
	s := c.leader(group)
	if s == nil {
		return true
	}
	m := &s.Members
	if len(m.Outgoing) > 0 {
		return true
	}
	for _, p := range c.placements[group] {
		switch {
		case p.retired:
		case p.leaving || p.lost:
			return true
		case !slices.Contains(m.Voters, p.replica):
			return true
		}
	}
	return false
}

// caughtUp is how many entries a learner may be behind to be promoted.
const caughtUp = 20

func (c *cluster) reconcile(group uint64) {
	s, at := c.leading(group)
	if s == nil || len(s.Members.Outgoing) > 0 {
		return
	}
	m := &s.Members
	var change core.Change
	joining := false
	for _, p := range c.placements[group] {
		switch {
		case p.retired || p.leaving || p.lost || slices.Contains(m.Voters, p.replica):
		case !slices.Contains(m.Learners, p.replica):
			joining = true
			if len(change.Learners) == 0 {
				change.Learners = []uint64{p.replica}
			}
		case c.ready(s, p.replica):
			change.Voters = append(change.Voters, p.replica)
		default:
			joining = true
		}
	}
	for _, p := range c.placements[group] {
		if p.retired || !p.leaving && !p.lost {
			continue
		}
		switch member := isMember(m, p.replica); {
		case !member && c.goneForAll(m, p.replica):
			c.retire(p)
		case !member:
		case p == at:
			c.transferAway(group, at, s)
		case !joining || len(change.Voters) > 0:
			change.Remove = append(change.Remove, p.replica)
		}
	}
	if len(change.Learners) > 0 {
		change.Voters, change.Remove = nil, nil // one step at a time
	}
	if len(change.Learners)+len(change.Voters)+len(change.Remove) == 0 {
		return
	}
	if n := c.nodes[at.node]; n.alive() && !n.paused {
		c.world.log("%v is asked for the change %+v of %+v", at, change, *m)
		n.call(func() { n.change(at, change) })
	}
}

// ready reports whether a learner has the leader's log.
func (c *cluster) ready(s *core.Status, replica uint64) bool {
	for _, p := range s.Progress {
		if p.Replica == replica {
			return p.Active && p.Match+caughtUp >= s.Last
		}
	}
	return false
}

// transferAway moves leadership from a replica that is to leave.
func (c *cluster) transferAway(group uint64, at *placement, s *core.Status) {
	for _, p := range c.placements[group] {
		if p != at && !p.leaving && !p.lost && slices.Contains(s.Members.Voters, p.replica) && c.nodes[p.node].alive() {
			n := c.nodes[at.node]
			n.call(func() { n.transfer(at, p.replica) })
			return
		}
	}
}

// retire ends a replica that is not a member any more.
func (c *cluster) retire(p *placement) {
	p.retired = true
	c.stats.Changes++
	c.world.log("%v is no member any more", p)
	n := c.nodes[p.node]
	if n.alive() && !p.lost {
		n.call(func() { n.remove(p) })
	}
}

// replace notes that a replica is to be replaced by a new one on a node. It is made with the members that the
// group's log began with, as every replica is.
func (c *cluster) replace(p *placement, node int) {
	p.leaving = true
	c.place(p.group, node, p.voters)
	if n := c.nodes[node]; n.alive() {
		n.call(n.openAll)
	}
}

// steady reports whether a group has all its members in place, and none of them is about to change.
func (c *cluster) steady(group uint64) bool {
	for _, p := range c.placements[group] {
		if !p.retired && (p.leaving || p.lost) {
			return false
		}
	}
	return !c.changing(group)
}

// free returns the nodes without a replica of a group.
func (c *cluster) free(group uint64) (nodes []int) {
	for i, n := range c.nodes {
		used := !n.alive()
		for _, p := range c.placements[group] {
			used = used || !p.retired && p.node == i
		}
		if !used {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// goneForAll reports whether all members know that a replica is none any more. Before that its vote may be
// needed: a member that has not applied the end of a joint change elects with the old voters, too.
func (c *cluster) goneForAll(m *core.Membership, replica uint64) bool {
	for _, id := range m.Voters {
		p := c.byReplica[id]
		n := c.nodes[p.node]
		if p.lost {
			continue
		}
		s, ok := n.status(p)
		if !ok || isMember(&s.Members, replica) {
			return false
		}
	}
	return true
}
