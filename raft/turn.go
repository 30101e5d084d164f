package raft

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"millrace/raft/core"
)

// maxReadies is how many pieces of work of one group are done before others have their turn.
const maxReadies = 4

// The methods in this file run the core; see invariant 1 of Group.

// guard turns a panic into the group's failure, so that it does not end the node.
func (g *Group) guard(f func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
			return
		case error:
			err = fmt.Errorf("raft: group %d: panic: %w", g.id, r)
		default:
			err = fmt.Errorf("raft: group %d: panic: %v", g.id, r)
		}
		g.cfg.Logger.Error("panic in raft group", "group", uint64(g.id), "stack", string(debug.Stack()))
	}()
	return f()
}

// prepare learns from the core and the store with what this replica starts. first is the voter that is to lead a
// new group.
func (g *Group) prepare(first uint64) error {
	status := g.core.Status()
	g.term, g.last = status.Term, status.Last
	g.setMembers(status.Members)
	g.sleep.asleep = g.solo
	if !g.solo {
		if status.Term > 0 || status.Last > 0 {
			g.election.grace = g.cfg.Now().Add(g.cfg.PromiseTime)
		} else if at := slices.Index(g.members.Voters, g.replica); at >= 0 {
			// A new group: the one that is to lead it first need not wait for a leader to show up, and the
			// others give it time, one after the other.
			n := len(g.members.Voters)
			at = (at - max(0, slices.Index(g.members.Voters, first)) + n) % n
			g.election.hurried, g.election.timeout = true, 1+g.cfg.HeartbeatTicks*at
		}
	}
	return g.prepareSnapshots()
}

// proposeNow proposes to a core that has nothing outstanding, on the goroutine of the proposer.
func (g *Group) proposeNow(data []byte) error {
	if err := g.core.Propose([][]byte{data}); err != nil {
		return fmt.Errorf("raft: group %d: %w", g.id, err)
	}
	var rd core.Ready
	g.core.Ready(&rd)
	if len(rd.Committed) > 0 || len(rd.Messages) > 0 || rd.Role != core.Leader {
		panic("BUG: a proposal to an idle core did more than append")
	}
	g.write(&rd.Append)
	return nil
}

// turn gives the core what arrived and does the work that it hands out. again is true when there
// may be more of it.
func (g *Group) turn(rd *core.Ready, in *arrived) (again bool, err error) {
	if in.persisted > 0 {
		g.inflight -= in.persisted
		g.core.Persisted(in.persisted)
	}
	for _, call := range in.calls {
		call(nil)
	}
	for _, r := range in.inbox {
		if err := g.receive(r); err != nil {
			return false, err
		}
	}
	if g.removed {
		g.leaveGroup()
		return false, nil
	}
	if in.ticked {
		if err := g.tick(); err != nil {
			return false, err
		}
	}
	g.read(in.readers)
	if err := g.proposeAll(in.proposals); err != nil {
		return false, err
	}
	for range maxReadies {
		if !g.core.Ready(rd) {
			if !g.electAtStart() {
				return false, nil
			}
			continue
		}
		g.follow(rd)
		g.sendAll(rd)
		if restore := g.write(&rd.Append); restore {
			g.snaps.held = slices.Clone(rd.Committed)
			return true, nil
		}
		g.answerReads(rd.Reads)
		if len(rd.Committed) == 0 {
			continue
		}
		done, err := g.apply(rd.Committed)
		if !done || err != nil {
			return false, err
		}
		if g.removed {
			g.leaveGroup()
			return false, nil
		}
		g.maybeSnapshot()
	}
	return true, nil
}

// proposeAll proposes what was queued.
func (g *Group) proposeAll(proposals [][]byte) error {
	if len(proposals) == 0 || g.leadTerm == 0 {
		return nil
	}
	g.stir()
	err := g.core.Propose(proposals)
	if errors.Is(err, core.ErrDropped) {
		// Leadership is being handed over, or was lost just now: then the next Ready says so, and they
		// are dropped.
		g.mu.Lock()
		g.handing = true
		g.queue = append(proposals, g.queue...)
		g.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("raft: group %d: %w", g.id, err)
	}
	return nil
}

// electAtStart calls the first election of a group whose only voter this replica is. The stored log is
// applied by now as far as it is known to be committed. It returns false when there is nothing to do.
func (g *Group) electAtStart() bool {
	if g.election.started {
		return false
	}
	g.election.started = true
	if g.removed || len(g.members.Voters) != 1 || len(g.members.Outgoing) > 0 || !g.votes() || !g.defyLeader(g.replica) {
		return false
	}
	if err := g.core.Campaign(); err != nil {
		g.cfg.Logger.Warn("raft campaign", "group", uint64(g.id), "err", err)
	}
	return true
}

// tick passes one unit of time.
func (g *Group) tick() error {
	g.refusals = 0
	switch {
	case g.leadTerm == 0:
		g.checks.asked = 0
		g.tickFollower()
		return nil
	case !g.tickLeader(): // a heartbeat would wake those who were just told to sleep
		g.core.Tick()
	}
	return g.compareStates()
}

// write hands a write to the store. It returns true when the machine is to be restored first, before
// anything else is applied.
func (g *Group) write(a *core.Append) (restore bool) {
	if a.Empty() {
		return false
	}
	g.inflight++
	if g.cfg.Transport != nil {
		g.host.store.begin(g.cfg.Now())
	}
	w := Write{Group: g.log, Entries: a.Entries, State: a.State, Done: g.done}
	if a.Snapshot != nil {
		restore = g.replaceLog(&w, a.Snapshot)
	}
	if n := len(a.Entries); n > 0 {
		g.last = a.Entries[n-1].Index
	}
	if a.State != nil {
		g.voted(a.State)
	}
	g.cfg.Log.Append(w)
	return restore
}

