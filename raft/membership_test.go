package raft_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

// change makes a membership change and awaits its end.
func (c *cluster) change(id raft.GroupID, change raft.Change) error {
	c.t.Helper()
	var result error
	ended := false
	c.elect(id).groups[id].ChangeMembers(change, func(err error) { result, ended = err, true })
	c.await(10*time.Second, "the membership change", func() bool { return ended })
	return result
}

func (c *cluster) members(id raft.GroupID) raft.Membership {
	c.t.Helper()
	s, err := c.elect(id).groups[id].Status(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Members
}

func TestClusterAddsReplica(t *testing.T) {
	c := newCluster(t, 4, nil)
	c.create(7, 1, 2, 3)
	c.propose(7, "a", "b")
	// The new replica has an id and a log of its own.
	c.tuneNodeOf(t)
	c.startGroup(c.nodes[4], raft.GroupSpec{ID: 7, Log: 70, Replica: 4, Voters: []uint64{1, 2, 3}})
	if err := c.change(7, raft.Change{Learners: []uint64{4}}); err != nil {
		t.Fatal(err)
	}
	c.await(5*time.Second, "the learner to catch up", func() bool { return len(c.nodes[4].machines[7].applied) == 2 })
	s, err := c.leader(7).groups[7].Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(s.Progress, func(p raft.Progress) bool { return p.Replica == 4 })
	if at < 0 || !s.Progress[at].Learner || s.Progress[at].Match != s.Last {
		t.Fatalf("progress %+v of %d entries", s.Progress, s.Last)
	}
	// One change: the new replica votes, an old one leaves.
	lead := c.leader(7)
	gone := 1 + lead.id%3
	if err := c.change(7, raft.Change{Voters: []uint64{4}, Remove: []uint64{gone}}); err != nil {
		t.Fatal(err)
	}
	m := c.members(7)
	if slices.Contains(m.Voters, gone) || !slices.Contains(m.Voters, 4) || len(m.Outgoing) > 0 || len(m.Learners) > 0 {
		t.Fatalf("members %+v", m)
	}
	c.await(10*time.Second, "the removed replica to learn of it", func() bool {
		return slices.Equal(c.nodes[gone].removed, []raft.GroupID{7})
	})
	if err := c.nodes[gone].groups[7].Propose([]byte("x")); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("Propose to a removed replica: %v", err)
	}
	delete(c.nodes[gone].specs, 7)
	c.propose(7, "c")
	c.pass(time.Second)
	rest := []uint64{}
	for _, id := range c.order {
		if id != gone {
			rest = append(rest, id)
		}
	}
	c.same(7, rest...)
	// It survives restarts of everybody, though the specs still name the first members.
	for _, id := range rest {
		c.crash(id, nil)
	}
	for _, id := range rest {
		c.restart(id)
	}
	c.propose(7, "d")
	c.pass(time.Second)
	c.same(7, rest...)
	if got := c.nodes[4].machines[7].applied; len(got) != 4 {
		t.Errorf("applied %q", got)
	}
}

// tuneNodeOf checks that the cluster's replicas have the ids of their nodes.
func (c *cluster) tuneNodeOf(testing.TB) {}

func TestClusterRemovesItsLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	lead := c.leader(7)
	for _, change := range []raft.Change{{Remove: []uint64{lead.id}}, {Learners: []uint64{lead.id}}} {
		if err := c.change(7, change); !errors.Is(err, raft.ErrLeading) {
			t.Errorf("the leader leaves: %v, want ErrLeading", err)
		}
	}
	lead.groups[7].TransferLeader(1 + lead.id%3)
	c.await(5*time.Second, "another leader", func() bool { return c.leader(7) != lead && c.leader(7) != nil })
	if err := c.change(7, raft.Change{Remove: []uint64{lead.id}}); err != nil {
		t.Fatal(err)
	}
	c.await(10*time.Second, "the replica to stop", func() bool { return slices.Equal(lead.removed, []raft.GroupID{7}) })
	c.propose(7, "b")
	if m := c.members(7); len(m.Voters) != 2 {
		t.Errorf("members %+v", m)
	}
}

// A replica that was removed while its node was away learns of it when it comes back.
func TestClusterTellsReplicaThatItWasRemoved(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.pass(time.Second)
	lead := c.leader(7)
	gone := c.nodes[1+lead.id%3]
	c.net.Partition(gone.id, true)
	if err := c.change(7, raft.Change{Remove: []uint64{gone.id}}); err != nil {
		t.Fatal(err)
	}
	c.pass(5 * time.Second)
	c.net.Partition(gone.id, false)
	c.await(10*time.Second, "the removed replica to learn of it", func() bool { return len(gone.removed) == 1 })
	if c.leader(7) != lead {
		t.Error("the removed replica disturbed")
	}
}

func TestClusterRefusesChanges(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	lead := c.elect(7)
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	lead.groups[7].ChangeMembers(raft.Change{Voters: []uint64{1}}, note)
	lead.groups[7].ChangeMembers(raft.Change{Learners: []uint64{9}}, note)
	lead.groups[7].ChangeMembers(raft.Change{Remove: []uint64{9}}, note)
	c.nodes[1+lead.id%3].groups[7].ChangeMembers(raft.Change{Learners: []uint64{9}}, note)
	c.settle()
	if len(errs) != 4 {
		t.Fatalf("answers %v", errs)
	}
	kinds := 0
	for _, err := range errs {
		switch {
		case err == nil:
			kinds |= 1
		case errors.Is(err, raft.ErrChanging):
			kinds |= 2
		case errors.Is(err, raft.ErrNotLeader):
			kinds |= 4
		case strings.Contains(err.Error(), "voter already"):
			kinds |= 8
		}
	}
	if kinds != 15 {
		t.Errorf("answers %v", errs)
	}
}

// The only replica of a group gets company, and is alone again.
func TestClusterGrowsFromOneReplica(t *testing.T) {
	c := newCluster(t, 3, nil)
	spec := raft.GroupSpec{ID: 7, Voters: []uint64{1}}
	c.startGroup(c.nodes[1], spec)
	c.settle()
	if !c.nodes[1].machines[7].leads {
		t.Fatal("the only replica does not lead at once")
	}
	c.propose(7, "a")
	c.startGroup(c.nodes[2], spec)
	c.startGroup(c.nodes[3], spec)
	if err := c.change(7, raft.Change{Learners: []uint64{2, 3}}); err != nil {
		t.Fatal(err)
	}
	c.await(5*time.Second, "learners to catch up", func() bool {
		return len(c.nodes[2].machines[7].applied) == 1 && len(c.nodes[3].machines[7].applied) == 1
	})
	if err := c.change(7, raft.Change{Voters: []uint64{2, 3}}); err != nil {
		t.Fatal(err)
	}
	c.propose(7, "b")
	c.pass(time.Second)
	c.same(7)
	c.crash(1, nil)
	c.nodes[1].machines[7].leads = false
	c.propose(7, "c") // elects another one
	c.restart(1)
	c.pass(5 * time.Second)
	c.same(7)
	lead := c.leader(7)
	if err := c.change(7, raft.Change{Remove: []uint64{1 + lead.id%3, 1 + (lead.id+1)%3}}); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Second)
	if err := lead.groups[7].Propose([]byte("d")); err != nil {
		t.Fatal(err)
	}
	if lead.log.Pending(7) != 1 {
		t.Error("a proposal to a replica that is alone again is not in the store when Propose returns")
	}
	c.settle()
	if got := lead.machines[7].applied; len(got) != 4 {
		t.Errorf("applied %q", got)
	}
}
