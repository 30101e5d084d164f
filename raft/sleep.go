package raft

import (
	"time"
)

// A group sleeps when nothing happens in it: nobody tells it the time, no messages are sent for it. Its
// leader decides that, when all replicas on nodes that live have the whole log.

// sleepState is owned by who runs the core.
type sleepState struct {
	asleep bool
	quiet  int // ticks since something happened, as a leader
}

// stir notes that something happens in the group.
func (g *Group) stir() {
	g.sleep.quiet = 0
	g.wakeUp()
}

// wakeUp lets the group be told the time again.
func (g *Group) wakeUp() {
	if g.sleep.asleep && !g.solo {
		g.sleep = sleepState{}
		g.election.elapsed = 0
	}
}

// seekLeader looks whether the leader that is known is still there.
func (g *Group) seekLeader() {
	g.wakeUp()
	g.query()
}

// tickLeader looks after what a leader does from time to time. It returns whether the group goes to
// sleep.
func (g *Group) tickLeader() (asleep bool) {
	g.endTransfer()
	g.sleep.quiet++
	if g.solo {
		g.sleep.asleep = true
		return true
	}
	g.compactBehind()
	if g.snaps.ticks++; len(g.snaps.kept) > 0 && g.snaps.ticks%g.cfg.ElectionTicks == 0 && g.core.Status().SnapshotWanted {
		g.snapshotNow()
	}
	if g.cfg.SleepAfter < 0 || time.Duration(g.sleep.quiet)*g.cfg.TickInterval < g.cfg.SleepAfter ||
		g.sleep.quiet%g.cfg.HeartbeatTicks != 0 || !g.settled() {
		return false
	}
	g.sleep.asleep = true
	for replica := range others(&g.members, g.replica) {
		if p := g.peerOf(replica); p != nil && p.currentState() != PeerDead {
			g.worker.out.record(g, p, recSleep, g.leadTerm, g.last)
		}
	}
	g.compactAll()
	return true
}

// settled reports whether a leader and the replicas on nodes that live have the same log, all of it
// committed, and nothing is under way.
func (g *Group) settled() bool {
	g.mu.Lock()
	busy := !g.ready || g.handing || len(g.queue) > 0 || len(g.inbox) > 0 || len(g.readers) > 0 || g.saving != nil
	g.mu.Unlock()
	if busy || g.inflight > 0 || g.reads.round != 0 || len(g.reads.waiting) > 0 || len(g.changes) > 0 {
		return false
	}
	s := g.core.Status()
	if g.checks.asked != 0 {
		return false
	}
	if index, _ := g.core.Damage(); index != 0 || len(g.mending) > 0 {
		return false
	}
	if s.Commit != s.Last || s.Applied != s.Last || s.Durable != s.Last || len(s.Members.Outgoing) > 0 {
		return false
	}
	for _, r := range s.Progress {
		p := g.peerOf(r.Replica)
		if p == nil || p.currentState() == PeerDead || !r.Active {
			continue // it keeps nobody awake
		}
		if r.Match != s.Last || r.Snapshot != 0 {
			return false
		}
	}
	return true
}

// maySleep is told by the leader that it sleeps. A replica that lacks anything stays awake: it will
// ask the leader for it.
func (g *Group) maySleep(in *inbound) {
	term, last := in.num[0], in.num[1]
	if g.leadTerm != 0 || g.term != term || g.lead == 0 || g.peerOf(g.lead) != in.from || g.inflight > 0 {
		return
	}
	if s := g.core.Status(); s.Last == last && s.Commit == last && s.Applied == last && s.Durable == last {
		g.sleep.asleep = true
		g.compactAll()
	}
}

// Digests: when two nodes meet (again), each tells the other about the groups that both have replicas
// of and that it does not lead. So the leader of a group that sleeps learns of a replica that was
// restarted or fell behind, and a replica learns that its leader does not lead any more.

// maxDigests bounds the digests in one frame.
const maxDigests = 1024

// startDigests sends digests to a node, from the first group on.
func (h *Host) startDigests(p *peer) {
	p.mu.Lock()
	p.digesting, p.digested = true, 0
	p.mu.Unlock()
}

// sendDigests sends a batch of digests, if there are any to send and there is room for them.
func (h *Host) sendDigests(p *peer) {
	p.mu.Lock()
	from, ok := p.digested, p.digesting && p.connected
	p.mu.Unlock()
	if !ok || h.cfg.Transport.Room(p.node, LaneBulk) < 64*maxDigests {
		return
	}
	var b builder
	n := 0
	for _, g := range h.groupsAfter(from, maxDigests) {
		g.mu.Lock()
		s := g.shown
		g.mu.Unlock()
		from = g.id
		n++
		if s.members == nil || s.lead == g.replica || !g.sharedWith(p, s.members.Voters, s.members.Outgoing, s.members.Learners) {
			continue
		}
		b.record(h.incarnation, recDigest, g.id, s.term, s.applied, s.lead, g.replica)
	}
	if !b.empty() && !h.cfg.Transport.Send(p.node, LaneBulk, b.parts()) {
		return // once more when it has drained, or at the next tick
	}
	p.mu.Lock()
	p.digested = from
	p.digesting = n == maxDigests
	p.mu.Unlock()
}

// sharedWith reports whether a peer has a replica among some.
func (g *Group) sharedWith(p *peer, sets ...[]uint64) bool {
	for _, set := range sets {
		for _, id := range set {
			if id != g.replica && g.peerOf(id) == p {
				return true
			}
		}
	}
	return false
}

// compareDigest is told how another replica sees the group.
func (g *Group) compareDigest(in *inbound) {
	term, applied, lead, replica := in.num[0], in.num[1], in.num[2], in.num[3]
	if g.leadTerm == 0 {
		if lead == g.replica {
			g.worker.out.record(g, in.from, recRelease, term)
		}
		return
	}
	if !g.isMember(replica) {
		// One that was not added yet has applied nothing.
		if applied > 0 && g.opens == g.leadTerm {
			g.tellGone(in.from, replica)
		}
		return
	}
	if term != g.leadTerm || lead != g.replica || applied != g.last {
		g.wakeUp()
		g.nudge()
	}
}
