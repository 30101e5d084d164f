package sim

import (
	"slices"
	"time"

	"millrace/storage/vfs"
)

// What the nemesis does to a node.

// crash ends the process, at the given operation on the disk from now on or, with 0, at once, and boots it
// again after the outage.
func (n *node) crash(loss vfs.Loss, operation int, outage time.Duration) {
	if !n.up {
		return
	}
	w := n.cluster.world
	w.log("node %d crashes at operation %d from now, %v unsynced, for %v", n.index+1, operation, loss, outage)
	life := n.life
	n.disk.loss = loss
	if operation > 0 {
		n.disk.countdown = operation
		// A disk that has nothing to do does not reach the operation.
		w.after(200*time.Millisecond, func() {
			if n.up && n.life == life {
				n.die(loss)
			}
		})
	} else {
		n.die(loss)
	}
	w.after(200*time.Millisecond+outage, n.boot)
}

// trap is a crash that waits for its moment: when something was handed to the store, and before it is synced
// for sure. A node that has promised what it will not remember is caught so.
type trap struct {
	kind   trapKind
	loss   vfs.Loss
	outage time.Duration
}

type trapKind int

const (
	trapNone    trapKind = iota
	trapState            // term and vote alone
	trapEntries          // entries
	trapOther            // an object, a compaction, parts of an entry
)

// sprung looks whether a change of a log is what a trap waits for.
func (n *node) sprung(c *change) {
	t := n.trap
	if t == nil {
		return
	}
	kind := trapOther
	switch w := c.write; {
	case w != nil && len(c.marks) > 0:
		kind = trapEntries
	case w != nil && w.State != nil:
		kind = trapState
	}
	if kind != t.kind {
		return
	}
	n.trap = nil
	n.after(between(n.rnd, 0, 300*time.Microsecond), func() {
		n.cluster.world.log("node %d crashes after a write of kind %d, %v unsynced, for %v", n.index+1, kind, t.loss, t.outage)
		n.die(t.loss)
		n.cluster.world.after(t.outage, n.boot)
	})
}

// die ends the process at once. What it has not synced is treated as loss says.
func (n *node) die(loss vfs.Loss) {
	c := n.cluster
	c.stats.Crashes++
	c.world.log("node %d is down", n.index+1)
	n.disk.crashed(loss)
	n.forget()
	c.net.reset(n.index)
}

// forget drops what the process had in memory.
func (n *node) forget() {
	n.up, n.paused, n.backlog, n.trap = false, false, nil, nil
	n.hostDue, n.workDue = false, false
	n.life++
	for _, r := range n.running {
		r.placement.machine = nil
		r.placement.commit, r.placement.applied, r.placement.term = 0, 0, 0
	}
	n.running, n.host, n.store = nil, nil, nil
}

// pause lets the process stand still. Its clock goes on.
func (n *node) pause(d time.Duration) {
	if !n.up || n.paused {
		return
	}
	w := n.cluster.world
	w.log("node %d stands still for %v", n.index+1, d)
	n.paused = true
	life := n.life
	w.after(d, func() {
		if n.up && n.life == life {
			n.resume()
		}
	})
}

// resume lets a paused process go on.
func (n *node) resume() {
	if !n.paused {
		return
	}
	n.cluster.world.log("node %d goes on", n.index+1)
	n.paused = false
	backlog := n.backlog
	n.backlog = nil
	life := n.life
	for _, fn := range backlog {
		if !n.up || n.life != life {
			return
		}
		n.call(fn)
	}
}

// fill takes away the room on the disk.
func (n *node) fill(d time.Duration) {
	if n.full || !n.up {
		return
	}
	n.full = true
	n.cluster.world.log("the disk of node %d is full for %v", n.index+1, d)
	n.disk.limit()
	n.cluster.world.after(d, n.empty)
}

// empty gives the room back.
func (n *node) empty() {
	n.full = false
	n.disk.unlimit()
}

// trusted reports whether all nodes have their disks, and all groups all their members. Only then is a disk
// damaged or lost: of three replicas no more than one may lose what it has promised.
func (c *cluster) trusted() bool {
	for _, n := range c.nodes {
		if n.suspect {
			return false
		}
	}
	return !slices.ContainsFunc(c.groups, func(g uint64) bool { return !c.steady(g) })
}

// flip inverts bits on the disk, and takes away the power soon. When the node has run for a while after
// that, if it can, its disk is replaced: some of the bits may never have been read.
func (n *node) flip(bits int, outage time.Duration) {
	c := n.cluster
	if !n.up || !c.trusted() {
		return
	}
	n.suspect = true
	for range bits {
		if name, off, ok := n.disk.flip(c.cfg.Late); ok {
			c.stats.Flips++
			c.world.log("a bit of %s at byte %d of node %d is flipped", name, off, n.index+1)
		}
	}
	c.world.after(between(n.rnd, 0, 2*time.Second), func() {
		if n.suspect {
			n.crash(vfs.LoseUnsynced, 0, outage)
		}
	})
	c.world.after(outage+between(n.rnd, 3*time.Second, 8*time.Second), n.replaceDisk)
}

// replaceDisk gives a node with a damaged disk an empty one.
func (n *node) replaceDisk() {
	if !n.suspect {
		return
	}
	if n.up {
		n.die(vfs.LoseUnsynced)
	}
	n.renew()
	n.cluster.world.after(between(n.rnd, 0, time.Second), n.boot)
}

// wipe takes the disk away. The node comes back with an empty one, and its replicas are replaced.
func (n *node) wipe(outage time.Duration) {
	c := n.cluster
	if !n.up || !c.trusted() {
		return
	}
	n.die(vfs.LoseUnsynced)
	n.renew()
	c.world.after(outage, n.boot)
}

// renew gives a node that is down an empty disk, and replaces its replicas.
func (n *node) renew() {
	c := n.cluster
	c.stats.Wiped++
	c.world.log("node %d gets an empty disk", n.index+1)
	lost := c.on(n.index)
	for _, p := range lost {
		if l := n.disk.logs[p.log]; l != nil {
			p.held = &l.durable
		}
	}
	n.disk.format(uint64(n.index+1) + 100*c.stats.Wiped)
	n.suspect, n.full = false, false
	for _, p := range lost {
		if c.cfg.Mutant == MutantReplicaReused {
			continue
		}
		p.lost = true
		c.replace(p, n.index)
	}
}

// heal ends all faults of the node.
func (n *node) heal() {
	n.disk.slow, n.trap = 1, nil
	n.empty()
	n.clock.setRate(n.cluster.world.now, 1)
	n.resume()
	n.replaceDisk()
	if !n.up {
		n.cluster.world.after(time.Second, n.boot)
	}
}
