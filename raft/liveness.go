package raft

import (
	"sync/atomic"
	"time"
)

// Heartbeats go from node to node, whatever the number of groups: one record each BeatInterval. It says
// when it was sent, sends back when the last one that was received was sent, and names the promise
// that goes with that. Silence is measured in this node's own attention: one that is held up gives the others more time.

// tickBeats sends heartbeats and looks who is silent. It is called once a tick.
func (h *Host) tickBeats(now time.Time) {
	send := now.Sub(h.beaten) >= h.cfg.BeatInterval
	if send {
		h.beaten = now
	}
	heeded, late := h.attention.pass(now)
	h.tellHeldUp(now, late)
	health := uint64(0)
	if send && h.store.healthy(now, h.cfg.DiskStall) {
		health = 1
	}
	for _, p := range h.peers.all() {
		p.mu.Lock()
		state := PeerAlive
		switch silent := heeded - p.heeded - p.patience.at(heeded); {
		case p.incarnation == 0 || silent > h.cfg.DeadAfter:
			state = PeerDead
		case silent > h.cfg.SuspectAfter:
			state = PeerSuspect
		}
		if p.state == PeerDead {
			state = PeerDead // only a heartbeat brings it back
		}
		changed := state != p.state
		p.state = state
		echo, of, stamp := p.echo, p.incarnation, h.incarnation+p.hostile
		p.mu.Unlock()
		if send {
			h.sendRecord(p, recBeat, 0, uint64(now.Sub(h.opened)), echo, of, stamp, health)
		}
		if changed {
			h.peerChanged(p, state)
		}
		h.sendDigests(p)
	}
}

// heldUpInterval is the least time between two warnings that this node was held up.
const heldUpInterval = 10 * time.Second

// tellHeldUp warns of the longest time that ticks were late. It is called by tickBeats alone.
func (h *Host) tellHeldUp(now time.Time, late time.Duration) {
	if late >= h.cfg.SuspectAfter {
		h.late = max(h.late, late)
	}
	if h.late > 0 && now.Sub(h.toldLate) >= heldUpInterval {
		h.cfg.Logger.Warn("raft: this node was held up: too little processor time, or it stood still", "for", h.late.Round(time.Millisecond))
		h.late, h.toldLate = 0, now
	}
}

// beat takes a heartbeat of another node.
func (h *Host) beat(p *peer, incarnation uint64, r *record) {
	now := h.cfg.Now()
	heeded := h.attention.at(now)
	sent, echo, of, stamp, health := r.num[0], r.num[1], r.num[2], r.num[3], r.num[4]
	p.mu.Lock()
	restarted := p.incarnation != 0 && p.incarnation != incarnation
	if p.incarnation != incarnation {
		p.incarnation, p.heldStamp, p.heldUntil = incarnation, 0, time.Time{}
		p.patience = patience{} // it was gone, or never there
	} else {
		p.patience.heard(heeded, heeded-p.heeded, h.cfg.SuspectAfter, h.cfg.DeadAfter)
	}
	was := p.state
	p.state, p.heard, p.heeded, p.echo, p.diskOK = PeerAlive, now, heeded, sent, health == 1
	// From here on this node keeps what it promises with its next heartbeat.
	p.promised = now.Add(h.cfg.PromiseTime)
	if mine := h.opened.Add(time.Duration(echo)); of == h.incarnation && !mine.After(now) {
		until := mine.Add(h.cfg.PromiseTime / clockDenominator * clockNumerator)
		if stamp != p.heldStamp || until.After(p.heldUntil) {
			p.heldStamp, p.heldUntil = stamp, until
		}
	}
	p.mu.Unlock()
	if restarted {
		// The replicas that led there do not any more.
		h.leadersGone(p)
	}
	if restarted || was == PeerDead {
		h.startDigests(p)
	}
	if was != PeerAlive {
		h.peerChanged(p, PeerAlive)
	}
}

// peerChanged is called when the state of a node has changed.
func (h *Host) peerChanged(p *peer, state PeerState) {
	h.cfg.Logger.Info("raft peer", "node", p.node, "state", state.String())
	if state == PeerDead {
		h.leadersGone(p)
	}
	h.cfg.OnPeer(p.node, state)
}

// leadersGone lets the groups whose leader lived on a node elect another one.
func (h *Host) leadersGone(p *peer) {
	for _, g := range h.sortedGroups() {
		if g.ledFrom(p) {
			g.call(func() { g.leaderGone(p) })
		}
	}
}

// Connected implements Receiver.
func (h *Host) Connected(node uint64, up bool) {
	if node == h.cfg.Node {
		return
	}
	p := h.peers.of(node)
	p.mu.Lock()
	was := p.connected
	p.connected = up
	p.mu.Unlock()
	if !up {
		p.mu.Lock()
		p.refused = nil
		p.mu.Unlock()
	} else if !was {
		h.startDigests(p)
	}
	h.transfers.connected(p, up)
}

// ledFrom reports whether the group's leader is on another node.
func (g *Group) ledFrom(p *peer) bool {
	lead, _ := g.Leader()
	return g.peerOf(lead) == p
}

// storeHealth notes whether the store answers.
type storeHealth struct {
	pending atomic.Int64
	since   atomic.Int64 // the last answer, or the first write after all were answered; of Now
}

func (s *storeHealth) begin(now time.Time) {
	if s.pending.Add(1) == 1 {
		s.since.Store(now.UnixNano())
	}
}

func (s *storeHealth) end(now time.Time) {
	s.since.Store(now.UnixNano())
	s.pending.Add(-1)
}

func (s *storeHealth) healthy(now time.Time, stall time.Duration) bool {
	return s.pending.Load() == 0 || now.UnixNano()-s.since.Load() < int64(stall)
}
