package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"millrace/appliance/server/jetstream"
	"millrace/raft"
	"millrace/storage/journal"
)

// nodeBits are the low bits of a node's id, which are all set: in the id of a replica they tell the
// replicas apart that the node has had of a group.
const nodeBits = 20

// nodeOf returns the node on which a replica lives.
func nodeOf(replica uint64) uint64 { return replica | (1<<nodeBits - 1) }

// groups starts the engine's groups on the raft host.
type groups struct {
	host    *raft.Host
	journal *journal.Log

	mu       sync.Mutex
	machines map[raft.GroupID]jetstream.Machine // that run
}

// stallPoll is how often a start looks whether the journal can write, and stallPatience how many
// looks in a row must say that it cannot before the start is given up.
const (
	stallPoll     = time.Second
	stallPatience = 3
)

// Start runs a replica. It refuses when the journal has no room for the writes that a start takes.
func (g *groups) Start(spec jetstream.GroupSpec, m jetstream.Machine) (jetstream.Group, error) {
	if err := g.journal.AdmitStart(); err != nil && !errors.Is(err, journal.ErrBusy) {
		return nil, engineError(fmt.Errorf("start group %d: %w", spec.ID, err))
	}
	id := raft.GroupID(spec.ID)
	g.mu.Lock()
	if g.machines[id] != nil {
		g.mu.Unlock()
		return nil, fmt.Errorf("start group %d: %w", spec.ID, raft.ErrGroupExists)
	}
	g.machines[id] = m // it may fail before Start returns
	g.mu.Unlock()
	rg, err := g.host.Start(raft.GroupSpec{ID: id, Log: spec.Log, Replica: spec.Replica, Voters: spec.Began, First: spec.Preferred()}, newMachine(m))
	if err != nil {
		g.forget(id)
		return nil, err
	}
	return &group{Group: rg, groups: g}, nil
}

// forget notes that a replica is stopped.
func (g *groups) forget(id raft.GroupID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.machines, id)
}

// failed tells the machine of a group that cannot go on.
func (g *groups) failed(id raft.GroupID, err error) {
	g.mu.Lock()
	m := g.machines[id]
	g.mu.Unlock()
	if m != nil {
		m.Failed(err)
	}
}

// Await waits until done is closed; it gives up when the journal has failed or cannot write.
func (g *groups) Await(done <-chan struct{}) error {
	poll := time.NewTicker(stallPoll)
	defer poll.Stop()
	for stalled := 0; ; {
		select {
		case <-done:
			return nil
		case <-g.journal.Failed():
			return g.journal.Err()
		case <-poll.C:
			err := g.journal.Stalled()
			if err == nil {
				stalled = 0
			} else if stalled++; stalled == stallPatience {
				return err
			}
		}
	}
}

// Logs returns the logs of replicas there are.
func (g *groups) Logs() []uint64 { return g.journal.Groups() }

// Remove deletes the log of a replica, which is stopped if it runs.
func (g *groups) Remove(spec jetstream.GroupSpec) error {
	g.forget(raft.GroupID(spec.ID))
	return g.host.StartRemove(raft.GroupSpec{ID: raft.GroupID(spec.ID), Log: spec.Log}, func() {})
}

// group is a replica as the engine sees it.
type group struct {
	*raft.Group
	groups *groups
}

var _ jetstream.Group = (*group)(nil)

// Propose proposes in a term.
func (g *group) Propose(term uint64, entry []byte) error {
	return engineError(g.Group.ProposeIn(term, entry))
}

// ProposeControl proposes what gives space back, in a term.
func (g *group) ProposeControl(term uint64, entry []byte) error {
	return engineError(g.Group.ProposeControlIn(term, entry))
}

// LeaseRead calls done when the machine may be read.
func (g *group) LeaseRead(done func(error)) {
	g.Group.LeaseRead(func(err error) { done(engineError(err)) })
}

// ChangeMembers changes who belongs to the group.
func (g *group) ChangeMembers(c jetstream.Change, done func(error)) {
	g.Group.ChangeMembers(raft.Change(c), func(err error) { done(engineError(err)) })
}

// Status returns the replica's view.
func (g *group) Status(ctx context.Context) (jetstream.GroupStatus, error) {
	s, err := g.Group.Status(ctx)
	if err != nil {
		return jetstream.GroupStatus{}, err
	}
	out := jetstream.GroupStatus{
		Term: s.Term, Lead: s.Lead, Commit: s.Commit, Applied: s.Applied, Damaged: s.Damaged, Transferring: s.Transferring,
		Voters: s.Members.Voters, Learners: s.Members.Learners, Outgoing: s.Members.Outgoing,
	}
	for _, p := range s.Progress {
		out.Progress = append(out.Progress, jetstream.ReplicaProgress{Replica: p.Replica, Match: p.Match, Active: p.Active})
	}
	return out, nil
}

// Stop stops the replica.
func (g *group) Stop() {
	g.Group.Stop()
	g.groups.forget(g.Group.ID())
}

// engineError gives refusals that the engine knows its names.
func engineError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return fmt.Errorf("%w: %w", jetstream.ErrNotLeader, err)
	case errors.Is(err, journal.ErrFull):
		return fmt.Errorf("%w: %w", jetstream.ErrFull, err)
	}
	return err
}
