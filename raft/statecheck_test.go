package raft_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"millrace/raft"
)

// checking is a cluster of three that compares states every second.
func checking(t *testing.T) *cluster {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.CheckInterval = time.Second })
	c.create(1)
	for i := range 10 {
		c.propose(1, fmt.Sprint("entry ", i))
	}
	c.pass(3 * time.Second)
	return c
}

// bearsDifference gives a replica of group 1 another state, and wants all to go on.
func (c *cluster) bearsDifference() {
	c.t.Helper()
	c.create(1)
	c.propose(1, "one", "two")
	c.pass(2 * time.Second)
	c.follower(1).machines[1].applied[0] = "something else"
	c.propose(1, "three")
	c.pass(10 * time.Second)
	c.noFailures()
}

func (c *cluster) noFailures() {
	c.t.Helper()
	for _, n := range c.nodes {
		if len(n.failures) > 0 {
			c.t.Errorf("node %d: %v", n.id, n.failures)
		}
	}
}

func TestGroupComparesEqualStates(t *testing.T) {
	c := checking(t)
	for i := range 100 {
		c.propose(1, fmt.Sprint("more ", i), "object of some bytes")
		c.tick()
	}
	lead := c.elect(1)
	if lead.machines[1].released == 0 {
		t.Error("no state was captured")
	}
	c.noFailures()
	// When there is nothing new nobody looks.
	c.pass(10 * time.Second)
	before := lead.machines[1].released
	c.pass(30 * time.Second)
	if got := lead.machines[1].released; got != before {
		t.Errorf("%d states were captured without need", got-before)
	}
}

func TestGroupFindsReplicaWithAnotherState(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprint("leads ", leads), func(t *testing.T) {
			c := checking(t)
			hurt := c.elect(1)
			if !leads {
				hurt = c.follower(1)
			}
			hurt.machines[1].applied[4] = "something else"
			c.propose(1, "one more")
			c.await(30*time.Second, "the failure of the replica", func() bool { return len(hurt.failures) > 0 })
			if !errors.Is(hurt.failures[0], raft.ErrDiverged) {
				t.Errorf("it failed with %v", hurt.failures[0])
			}
			hurt.machines[1].leads = false // nobody tells it any more
			c.propose(1, "without it")
			c.pass(10 * time.Second)
			for _, n := range c.nodes {
				if n != hurt && (len(n.failures) > 0 || len(n.machines[1].applied) != 12) {
					t.Errorf("node %d: %v, %d entries", n.id, n.failures, len(n.machines[1].applied))
				}
			}
		})
	}
}

// Of two replicas nobody knows which is right: both go on, and it is said.
func TestGroupOfTwoDoesNotJudge(t *testing.T) {
	c := newCluster(t, 2, func(cfg *raft.Config) { cfg.CheckInterval = time.Second })
	c.bearsDifference()
}

// While a cluster is updated builds differ in how they write a state. That is no difference.
func TestGroupDoesNotCompareOtherFormats(t *testing.T) {
	format := uint64(0)
	c := newCluster(t, 3, func(cfg *raft.Config) {
		format++
		cfg.CheckInterval, cfg.StateFormat = time.Second, format
	})
	c.bearsDifference()
}
