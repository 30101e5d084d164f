package raft

import (
	"time"

	"millrace/raft/core"
)

// inbound is a record that a group has not looked at.
type inbound struct {
	record
	from        *peer
	incarnation uint64 // of the sender
}

// maxInboxRecords bounds the records that a group has not looked at.
const maxInboxRecords = 4096

var _ Receiver = (*Host)(nil)

// Receive implements Receiver: it gives the records of a frame to their groups.
func (h *Host) Receive(node uint64, lane Lane, frame []byte) {
	if node == h.cfg.Node {
		return
	}
	p := h.peers.of(node)
	err := decodeFrame(frame, func(incarnation uint64, r *record) {
		if r.kind == recBeat {
			h.beat(p, incarnation, r)
			return
		}
		switch r.kind {
		case recFetch:
			h.repairs.serve(p, r)
			return
		case recFetched:
			h.repairs.fetched(p, r)
			return
		}
		g := h.group(r.group)
		if g == nil || !g.deliver(&inbound{*r, p, incarnation}) {
			h.undeliverable(p, r, g == nil)
		}
	})
	if err != nil {
		h.stats.bad.Add(1)
		h.cfg.Logger.Warn("raft frame", "node", node, "lane", int(lane), "err", err)
	}
}

// undeliverable is called for a record whose group has stopped or failed, or is not known.
func (h *Host) undeliverable(p *peer, r *record, unknown bool) {
	switch r.kind {
	case recQuery:
		// Whatever led here does not any more: the process or the group was restarted.
		h.sendRecord(p, recRelease, r.group, r.num[0])
		return
	case recRelease, recGone, recSleep, recHave, recCheck, recChecked, recDiffers:
		return // nothing is expected of this node
	}
	if !unknown {
		return
	}
	h.stats.unknown.Add(1)
	now := h.cfg.Now()
	p.mu.Lock()
	tell := now.Sub(p.unknown) >= unknownInterval
	if tell {
		p.unknown = now
	}
	p.mu.Unlock()
	if tell {
		h.cfg.OnUnknownGroup(r.group, p.node)
	}
}

// deliver gives a record to the group, or drops it when there are too many. false: the group was
// stopped or has failed.
func (g *Group) deliver(in *inbound) bool {
	g.mu.Lock()
	if g.stopped || g.err != nil {
		g.mu.Unlock()
		return false
	}
	if len(g.inbox) > 0 && (g.inboxBytes+in.size > g.cfg.MaxInboxBytes || len(g.inbox) >= maxInboxRecords) {
		g.mu.Unlock()
		g.host.stats.dropped.Add(1)
		return true
	}
	g.inbox = append(g.inbox, in)
	g.inboxBytes += in.size
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
	return true
}

// receive takes one record. It is called by who owns the core.
func (g *Group) receive(in *inbound) error {
	switch in.kind {
	case recMessage:
		return g.step(in)
	case recSleep:
		g.maySleep(in)
	case recQuery:
		g.answerQuery(in)
	case recRelease:
		g.released(in)
	case recGone:
		if in.num[0] == g.replica {
			g.removed = true
		}
	case recDigest:
		g.compareDigest(in)
	case recOffer:
		g.offered(in)
	case recPiece:
		g.piece(in)
	case recHave:
		g.host.transfers.have(g, in)
	case recCheck:
		if g.leadTerm == 0 && g.term == in.num[0] && in.num[2] == g.cfg.StateFormat {
			g.captureAt(in.num[0], in.num[1])
		}
	case recChecked:
		g.stateChecked(in)
	case recDiffers:
		return g.toldDiffers(in)
	}
	return nil
}

// step gives a message to the core, unless a promise of this node stands against it.
func (g *Group) step(in *inbound) error {
	m := &in.msg
	if m.To != g.replica {
		return nil // for an earlier replica on this node, which lost its log
	}
	switch m.Type {
	case core.MsgApp, core.MsgHeartbeat, core.MsgSnap:
		g.heard(in)
		g.wakeUp()
		if err := g.checkLost(m); err != nil {
			return err
		}
		if err := g.checkDiverged(m); err != nil {
			return err
		}
		if m.Type == core.MsgApp && g.repeats(m) {
			return nil
		}
	case core.MsgVote, core.MsgPreVote:
		g.wakeUp()
		if !isTransfer(m) && !g.mayVote(m) {
			return nil
		}
	case core.MsgPreVoteResp:
		// With a quorum of these the replica votes for itself.
		if !m.Reject && !g.defyLeader(g.replica) {
			return nil
		}
	case core.MsgVoteResp:
		if m.Reject && m.Term == g.term {
			g.election.voting = time.Time{} // it may be split: the next one is called after a random time
		}
	case core.MsgTimeoutNow:
		g.wakeUp()
	case core.MsgAppResp, core.MsgHeartbeatResp:
		g.acknowledged(in)
	}
	if err := g.core.Step(m); err != nil {
		g.host.stats.bad.Add(1)
		g.cfg.Logger.Warn("raft message", "group", uint64(g.id), "node", in.from.node, "err", err)
	}
	return nil
}

// isTransfer reports whether a vote is asked for with the consent of the leader.
func isTransfer(m *core.Message) bool { return string(m.Context) == "CampaignTransfer" }
