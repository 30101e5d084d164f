package raft_test

import (
	"testing"
	"time"

	"millrace/raft"
)

// onSlowDisks passes time on nodes whose writes take a while, and calls each before every unit of it.
func (c *cluster) onSlowDisks(d, sync time.Duration, each func()) {
	c.t.Helper()
	for range d / (100 * time.Millisecond) {
		each()
		c.tick()
		if c.now.Sub(time.Unix(1000, 0))%sync == 0 {
			for _, n := range c.nodes {
				if n.host != nil {
					n.log.SyncAll()
				}
			}
			c.settle()
		}
	}
}

// The first election of a group takes as long as its votes need to get to the disks, however often the replica that
// is to lead is told to call one.
func TestFirstElectionOnSlowDisks(t *testing.T) {
	for _, first := range []uint64{0, 1, 2, 3} {
		c := newCluster(t, 3, nil)
		for _, n := range c.nodes {
			n.slow = true
			c.startGroup(n, raft.GroupSpec{ID: 7, Voters: c.order, First: first})
		}
		g := c.nodes[max(first, 1)].groups[7]
		c.onSlowDisks(2*time.Second, 500*time.Millisecond, func() {
			if first != 0 {
				g.Campaign()
			}
		})
		// Two votes, one after the other, and an entry.
		lead, term := g.Leader()
		if lead != max(first, 1) || term != 1 || c.leader(7) == nil {
			t.Errorf("first is %d: replica %d leads in term %d, and may propose: %t", first, lead, term, c.leader(7) != nil)
		}
	}
}

// Who asks for votes in vain, because somebody else got one, asks again soon.
func TestSplitVoteIsRepeated(t *testing.T) {
	c := newCluster(t, 4, nil)
	for _, n := range c.nodes {
		c.startGroup(n, raft.GroupSpec{ID: 7, Voters: c.order})
	}
	c.elect(7)
	lead := c.leader(7).id
	for seed := range 10 {
		c.crash(lead, nil)
		took := c.await(8*time.Second, "another leader", func() bool { return c.leader(7) != nil })
		if took > 6*time.Second {
			t.Errorf("election %d took %v", seed, took)
		}
		c.restart(lead)
		lead = c.leader(7).id
		c.pass(3 * time.Second)
	}
}

// Disks that take longer for a vote than a candidate waits at first: it waits longer each time, as do those who voted for it,
// and so there is a leader.
func TestElectionOnVerySlowDisks(t *testing.T) {
	for _, sync := range []time.Duration{2 * time.Second, 4 * time.Second} {
		if sync > 2*time.Second && !commitsWithoutOwnDisk {
			continue // the leader steps down again before its own disk has answered
		}
		c := newCluster(t, 3, nil)
		c.create(7)
		c.propose(7, "a")
		c.pass(2 * time.Second)
		old := c.leader(7).id
		for _, n := range c.nodes {
			n.slow = true
		}
		c.crash(old, nil)
		var took time.Duration
		for c.leader(7) == nil {
			if took += time.Second; took > 2*time.Minute {
				t.Fatalf("no leader within %s on disks that take %s", took, sync)
			}
			c.onSlowDisks(time.Second, sync, func() {})
		}
		_, term := c.leader(7).groups[7].Leader()
		t.Logf("disks that take %s: a leader after %s, in term %d", sync, took, term)
	}
}
