package raft

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/raft/core"
)

// The host decides when a replica campaigns: the library's own timer runs in leaders only. So the
// times come from Config.Rand, many elections at once are bounded, and no election is called
// against a leader that has this node's promise.

// unknownInterval is the least time between two calls of OnUnknownGroup for one node.
const unknownInterval = time.Second

// leaderMark is the last leader that this replica has heard of, whatever happened to its own term since.
type leaderMark struct {
	replica, term uint64
	incarnation   uint64 // of the leader's host
	released      bool   // that host said that it does not lead in that term any more
}

// electionState is what a replica that does not lead needs for it. It is owned by who runs the core.
type electionState struct {
	mark     leaderMark
	grace    time.Time // no votes before: an earlier life may have promised not to
	elapsed  int       // ticks since there was word of a leader, or a campaign
	timeout  int       // ticks after which it campaigns
	hurried  bool      // no leader can be expected to come back: campaigns follow each other quickly
	voting   time.Time // since when voters are asked, in this term; zero: they are not, or one has refused
	campaign bool      // counted in Host.campaigns
	started  bool      // the election at the start was looked at
	voted    uint64    // last term in which this replica voted
	rounds   int       // elections in which this replica voted since there was a leader
}

// maxPatience bounds how often the times of an election are doubled.
const maxPatience = 4

// patience is how often longer than usual this replica waits for what comes of an election. Where votes take longer than all
// wait, each election would be ended by the next one for ever: so each of them that came to nothing doubles it.
func (e *electionState) patience() int {
	return 1 << min(max(e.rounds-1, 0), maxPatience)
}

// heard notes a message of a leader.
func (g *Group) heard(in *inbound) {
	m := &in.msg
	if m.Term < g.term {
		return
	}
	if m.Term >= g.election.mark.term {
		if g.election.mark.replica != m.From || g.election.mark.term != m.Term || g.election.mark.incarnation != in.incarnation {
			g.election.mark = leaderMark{replica: m.From, term: m.Term, incarnation: in.incarnation}
		}
	}
	g.election.elapsed, g.election.hurried, g.election.rounds = 0, false, 0
	g.election.timeout = 0 // drawn when it is needed
}

// heldBack reports whether this node has promised not to replace the group's leader by another
// replica than its own.
func (g *Group) heldBack() bool {
	now := g.cfg.Now()
	if now.Before(g.election.grace) {
		return true
	}
	p := g.markPeer(g.replica)
	return p != nil && p.promises(now, g.election.mark.incarnation)
}

// defyLeader asks whether this replica may vote for a candidate, and breaks the promise to the leader's
// node if it has run out.
func (g *Group) defyLeader(candidate uint64) bool {
	now := g.cfg.Now()
	if now.Before(g.election.grace) {
		return false
	}
	p := g.markPeer(candidate)
	return p == nil || p.defy(now, g.election.mark.incarnation)
}

// markPeer returns the node of the last known leader, nil if a vote for the candidate is not against it.
func (g *Group) markPeer(candidate uint64) *peer {
	if g.election.mark.replica == 0 || g.election.mark.released || g.election.mark.replica == candidate || g.election.mark.replica == g.replica {
		return nil
	}
	return g.peerOf(g.election.mark.replica)
}

// mayVote asks whether a request for a vote may be looked at.
func (g *Group) mayVote(m *core.Message) bool {
	if m.Type == core.MsgPreVote {
		if g.heldBack() && m.From != g.election.mark.replica {
			return false
		}
	} else if !g.defyLeader(m.From) {
		return false
	}
	if p := g.peerOf(g.lead); p != nil && p.currentState() != PeerAlive {
		// The candidate found out first that the leader's node is gone.
		g.doubt()
	}
	return true
}

// doubt makes the core forget its leader.
func (g *Group) doubt() {
	if g.leadTerm == 0 {
		g.core.ForgetLeader()
	}
}

// leaderGone is called when the node of this replica's leader died or was restarted.
func (g *Group) leaderGone(p *peer) {
	if g.leadTerm != 0 || g.lead == 0 || g.peerOf(g.lead) != p {
		return
	}
	g.wakeUp()
	g.doubt()
	g.hurry(int(g.cfg.FailoverJitter / g.cfg.TickInterval))
}

// hurry lets the replica campaign within that many ticks, and again soon.
func (g *Group) hurry(ticks int) {
	g.election.hurried, g.election.elapsed, g.election.timeout = true, 0, 1+g.host.rand(ticks+1)
}

// tickFollower passes one unit of time in a replica that does not lead.
func (g *Group) tickFollower() {
	g.election.elapsed++
	if g.election.timeout == 0 {
		g.election.timeout = (g.cfg.ElectionTicks + g.host.rand(g.cfg.ElectionTicks)) * g.election.patience()
	}
	if g.election.elapsed >= 2*g.cfg.HeartbeatTicks {
		g.countCampaign(false) // there seems to be no quorum: it must not keep others waiting
	}
	silent := 3 * g.cfg.HeartbeatTicks
	if g.election.elapsed >= silent && g.election.elapsed%g.cfg.HeartbeatTicks == 0 {
		g.query()
	}
	if g.election.elapsed >= g.cfg.ElectionTicks && g.lead != 0 && !g.heldBack() {
		g.doubt()
	}
	if g.election.elapsed >= g.election.timeout {
		g.callElection()
	}
}

// query asks the node of the last known leader whether that still leads. It is answered even when the
// group does not run there.
func (g *Group) query() {
	if m := &g.election.mark; m.replica != 0 && m.replica != g.replica && !m.released {
		g.send(m.replica, recQuery, m.term, g.replica)
	}
}

