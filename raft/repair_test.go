package raft_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

// repair asks a node to bring something back, and returns what came of it.
func (c *cluster) repair(n *testNode, id raft.GroupID, d raft.Damage) error {
	c.t.Helper()
	var result error
	answered := false
	n.host.Repair(id, n.machines[id].group, d, func(err error) { result, answered = err, true })
	c.settle()
	c.await(20*time.Second, "an answer to a repair", func() bool { return answered })
	return result
}

// follower returns a node that does not lead a group.
func (c *cluster) follower(id raft.GroupID) *testNode {
	lead := c.elect(id)
	for _, node := range c.order {
		if n := c.nodes[node]; n != lead && n.host != nil {
			return n
		}
	}
	c.t.Fatal("there is no follower")
	return nil
}

func long(prefix string, n int) string { return prefix + strings.Repeat("x", n) }

func TestHostRepairsEntryOfLog(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	big := long("entry 2 ", 1<<20+17) // more than one answer
	c.propose(1, "one", big, "three")
	n := c.elect(1)
	_, last := n.log.Bounds(1)
	for index := last - 2; index <= last; index++ {
		n.log.DamageEntry(1, index)
		if _, err := n.log.Entries(1, index, index+1, 1); !errors.Is(err, raft.ErrDamaged) {
			t.Fatalf("Entries of a damaged entry: %v", err)
		}
		if err := c.repair(n, 1, raft.Damage{At: index}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := n.log.Entries(1, last-2, last+1, 4<<20)
	if err != nil || string(entries[1].Data) != big {
		t.Fatalf("after the repair: %d entries, %v", len(entries), err)
	}
	if got := n.host.Stats().Repaired; got != 3 {
		t.Errorf("%d repairs counted, want 3", got)
	}
}

func TestHostRepairsWhatLiesBeforeTheLog(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.SnapshotBytes, cfg.CompactMargin = 1<<10, 1<<10 })
	c.create(1)
	c.propose(1, long("long one", 700<<10), "object of some bytes")
	for range 20 {
		c.propose(1, long("filler", 1000))
	}
	n := c.elect(1)
	c.await(30*time.Second, "a log that is cut everywhere", func() bool {
		for _, node := range c.order {
			if first, _ := c.nodes[node].log.Bounds(1); first < 6 {
				return false
			}
		}
		return true
	})
	m := n.machines[1]
	index, key := m.places[0].index, m.objects[0]
	n.log.DamageEntry(1, index)
	n.log.DamageObject(1, key)
	if err := m.checkPlaces(); !errors.Is(err, raft.ErrDamaged) {
		t.Fatalf("what is damaged is read: %v", err)
	}
	if err := c.repair(n, 1, raft.Damage{At: index}); err != nil {
		t.Fatal(err)
	}
	if err := c.repair(n, 1, raft.Damage{Object: true, At: key}); err != nil {
		t.Fatal(err)
	}
	if err := m.checkPlaces(); err != nil {
		t.Fatal(err)
	}
	n.log.DamageEntry(1, index)
	if err := c.repair(n, 1, raft.Damage{At: index, Off: 100, Len: 600 << 10}); err != nil {
		t.Fatalf("a part: %v", err)
	}
}

// What nobody else has is reported and left as it is.
func TestHostRefusesRepairThatNobodyCanGive(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	c.propose(1, "one", "two")
	n := c.elect(1)
	_, last := n.log.Bounds(1)
	for _, node := range c.order {
		c.nodes[node].log.DamageEntry(1, last)
	}
	err := c.repair(n, 1, raft.Damage{At: last})
	if err == nil || !strings.Contains(err.Error(), "no other replica has it") {
		t.Errorf("an entry that is damaged everywhere: %v", err)
	}
	if err := c.repair(n, 1, raft.Damage{At: last + 5}); err == nil {
		t.Error("an entry that there is not was repaired")
	}
	for _, node := range c.order {
		if other := c.nodes[node]; other != n {
			c.crash(node, nil)
		}
	}
	c.pass(5 * time.Second)
	err = c.repair(n, 1, raft.Damage{At: last})
	if err == nil || !strings.Contains(err.Error(), "can be reached") {
		t.Errorf("without other nodes: %v", err)
	}

	alone := newCluster(t, 1, nil)
	alone.create(1)
	alone.propose(1, "one")
	if err := alone.repair(alone.nodes[1], 1, raft.Damage{At: 2}); err == nil || !strings.Contains(err.Error(), "no other replica") {
		t.Errorf("a group of one: %v", err)
	}
}

