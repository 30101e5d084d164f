package e2e

import (
	"testing"
	"time"

	"millrace/tools/cluster"
)

// TestClusterKillsLeader kills the leader of a stream with SIGKILL; the others go on without it, and it
// comes back.
func TestClusterKillsLeader(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	leader := c.leader(ordersStream)
	c.must(leader.Kill())
	l.progress("without the leader")
	c.must(leader.Start())
	l.progress("with the former leader")
	c.healthy()
	l.finish()
}

// TestClusterKillsFollower kills a follower; nothing stops, and it catches up.
func TestClusterKillsFollower(t *testing.T) {
	long(t)
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	follower := c.followers(ordersStream)[0]
	c.must(follower.Kill())
	l.progress("without a follower")
	c.must(follower.Start())
	c.healthy()
	l.finish()
}

// TestClusterKillsAll kills all nodes in the middle of publishing, twice, and starts them again.
func TestClusterKillsAll(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	for range 2 {
		l.progress("before the kill of all")
		for _, n := range c.Nodes {
			c.must(n.Kill())
		}
		c.must(c.Start())
		l.progress("after the kill of all")
	}
	l.finish()
}

// TestClusterPausesLeader stops the leader in the middle of what it does. When it goes on, others lead,
// and nothing that it says counts.
func TestClusterPausesLeader(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.staleLeaders()
	l.progress("at the start")
	leader := c.leader(ordersStream)
	c.must(leader.Pause())
	// Clients of the paused node find out by their pings.
	l.publishProgress("with a paused leader")
	waitFor(t, healthLimit, "another leader", func() bool { return c.leader(ordersStream) != leader })
	c.must(leader.Resume())
	l.progress("with the former leader")
	l.finish()
}

// TestClusterRestartsRolling stops and starts each node in turn under load, cleanly.
func TestClusterRestartsRolling(t *testing.T) {
	long(t)
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	for _, n := range c.Nodes {
		c.must(n.Stop())
		l.publishProgress("without " + n.Name)
		c.must(n.Start())
		c.healthy()
	}
	l.progress("after all")
	l.finish()
}

// TestClusterTwoOfThree runs with two nodes, then with one, which acknowledges nothing, then with all.
func TestClusterTwoOfThree(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("with three")
	c.must(c.Nodes[2].Kill())
	l.progress("with two")
	c.must(c.Nodes[1].Kill())
	// What the one has sent before the kill may arrive still.
	l.silence(2 * time.Second)
	before := l.acks()
	nc, js := c.client(c.Nodes[0])
	ctx := c.context(3 * time.Second)
	if ack, err := js.Publish(ctx, "orders.alone", nil); err == nil {
		t.Errorf("one node of three acknowledged %+v", ack)
	}
	nc.Close()
	if n := l.acks(); n != before {
		t.Errorf("one node of three acknowledged %d publishes", n-before)
	}
	for _, n := range []*cluster.Node{c.Nodes[1], c.Nodes[2]} {
		c.must(n.Start())
	}
	l.progress("with three again")
	l.finish()
}
