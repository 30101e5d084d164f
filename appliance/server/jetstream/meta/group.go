package meta

import (
	"encoding/json"
	"fmt"
	"slices"

	"millrace/appliance/server/jetstream/api"
)

// NodeBits are the low bits of a node's id, which are all set. In the id of a replica they are its
// generation: which of the replicas it is that the group was given. The upper bits are the node's.
const NodeBits = 20

// nodeMask has the bits of NodeBits.
const nodeMask = 1<<NodeBits - 1

// NodeOf returns the node on which a replica lives.
func NodeOf(replica uint64) uint64 { return replica | nodeMask }

// groupBits are the low bits of a log's number, which are the group's id; above is the generation of the
// replica, or 0 for one with which the group began.
const groupBits = 64 - NodeBits

// GroupOfLog returns the group that a log is of.
func GroupOfLog(log uint64) uint64 { return log & (1<<groupBits - 1) }

// Member is a replica of a group, on a node.
type Member struct {
	Node    uint64 `json:"node"`
	Replica uint64 `json:"replica"`
}

// Group says where the replicas of a stream or consumer are. What is in it is replaced, never changed.
// Its invariants:
//
//  1. A replica is on the node that its id names, and a node has one replica in all of the lists.
//  2. A replica is one of Began, or of a generation from 1 to Given. A generation is given once, so
//     a node that lost its replica comes back with another log.
//  3. Members and Began are not empty. Leaving is empty without a Target, and Fixed false.
//  4. Whoever may belong to the raft group is in one of Members, Target and Leaving: a log that is of
//     none of them is not needed by anybody.
type Group struct {
	ID      uint64   `json:"id"`                // on all nodes; never given again
	Began   []uint64 `json:"began"`             // the voters with which its log began, for ever
	Members []Member `json:"members"`           // who carries it
	Target  []Member `json:"target,omitempty"`  // who shall: until its leader has brought that about; nil: no change
	Leaving []Member `json:"leaving,omitempty"` // of a Target that was given up: the change may have got to them
	Fixed   bool     `json:"fixed,omitempty"`   // its leader may have begun to take those out who are not in Target
	Given   uint64   `json:"given,omitempty"`   // generations of replicas given out
}

// UnmarshalJSON reads a group as it is written, or as the mere id that version 1 wrote.
func (g *Group) UnmarshalJSON(b []byte) error {
	*g = Group{}
	if json.Unmarshal(b, &g.ID) == nil {
		return nil
	}
	type plain Group
	return decodeStrict(b, (*plain)(g))
}

// lists returns the replicas that a group has, is to have, or may still have.
func (g *Group) lists() [3][]Member { return [3][]Member{g.Target, g.Members, g.Leaving} }

// Replica returns the replica that a node has, or is to have.
func (g *Group) Replica(node uint64) (Member, bool) {
	for _, list := range g.lists() {
		for _, m := range list {
			if m.Node == node {
				return m, true
			}
		}
	}
	return Member{}, false
}

// Carrying returns the members that the group is to have.
func (g *Group) Carrying() []Member {
	if g.Target != nil {
		return g.Target
	}
	return g.Members
}

// LogOf returns the number of a replica's log on its node.
func (g *Group) LogOf(m Member) uint64 {
	if slices.Contains(g.Began, m.Replica) {
		return g.ID
	}
	return g.ID | m.Replica&nodeMask<<groupBits
}

// maxGenerations bounds the replicas that a group may have had: all bits set are the node itself.
const maxGenerations = nodeMask

// on returns members on nodes: those that there are, and new ones.
func (g *Group) on(nodes []uint64) ([]Member, *api.Error) {
	var list []Member
	for _, node := range nodes {
		m, ok := g.Replica(node)
		for !ok {
			if g.Given++; g.Given >= maxGenerations {
				return nil, api.ErrClusterNoPeersF(fmt.Sprintf("group %d was moved too often", g.ID))
			}
			m = Member{Node: node, Replica: node&^nodeMask | g.Given}
			ok = !slices.Contains(g.Began, m.Replica) // that of a founder can have any low bits
		}
		list = append(list, m)
	}
	return list, nil
}

