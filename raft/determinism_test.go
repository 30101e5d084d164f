package raft_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"millrace/raft"
)

// A manual host does the same in every run: the simulator's seeds rely on it.
func TestClusterIsDeterministic(t *testing.T) {
	run := func() (sum uint64, frames int) {
		c := newCluster(t, 3, func(cfg *raft.Config) { small(cfg) })
		hash := fnv.New64a()
		c.net.Lose(func(from, to uint64, lane raft.Lane, frame []byte) bool {
			fmt.Fprintf(hash, "%d %d %d %x\n", from, to, lane, frame)
			return false
		})
		rng := rand.New(rand.NewPCG(1, 2))
		for id := range raft.GroupID(8) {
			c.create(id + 1)
		}
		for range 400 {
			id := raft.GroupID(rng.Uint64N(8) + 1)
			n := c.nodes[rng.Uint64N(3)+1]
			switch rng.IntN(40) {
			case 0:
				c.crash(n.id, nil)
				c.restart(n.id)
			case 1:
				c.net.Partition(n.id, rng.IntN(2) == 0)
			case 2:
				n.groups[id].TransferLeader(rng.Uint64N(3) + 1)
			case 3:
				n.groups[id].Snapshot()
			default:
				for range rng.IntN(20) {
					_ = n.groups[id].Propose(fmt.Appendf(nil, "long %100d", rng.Uint64()))
				}
			}
			c.tick()
		}
		for _, id := range c.order {
			n := c.nodes[id]
			fmt.Fprint(hash, n.log.All(1), n.log.ObjectKeys(2))
		}
		return hash.Sum64(), c.net.Sent()
	}
	sum, frames := run()
	for range 2 {
		if again, n := run(); again != sum || n != frames {
			t.Fatalf("runs differ: %d frames of sum %x, %d of %x", frames, sum, n, again)
		}
	}
	t.Logf("%d frames", frames)
}
