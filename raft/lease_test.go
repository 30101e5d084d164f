package raft_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/raft"
)

// leased reports whether a group's replica on a node has a lease now: LeaseRead then needs no turn.
func leased(n *testNode, id raft.GroupID) bool {
	called := false
	n.groups[id].LeaseRead(func(err error) { called = err == nil })
	return called
}

func TestClusterLeaseReads(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.pass(2 * time.Second)
	lead := c.leader(7)
	if !leased(lead, 7) {
		t.Fatal("a leader that everybody follows has no lease")
	}
	c.await(20*time.Second, "sleep", c.asleep)
	sent := c.net.Sent()
	if !leased(lead, 7) {
		t.Fatal("a sleeping leader has no lease")
	}
	if lead.host.Run(); c.net.Sent() != sent {
		t.Fatal("a read by lease sent something")
	}
	for _, n := range c.nodes {
		if n != lead && leased(n, 7) {
			t.Fatal("a follower has a lease")
		}
	}

	// The lease ends soon after the node is cut off, and nobody is elected before.
	c.net.Partition(lead.id, true)
	ended := c.await(3*time.Second, "the end of the lease", func() bool { return !leased(lead, 7) })
	took := c.await(8*time.Second, "another leader", func() bool { l := c.leader(7); return l != nil && l != lead })
	t.Logf("the lease ended after %s, another leader came %s later", ended, took)
}

func TestClusterHasNoLeaseAfterHandingOver(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.pass(2 * time.Second)
	lead := c.leader(7)
	to := c.nodes[1+lead.id%3]
	lead.groups[7].TransferLeader(to.id)
	lead.host.Run() // MsgTimeoutNow is on its way
	if leased(lead, 7) {
		t.Fatal("a leader that hands over has a lease")
	}
	c.settle()
	if leased(lead, 7) {
		t.Fatal("a leader that handed over has a lease")
	}
	c.pass(time.Second)
	if c.leader(7) != to || !leased(to, 7) {
		t.Fatal("the new leader has no lease")
	}
}

// A node that was restarted does not know what it promised: it must not vote for a while.
func TestClusterLeaseOutlivesVotersRestart(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.await(20*time.Second, "sleep", c.asleep)
	lead := c.leader(7)
	c.net.Partition(lead.id, true)
	for _, n := range c.nodes {
		if n != lead {
			c.crash(n.id, nil)
			c.restart(n.id)
		}
	}
	c.net.Partition(lead.id, true)
	for range 60 {
		c.nodes[1+lead.id%3].groups[7].Campaign() // it would like to be elected at once
		c.tick()
		if l := c.leader(7); l != nil && l != lead && leased(lead, 7) {
			t.Fatal("another leader was elected while the lease held")
		}
	}
	if l := c.leader(7); l == nil || l == lead {
		t.Fatal("no other leader was elected at all")
	}
}

// isBeat reports whether a frame holds a heartbeat of a node and nothing else.
func isBeat(frame []byte) bool { return frame[9] == 2 }

// As long as a node's heartbeats come, nobody replaces the leader there without its consent.
func TestClusterPromiseHoldsVotersBack(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.await(20*time.Second, "sleep", c.asleep)
	lead := c.leader(7)
	c.net.Lose(func(from, to uint64, _ raft.Lane, frame []byte) bool { return from == lead.id && !isBeat(frame) })
	for range 100 {
		c.nodes[1+lead.id%3].groups[7].Campaign()
		c.tick()
		if l := c.leader(7); l != nil && l != lead {
			t.Fatal("another leader was elected against a promise")
		}
	}
	if !lead.machines[7].leads {
		return // without answers it stepped down, but it could not say so
	}
	if !leased(lead, 7) {
		t.Error("the leader has no lease")
	}
}

// A promise that was broken after it had run out does not come back to life.
func TestClusterPromiseDoesNotSpanAGap(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(7)
	c.propose(7, "a")
	c.await(20*time.Second, "sleep", c.asleep)
	lead := c.leader(7)
	c.net.Partition(lead.id, true)
	c.await(10*time.Second, "another leader", func() bool { l := c.leader(7); return l != nil && l != lead })
	c.propose(7, "b")
	if !lead.machines[7].leads {
		t.Fatal("the sleeping leader noticed: nothing is tested")
	}
	c.net.Lose(func(from, to uint64, _ raft.Lane, frame []byte) bool { return to == lead.id && !isBeat(frame) })
	c.net.Partition(lead.id, false)
	for range 30 {
		c.tick()
		if leased(lead, 7) {
			t.Fatal("a leader that was replaced has a lease")
		}
	}
	if !lead.machines[7].leads {
		t.Error("the old leader was told after all: the test shows nothing")
	}
	c.net.Lose(nil)
	c.await(10*time.Second, "the old leader to step down", func() bool { return !lead.machines[7].leads })
	c.pass(5 * time.Second)
	c.same(7)
}

// Whatever happens, no read by lease misses what was applied anywhere before it: clocks run 10 % fast
// and slow, links are cut one way, nodes are restarted, leaders handed over.
func TestClusterLeasesAreSafe(t *testing.T) {
	reads, elections := 0, 0
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		c := newCluster(t, 3, nil)
		c.create(7)
		for _, n := range c.nodes {
			n.drift = 0.9 + 0.2*rng.Float64()
			if rng.IntN(2) == 0 {
				n.drift = []float64{0.9, 1.1}[rng.IntN(2)]
			}
		}
		c.elect(7)
		newest := 0
		learn := func() {
			for _, n := range c.nodes {
				if n.host != nil {
					newest = max(newest, len(n.machines[7].applied))
				}
			}
		}
		for step := range 700 {
			switch rng.IntN(60) {
			case 0, 1, 2:
				from, to := rng.Uint64N(3)+1, rng.Uint64N(3)+1
				if from != to {
					c.net.Cut(from, to, rng.IntN(2) == 0)
				}
			case 3:
				n := c.nodes[rng.Uint64N(3)+1]
				c.crash(n.id, func(_ uint64, pending int) int { return rng.IntN(pending + 1) })
				c.restart(n.id)
			case 4:
				if l := c.leader(7); l != nil {
					l.groups[7].TransferLeader(rng.Uint64N(3) + 1)
				}
			case 5:
				c.nodes[rng.Uint64N(3)+1].groups[7].Campaign()
			case 6, 7:
				for from := range uint64(3) {
					for to := range uint64(3) {
						if from != to {
							c.net.Cut(from+1, to+1, false)
						}
					}
				}
			}
			for _, id := range c.order {
				n := c.nodes[id]
				if n.machines[7].leads {
					_ = n.groups[7].Propose(fmt.Append(nil, step))
				}
			}
			before := elections
			if l := c.leader(7); l != nil {
				elections = max(elections, int(l.machines[7].term))
			}
			_ = before
			c.tick()
			learn()
			for _, id := range c.order {
				n := c.nodes[id]
				want := newest
				n.groups[7].LeaseRead(func(err error) {
					if err != nil || n.host == nil {
						return
					}
					reads++
					if got := len(n.machines[7].applied); got < want {
						t.Fatalf("seed %d, step %d: node %d reads %d entries, %d were applied before", seed, step, id, got, want)
					}
				})
			}
			c.settle()
			learn()
		}
	}
	t.Logf("%d reads, up to %d terms", reads, elections)
	if reads < 2000 {
		t.Errorf("only %d reads were served", reads)
	}
}
