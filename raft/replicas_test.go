package raft_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

func TestClusterElectsAndReplicates(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	if took := c.await(3*time.Second, "a leader", func() bool { return c.leader(7) != nil }); took > time.Second {
		t.Errorf("the leader of a new group took %s", took)
	}
	c.propose(7, "a", "b", "c")
	c.pass(time.Second)
	c.same(7)
	if got := c.nodes[2].machines[7].applied; len(got) != 3 {
		t.Fatalf("applied %q", got)
	}
	follower := c.nodes[2]
	if c.leader(7) == follower {
		follower = c.nodes[3]
	}
	if err := follower.groups[7].Propose([]byte("x")); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("Propose to a follower: %v", err)
	}
	if lead, term := follower.groups[7].Leader(); lead != c.leader(7).id || term == 0 {
		t.Errorf("a follower says that replica %d leads in term %d", lead, term)
	}
}

func TestClusterCommitsWithoutTheLeadersDisk(t *testing.T) {
	if !commitsWithoutOwnDisk {
		t.Skip("this library wants the leader's own disk")
	}
	c := newCluster(t, 3, nil)
	c.create(7)
	lead := c.elect(7)
	lead.slow = true
	c.propose(7, "a", "b")
	c.pass(time.Second)
	if got := lead.machines[7].applied; len(got) != 2 {
		t.Fatalf("the leader applied %q while its disk is slow", got)
	}
	if lead.log.Unsynced() == 0 {
		t.Fatal("the disk was not slow")
	}
	c.same(7)
}

func TestClusterStalledDiskIsTold(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	lead := c.elect(7)
	lead.slow = true
	c.propose(7, "a")
	c.pass(2 * time.Second)
	for _, other := range c.order {
		if other == lead.id {
			continue
		}
		for _, p := range c.nodes[other].host.Peers() {
			if p.DiskOK != (p.Node != lead.id) || p.State != raft.PeerAlive {
				t.Errorf("node %d thinks of node %d: %+v", other, p.Node, p)
			}
		}
	}
}

// asleep tells whether no node does anything for its groups.
func (c *cluster) asleep() bool {
	before := c.net.Sent()
	c.pass(time.Second)
	pairs := len(c.order) * (len(c.order) - 1)
	return c.net.Sent()-before <= 6*pairs // heartbeats only: five a second
}

func TestClusterSleepsAndWakes(t *testing.T) {
	c := newCluster(t, 3, nil)
	const groups = 20
	for id := range raft.GroupID(groups) {
		c.create(id + 1)
	}
	for id := range raft.GroupID(groups) {
		c.propose(id+1, "a")
	}
	c.await(20*time.Second, "sleep", c.asleep)
	c.pass(30 * time.Second)
	for id := range raft.GroupID(groups) {
		if c.leader(id+1) == nil {
			t.Fatalf("group %d lost its leader in its sleep", id+1)
		}
	}
	c.propose(3, "b")
	c.same(3)
	c.await(20*time.Second, "sleep", c.asleep)

	// A dead node keeps no group awake.
	victim := c.elect(3)
	dead := c.nodes[1+victim.id%3]
	c.crash(dead.id, nil)
	c.pass(5 * time.Second)
	c.propose(3, "c")
	c.await(30*time.Second, "sleep beside a dead node", c.asleep)

	// It returns: its replica is told what it missed, though nobody proposes.
	c.restart(dead.id)
	c.await(5*time.Second, "the returned replica to catch up", func() bool {
		return len(dead.machines[3].applied) == 3
	})
	c.same(3)
	c.await(20*time.Second, "sleep", c.asleep)
	// Every replica knows its leader, those of groups where nothing happened too.
	for id := range raft.GroupID(groups) {
		if lead, _ := dead.groups[id+1].Leader(); lead == 0 || c.nodes[lead] != c.leader(id+1) {
			t.Errorf("group %d: the returned replica takes %d for the leader", id+1, lead)
		}
	}
}

func TestClusterFailsOverSleepingGroups(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.MaxCampaigns = 20 })
	const groups = 60
	for id := range raft.GroupID(groups) {
		c.create(id + 1)
	}
	for id := range raft.GroupID(groups) {
		c.propose(id+1, "a")
	}
	c.await(20*time.Second, "sleep", c.asleep)
	led := map[uint64]int{}
	for id := range raft.GroupID(groups) {
		led[c.leader(id+1).id]++
	}
	victim := c.leader(1).id
	c.crash(victim, nil)
	took := c.await(10*time.Second, "leaders of all groups", func() bool {
		for id := range raft.GroupID(groups) {
			if c.leader(id+1) == nil {
				return false
			}
		}
		return true
	})
	t.Logf("%d of %d groups elected other leaders %s after their node died", led[victim], groups, took)
	if took > 6*time.Second {
		t.Errorf("the elections took %s", took)
	}
	for id := range raft.GroupID(groups) {
		c.propose(id+1, "b")
	}
	c.restart(victim)
	c.pass(10 * time.Second)
	for id := range raft.GroupID(groups) {
		c.same(id + 1)
	}
}

