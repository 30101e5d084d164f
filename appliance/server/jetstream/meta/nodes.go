package meta

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"millrace/appliance/server/jetstream/api"
)

// Node is a storage node of the cluster.
type Node struct {
	ID      uint64   `json:"id"`      // its lowest NodeBits are set
	Replica uint64   `json:"replica"` // of the meta group
	Name    string   `json:"name"`    // server_name
	Tags    []string `json:"tags,omitempty"`
	Removed bool     `json:"removed,omitempty"` // for ever, under this id
}

// Nodes returns all nodes there are and were, by id.
func (m *Machine) Nodes() []Node {
	return slices.SortedFunc(maps.Values(m.nodes), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
}

// Node returns a node by id.
func (m *Machine) Node(id uint64) (Node, bool) {
	n, ok := m.nodes[id]
	return n, ok
}

// Carried counts the replicas that each node has, or is to have.
func (m *Machine) Carried() map[uint64]int {
	n := map[uint64]int{}
	for g := range m.groups() {
		for _, member := range g.Carrying() {
			n[member.Node]++
		}
	}
	return n
}

// putNode enters a node, or changes its name and tags. One that comes in the place of another, which has
// lost its data, takes that out.
func (m *Machine) putNode(e *Entry) (Effects, *api.Error) {
	n := *e.Node
	old, known := m.nodes[n.ID]
	switch {
	case known && old.Removed:
		return Effects{}, nodeRefused("node %x (%q) was removed from the cluster; it can come back as a new one, with an empty store", n.ID, old.Name)
	case known && old.Replica != n.Replica:
		return Effects{}, nodeRefused("node id %x is that of another node of the cluster, %q", n.ID, old.Name)
	}
	for _, other := range m.Nodes() {
		if other.Name == n.Name && !other.Removed && other.ID != n.ID && other.ID != e.Replaces {
			return Effects{}, nodeRefused("server name %q is that of another node of the cluster, %x", n.Name, other.ID)
		}
	}
	fx := Effects{Created: !known}
	if gone, ok := m.nodes[e.Replaces]; ok && !gone.Removed {
		if gone.Name != n.Name {
			return Effects{}, nodeRefused("node %x, whose place %q is to take, is named %q", gone.ID, n.Name, gone.Name)
		}
		gone.Removed = true
		m.nodes[gone.ID] = gone
		fx.Changed = true
	}
	if !known || old.Name != n.Name || !slices.Equal(old.Tags, n.Tags) {
		m.nodes[n.ID] = n
		fx.Changed = true
	}
	fx.Nodes = fx.Changed
	return fx, nil
}

// nodeRefused is the answer to a node that can not be entered.
func nodeRefused(format string, args ...any) *api.Error {
	return api.ErrClusterNoPeersF(fmt.Sprintf(format, args...))
}

// removeNode takes a node out for ever.
func (m *Machine) removeNode(e *Entry) (Effects, *api.Error) {
	n, ok := m.nodes[e.Node.ID]
	if !ok || n.Removed {
		return Effects{}, api.ErrClusterServerNotMember
	}
	n.Removed = true
	m.nodes[n.ID] = n
	return Effects{Nodes: true, Changed: true}, nil
}

// isRemoved reports whether a node was taken out.
func (m *Machine) isRemoved(node uint64) bool { return m.nodes[node].Removed }

// anyRemoved reports whether a member is on a node that was taken out.
func (m *Machine) anyRemoved(members []Member) bool {
	return slices.ContainsFunc(members, func(o Member) bool { return m.isRemoved(o.Node) })
}

// checkNodes refuses nodes that are not in the cluster, or not as many as replicas.
func (m *Machine) checkNodes(nodes []uint64, replicas int) *api.Error {
	if len(nodes) != replicas {
		return api.ErrClusterNoPeersF(fmt.Sprintf("%s, %d nodes for %d replicas", noPeers, len(nodes), replicas))
	}
	for i, id := range nodes {
		n, ok := m.nodes[id]
		switch {
		case !ok:
			return api.ErrClusterNoPeersF(fmt.Sprintf("%s, node %x is not known", noPeers, id))
		case n.Removed:
			return api.ErrClusterNoPeersF(fmt.Sprintf("%s, node %x (%q) was removed", noPeers, id, n.Name))
		case slices.Contains(nodes[:i], id):
			return api.ErrClusterNoPeersF(fmt.Sprintf("%s, node %x (%q) is given twice", noPeers, id, n.Name))
		}
	}
	return nil
}

// checkRegistry verifies the invariants of the nodes.
func (m *Machine) checkRegistry() error {
	names := map[string]uint64{}
	for _, n := range m.Nodes() {
		if n.ID != NodeOf(n.ID) || NodeOf(n.Replica) != n.ID {
			return fmt.Errorf("node %x with replica %x", n.ID, n.Replica)
		}
		if n.Removed {
			continue
		}
		if other, taken := names[n.Name]; taken {
			return fmt.Errorf("nodes %x and %x are named %q", other, n.ID, n.Name)
		}
		names[n.Name] = n.ID
	}
	return nil
}