// callElection campaigns if nothing stands against it, or puts it off.
func (g *Group) callElection() {
	if !g.votes() {
		g.election.elapsed, g.election.timeout = 0, 0
		if g.applied > 0 && !g.isMember(g.replica) {
			g.seekWord()
		} else {
			g.announce()
		}
		return
	}
	if !g.defyLeader(g.replica) {
		g.election.timeout = g.election.elapsed + 1 + g.host.rand(g.cfg.HeartbeatTicks)
		return
	}
	if g.votesComing() {
		g.election.timeout = g.election.elapsed + 1 + g.host.rand(g.cfg.HeartbeatTicks)
		return
	}
	if !g.election.campaign && g.host.campaigns.Load() >= int64(g.cfg.MaxCampaigns) {
		g.election.timeout = g.election.elapsed + 1 + g.host.rand(3)
		return
	}
	g.query() // it may tell that this replica was removed
	if g.role != core.Follower {
		g.announce() // an election was called before, in vain
	}
	g.doubt()
	if err := g.core.Campaign(); errors.Is(err, ErrDamaged) {
		g.election.elapsed, g.election.timeout = 0, 0
		g.announce() // others may, if this one is not needed
		return
	} else if err != nil {
		g.cfg.Logger.Warn("raft campaign", "group", uint64(g.id), "err", err)
	}
	g.countCampaign(true)
	g.election.elapsed, g.election.timeout = 0, 0
	if g.election.hurried {
		g.election.timeout = 2 + g.host.rand(2*g.cfg.HeartbeatTicks)
	}
}

// votesComing reports whether an election that this replica called may be won yet. Votes rest on the disks of
// all, and who calls the next election throws away those that are on their way: on slow disks nobody would ever
// be elected.
func (g *Group) votesComing() bool {
	if g.role != core.Candidate || g.election.voting.IsZero() {
		return false
	}
	patience := time.Duration(g.cfg.ElectionTicks*g.election.patience()) * g.cfg.TickInterval / 2
	return g.inflight > 0 || g.cfg.Now().Sub(g.election.voting) < patience
}

// voted notes a vote that is on its way to the disk: another replica that gets it has time to win, and to say so.
func (g *Group) voted(s *core.HardState) {
	if s.Vote == 0 || s.Term <= g.election.voted {
		return
	}
	g.election.voted = s.Term
	g.election.rounds++
	if s.Vote != g.replica {
		g.election.elapsed, g.election.timeout = 0, 0
	}
}

// countCampaign keeps Host.campaigns.
func (g *Group) countCampaign(under bool) {
	if under != g.election.campaign {
		g.election.campaign = under
		if under {
			g.host.campaigns.Add(1)
		} else {
			g.host.campaigns.Add(-1)
		}
	}
}

// votes reports whether this replica is a voter.
func (g *Group) votes() bool {
	return slices.Contains(g.members.Voters, g.replica) || slices.Contains(g.members.Outgoing, g.replica)
}

// answerQuery tells a replica whether this one leads the group in a term.
func (g *Group) answerQuery(in *inbound) {
	term, from := in.num[0], in.num[1]
	switch {
	case g.leadTerm != term:
		g.worker.out.record(g, in.from, recRelease, term)
	case g.opens == term && !g.isMember(from):
		g.tellGone(in.from, from)
	default:
		g.wakeUp()
		g.nudge()
	}
}

// released is told that the last known leader does not lead any more.
func (g *Group) released(in *inbound) {
	if m := &g.election.mark; m.replica == 0 || m.term != in.num[0] || g.peerOf(m.replica) != in.from {
		return
	}
	g.election.mark.released = true
	if g.leadTerm == 0 && (g.lead == g.election.mark.replica || g.lead == 0) {
		g.wakeUp()
		g.doubt()
		g.hurry(int(g.cfg.FailoverJitter / g.cfg.TickInterval))
	}
}

// checkLost returns an error when a heartbeat shows that this replica had acknowledged entries that
// its log does not hold: a leader never tells of a commit index above what the replica acknowledged.
func (g *Group) checkLost(m *core.Message) error {
	if m.Type != core.MsgHeartbeat || m.Term < g.term || m.Commit <= g.last {
		return nil
	}
	return fmt.Errorf("raft: group %d: %w: the leader, replica %d in term %d, has an answer for entry %d, the log ends at %d",
		g.id, ErrLostEntries, m.From, m.Term, m.Commit, g.last)
}

// checkDiverged returns an error when a message shows that the leader's log is another one than what this
// replica has applied. It looks at the entry applied last alone, whose term is at hand: that is where a replica is
// that cannot go on.
func (g *Group) checkDiverged(m *core.Message) error {
	if m.Type != core.MsgApp || m.Term < g.term || m.Index == 0 || m.Index != g.applied || m.LogTerm == g.snaps.appliedTerm {
		return nil
	}
	return fmt.Errorf("raft: group %d: %w: entry %d is of term %d for replica %d, which leads in term %d, and was applied here in term %d",
		g.id, ErrDiverged, m.Index, m.LogTerm, m.From, m.Term, g.snaps.appliedTerm)
}

// maxRepeats is how often in one tick a replica refuses the same entries.
const maxRepeats = 4

// repeats reports whether a message was refused so often that looking at it once more must wait for
// the next tick. A leader that believes this replica to have more entries than it has sends without
// end what cannot be taken.
func (g *Group) repeats(m *core.Message) bool {
	if m.Index <= g.last {
		return false
	}
	if m.Index != g.refusedIndex {
		g.refusedIndex, g.refusals = m.Index, 0
	}
	g.refusals++
	return g.refusals > maxRepeats
}

// Campaign lets a voter call an election now, if nothing stands against it.
func (g *Group) Campaign() {
	g.call(func() {
		if g.leadTerm == 0 {
			g.wakeUp()
			g.callElection()
		}
	})
}
