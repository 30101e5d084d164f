package core_test

import (
	"errors"
	"strings"
	"testing"

	"millrace/raft/core"
)

func (m *member) change(change core.Change) {
	m.c.t.Helper()
	if err := m.core.ProposeChange(change); err != nil {
		m.c.t.Fatalf("change %+v: %v", change, err)
	}
}

func (c *cluster) wantMembers(want string, ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		s := c.replicas[id].core.Status()
		if got := describe(&s.Members); got != want {
			c.t.Fatalf("replica %d has %s, want %s", id, got, want)
		}
	}
}

// A replica joins as a learner, gets the log, and takes the place of a voter in one joint change.
func TestCoreReplacesVoterThroughLearner(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	lead.change(core.Change{Learners: []uint64{4}})
	c.run()
	c.start(4, newLog())
	c.tick(4)
	c.wantMembers("voters [1 2 3] learners [4]", 1, 2, 3, 4)
	c.wantPayloads("a", 4)
	if p := lead.progress(4); !p.Learner || p.Match != lead.core.Status().Last || !p.Active {
		t.Fatalf("progress %+v, want a learner that has all", p)
	}

	// The learner counts in no quorum.
	c.cut[2], c.cut[3] = true, true
	lead.propose("b")
	c.run()
	c.wantPayloads("a", 1, 4)
	c.cut[2], c.cut[3] = false, false
	c.tick(6)
	c.wantPayloads("a b", 1, 2, 3, 4)

	lead.change(core.Change{Voters: []uint64{4}, Remove: []uint64{3}})
	c.run()
	c.tick(6)
	c.wantMembers("voters [1 2 4]", 1, 2, 4)
	c.cut[2] = true
	lead.propose("c")
	c.run()
	c.tick(2)
	c.wantPayloads("a b c", 1, 4)

	// All of it is found again after a restart.
	for _, id := range []uint64{1, 2, 4} {
		c.crash(id, 0, false)
	}
	c.cut[2] = false
	c.elect(4)
	c.wantMembers("voters [1 2 4]", 1, 2, 4)
	c.wantPayloads("a b c", 1, 2, 4)
}

// In a joint configuration both majorities decide; then the leader leaves it by itself.
func TestCoreJointChangeNeedsBothMajorities(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.change(core.Change{Learners: []uint64{4, 5}})
	c.run()
	c.start(4, newLog())
	c.start(5, newLog())
	c.tick(6)
	c.wantMembers("voters [1 2 3] learners [4 5]", 1, 2, 3, 4, 5)
	// 1 and 4 and 5 are to be the voters. The outgoing majority is cut off once the change is on it.
	lead.change(core.Change{Voters: []uint64{4, 5}, Remove: []uint64{2}, Learners: []uint64{3}})
	for lead.core.Status().Members.Outgoing == nil {
		for _, id := range c.ids() {
			c.replicas[id].work()
		}
		c.deliver(0)
		lead.work()
	}
	c.wantMembers("voters [1 4 5] outgoing [1 2 3] next [3] auto true", 1)
	if err := lead.core.ProposeChange(core.Change{Learners: []uint64{6}}); !errors.Is(err, core.ErrChanging) {
		t.Fatalf("a second change: %v, want ErrChanging", err)
	}
	c.cut[2], c.cut[3] = true, true
	lead.propose("a")
	c.tick(4)
	c.wantPayloads("", 1)
	c.cut[3] = false
	c.tick(8)
	c.wantPayloads("a", 1, 3, 4, 5)
	c.wantMembers("voters [1 4 5] learners [3]", 1, 3, 4, 5)
}

func TestCoreLeaderThatIsRemovedStepsDown(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	lead.change(core.Change{Remove: []uint64{1}})
	c.tick(4)
	if lead.role == core.Leader {
		t.Fatal("the removed replica leads")
	}
	if err := lead.core.Propose([][]byte{[]byte("x")}); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("propose to the removed replica: %v", err)
	}
	c.wantMembers("voters [2 3]", 1)
	delete(c.replicas, 1)
	c.tick(60)
	next := c.leader()
	next.propose("b")
	c.tick(4)
	c.wantPayloads("a b", 2, 3)
	c.wantMembers("voters [2 3]", 2, 3)
}