// follow follows changes of term and leader. A gain of leadership is announced by opened.
func (g *Group) follow(rd *core.Ready) {
	if rd.Term == g.term && rd.Lead == g.lead && rd.Role == g.role {
		return
	}
	g.term, g.lead, g.role = rd.Term, rd.Lead, rd.Role
	term := uint64(0)
	if rd.Role == core.Leader {
		term = rd.Term
	}
	if rd.Role == core.Follower || rd.Role == core.Leader {
		g.countCampaign(false)
	}
	g.election.voting = time.Time{}
	switch rd.Role {
	case core.Candidate:
		g.election.voting = g.cfg.Now()
	case core.Leader:
		g.election.rounds = 0
	}
	lost := uint64(0)
	if term != g.leadTerm {
		lost, g.leadTerm = g.leadTerm, term
	}
	g.mu.Lock()
	g.shown.term, g.shown.lead = rd.Term, rd.Lead
	announced := false
	if lost != 0 || term != 0 && !g.ready {
		announced = g.ready
		g.ready, g.handing, g.queue, g.pending, g.acks = false, false, nil, 0, nil
	}
	g.mu.Unlock()
	if lost != 0 {
		g.failReads(ErrNotLeader)
		g.failChanges(fmt.Errorf("%w any more: the change is undecided", ErrNotLeader))
		g.host.transfers.stopped(g)
		g.sendOthers(recRelease, lost)
		if announced {
			g.machine.Lead(lost, false)
		}
	}
	if term != 0 {
		g.election.mark = leaderMark{replica: g.replica, term: term}
	}
	if !g.solo {
		g.wakeUp()
	}
}

// sendAll puts the core's messages into the outbox.
func (g *Group) sendAll(rd *core.Ready) {
	commit := uint64(0)
	if n := len(rd.Committed); n > 0 {
		commit = rd.Committed[n-1].Index
	}
	for i := range rd.Messages {
		commit = max(commit, rd.Messages[i].Commit)
	}
	// Before anybody else can know it: who reads by a lease relies on that.
	g.showCommit(commit)
	for i := range rd.Messages {
		m := &rd.Messages[i]
		p := g.peerOf(m.To)
		if p == nil {
			continue
		}
		stamp := uint64(0)
		switch m.Type {
		case core.MsgSnap:
			g.host.transfers.start(g, p, m)
			continue
		case core.MsgApp:
			if len(m.Entries) > 0 {
				g.wakeUp()
			}
		case core.MsgAppResp, core.MsgHeartbeatResp:
			if !m.Reject && m.Term == rd.Term {
				stamp = p.stamp(g.host.incarnation)
			}
		case core.MsgVoteResp:
			if !m.Reject {
				g.election.elapsed, g.election.timeout = 0, 0
			}
		}
		g.worker.out.message(g, p, m, stamp)
	}
}

func (g *Group) showCommit(commit uint64) {
	if commit <= g.shown.commit { // only the owner writes it
		return
	}
	g.mu.Lock()
	g.shown.commit = commit
	g.mu.Unlock()
}

// send sends a record of numbers to a replica.
func (g *Group) send(replica uint64, kind recordKind, values ...uint64) {
	if p := g.peerOf(replica); p != nil {
		g.worker.out.record(g, p, kind, values...)
	}
}

// sendOthers sends a record of numbers to all other members.
func (g *Group) sendOthers(kind recordKind, values ...uint64) {
	for replica := range others(&g.members, g.replica) {
		g.send(replica, kind, values...)
	}
}

// peerOf returns the node of another replica, nil for one on this node.
func (g *Group) peerOf(replica uint64) *peer {
	if replica == 0 || replica == g.replica {
		return nil
	}
	node := g.cfg.NodeOf(replica)
	if node == 0 || node == g.cfg.Node {
		return nil
	}
	return g.host.peers.of(node)
}

// apply hands committed entries to the machine; done is false when the group was stopped meanwhile.
func (g *Group) apply(entries []core.Entry) (done bool, err error) {
	released, changed := 0, false
	for i := range entries {
		if g.stopping.Load() {
			return false, nil
		}
		e := &entries[i]
		g.noteApplied(e)
		switch {
		case e.Type == core.EntryConfChangeV2:
			changed = true
			g.changeIndex = e.Index
		case e.Type != core.EntryNormal:
			return false, fmt.Errorf("raft: group %d: entry %d is of unknown type %d", g.id, e.Index, e.Type)
		case len(e.Data) > 0:
			g.machine.Apply(e.Index, e.Data)
			if e.Term == g.leadTerm {
				released += len(e.Data)
			}
		case e.Term == g.leadTerm:
			g.opened()
		}
		if e.Index == g.checks.want {
			g.captureCheck()
		}
	}
	last := &entries[len(entries)-1]
	g.applied, g.snaps.appliedTerm = last.Index, last.Term
	g.core.Applied()
	g.mu.Lock()
	g.pending -= int64(released)
	g.shown.applied = g.applied
	g.mu.Unlock()
	if changed {
		g.changed()
	}
	g.finishReads()
	return true, nil
}

// opened is called when the entry that opens this replica's term as a leader is applied, and with it
// everything of earlier terms.
func (g *Group) opened() {
	g.opens = g.leadTerm
	g.mu.Lock()
	first := !g.ready
	g.ready = true
	g.mu.Unlock()
	if first {
		g.machine.Lead(g.leadTerm, true)
	}
}
