package e2e

import (
	"slices"
	"testing"
	"time"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// TestClusterWipesNode takes a node's disk away: it comes back empty and is a full replica again.
func TestClusterWipesNode(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	for _, n := range []*cluster.Node{c.followers(ordersStream)[0], c.leader(ordersStream)} {
		c.must(n.Kill())
		c.must(n.Wipe())
		l.publishProgress("without " + n.Name)
		c.must(n.Start())
		c.rejoined(n)
	}
	l.progress("after two wipes")
	l.finish()
}

// TestClusterWipedNodeDoesNotDecide takes away the disk of a node that had confirmed what only the
// leader has beside it, and starts it with a node that was down meanwhile, without the leader. The two are
// two of three, and hold nothing of what was acknowledged: they may not go on without the leader.
func TestClusterWipedNodeDoesNotDecide(t *testing.T) {
	c := startNodes(t, 3)
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	l := &load{c: c, bucket: &workload.Bucket{Name: bucketName}}
	l.createStreams(3, c.Nodes[0])
	c.healthy()
	leader := c.leader(ordersStream)
	followers := c.followers(ordersStream)
	wiped, late := followers[0], followers[1]

	c.must(late.Kill())
	p := &workload.Publisher{ID: "P", Subject: "orders", Conn: nc, Window: 8}
	stop := publishing(t, p)
	waitFor(t, healthLimit, "acknowledged publishes", func() bool { return p.Acks() > 200 })
	stop()
	c.must(leader.Kill())
	c.must(wiped.Kill())
	c.must(wiped.Wipe())
	c.must(wiped.Start())
	c.must(late.Start())

	q := &workload.Publisher{ID: "Q", Subject: "orders", Conn: nc, Timeout: time.Second}
	stop = publishing(t, q)
	// Time enough for an election, if they want one.
	for deadline := time.Now().Add(8 * time.Second); q.Acks() < 20 && time.Now().Before(deadline); {
		cluster.Poll()
	}
	early := q.Acks()
	t.Logf("%d publishes acknowledged without any node that has the others", early)
	c.must(leader.Start())
	waitFor(t, healthLimit, "acknowledged publishes with the leader", func() bool { return q.Acks() > early+20 })
	stop()
	c.healthy()
	all, err := workload.ReadAll(c.context(healthLimit), nc, ordersStream)
	c.must(err)
	found := workload.CheckPublished(all[0], []workload.Published{p.Published(), q.Published()})
	if found == nil {
		found = workload.CheckEqual(all)
	}
	c.tolerate("which counts a wiped node as the one that it was", found)
}

// TestClusterLateNodeIsEmpty wipes a node that was down for a while. When it is a full replica again it
// is worth as much as the others: with one of them it goes on.
func TestClusterLateNodeIsEmpty(t *testing.T) {
	long(t)
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	i := slices.Index(c.Nodes, c.followers(ordersStream)[0])
	late := c.Nodes[i]
	c.must(late.Kill())
	l.progress("without a follower")
	c.must(late.Wipe())
	c.must(late.Start())
	other := c.Nodes[(i+1)%3]
	c.rejoined(late)
	c.must(other.Kill())
	l.progress("the wiped node is half of the quorum")
	c.must(other.Start())
	l.finish()
}

// rejoined waits until a node that was wiped is worth as much as the others: it can lead every stream. A
// leader that has not noticed yet calls it current all the time.
func (c *testCluster) rejoined(n *cluster.Node) {
	c.t.Helper()
	nc, err := c.ConnectAny(n)
	c.must(err)
	defer nc.Close()
	for _, stream := range []string{ordersStream, queueStream, "KV_" + bucketName} {
		c.leads(nc, stream, n)
	}
	c.healthy()
}