// A node that was restarted so quickly that nobody took it for dead leads nothing any more.
func TestClusterNoticesQuickRestart(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.await(20*time.Second, "sleep", c.asleep)
	victim := c.leader(7).id
	c.crash(victim, nil)
	c.restart(victim)
	took := c.await(8*time.Second, "a leader", func() bool { return c.leader(7) != nil })
	t.Logf("a leader %s after the restart", took)
	c.propose(7, "b")
	c.pass(time.Second)
	c.same(7)
}

// The leader's replica stops while its node lives on.
func TestClusterReplacesStoppedLeader(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("word lost ", lost), func(t *testing.T) {
			c := newCluster(t, 3, nil)
			c.create(7)
			c.propose(7, "a")
			c.await(20*time.Second, "sleep", c.asleep)
			lead := c.leader(7)
			lead.groups[7].Stop()
			lead.machines[7].leads = false
			if lost {
				c.net.Lose(func(_, _ uint64, _ raft.Lane, _ []byte) bool { return true })
				c.net.Lose(nil)
				c.pass(5 * time.Second)
				if c.leader(7) != nil {
					t.Fatal("the word was not lost")
				}
				// Somebody wants to propose.
				other := c.nodes[1+lead.id%3]
				if err := other.groups[7].Propose([]byte("x")); !errors.Is(err, raft.ErrNotLeader) {
					t.Fatal(err)
				}
			}
			took := c.await(6*time.Second, "another leader", func() bool { return c.leader(7) != nil })
			t.Logf("another leader after %s", took)
		})
	}
}

func TestClusterPartition(t *testing.T) {
	c := newCluster(t, 5, nil)
	c.create(7)
	c.propose(7, "a")
	old := c.leader(7)
	c.net.Partition(old.id, true)
	if err := old.groups[7].Propose([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	c.await(10*time.Second, "another leader", func() bool { l := c.leader(7); return l != nil && l != old })
	c.propose(7, "b")
	if got := old.machines[7].applied; len(got) != 1 {
		t.Fatalf("the cut-off leader applied %q", got)
	}
	c.await(10*time.Second, "the cut-off leader to step down", func() bool { return !old.machines[7].leads })
	if err := old.groups[7].Propose([]byte("x")); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("Propose to the cut-off replica: %v", err)
	}
	_, before := c.leader(7).groups[7].Leader()
	c.net.Partition(old.id, false)
	c.pass(10 * time.Second)
	c.same(7)
	if _, after := c.leader(7).groups[7].Leader(); after != before {
		t.Errorf("the returned replica disturbed: term %d became %d", before, after)
	}
	if got := c.leader(7).machines[7].applied; len(got) != 2 {
		t.Errorf("applied %q", got)
	}
}

// A node that takes nothing is neither waited for nor does it make others wait; the groups go on
// when it takes again.
func TestClusterSlowPeerStallsNobody(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.create(8)
	lead := c.elect(7)
	slow := c.nodes[1+lead.id%3]
	c.net.Full(lead.id, slow.id, true)
	for i := range 50 {
		c.propose(7, fmt.Sprint(i))
	}
	if got := len(lead.machines[7].applied); got != 50 {
		t.Fatalf("%d entries are applied beside a slow node", got)
	}
	c.pass(3 * time.Second)
	if c.leader(7) != lead {
		t.Fatal("leadership changed")
	}
	c.net.Full(lead.id, slow.id, false)
	c.settle() // without waiting for a heartbeat
	c.settle()
	c.same(7)
}

func TestClusterBoundsInbox(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.MaxInboxBytes = 2000 })
	c.create(7)
	lead := c.elect(7)
	for range 100 {
		if err := lead.groups[7].Propose([]byte(strings.Repeat("x", 500))); err != nil {
			t.Fatal(err)
		}
		lead.host.Run()
		lead.log.SyncAll()
	}
	c.net.Deliver(1 << 20) // all at once: more than an inbox takes
	dropped := uint64(0)
	for _, n := range c.nodes {
		dropped += n.host.Stats().Dropped
	}
	if dropped == 0 {
		t.Fatal("nothing was dropped")
	}
	c.await(10*time.Second, "everything to be applied", func() bool { return len(c.leader(7).machines[7].applied) == 100 })
	c.pass(2 * time.Second)
	c.same(7)
}

func TestClusterReportsUnknownGroups(t *testing.T) {
	type call struct {
		id   raft.GroupID
		node uint64
	}
	var calls []call
	c := newCluster(t, 3, func(cfg *raft.Config) {
		if cfg.Node == 3 {
			cfg.OnUnknownGroup = func(id raft.GroupID, node uint64) { calls = append(calls, call{id, node}) }
		}
	})
	for node := range uint64(2) {
		c.startGroup(c.nodes[node+1], raft.GroupSpec{ID: 7, Voters: []uint64{1, 2, 3}})
	}
	c.propose(7, "a")
	c.pass(2 * time.Second)
	if len(calls) == 0 || calls[0].id != 7 || len(calls) > 8 {
		t.Fatalf("calls %v", calls)
	}
	if c.nodes[3].host.Stats().UnknownGroup == 0 {
		t.Error("nothing was counted")
	}
	c.nodes[3].host.Receive(1, raft.LaneControl, []byte("nonsense"))
	if c.nodes[3].host.Stats().BadFrames != 1 {
		t.Error("a bad frame was not counted")
	}
}

