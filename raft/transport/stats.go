package transport

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"millrace/raft"
)

// Stats is the state of a transport. Counters count since New.
type Stats struct {
	Node        uint64
	Incarnation uint64
	Handshakes  int               // accepted connections that are not authenticated
	Evicted     uint64            // closed because there were too many of them
	Refused     map[string]uint64 // accepted and refused, by reason
	Peers       []PeerStats       // by node
}

// PeerStats is the state of a peer.
type PeerStats struct {
	Node        uint64
	Addresses   []string
	Incarnation uint64 // of the process that connected last; 0: none did
	Connected   bool   // control and append lanes are
	Lanes       [raft.Lanes]LaneStats
}

// LaneStats is the state of a lane. Bytes are those of frames, without headers. Every frame that Send
// took is in the queue, sent or dropped; every frame that the peer sent was received or lost, or is
// on its way.
type LaneStats struct {
	Connected bool
	Dialed    bool // this node called
	Remote    string
	Since     time.Time // of the connection
	Connects  uint64

	QueueBytes, QueueFrames, QueueLimit int

	SentFrames, SentBytes         uint64
	ReceivedFrames, ReceivedBytes uint64
	Refused                       uint64 // frames that Send did not take
	Dropped                       uint64 // frames that were in the queue when a connection ended
	Lost                          uint64 // frames that the peer sent and that did not arrive
	Corrupt                       uint64 // connections dropped because of what they brought

	LastError   string // why there is no connection, or was none before this one
	LastErrorAt time.Time
}

// Stats returns the state of the transport.
func (t *Transport) Stats() Stats {
	s := Stats{Node: t.identity.node, Incarnation: t.identity.incarnation}
	t.mu.Lock()
	s.Handshakes, s.Evicted, s.Refused = len(t.pending), t.evicted, maps.Clone(t.refused)
	t.mu.Unlock()
	for _, p := range *t.peers.Load() {
		if p.isEnabled() {
			s.Peers = append(s.Peers, p.stats())
		}
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int { return cmp.Compare(a.Node, b.Node) })
	return s
}

func (p *peer) stats() PeerStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PeerStats{Node: p.node, Addresses: slices.Clone(p.addresses), Incarnation: p.incarnation, Connected: p.connected}
	for i, l := range p.lanes {
		slot, out := &p.slots[i], &s.Lanes[i]
		if c := slot.current; c != nil && p.up[i] {
			out.Connected, out.Dialed, out.Since = true, c.dialed, c.since
			if a := c.nc.RemoteAddr(); a != nil {
				out.Remote = a.String()
			}
		}
		out.Connects = slot.connects
		if slot.last != nil {
			out.LastError, out.LastErrorAt = slot.last.Error(), slot.lastAt
		}
		l.addStats(out)
	}
	return s
}

func (l *lane) addStats(out *LaneStats) {
	out.ReceivedFrames, out.ReceivedBytes = l.stats.frames.Load(), l.stats.bytes.Load()
	out.Lost, out.Corrupt = l.stats.lost.Load(), l.stats.corrupt.Load()
	q := &l.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	out.QueueBytes, out.QueueFrames, out.QueueLimit = q.used, len(q.frames), q.limit
	out.SentFrames, out.SentBytes = q.stats.sentFrames, q.stats.sentBytes
	out.Refused, out.Dropped = q.stats.refused, q.stats.dropped
}
