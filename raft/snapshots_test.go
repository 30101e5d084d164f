package raft_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

// small makes snapshots frequent and transfers long.
func small(cfg *raft.Config) {
	cfg.SnapshotBytes, cfg.SnapshotFactor = 2000, 1
	cfg.CompactMargin = 1 // and not 0, which is the default
	cfg.ChunkBytes, cfg.TransferWindow = 1000, 3000
}

// fill proposes short data, long data, and objects.
func (c *cluster) fill(id raft.GroupID, n int) {
	c.t.Helper()
	for i := range n {
		switch i % 3 {
		case 0:
			c.propose(id, fmt.Sprint("short ", i))
		case 1:
			c.propose(id, fmt.Sprintf("long %6d %s", i, strings.Repeat("x", 200+i)))
		default:
			c.propose(id, fmt.Sprint("object ", i))
		}
	}
}

func TestClusterSnapshotsAndRestart(t *testing.T) {
	c := newCluster(t, 3, small)
	c.create(7)
	c.fill(7, 60)
	c.await(20*time.Second, "sleep", c.asleep)
	for _, n := range c.nodes {
		snap, ok := n.log.StoredSnapshot(7)
		if !ok {
			t.Fatalf("node %d has no snapshot", n.id)
		}
		first, last := n.log.Bounds(7)
		if first != snap.Index+1 {
			t.Errorf("node %d: the log begins at %d behind a snapshot of %d", n.id, first, snap.Index)
		}
		if last < snap.Index {
			t.Errorf("node %d: the log ends at %d behind a snapshot of %d", n.id, last, snap.Index)
		}
		own := 0
		for _, key := range n.log.ObjectKeys(7) {
			if key >= raft.MachineObjects {
				own++
			}
		}
		if own != snap.Count {
			t.Errorf("node %d keeps %d objects of the host, the snapshot has %d", n.id, own, snap.Count)
		}
		if n.machines[7].released == 0 {
			t.Errorf("node %d: no state was released", n.id)
		}
	}
	want := c.nodes[1].machines[7].applied
	for _, id := range c.order {
		c.crash(id, func(_ uint64, n int) int { return n / 2 })
	}
	for _, id := range c.order {
		c.restart(id)
	}
	c.propose(7, "more")
	c.pass(time.Second)
	c.same(7)
	for _, n := range c.nodes {
		if n.machines[7].restored != 1 || len(n.machines[7].applied) != len(want)+1 {
			t.Errorf("node %d was restored %d times and has %d entries of %d", n.id, n.machines[7].restored,
				len(n.machines[7].applied), len(want)+1)
		}
		if err := n.machines[7].checkPlaces(); err != nil {
			t.Error(err)
		}
	}
}

// lag lets a replica fall so far behind that it needs a snapshot, and returns its node.
func (c *cluster) lag(id raft.GroupID) (lead, behind *testNode) {
	c.t.Helper()
	c.fill(id, 9)
	lead = c.leader(id)
	behind = c.nodes[1+lead.id%3]
	c.crash(behind.id, nil)
	c.pass(3 * time.Second)
	lead = c.elect(id)
	for _, n := range c.nodes {
		n.machines[id].padding = 40000
	}
	c.fill(id, 90)
	for _, n := range c.nodes {
		if n.host != nil {
			n.groups[id].Snapshot()
		}
	}
	c.pass(time.Second)
	if first, _ := lead.log.Bounds(uint64(id)); first < 30 {
		c.t.Fatalf("the leader's log begins at %d", first)
	}
	return lead, behind
}

func TestClusterSendsSnapshot(t *testing.T) {
	c := newCluster(t, 3, small)
	c.create(7)
	c.create(8)
	_, behind := c.lag(7)
	c.restart(behind.id)
	c.await(20*time.Second, "the replica to catch up", func() bool {
		return len(behind.machines[7].applied) == 99
	})
	c.same(7)
	if err := behind.machines[7].checkPlaces(); err != nil {
		t.Fatal(err)
	}
	c.propose(7, "more")
	c.pass(time.Second)
	c.same(7)
	c.await(20*time.Second, "sleep", c.asleep)

	// What it got is there after a restart.
	c.crash(behind.id, nil)
	c.restart(behind.id)
	c.pass(5 * time.Second)
	c.same(7)
	if err := behind.machines[7].checkPlaces(); err != nil {
		t.Fatal(err)
	}
}

