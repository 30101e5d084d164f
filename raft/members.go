package raft

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"millrace/raft/core"
)

// Membership says who belongs to a group.
type Membership = core.Membership

// Change is a membership change.
type Change = core.Change

// Status is a replica's view of its group.
type Status = core.Status

// Progress is what a leader knows of another replica.
type Progress = core.Progress

// pendingChange is a change that was proposed here.
type pendingChange struct {
	change Change
	done   func(error)
}

// others returns the members but one, voters first, each once.
func others(m *core.Membership, self uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i, set := range [][]uint64{m.Voters, m.Outgoing, m.Learners} {
			for _, id := range set {
				if id == self || i == 1 && slices.Contains(m.Voters, id) {
					continue
				}
				if !yield(id) {
					return
				}
			}
		}
	}
}

func (g *Group) isMember(replica uint64) bool {
	return slices.Contains(g.members.Voters, replica) || slices.Contains(g.members.Outgoing, replica) ||
		slices.Contains(g.members.Learners, replica)
}

// setMembers takes over a membership.
func (g *Group) setMembers(m core.Membership) {
	g.members = m
	g.mu.Lock()
	g.solo = len(m.Voters) == 1 && m.Voters[0] == g.replica && len(m.Outgoing) == 0 && len(m.Learners) == 0
	g.shown.members = &m
	g.mu.Unlock()
	for replica := range others(&m, g.replica) {
		g.peerOf(replica) // from now on it gets heartbeats
	}
}

// changed is called when a membership change was applied.
func (g *Group) changed() {
	g.setMembers(g.core.Status().Members)
	g.wakeUp()
	g.finishChanges()
	if g.leadTerm != 0 && g.snaps.compacted > 0 {
		g.snapshotNow() // a new replica needs one that names it
	}
}

// ChangeMembers changes who belongs to the group, all at once: by a joint configuration when more than
// one replica is concerned. A new replica is best added as a learner first, and made a voter when
// Status tells that it has caught up. A leader that is to leave hands over first. done is called once, by the
// group's worker: with nil when the change is complete; with ErrNotLeader, ErrLeading, ErrChanging,
// ErrStopped or what is wrong with the change.
// ErrNotLeader and ErrStopped that come late leave it undecided.
func (g *Group) ChangeMembers(c Change, done func(error)) {
	if g.cfg.Transport == nil {
		done(fmt.Errorf("raft: group %d: no transport to other nodes", g.id))
		return
	}
	if g.host.snapshots == nil {
		done(fmt.Errorf("raft: group %d: the log store keeps no snapshots", g.id))
		return
	}
	g.ask(func(err error) {
		if err != nil {
			done(err)
			return
		}
		if g.leadTerm != 0 && (slices.Contains(c.Remove, g.replica) || slices.Contains(c.Learners, g.replica)) {
			done(fmt.Errorf("%w: replica %d of group %d", ErrLeading, g.replica, g.id))
			return
		}
		g.stir()
		switch err := g.core.ProposeChange(c); {
		case errors.Is(err, core.ErrDropped):
			done(ErrNotLeader)
		case errors.Is(err, core.ErrChanging):
			done(ErrChanging)
		case err != nil:
			done(fmt.Errorf("raft: group %d: %w", g.id, err))
		default:
			g.changes = append(g.changes, pendingChange{c, done})
		}
	})
}

// finishChanges answers those whose change is in effect.
func (g *Group) finishChanges() {
	if len(g.members.Outgoing) > 0 {
		return
	}
	g.changes = slices.DeleteFunc(g.changes, func(p pendingChange) bool {
		for _, id := range p.change.Voters {
			if !slices.Contains(g.members.Voters, id) {
				return false
			}
		}
		for _, id := range p.change.Learners {
			if !slices.Contains(g.members.Learners, id) {
				return false
			}
		}
		for _, id := range p.change.Remove {
			if g.isMember(id) {
				return false
			}
		}
		p.done(nil)
		return true
	})
}

