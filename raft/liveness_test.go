package raft_test

import (
	"testing"
	"time"

	"millrace/raft"
)

// watched is a cluster of three with a leader, and counts how often its nodes think worse of each other.
func watched(t *testing.T) (c *cluster, suspected, died *int) {
	suspected, died = new(int), new(int)
	c = newCluster(t, 3, func(cfg *raft.Config) {
		cfg.OnPeer = func(_ uint64, state raft.PeerState) {
			switch state {
			case raft.PeerSuspect:
				*suspected++
			case raft.PeerDead:
				*died++
			}
		}
	})
	c.create(7)
	c.propose(7, "a")
	c.pass(2 * time.Second)
	return c, suspected, died
}

// All stand still, as on a machine whose memory is saved, and then look at the clock before they look at what came.
func TestClusterHeldUpKeepsItsLeaders(t *testing.T) {
	c, suspected, died := watched(t)
	lead := c.elect(7)
	_, term := lead.groups[7].Leader()
	for range 10 {
		c.now = c.now.Add(20 * time.Second)
		c.tick()
		c.tick()
	}
	c.propose(7, "b")
	c.same(7)
	if l := c.elect(7); l != lead || *suspected+*died > 0 {
		t.Errorf("node %d leads, before it was %d; nodes were suspected %d times and taken for dead %d times",
			l.id, lead.id, *suspected, *died)
	}
	if _, now := lead.groups[7].Leader(); now != term {
		t.Errorf("term %d became %d", term, now)
	}
}

// A node whose heartbeats come late is suspected once. It is given more time then, but not for ever: neither if
// it dies, nor when it was well for a while.
func TestClusterLearnsPatience(t *testing.T) {
	c, suspected, died := watched(t)
	victim := c.elect(7)
	silence := func(d time.Duration) {
		c.net.Lose(func(from, _ uint64, _ raft.Lane, f []byte) bool { return from == victim.id && isBeat(f) })
		c.pass(d)
		c.net.Lose(nil)
		c.pass(500 * time.Millisecond)
	}
	for range 10 {
		silence(1800 * time.Millisecond)
	}
	if *suspected != 2 || *died != 0 {
		t.Fatalf("a node that was silent ten times was suspected %d times and taken for dead %d times by two others", *suspected, *died)
	}

	c.crash(victim.id, nil)
	gone := func() bool { return *died == 2 }
	took := c.await(10*time.Second, "its death", gone)
	t.Logf("a slow node was missed after %s", took)
	if took < 4*time.Second || took > 5*time.Second {
		t.Errorf("a slow node was missed after %s", took)
	}
	c.restart(victim.id)
	c.pass(2 * time.Second)
	*died = 0
	victim = c.elect(7)
	c.crash(victim.id, nil)
	if took := c.await(10*time.Second, "its death", gone); took > 2700*time.Millisecond {
		t.Errorf("a node that was never silent was missed after %s", took)
	}
	c.restart(victim.id)
	c.pass(2 * time.Second)

	victim = c.elect(7)
	silence(1800 * time.Millisecond)
	c.pass(31 * time.Second)
	*died = 0
	c.crash(victim.id, nil)
	if took := c.await(10*time.Second, "its death", gone); took > 2700*time.Millisecond {
		t.Errorf("a node that was silent half a minute ago was missed after %s", took)
	}
}