// A leader that becomes a learner steps down and follows the next one.
func TestCoreLeaderThatBecomesLearnerStepsDown(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.change(core.Change{Learners: []uint64{1}})
	c.tick(60)
	next := c.leader()
	if next == lead || lead.role != core.Follower {
		t.Fatalf("replica 1 has role %d, %d leads", lead.role, next.id)
	}
	next.propose("a")
	c.tick(4)
	c.wantPayloads("a", 1, 2, 3)
	c.wantMembers("voters [2 3] learners [1]", 1, 2, 3)
}

func TestCoreRefusesChanges(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	if err := c.replicas[1].core.ProposeChange(core.Change{Remove: []uint64{2}}); !errors.Is(err, core.ErrDropped) {
		t.Errorf("change on a follower: %v, want ErrDropped", err)
	}
	lead := c.elect(1)
	lead.change(core.Change{Learners: []uint64{4}})
	if err := lead.core.ProposeChange(core.Change{Remove: []uint64{2}}); !errors.Is(err, core.ErrChanging) {
		t.Errorf("change during a change: %v, want ErrChanging", err)
	}
	c.run()
	for want, change := range map[string]core.Change{
		"nothing changes":              {},
		"replica id 0 is not valid":    {Voters: []uint64{0}},
		"replica 5 is named twice":     {Voters: []uint64{5}, Learners: []uint64{5}},
		"replica 2 is a voter already": {Voters: []uint64{2}},
		"replica 4 is a learner alrea": {Learners: []uint64{4}},
		"replica 9 is not a member":    {Remove: []uint64{9}},
		"no voter would be left":       {Remove: []uint64{1, 2}, Learners: []uint64{3}},
	} {
		if err := lead.core.ProposeChange(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("change %+v: %v, want %q", change, err, want)
		}
	}
	c.run()
	c.wantMembers("voters [1 2 3] learners [4]", 1, 2, 3)
}

// A new leader does not know whether a change of an earlier term is pending until all is applied.
func TestCoreNewLeaderWaitsBeforeChange(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.elect(1)
	c.drop = func(m *core.Message) bool { return m.Type == core.MsgAppResp && m.To == 2 }
	c.cut[1] = true
	c.replicas[3].core.ForgetLeader()
	c.run()
	if err := c.replicas[2].core.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.run()
	lead := c.replicas[2]
	if lead.role != core.Leader {
		t.Fatalf("replica 2 has role %d", lead.role)
	}
	// Entry 1 is applied here if the old leader had the time to say that it is committed.
	if s := lead.core.Status(); s.Applied == 0 {
		if err := lead.core.ProposeChange(core.Change{Remove: []uint64{1}}); !errors.Is(err, core.ErrChanging) {
			t.Fatalf("change before all is applied: %v, want ErrChanging", err)
		}
	}
	c.drop = nil
	c.tick(4)
	lead.change(core.Change{Remove: []uint64{1}})
	c.tick(4)
	c.wantMembers("voters [2 3]", 2, 3)
}

// A replica that restarts must not campaign with a membership that is two changes old, which a stale
// commit index would make it do: the voters 2 and 3 of the first one would elect it, while 1, 4 and 5
// committed without them.
func TestCoreRestartKnowsAllChangesButTheLast(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.tick(4)
	c.cut[3] = true
	lead.change(core.Change{Voters: []uint64{4}}) // on 1 and 2
	c.run()
	c.start(4, newLog())
	c.start(5, newLog())
	c.tick(4)
	c.wantMembers("voters [1 2 3 4]", 1, 2, 4)
	c.cut[2] = true
	lead.change(core.Change{Voters: []uint64{5}}) // on 1, 4 and, together with the first one, 3
	c.tick(2)
	c.cut[3], c.slow = false, map[uint64]bool{3: true}
	m := c.replicas[3]
	last := lead.core.Status().Last
	for m.log.durable.last() < last {
		c.tick(1, 1)
		m.sync(1)
	}
	c.run()
	c.tick(4, 1)
	c.wantMembers("voters [1 2 3 4 5]", 1, 4, 5)
	c.cut[3] = true
	lead.propose("a")
	c.tick(4, 1)
	c.wantPayloads("a", 1, 4, 5)

	// Now 2 and 3 are alone. 3 has the changes in its log, but its stored commit index is old.
	c.cut, c.slow, c.queue = map[uint64]bool{1: true, 4: true, 5: true}, nil, nil
	m = c.crash(3, 0, false)
	if hs, _ := m.log.State(group); hs.Commit >= 2 || m.log.now.last() != last {
		t.Fatalf("the stored commit index is %d, the last entry %d", hs.Commit, m.log.now.last())
	}
	m.work()
	c.wantMembers("voters [1 2 3 4]", 3)
	c.crash(2, 0, false)
	c.tick(100, 2, 3)
	if m.role == core.Leader || c.replicas[2].role == core.Leader {
		t.Fatal("2 of 5 voters elected a leader")
	}
	c.cut = map[uint64]bool{}
	c.tick(60)
	c.wantPayloads("a", 1, 2, 3, 4, 5)
}

