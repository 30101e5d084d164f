package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// diskSize of nodes whose disks get full: room for what a server sets aside at its start.
const diskSize = 256 << 20

// startDisks starts three nodes with small disks, with load.
func startDisks(t *testing.T) (*testCluster, *load, map[*cluster.Node]*cluster.Disk) {
	t.Helper()
	var disks []*cluster.Disk
	c := newCluster(t, 3, func(o *cluster.Options) {
		for i := range 3 {
			d, err := cluster.NewDisk(storeOf(o, i), diskSize)
			if err != nil {
				t.Skip(err)
			}
			disks = append(disks, d)
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	})
	of := make(map[*cluster.Node]*cluster.Disk)
	for i, d := range disks {
		of[c.Nodes[i]] = d
	}
	c.must(c.Start())
	c.formed()
	l := c.startLoad(3)
	l.progress("at the start")
	return c, l, of
}

// revive gives a node with a full disk its room back and starts it anew: a process that could not write
// has ended, or serves no streams until then.
func (c *testCluster) revive(n *cluster.Node, d *cluster.Disk) {
	c.t.Helper()
	c.must(d.Free())
	c.must(n.Kill())
	c.must(n.Start())
}

// TestClusterFullDisk fills the disk of a follower, then of the leader: two of three go on.
func TestClusterFullDisk(t *testing.T) {
	c, l, disks := startDisks(t)
	for _, n := range []*cluster.Node{c.followers(ordersStream)[0], c.leader(ordersStream)} {
		c.must(disks[n].Fill())
		l.publishProgress("with a full disk on " + n.Name)
		c.revive(n, disks[n])
		c.healthy()
	}
	l.progress("with room again")
	l.finish()
}

// TestClusterFullDisks fills the disks of two of three: nothing is acknowledged that is not on two disks.
func TestClusterFullDisks(t *testing.T) {
	long(t)
	c, l, disks := startDisks(t)
	for _, n := range c.Nodes[:2] {
		c.must(disks[n].Fill())
	}
	l.silence(3 * time.Second)
	for _, n := range c.Nodes[:2] {
		c.revive(n, disks[n])
	}
	l.progress("with room again")
	l.finish()
}

// startImages starts three nodes whose power can be cut, with load.
func startImages(t *testing.T, change ...func(*cluster.Options)) (*testCluster, *load, []*cluster.Image) {
	t.Helper()
	var images []*cluster.Image
	dir := t.TempDir()
	c := newCluster(t, 3, append(change, func(o *cluster.Options) {
		for i := range 3 {
			image, err := cluster.NewImage(storeOf(o, i), filepath.Join(dir, fmt.Sprint("disk", i)), diskSize)
			if err != nil {
				t.Skip(err)
			}
			images = append(images, image)
			t.Cleanup(func() {
				if err := image.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	})...)
	c.must(c.Start())
	c.formed()
	l := c.startLoad(3)
	l.progress("at the start")
	return c, l, images
}

// cutPower is a power cut of the whole cluster.
func (c *testCluster) cutPower(images []*cluster.Image) {
	c.t.Helper()
	for _, n := range c.Nodes {
		c.must(n.Kill())
	}
	for _, image := range images {
		c.must(image.CutPower())
	}
	c.must(c.Start())
}

// TestClusterPowerCut cuts the power of all nodes at once, twice: what was only in the page cache of a
// machine is gone, what was acknowledged is not.
func TestClusterPowerCut(t *testing.T) {
	c, l, images := startImages(t)
	for range 2 {
		c.cutPower(images)
		l.progress("after a power cut")
	}
	l.finish()
}

// TestClusterPowerCutIsFound shows that the checks find what is lost: a nats-server with its defaults
// acknowledges what is not on any disk.
func TestClusterPowerCutIsFound(t *testing.T) {
	long(t)
	peer := peerProgram(t)
	c, l, images := startImages(t, func(o *cluster.Options) { o.Program, o.JetStream = peer, nil })
	l.stop()
	c.cutPower(images)
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	// Some runs end with no leader: what they forgot of their votes is enough for that.
	ctx := c.context(healthLimit / 3)
	var found error
	for {
		content, err := workload.Read(ctx, nc, ordersStream)
		if err == nil {
			found = workload.CheckPublished(content, published(l.publishers))
		}
		if err == nil || ctx.Err() != nil {
			found = errors.Join(found, err)
			break
		}
	}
	if found == nil {
		t.Error("nothing was found after a power cut of servers that do not sync")
	}
	t.Logf("found: %v", found)
}