// newGroup returns a group on nodes.
func newGroup(id uint64, nodes []uint64) Group {
	g := Group{ID: id}
	g.Members, _ = g.on(nodes) // a group that is new has generations
	for _, m := range g.Members {
		g.Began = append(g.Began, m.Replica)
	}
	return g
}

// founded returns a group that the node alone carries that founded the cluster, as all did in version 1.
func founded(id, founder uint64) Group {
	return Group{ID: id, Began: []uint64{founder}, Members: []Member{{Node: NodeOf(founder), Replica: founder}}}
}

// retarget returns the group as it is when it shall be on nodes. What was to come before and is not among
// them stays until the leader reports that the change is done, because it may have come already. A replica that
// was taken out, or may have been, can not be a member again: once a change is fixed, who leaves may not be
// wanted back before the change is done.
func (g Group) retarget(nodes []uint64) (Group, *api.Error) {
	for _, node := range nodes {
		if m, ok := g.Replica(node); ok && g.Fixed && !slices.Contains(g.Target, m) {
			return g, api.ErrClusterServerMemberChangeInflight
		}
	}
	target, err := g.on(nodes)
	if err != nil {
		return g, err
	}
	if g.Target == nil && sameMembers(target, g.Members) {
		return g, nil
	}
	var leaving []Member
	for _, list := range [][]Member{g.Target, g.Leaving} {
		for _, m := range list {
			if !slices.Contains(target, m) && !slices.Contains(g.Members, m) {
				leaving = append(leaving, m)
			}
		}
	}
	g.Target, g.Leaving = target, leaving
	return g, nil
}

// settled returns the group as it is when it has come to its target.
func (g Group) settled() Group {
	g.Members, g.Target, g.Leaving, g.Fixed = g.Target, nil, nil, false
	return g
}

// sameMembers reports whether two lists have the same replicas.
func sameMembers(a, b []Member) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(m Member) bool { return !slices.Contains(b, m) })
}

// nodesOf returns the nodes of members, in their order.
func nodesOf(members []Member) []uint64 {
	var nodes []uint64
	for _, m := range members {
		nodes = append(nodes, m.Node)
	}
	return nodes
}

// sameNodes reports whether members are on those nodes.
func sameNodes(members []Member, nodes []uint64) bool {
	return len(members) == len(nodes) && !slices.ContainsFunc(members, func(m Member) bool { return !slices.Contains(nodes, m.Node) })
}

// check returns which of the invariants does not hold.
func (g *Group) check() error {
	switch {
	case len(g.Members) == 0 || len(g.Began) == 0:
		return fmt.Errorf("group %d has no members", g.ID)
	case g.Target != nil && len(g.Target) == 0 || g.Target == nil && (len(g.Leaving) > 0 || g.Fixed):
		return fmt.Errorf("group %d has a target that is none", g.ID)
	case g.Given >= maxGenerations:
		return fmt.Errorf("group %d has given out %d generations", g.ID, g.Given)
	}
	for _, list := range g.lists() {
		for i, m := range list {
			switch known, _ := g.Replica(m.Node); {
			case NodeOf(m.Replica) != m.Node:
				return fmt.Errorf("group %d: replica %x is not of node %x", g.ID, m.Replica, m.Node)
			case known != m, slices.ContainsFunc(list[:i], func(o Member) bool { return o.Node == m.Node }):
				return fmt.Errorf("group %d is twice on node %x", g.ID, m.Node)
			case slices.Contains(g.Began, m.Replica):
			case m.Replica&nodeMask == 0 || m.Replica&nodeMask > g.Given:
				return fmt.Errorf("group %d: replica %x was not given out", g.ID, m.Replica)
			}
		}
	}
	return nil
}
