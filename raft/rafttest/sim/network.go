package sim

import (
	"bytes"
	"math/rand/v2"
	"time"

	"millrace/raft"
)

// laneBytes is the room of a lane.
const laneBytes = 256 << 10

// endpoint is a node as the network sees it.
type endpoint interface {
	alive() bool
	// take hands over what came from the network: now, or when a paused node goes on.
	take(func(raft.Receiver))
}

// network connects the nodes. For each direction between two nodes it has a connection as a TCP one:
// frames of a lane arrive whole, once and in order, or are lost with the connection; a lane has room
// for some bytes. One that keeps the contract of raft.Transport and no more also loses single frames
// silently.
type network struct {
	world *world
	rnd   *rand.Rand
	nodes []endpoint
	links [][]*link // from, to
	twice float64   // share of the frames that are delivered twice

	left func(from int, frame []byte) // is told of each frame that a node sends

	frames, bytes, lost uint64
}

// link is one direction between two nodes.
type link struct {
	net      *network
	from, to int
	up       bool   // both sides hold the connection for good
	epoch    uint64 // number of the connection; frames of an earlier one are lost
	cut      bool   // nothing arrives
	since    time.Duration
	delay    time.Duration
	jitter   time.Duration
	rate     float64 // bytes a second
	loss     float64 // share of the frames that vanish
	lanes    [raft.Lanes]laneState
}

type laneState struct {
	queued  int // bytes that have not left
	refused bool
	idleAt  time.Duration // when what is queued has left
	last    time.Duration // when the newest frame arrives
}

func newNetwork(w *world, nodes []endpoint) *network {
	n := &network{world: w, rnd: w.source("network"), nodes: nodes}
	for i := range nodes {
		n.links = append(n.links, nil)
		for j := range nodes {
			l := &link{net: n, from: i, to: j}
			l.normal()
			n.links[i] = append(n.links[i], l)
		}
	}
	return n
}

// normal gives a link the properties of a good one.
func (l *link) normal() {
	l.delay, l.jitter = 100*time.Microsecond, 200*time.Microsecond
	l.rate, l.loss = 100<<20, 0
}

// transport is the network as one node uses it.
type transport struct {
	net  *network
	from int
}

// Send implements raft.Transport.
func (t transport) Send(node uint64, lane raft.Lane, parts [][]byte) bool {
	return t.net.links[t.from][node-1].send(lane, parts)
}

// Room implements raft.Transport.
func (t transport) Room(node uint64, lane raft.Lane) int {
	l := t.net.links[t.from][node-1]
	if !l.up {
		return 0
	}
	return max(laneBytes-l.lanes[lane].queued, 0)
}

func (l *link) send(lane raft.Lane, parts [][]byte) bool {
	n := l.net
	if !l.up || !n.nodes[l.from].alive() {
		return false
	}
	frame := bytes.Join(parts, nil)
	s := &l.lanes[lane]
	if s.queued > 0 && s.queued+len(frame) > laneBytes {
		s.refused = true
		n.world.note("refused", uint64(l.from), uint64(l.to), uint64(lane))
		return false
	}
	n.left(l.from, frame)
	n.frames++
	n.bytes += uint64(len(frame))
	s.queued += len(frame)
	epoch := l.epoch
	s.idleAt = max(n.world.now, s.idleAt) + time.Duration(float64(len(frame)+64)/l.rate*float64(time.Second))
	s.last = max(s.idleAt+l.delay+between(n.rnd, 0, l.jitter), s.last+1)
	lost := chance(n.rnd, l.loss)
	again := chance(n.rnd, n.twice)
	n.world.note("send", uint64(l.from), uint64(l.to), uint64(lane), checksum(frame))
	n.world.after(s.idleAt-n.world.now, func() { l.left(epoch, lane, len(frame)) })
	n.world.after(s.last-n.world.now, func() {
		if l.epoch != epoch || l.cut || lost {
			n.lost++
			return
		}
		l.deliver(lane, frame)
		if again {
			l.deliver(lane, bytes.Clone(frame))
		}
	})
	return true
}

// left makes room for what has left.
func (l *link) left(epoch uint64, lane raft.Lane, size int) {
	s := &l.lanes[lane]
	if l.epoch != epoch {
		return
	}
	s.queued -= size
	if s.refused && s.queued <= laneBytes/2 {
		s.refused = false
		to := uint64(l.to + 1)
		l.net.nodes[l.from].take(func(r raft.Receiver) { r.Drained(to, lane) })
	}
}

func (l *link) deliver(lane raft.Lane, frame []byte) {
	if !l.net.nodes[l.to].alive() {
		return
	}
	from := uint64(l.from + 1)
	l.net.nodes[l.to].take(func(r raft.Receiver) { r.Receive(from, lane, frame) })
}

// connect makes or ends the connection between two nodes, both directions, and tells them.
func (n *network) connect(a, b int, up bool) {
	for _, l := range []*link{n.links[a][b], n.links[b][a]} {
		if l.up == up {
			continue
		}
		l.up = up
		l.epoch++
		l.lanes = [raft.Lanes]laneState{}
		n.world.note("connected", uint64(l.from), uint64(l.to), boolNumber(up))
		if l.net.nodes[l.from].alive() {
			to := uint64(l.to + 1)
			n.nodes[l.from].take(func(r raft.Receiver) { r.Connected(to, up) })
		}
	}
}

// watch is called now and then: it breaks connections that have been cut for some time or whose other
// side is dead, and makes those that can be.
func (n *network) watch() {
	for a := range n.nodes {
		for b := range a {
			x, y := n.links[a][b], n.links[b][a]
			dead := !n.nodes[a].alive() || !n.nodes[b].alive()
			blocked := x.cut || y.cut
			switch {
			case x.up && dead && chance(n.rnd, 0.3):
				n.connect(a, b, false)
			case x.up && blocked && n.world.now-x.since > 2*time.Second && chance(n.rnd, 0.1):
				n.connect(a, b, false)
			case !x.up && !blocked && !dead && chance(n.rnd, 0.5):
				n.connect(a, b, true)
			}
		}
	}
}

// reset ends all connections of a node at once: its process died. The other sides notice later.
func (n *network) reset(node int) {
	for other := range n.nodes {
		n.links[node][other].epoch++
		n.links[other][node].epoch++
		n.links[node][other].lanes = [raft.Lanes]laneState{}
		n.links[other][node].lanes = [raft.Lanes]laneState{}
	}
}

// disconnect is reset as the others see it, for a node that comes back before they noticed.
func (n *network) disconnect(node int) {
	for other := range n.nodes {
		if other != node {
			n.connect(node, other, false)
		}
	}
}

// cut blocks or opens one direction.
func (n *network) setCut(from, to int, cut bool) {
	l := n.links[from][to]
	if l.cut == cut {
		return
	}
	l.cut = cut
	l.since = n.world.now
	n.links[to][from].since = n.world.now
}

// heal opens everything and makes all links good ones.
func (n *network) heal() {
	for _, row := range n.links {
		for _, l := range row {
			n.setCut(l.from, l.to, false)
			l.normal()
		}
	}
}

func boolNumber(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