// A replica that has applied what the others have not gives up, and does not ask for the same entries without end.
func TestClusterQuarantinesReplicaThatDiverged(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, n := range c.nodes {
		w := raft.Write{
			Group: 7, Entries: []raft.Entry{{Index: 1, Term: 1}, {Index: 2, Term: 2}}, State: &raft.HardState{Term: 2, Commit: 1},
			Done: func() {},
		}
		if n.id == 3 {
			w.Entries[1].Term, w.State = 1, &raft.HardState{Term: 1, Commit: 2}
		}
		n.log.Append(w)
	}
	c.create(7)
	victim := c.nodes[3]
	before := c.net.Sent()
	c.await(20*time.Second, "the failure", func() bool { return len(victim.failures) > 0 })
	if !errors.Is(victim.failures[0], raft.ErrDiverged) {
		t.Errorf("failure %v", victim.failures[0])
	}
	if sent := c.net.Sent() - before; sent > 1000 {
		t.Errorf("%d frames were sent until then", sent)
	}
	c.propose(7, "more")
	if len(victim.failures) != 1 {
		t.Errorf("failures %v", victim.failures)
	}
}

// A replica that lost what it had acknowledged neither votes nor spins nor panics without end.
func TestClusterQuarantinesReplicaThatLostEntries(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a", "b")
	lead := c.leader(7)
	victim := c.nodes[1+lead.id%3]
	early := victim.log.Crash(nil) // as it is now
	for i := range 10 {
		c.propose(7, fmt.Sprint(i))
	}
	c.crash(victim.id, nil)
	victim.log = early
	before := c.net.Sent()
	c.restart(victim.id)
	c.await(5*time.Second, "the failure", func() bool { return len(victim.failures) > 0 })
	if !errors.Is(victim.failures[0], raft.ErrLostEntries) || strings.Contains(victim.failures[0].Error(), "panic") {
		t.Errorf("failure %v", victim.failures[0])
	}
	if sent := c.net.Sent() - before; sent > 1000 {
		t.Errorf("%d frames were sent until then", sent)
	}
	c.pass(5 * time.Second)
	c.propose(7, "more")
	if len(victim.failures) != 1 {
		t.Errorf("failures %v", victim.failures)
	}
}

func TestClusterReadIndex(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	lead := c.leader(7)
	before := c.net.Sent()
	served := 0
	for range 100 {
		lead.groups[7].ReadIndex(func(err error) {
			if err != nil {
				t.Error(err)
			}
			served++
		})
	}
	lead.host.Run()
	if served > 0 {
		t.Fatal("reads were served without a word from others")
	}
	c.settle()
	if served != 100 {
		t.Fatalf("%d reads of 100 were served", served)
	}
	if sent := c.net.Sent() - before; sent > 8 {
		t.Errorf("100 reads took %d frames", sent)
	}
	var err error
	c.nodes[1+lead.id%3].groups[7].ReadIndex(func(e error) { err = e })
	if !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("ReadIndex of a follower: %v", err)
	}

	// A leader that is cut off serves none.
	var cut []error
	c.net.Partition(lead.id, true)
	lead.groups[7].ReadIndex(func(e error) { cut = append(cut, e) })
	c.pass(10 * time.Second)
	if len(cut) != 1 || !errors.Is(cut[0], raft.ErrNotLeader) {
		t.Errorf("read of a leader that is cut off: %v", cut)
	}
}

func TestClusterTransfersLeadership(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	lead := c.leader(7)
	to := c.nodes[1+lead.id%3]
	lead.groups[7].TransferLeader(to.id)
	lead.host.Run()
	if err := lead.groups[7].Propose([]byte("x")); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("Propose while handing over: %v", err)
	}
	c.settle()
	if c.leader(7) != to {
		t.Fatal("leadership was not handed over at once")
	}
	c.propose(7, "b")
	c.same(7)

	// To one that does not answer: it is given up.
	lead, to = to, lead
	c.net.Partition(to.id, true)
	lead.groups[7].TransferLeader(to.id)
	c.settle()
	c.await(10*time.Second, "the transfer to be given up", func() bool {
		return c.leader(7) == lead && lead.groups[7].Propose([]byte("c")) == nil
	})
	c.settle()
	if got := lead.machines[7].applied; got[len(got)-1] != "c" {
		t.Errorf("applied %q", got)
	}
}

func TestClusterStatus(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	lead := c.leader(7)
	s, err := lead.groups[7].Status(context.Background())
	if err != nil || s.Lead != lead.id || len(s.Progress) != 2 || s.Commit != s.Last || len(s.Members.Voters) != 3 {
		t.Fatalf("status %+v, %v", s, err)
	}
	for _, p := range s.Progress {
		if p.Match != s.Last || p.Learner {
			t.Errorf("progress %+v", p)
		}
	}
	lead.groups[7].Stop()
	if _, err := lead.groups[7].Status(context.Background()); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("status of a stopped group: %v", err)
	}
}
