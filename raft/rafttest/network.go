package rafttest

import (
	"slices"
	"sync"

	"millrace/raft"
)

// Network connects hosts in memory. Frames are delivered by Deliver, in the order in which they were
// sent within a node's lane to another one, unless a link is cut. It is deterministic.
type Network struct {
	mu    sync.Mutex // not held while a host is called
	nodes map[uint64]*Endpoint
	queue []frame
	cut   map[link]bool
	full  map[link]bool
	lose  func(from, to uint64, lane raft.Lane, frame []byte) bool
	sent  int
}

// link is one direction between two nodes.
type link struct{ from, to uint64 }

type frame struct {
	link
	lane raft.Lane
	data []byte
}

// Endpoint is a node's raft.Transport.
type Endpoint struct {
	net  *Network
	node uint64
	host raft.Receiver // nil: the node is down
}

var _ raft.Transport = (*Endpoint)(nil)

// NewNetwork returns a network without nodes.
func NewNetwork() *Network {
	return &Network{nodes: make(map[uint64]*Endpoint), cut: make(map[link]bool), full: make(map[link]bool)}
}

// Endpoint returns the transport of a node, for its host's Config.
func (n *Network) Endpoint(node uint64) *Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.nodes[node]
	if e == nil {
		e = &Endpoint{net: n, node: node}
		n.nodes[node] = e
	}
	return e
}

// Attach connects a node with all that are up. It is called with the host that has the node's endpoint.
func (n *Network) Attach(node uint64, host raft.Receiver) {
	n.Endpoint(node).setHost(host)
	for _, other := range n.up() {
		if other.node != node {
			n.tell(node, other.node)
			n.tell(other.node, node)
		}
	}
}

// Detach takes a node off the network, with all that is on its way to and from it.
func (n *Network) Detach(node uint64) {
	n.Endpoint(node).setHost(nil)
	n.mu.Lock()
	n.queue = slices.DeleteFunc(n.queue, func(f frame) bool { return f.from == node || f.to == node })
	n.mu.Unlock()
	for _, other := range n.up() {
		other.host.Connected(node, false)
	}
}

func (e *Endpoint) setHost(h raft.Receiver) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.host = h
}

// up returns the nodes that are, in order.
func (n *Network) up() []*Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	var up []*Endpoint
	for _, e := range n.nodes {
		if e.host != nil {
			up = append(up, &Endpoint{n, e.node, e.host})
		}
	}
	slices.SortFunc(up, func(a, b *Endpoint) int {
		if a.node < b.node {
			return -1
		}
		return 1
	})
	return up
}

// tell tells a node whether it can reach another one.
func (n *Network) tell(node, other uint64) {
	n.mu.Lock()
	host := n.nodes[node].host
	up := n.reachesLocked(link{node, other})
	n.mu.Unlock()
	if host != nil {
		host.Connected(other, up)
	}
}

func (n *Network) reachesLocked(l link) bool {
	to := n.nodes[l.to]
	return to != nil && to.host != nil && !n.cut[l]
}

// Cut loses all that one node sends to another, which it is told of by Connected; on false it is
// connected again.
func (n *Network) Cut(from, to uint64, cut bool) {
	n.mu.Lock()
	l := link{from, to}
	n.cut[l] = cut
	if cut {
		n.queue = slices.DeleteFunc(n.queue, func(f frame) bool { return f.link == l })
	}
	n.mu.Unlock()
	n.tell(from, to)
}

// Partition cuts a node off from all others, both ways, or connects it again.
func (n *Network) Partition(node uint64, cut bool) {
	for _, other := range n.up() {
		if other.node != node {
			n.Cut(node, other.node, cut)
			n.Cut(other.node, node, cut)
		}
	}
}

// Full lets the transport refuse what one node sends to another in all lanes but that for control.
// When it ends the sender is told.
func (n *Network) Full(from, to uint64, full bool) {
	n.mu.Lock()
	n.full[link{from, to}] = full
	host := n.nodes[from].host
	n.mu.Unlock()
	if !full && host != nil {
		host.Drained(to, raft.LaneAppend)
		host.Drained(to, raft.LaneBulk)
	}
}

// Send implements raft.Transport.
func (e *Endpoint) Send(node uint64, lane raft.Lane, parts [][]byte) bool {
	n := e.net
	data := slices.Concat(parts...)
	n.mu.Lock()
	defer n.mu.Unlock()
	l := link{e.node, node}
	if !n.reachesLocked(l) || n.full[l] && lane != raft.LaneControl {
		return false
	}
	n.sent++
	if n.lose == nil || !n.lose(l.from, l.to, lane, data) {
		n.queue = append(n.queue, frame{l, lane, data})
	}
	return true
}

// Room implements raft.Transport.
func (e *Endpoint) Room(node uint64, lane raft.Lane) int {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	l := link{e.node, node}
	if !e.net.reachesLocked(l) || e.net.full[l] && lane != raft.LaneControl {
		return 0
	}
	return 1 << 20
}

// Deliver delivers up to n of the oldest frames, those on their way when it was called, and returns how
// many.
func (n *Network) Deliver(max int) int {
	n.mu.Lock()
	max = min(max, len(n.queue))
	batch := n.queue[:max:max]
	n.queue = slices.Clone(n.queue[max:])
	n.mu.Unlock()
	for i := range batch {
		f := &batch[i]
		n.mu.Lock()
		host := n.nodes[f.to].host
		n.mu.Unlock()
		if host != nil {
			host.Receive(f.from, f.lane, f.data)
		}
	}
	return max
}

// Pending returns how many frames are on their way.
func (n *Network) Pending() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.queue)
}

// Sent returns how many frames were sent so far.
func (n *Network) Sent() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent
}

// Lose loses the frames that match, from now on; those on their way too. nil: none.
func (n *Network) Lose(match func(from, to uint64, lane raft.Lane, frame []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose = match
	if match != nil {
		n.queue = slices.DeleteFunc(n.queue, func(f frame) bool { return match(f.from, f.to, f.lane, f.data) })
	}
}