// repairs wants a replica of group 1 that has to apply what it cannot read to repair that and have applied so many entries,
// or to fail when its library cannot wait for it.
func (c *cluster) repairs(n *testNode, applied int) {
	c.t.Helper()
	if !waitsForRepair {
		c.await(20*time.Second, "failure of the damaged replica", func() bool { return len(n.failures) > 0 })
		return
	}
	c.await(20*time.Second, "all entries applied", func() bool { return len(n.machines[1].applied) == applied })
	c.same(1)
	if len(n.failures) > 0 {
		c.t.Errorf("failures %v", n.failures)
	}
}

// A replica that starts with damaged entries in its log repairs them before it applies them, and neither is elected
// nor serves anything else meanwhile.
func TestGroupRepairsWhatItReplays(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	for i := range 30 {
		c.propose(1, fmt.Sprint("entry ", i))
	}
	n := c.follower(1)
	c.pass(time.Second)
	c.crash(n.id, nil)
	_, last := n.log.Bounds(1)
	for _, index := range []uint64{4, 5, 20, last} {
		n.log.DamageEntry(1, index)
	}
	c.restart(n.id)
	c.propose(1, "after the restart")
	if c.repairs(n, 31); !waitsForRepair {
		return
	}
	if got := n.host.Stats().Repaired; got < 3 {
		t.Errorf("%d repairs, want at least 3", got)
	}
}

// A leader that has to send what it cannot read gets it from the third replica.
func TestGroupRepairsWhatItSends(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	c.propose(1, "one")
	late := c.follower(1)
	c.crash(late.id, nil)
	lead := c.elect(1)
	for i := range 10 {
		c.propose(1, fmt.Sprint("entry ", i))
	}
	c.pass(time.Second)
	_, last := lead.log.Bounds(1)
	lead.log.DamageEntry(1, last-3)
	lead.log.DamageEntry(1, last-1)
	c.restart(late.id)
	c.await(20*time.Second, "the late replica to catch up", func() bool { return len(late.machines[1].applied) == 11 })
	c.same(1)
	if lead.host.Stats().Repaired != 2 {
		t.Errorf("%d repairs, want 2", lead.host.Stats().Repaired)
	}
}

// All start at once, one of them with a damaged end of its log: it does not lead before that is repaired, and the
// others do without it.
func TestGroupWithDamageIsNotElected(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	for i := range 10 {
		c.propose(1, fmt.Sprint("entry ", i))
	}
	c.pass(time.Second)
	hurt := c.elect(1)
	for _, node := range c.order {
		c.crash(node, nil)
	}
	_, last := hurt.log.Bounds(1)
	for index := last - 3; index <= last; index++ {
		hurt.log.DamageEntry(1, index)
	}
	c.restart(hurt.id)
	c.pass(10 * time.Second)
	if _, term := hurt.groups[1].Leader(); term > 0 && len(hurt.machines[1].applied) == 10 {
		t.Fatal("alone it applied what it cannot read")
	}
	for _, node := range c.order {
		if node != hurt.id {
			c.restart(node)
		}
	}
	c.propose(1, "after all")
	c.repairs(hurt, 11)
}

// A leader that nobody can help gives up, and another replica leads.
func TestGroupGivesUpLeadershipItCannotServe(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	c.propose(1, "one")
	late := c.follower(1)
	c.crash(late.id, nil)
	lead := c.elect(1)
	c.propose(1, "two", "three")
	c.pass(time.Second)
	_, last := lead.log.Bounds(1)
	for _, node := range c.order {
		if n := c.nodes[node]; n.id != late.id {
			n.log.DamageEntry(1, last)
		}
	}
	c.restart(late.id)
	// The other replica has the entry applied and leads; it cannot send it either.
	c.await(60*time.Second, "the leader to give up", func() bool { return lead.machines[1].leads == false || len(lead.failures) > 0 })
	if got := len(late.machines[1].applied); got > 2 {
		t.Errorf("the late replica applied %d entries, one of which nobody can read", got)
	}
}

// The state of a snapshot that cannot be sent is written anew.
func TestGroupRenewsDamagedSnapshot(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.SnapshotBytes, cfg.CompactMargin = 1<<10, 1 })
	c.create(1)
	c.propose(1, "one")
	late := c.follower(1)
	c.crash(late.id, nil)
	c.pass(5 * time.Second)
	for range 20 {
		c.propose(1, long("filler", 1000))
	}
	lead := c.elect(1)
	c.await(30*time.Second, "a log that is cut", func() bool { first, _ := lead.log.Bounds(1); return first > 6 })
	stored, _ := lead.log.StoredSnapshot(1)
	for i := range stored.Count {
		lead.log.DamageObject(1, stored.Objects+uint64(i))
	}
	c.restart(late.id)
	c.await(60*time.Second, "the late replica to catch up", func() bool { return len(late.machines[1].applied) == 21 })
	c.same(1)
}
