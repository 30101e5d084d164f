package e2e

import (
	"slices"
	"testing"
	"time"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// startPartition starts three nodes in a network that can be cut, with load. Clients reach all nodes
// whatever is cut.
func startPartition(t *testing.T) (*testCluster, *load) {
	c := startNodes(t, 3, inNetwork(t, 3))
	l := c.startLoad(3)
	l.staleLeaders()
	l.progress("at the start")
	return c, l
}

// heal makes the network perfect and checks everything.
func (l *load) heal(what string) {
	l.c.t.Helper()
	l.c.Heal()
	l.progress("healed: " + what)
}

// ofOthers are publishers whose node is none of those given.
func (l *load) ofOthers(nodes ...*cluster.Node) []*workload.Publisher {
	return slices.DeleteFunc(slices.Concat(l.publishers, l.feeders), func(p *workload.Publisher) bool {
		return slices.ContainsFunc(nodes, func(n *cluster.Node) bool { return p.Conn.ConnectedUrl() == n.URL() })
	})
}

// ofThese are publishers whose node is one of those given.
func (l *load) ofThese(nodes ...*cluster.Node) []*workload.Publisher {
	return l.ofOthers(l.c.Others(nodes...)...)
}

// publisherProgress waits until each of the publishers gets on.
func (l *load) publisherProgress(what string, publishers []*workload.Publisher) {
	l.c.t.Helper()
	if len(publishers) == 0 {
		l.c.t.Fatalf("no publishers: %s", what)
	}
	for _, p := range publishers {
		before := p.Acks()
		waitFor(l.c.t, healthLimit, "acknowledged publishes of "+p.ID+": "+what, func() bool { return p.Acks() > before+20 })
	}
}

// TestClusterSplits cuts the network in shapes, one after the other: the side with two nodes goes on, the
// other acknowledges nothing, and all is whole when the network is.
func TestClusterSplits(t *testing.T) {
	c, l := startPartition(t)
	leader := c.leader(ordersStream)
	c.Split([]*cluster.Node{leader}, c.Others(leader))
	l.publisherProgress("the leader alone", l.ofOthers(leader))
	l.silenceOf(2*time.Second, l.ofThese(leader))
	l.heal("the leader alone")

	follower := c.followers(ordersStream)[0]
	c.Split([]*cluster.Node{follower}, c.Others(follower))
	l.publisherProgress("a follower alone", l.ofOthers(follower))
	l.silenceOf(2*time.Second, l.ofThese(follower))
	l.heal("a follower alone")
	l.finish()
}

// TestClusterSplitsAll cuts every node from every other: nothing is acknowledged until it is healed.
func TestClusterSplitsAll(t *testing.T) {
	long(t)
	c, l := startPartition(t)
	c.Split(c.Nodes[:1], c.Nodes[1:2], c.Nodes[2:])
	l.silence(2 * time.Second)
	l.heal("all alone")
	l.finish()
}

// TestClusterHalfDeaf cuts one direction only: a leader that is not heard, one that does not hear, and
// two nodes that do not hear each other while the third hears both.
func TestClusterHalfDeaf(t *testing.T) {
	long(t)
	c, l := startPartition(t)
	leader := c.leader(ordersStream)
	c.Cut([]*cluster.Node{leader}, c.Others(leader))
	l.publisherProgress("a leader that is not heard", l.ofOthers(leader))
	l.heal("a leader that is not heard")

	leader = c.leader(ordersStream)
	c.Cut(c.Others(leader), []*cluster.Node{leader})
	l.publisherProgress("a leader that does not hear", l.ofOthers(leader))
	l.heal("a leader that does not hear")

	leader = c.leader(ordersStream)
	follower := c.followers(ordersStream)[0]
	c.Split([]*cluster.Node{leader}, []*cluster.Node{follower})
	l.publishProgress("two that do not hear each other")
	l.heal("two that do not hear each other")
	l.finish()
}

// TestClusterSlowLink has one node at the end of a slow line: the quorum does not wait for it, and it
// catches up.
func TestClusterSlowLink(t *testing.T) {
	c, l := startPartition(t)
	slow := c.followers(ordersStream)[0]
	line := cluster.Link{Delay: 60 * time.Millisecond, Rate: 250_000}
	c.Link([]*cluster.Node{slow}, c.Others(slow), line)
	c.Link(c.Others(slow), []*cluster.Node{slow}, line)
	l.publisherProgress("a slow follower", l.ofOthers(slow))

	// A publish at the leader takes as long as the fast follower needs.
	leader := c.leader(ordersStream)
	_, js := c.client(leader)
	best := time.Hour
	for range 20 {
		begun := time.Now()
		if _, err := js.Publish(c.context(10*time.Second), "orders.slow", nil); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(begun))
	}
	if leader != slow && best > line.Delay {
		t.Errorf("a publish takes %s at best, with a line of %s to one of two followers", best, line.Delay)
	}
	t.Logf("a publish takes %s at best", best)
	l.heal("a slow follower")
	l.finish()
}

// TestClusterLongLines has 30 ms between any two nodes: everything works, slower.
func TestClusterLongLines(t *testing.T) {
	long(t)
	c, l := startPartition(t)
	c.Link(c.Nodes, c.Nodes, cluster.Link{Delay: 30 * time.Millisecond})
	l.progress("long lines")
	leader := c.leader(ordersStream)
	c.must(leader.Kill())
	l.progress("long lines without the leader")
	c.must(leader.Start())
	l.heal("long lines")
	l.finish()
}
