package raft

import (
	"maps"
	"slices"

	"millrace/raft/core"
)

// maxBatchBytes is how much is collected before it is sent; one message may be larger.
const maxBatchBytes = 256 << 10

// outbox collects what a worker's groups send during a batch: one frame for each node and lane.
type outbox struct {
	host   *Host
	lanes  [][Lanes]pendingFrame // by the index of the peer
	filled []*peer               // those with something to send
	bytes  int
}

// pendingFrame is a frame to be, and whom to tell when it is lost.
type pendingFrame struct {
	builder
	appends []lostAppend
}

// lostAppend is a MsgApp that was sent or lost.
type lostAppend struct {
	group   *Group
	replica uint64
}

func (o *outbox) to(p *peer, lane Lane) *pendingFrame {
	for len(o.lanes) <= p.index {
		o.lanes = append(o.lanes, [Lanes]pendingFrame{})
	}
	lanes := &o.lanes[p.index]
	if lanes[LaneControl].empty() && lanes[LaneAppend].empty() && lanes[LaneBulk].empty() {
		o.filled = append(o.filled, p)
	}
	return &lanes[lane]
}

// message adds a raft message. stamp is 0 unless the message confirms that the receiver leads.
func (o *outbox) message(g *Group, p *peer, m *core.Message, stamp uint64) {
	lane := LaneControl
	if m.Type == core.MsgApp {
		lane = LaneAppend
	}
	f := o.to(p, lane)
	before := f.bytes()
	f.message(o.host.incarnation, g.id, m, stamp)
	if m.Type == core.MsgApp {
		f.appends = append(f.appends, lostAppend{g, m.To})
	}
	o.bytes += f.bytes() - before
}

// record adds a record of numbers.
func (o *outbox) record(g *Group, p *peer, kind recordKind, values ...uint64) {
	o.to(p, LaneControl).record(o.host.incarnation, kind, g.id, values...)
}

func (o *outbox) full() bool { return o.bytes >= maxBatchBytes }

// flush sends all frames.
func (o *outbox) flush() {
	if len(o.filled) == 0 {
		return
	}
	slices.SortFunc(o.filled, func(a, b *peer) int { return a.index - b.index })
	for i, p := range o.filled {
		o.filled[i] = nil
		for lane := range Lane(Lanes) {
			f := &o.lanes[p.index][lane]
			if f.empty() {
				continue
			}
			lost := f.appends
			if o.host.cfg.Transport.Send(p.node, lane, f.parts()) {
				clear(lost)
				f.appends = lost[:0]
				continue
			}
			f.appends = nil
			for _, l := range lost {
				l.group.call(func() { l.group.refused(p, l.replica) })
			}
		}
	}
	o.filled, o.bytes = o.filled[:0], 0
}

// sendRecord sends a record of numbers in a frame of its own, from any goroutine.
func (h *Host) sendRecord(p *peer, kind recordKind, group GroupID, values ...uint64) {
	if h.cfg.Transport == nil {
		return
	}
	var b builder
	b.record(h.incarnation, kind, group, values...)
	h.cfg.Transport.Send(p.node, LaneControl, b.parts())
}

// refused is called when a message with entries for a replica was not taken by the transport.
func (g *Group) refused(p *peer, replica uint64) {
	g.core.Unreachable(replica)
	p.mu.Lock()
	if p.connected {
		if p.refused == nil {
			p.refused = make(map[*Group]struct{})
		}
		p.refused[g] = struct{}{}
	}
	p.mu.Unlock()
}

// Drained implements Receiver. The leaders whose entries were refused ask where the replica is now,
// in place of waiting for their next heartbeat.
func (h *Host) Drained(node uint64, lane Lane) {
	if node == h.cfg.Node {
		return
	}
	p := h.peers.of(node)
	switch lane {
	case LaneAppend:
		p.mu.Lock()
		refused := slices.Collect(maps.Keys(p.refused))
		p.refused = nil
		p.mu.Unlock()
		slices.SortFunc(refused, func(a, b *Group) int { return compareID(a, b.id) })
		for _, g := range refused {
			g.call(g.nudge)
		}
	case LaneBulk:
		h.sendDigests(p)
		h.transfers.drained(p)
	}
}
