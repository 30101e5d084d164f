package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// TestClusterRebuildsReplica gives a node the disk that it had before its last publishes, as a backup that is put back does:
// the replicas whose promises that breaks take no part any more, and new ones come in their place by themselves.
func TestClusterRebuildsReplica(t *testing.T) {
	c, nc, js := startOurs(t)
	ctx := c.context(healthLimit)
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: damagedStream, Subjects: []string{damagedStream + ".>"}, Replicas: 3})
	c.must(err)
	last := 0
	publish := func(n int) {
		t.Helper()
		for range n {
			last++
			_, err := js.Publish(ctx, damagedStream+".a", []byte(damagedText(last)))
			c.must(err)
		}
	}
	var hurt *cluster.Node
	confirms := func() bool { // the node has what its leader has
		info, err := workload.Info(ctx, nc, damagedStream)
		return err == nil && info.Cluster != nil && slices.ContainsFunc(info.Cluster.Replicas, func(p *jetstream.PeerInfo) bool {
			return p.Name == hurt.Name && p.Current && p.Lag == 0 && !p.Offline
		})
	}
	// A node whose replica of the meta group has lost something does not go on at all. That is another matter, and is the
	// case when that group has had an election since the backup.
	for whole := false; !whole; {
		publish(20)
		c.healthy()
		meta := c.metaLeader()
		hurt = c.followers(damagedStream)[0]
		if hurt == meta {
			hurt = c.followers(damagedStream)[1]
		}
		c.must(hurt.Kill())
		backup := t.TempDir()
		c.must(os.CopyFS(backup, os.DirFS(hurt.Store())))
		c.must(hurt.Start())
		c.healthy()
		waitFor(t, healthLimit, "a replica that follows", confirms)
		publish(40)
		waitFor(t, healthLimit, "a replica that follows", confirms)
		c.must(hurt.Kill())
		c.must(hurt.Wipe())
		c.must(os.CopyFS(hurt.Store(), os.DirFS(backup)))
		c.must(hurt.Start())
		publish(10)
		stopped := false
		waitFor(t, healthLimit, "a replica that is replaced", func() bool {
			log := hurt.Log.Tail(-1)
			stopped = strings.Contains(log, "cannot go on")
			whole = strings.Contains(log, "a new one gets it from the others")
			return stopped || whole
		})
		if stopped {
			t.Log("the meta group has had an election meanwhile; the node comes back as another one")
			whole = false
			c.must(hurt.Wipe())
			c.must(hurt.Start())
		}
	}
	c.healthy()
	c.leads(nc, damagedStream, hurt)
	c.readAll(js, damagedStream, last)
	// It is worth as much as the others: with one of them it is a quorum.
	var other *cluster.Node
	for _, n := range c.Nodes {
		if n != hurt {
			other = n
		}
	}
	c.must(other.Kill())
	publish(10)
	c.must(other.Start())
	c.healthy()
}