func (g *Group) failChanges(err error) {
	changes := g.changes
	g.changes = nil
	for _, p := range changes {
		p.done(err)
	}
}

// TransferLeader hands leadership to another voter, once that has the whole log. Meanwhile Propose
// returns ErrNotLeader. It is given up after an election timeout. A replica that does not lead ignores
// it.
func (g *Group) TransferLeader(to uint64) {
	g.call(func() {
		if g.leadTerm == 0 || to == g.replica || !slices.Contains(g.members.Voters, to) {
			return
		}
		g.stir()
		g.mu.Lock()
		g.handing, g.noLease = true, g.leadTerm // before the other replica may be elected
		g.mu.Unlock()
		g.core.TransferLeader(to)
	})
}

// endTransfer looks whether handing over was given up.
func (g *Group) endTransfer() {
	g.mu.Lock()
	handing := g.handing
	g.mu.Unlock()
	if handing && g.core.Status().Transferring == 0 {
		g.mu.Lock()
		g.handing = false
		g.mu.Unlock()
	}
}

// changeSettled reports whether a leader knows that the members do without those that left: a majority
// has the last change committed on its disk. Until then the refused vote of a replica that left may be
// needed, see core/DESIGN.md.
func (g *Group) changeSettled() bool {
	s := g.core.Status()
	if g.opens != g.leadTerm || len(s.Members.Outgoing) > 0 {
		return false
	}
	have := 0
	if slices.Contains(s.Members.Voters, g.replica) && s.Stored >= g.changeIndex {
		have++
	}
	for _, p := range s.Progress {
		if p.Commit >= g.changeIndex && slices.Contains(s.Members.Voters, p.Replica) {
			have++
		}
	}
	return have > len(s.Members.Voters)/2
}

// tellGone tells a replica that it is not a member any more, once it may stop. The caller knows that it
// was one.
func (g *Group) tellGone(p *peer, replica uint64) {
	if g.changeSettled() {
		g.worker.out.record(g, p, recGone, replica)
		return
	}
	g.wakeUp() // the members' answers will tell, until it asks again
}

// seekWord asks all members whether this replica, which is none, may stop.
func (g *Group) seekWord() {
	g.sendOthers(recDigest, g.term, g.applied, 0, g.replica)
}

// announce tells all nodes of this replica, which hears of no leader and cannot become one. The leader may sleep,
// because this node was away, and all the members that the replica knows may have left.
func (g *Group) announce() {
	for _, p := range g.host.peers.all() {
		if p.currentState() != PeerDead {
			g.worker.out.record(g, p, recDigest, g.term, g.applied, 0, g.replica)
		}
	}
}

// leaveGroup stops a replica that was removed.
func (g *Group) leaveGroup() {
	g.cfg.Logger.Info("raft replica removed", "group", uint64(g.id), "replica", g.replica)
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.stopping.Store(true)
	g.finishChanges()
	g.abandon()
	g.host.forget(g)
	g.cfg.OnRemoved(g.id)
}

// Status returns the replica's view of its group. It waits for its turn. ErrStopped when the group was
// stopped or failed.
func (g *Group) Status(ctx context.Context) (Status, error) {
	g.mu.Lock()
	err := g.stoppedLocked()
	if err != nil {
		g.mu.Unlock()
		return Status{}, err
	}
	if g.cfg.Manual {
		g.mu.Unlock()
		return g.core.Status(), nil // nobody else is here
	}
	if g.state == idle {
		g.state = active
		g.mu.Unlock()
		var s Status
		err := g.guard(func() error { s = g.core.Status(); return nil })
		g.leave(false, err)
		return s, err
	}
	g.mu.Unlock()
	type answer struct {
		status Status
		err    error
	}
	answers := make(chan answer, 1)
	g.ask(func(err error) {
		if err != nil {
			answers <- answer{err: err}
			return
		}
		answers <- answer{status: g.core.Status()}
	})
	select {
	case a := <-answers:
		return a.status, a.err
	case <-ctx.Done():
		return Status{}, context.Cause(ctx)
	}
}