// A replica that was away is not sent what it has: objects, and data of entries that stay in its log.
func TestClusterSendsWhatIsMissing(t *testing.T) {
	c := newCluster(t, 3, small)
	c.create(7)
	c.fill(7, 300)
	behind := c.nodes[1+c.leader(7).id%3]
	c.pass(time.Second)
	c.crash(behind.id, nil)
	c.pass(3 * time.Second)
	lead := c.elect(7)
	c.fill(7, 30)
	missing := lead.machines[7].LiveBytes(behind.machines[7].index+1, lead.machines[7].index+1)
	for _, n := range c.nodes {
		if n.host != nil {
			n.groups[7].Snapshot()
		}
	}
	c.pass(time.Second)
	if first, _ := lead.log.Bounds(7); first <= behind.machines[7].index {
		t.Fatalf("the leader's log begins at %d", first)
	}
	bytes := 0
	c.restart(behind.id)
	c.countBulk(behind.id, &bytes)
	c.await(20*time.Second, "the replica to catch up", func() bool { return len(behind.machines[7].applied) == 330 })
	snap, _ := lead.log.StoredSnapshot(7)
	if limit := snap.Bytes + missing + 6000; int64(bytes) > limit { // the window, sent in vain before it knew what is there
		t.Errorf("%d bytes were sent; the state has %d, %d of data were missing", bytes, snap.Bytes, missing)
	}
	if had := lead.machines[7].LiveBytes(0, 300); had < 30000 {
		t.Errorf("%d bytes need not be sent", had)
	}
	for range 2 { // also after a restart
		c.same(7)
		if err := behind.machines[7].checkPlaces(); err != nil {
			t.Fatal(err)
		}
		c.crash(behind.id, nil)
		c.restart(behind.id)
		c.pass(5 * time.Second)
	}
}

// countBulk counts the bytes of bulk that go to a node.
func (c *cluster) countBulk(to uint64, bytes *int) {
	c.net.Lose(func(_, dest uint64, lane raft.Lane, frame []byte) bool {
		if dest == to && lane == raft.LaneBulk {
			*bytes += len(frame)
		}
		return false
	})
}

// A transfer goes on where it was when the connection breaks, or the receiver or its node is restarted.
func TestClusterResumesSnapshot(t *testing.T) {
	for _, how := range []string{"undisturbed", "disconnected", "receiver restarted", "frames lost", "entries lost"} {
		t.Run(how, func(t *testing.T) {
			c := newCluster(t, 3, small)
			c.create(7)
			lead, behind := c.lag(7)
			snap, _ := lead.log.StoredSnapshot(7)
			bytes, cut := 0, 0
			c.restart(behind.id)
			c.net.Lose(func(_, dest uint64, lane raft.Lane, frame []byte) bool {
				if dest != behind.id || lane != raft.LaneBulk {
					return false
				}
				bytes += len(frame)
				// Now and then a frame, with others behind it on their way.
				lose := how == "frames lost" && bytes > 15000 || how == "entries lost" && bytes > 46000
				if lose && cut < 3 {
					cut++
					return true
				}
				return false
			})
			for range 400 {
				if (how == "disconnected" || how == "receiver restarted") && cut == 0 && bytes > 25000 {
					cut++
					switch how {
					case "disconnected":
						c.net.Cut(lead.id, behind.id, true)
						c.tick()
						c.net.Cut(lead.id, behind.id, false)
					default:
						c.crash(behind.id, nil)
						c.restart(behind.id)
					}
				}
				if c.net.Deliver(1) == 0 {
					c.now = c.now.Add(100 * time.Millisecond)
					for _, id := range c.order {
						c.nodes[id].host.Tick()
					}
				}
				for _, id := range c.order {
					n := c.nodes[id]
					n.host.Run()
					n.log.SyncAll()
					n.host.Run()
				}
			}
			c.await(60*time.Second, "the replica to catch up", func() bool { return len(behind.machines[7].applied) == 99 })
			c.same(7)
			if err := behind.machines[7].checkPlaces(); err != nil {
				t.Fatal(err)
			}
			if how != "undisturbed" && cut == 0 {
				t.Fatal("nothing was disturbed")
			}
			t.Logf("%d bytes were sent of a state of %d", bytes, snap.Bytes)
			if limit := int(snap.Bytes) + 40000; bytes > limit {
				t.Errorf("%d bytes were sent, of a state of %d", bytes, snap.Bytes)
			}
			if behind.machines[7].restored > 2 {
				t.Errorf("restored %d times", behind.machines[7].restored)
			}
		})
	}
}