// Who leaves last may be needed by those who do not know yet that it has left. It refuses to vote for
// shorter logs than its own, but tells them what they need to know.
func TestCoreLeftReplicaTellsWhatIsCommitted(t *testing.T) {
	c := newCluster(t, 1, 2)
	lead := c.elect(2)
	c.tick(4)
	// Entry 2 begins the change, entry 3 ends it. Replica 1 gets both, but does not hear that the second
	// one is committed, nor gets an entry after it.
	var answer *core.Message
	c.drop = func(m *core.Message) bool {
		if m.From == 1 && m.Type == core.MsgAppResp && m.Index == 3 {
			answer = m
			return true
		}
		n := len(m.Entries)
		return m.To == 1 && (m.Commit >= 3 || n > 0 && m.Entries[n-1].Index > 3)
	}
	lead.change(core.Change{Remove: []uint64{2}, Learners: []uint64{3}})
	for range 6 {
		c.tick(1, 2)
	}
	if answer == nil {
		t.Fatal("replica 1 does not get the entry that ends the change")
	}
	lead.propose("nobody else has this")
	if err := lead.core.Step(answer); err != nil {
		t.Fatal(err)
	}
	c.run()
	c.wantMembers("voters [1] learners [3]", 2)
	c.wantMembers("voters [1] learners [3] outgoing [1 2] next [] auto true", 1)
	c.drop = nil
	c.tick(60, 1)
	c.wantMembers("voters [1] learners [3]", 1)
	if c.replicas[1].role != core.Leader || lead.role == core.Leader {
		t.Fatalf("replica 1 has role %d, the one that left %d", c.replicas[1].role, lead.role)
	}
}

// A joint change ends even when its time came while leadership was being handed over, which failed.
func TestCoreLeavesJointChangeAfterFailedTransfer(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.tick(4)
	c.drop = func(m *core.Message) bool { return m.Type == core.MsgTimeoutNow }
	lead.change(core.Change{Remove: []uint64{3}, Learners: []uint64{4}})
	lead.core.TransferLeader(2)
	c.run()
	c.tick(40)
	c.drop = nil
	next := c.leader()
	c.tick(10)
	c.wantMembers("voters [1 2] learners [4]", next.id, 1, 2)
}

// When a membership change is applied, the commit index is stored, so that the group does not depend
// on those that left after a power failure.
func TestCoreStoresCommitOfChange(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.change(core.Change{Remove: []uint64{3}})
	c.tick(4)
	for _, id := range []uint64{1, 2} {
		if hs, _ := c.replicas[id].log.State(group); hs.Commit < 2 {
			t.Errorf("replica %d has stored %+v, the change is entry 2", id, hs)
		}
	}
	lead.propose("a")
	c.tick(4)
	if s := lead.core.Status(); s.Stored < 2 || lead.progress(2).Commit < 2 {
		t.Errorf("the leader knows of commit %d on its disk and %d on the other", s.Stored, lead.progress(2).Commit)
	}
}

// The members of a snapshot take the place of those with which the log began.
func TestCoreJoinsBySnapshot(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	lead.change(core.Change{Learners: []uint64{4}})
	c.run()
	c.tick(2)
	lead.snapshot()
	lead.propose("b")
	c.start(4, newLog())
	c.tick(6)
	c.wantPayloads("b", 4)
	c.wantMembers("voters [1 2 3] learners [4]", 4)
	c.crash(4, 0, false)
	c.wantMembers("voters [1 2 3] learners [4]", 4)
	lead.change(core.Change{Voters: []uint64{4}, Remove: []uint64{2}})
	c.tick(6)
	c.wantMembers("voters [1 3 4]", 1, 3, 4)
}