// Damage on the way or at rest is found before the machine sees it.
func TestClusterChecksSnapshot(t *testing.T) {
	c := newCluster(t, 3, small)
	c.create(7)
	lead, behind := c.lag(7)
	_ = lead
	c.restart(behind.id)
	flipped := 0
	c.net.Lose(func(_, dest uint64, lane raft.Lane, frame []byte) bool {
		if dest == behind.id && lane == raft.LaneBulk && len(frame) > 500 && flipped < 5 {
			flipped++
			frame[len(frame)-100] ^= 4
		}
		return false
	})
	c.await(60*time.Second, "the replica to catch up", func() bool { return len(behind.machines[7].applied) == 99 })
	c.same(7)
	if flipped < 5 {
		t.Error("nothing was damaged")
	}
	if err := behind.machines[7].checkPlaces(); err != nil {
		t.Fatal(err)
	}
}

// While a state is sent, a newer one is taken; what is being sent stays until it has arrived.
func TestClusterFinishesSupersededSnapshot(t *testing.T) {
	c := newCluster(t, 3, small)
	c.create(7)
	lead, behind := c.lag(7)
	c.restart(behind.id)
	bulk := 0
	c.countBulk(behind.id, &bulk)
	for bulk < 20000 {
		c.net.Deliver(2)
		for _, id := range c.order {
			n := c.nodes[id]
			n.host.Run()
			n.log.SyncAll()
			n.host.Run()
		}
		if n := c.net.Pending(); n == 0 {
			c.now = c.now.Add(100 * time.Millisecond)
			for _, id := range c.order {
				c.nodes[id].host.Tick()
			}
		}
	}
	if len(behind.machines[7].applied) == 99 {
		t.Fatal("the transfer is over already")
	}
	for i := range 20 {
		if err := lead.groups[7].Propose(fmt.Append(nil, "late ", i)); err != nil {
			t.Fatal(err)
		}
	}
	lead.groups[7].Snapshot()
	c.await(60*time.Second, "the replica to catch up", func() bool { return len(behind.machines[7].applied) == 119 })
	c.same(7)
	c.pass(2 * time.Second)
	snap, _ := lead.log.StoredSnapshot(7)
	own := 0
	for _, key := range lead.log.ObjectKeys(7) {
		if key >= raft.MachineObjects {
			own++
		}
	}
	if own != snap.Count {
		t.Errorf("the leader keeps %d objects, the snapshot has %d", own, snap.Count)
	}
}

// A new replica of a group with a long history.
func TestClusterNewReplicaGetsSnapshot(t *testing.T) {
	c := newCluster(t, 4, small)
	c.create(7, 1, 2, 3)
	c.fill(7, 60)
	c.await(20*time.Second, "sleep", c.asleep)
	c.startGroup(c.nodes[4], raft.GroupSpec{ID: 7, Log: 71, Voters: []uint64{1, 2, 3}})
	if err := c.change(7, raft.Change{Learners: []uint64{4}}); err != nil {
		t.Fatal(err)
	}
	c.await(20*time.Second, "the learner to catch up", func() bool { return len(c.nodes[4].machines[7].applied) == 60 })
	if err := c.change(7, raft.Change{Voters: []uint64{4}}); err != nil {
		t.Fatal(err)
	}
	c.propose(7, "more")
	c.pass(time.Second)
	c.same(7)
	if err := c.nodes[4].machines[7].checkPlaces(); err != nil {
		t.Fatal(err)
	}
}
