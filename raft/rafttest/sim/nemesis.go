package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"millrace/storage/vfs"
)

// Fault is a class of faults.
type Fault string

// The classes.
const (
	FaultCrash      Fault = "crash"      // power loss of one node, between operations or in the middle of one
	FaultKill       Fault = "kill"       // the process dies, the machine stays up
	FaultPower      Fault = "power"      // power loss of all nodes
	FaultRestart    Fault = "restart"    // an orderly restart
	FaultPause      Fault = "pause"      // a process stands still for a while
	FaultPartition  Fault = "partition"  // the nodes are parted
	FaultOneWay     Fault = "oneway"     // nothing arrives in one direction
	FaultLoss       Fault = "loss"       // frames are lost, links are slow
	FaultSlowDisk   Fault = "slowdisk"   // writes take long
	FaultFullDisk   Fault = "fulldisk"   // no room on a disk for a while
	FaultClock      Fault = "clock"      // clocks jump and run at other speeds, within what leases allow for
	FaultFlip       Fault = "flip"       // bits on a disk change
	FaultWipe       Fault = "wipe"       // a node loses its disk and comes back as a new one
	FaultMembership Fault = "membership" // replicas move
	FaultTransfer   Fault = "transfer"   // leaders are asked to hand over
	FaultLease      Fault = "lease"      // a leader with the slowest clock allowed is cut off, and reads by its lease go on
	FaultIdle       Fault = "idle"       // clients ask nothing for a while, so that groups fall asleep
)

// Faults lists all classes.
func Faults() []Fault {
	return []Fault{
		FaultCrash, FaultKill, FaultPower, FaultRestart, FaultPause, FaultPartition, FaultOneWay, FaultLoss,
		FaultSlowDisk, FaultFullDisk, FaultClock, FaultFlip, FaultWipe, FaultMembership, FaultTransfer, FaultIdle,
		FaultLease,
	}
}

// nemesis schedules all faults of a run. What each of them will do is drawn here, before it is known what the
// cluster looks like then: classes that are switched off do not change the others.
func (c *cluster) nemesis() {
	rnd := c.world.source("nemesis")
	pace := between(rnd, 300*time.Millisecond, 4*time.Second)
	// Each seed likes some classes more than others.
	var liked []Fault
	for _, f := range Faults() {
		for range rnd.IntN(4) {
			liked = append(liked, f)
		}
	}
	if len(liked) == 0 {
		liked = Faults()
	}
	likes := c.cfg.Likes
	if likes == nil {
		likes = c.cfg.Mutant.provokes()
	}
	if likes != nil {
		liked, pace = likes, pace/4
	}
	for at := time.Duration(0); at < c.cfg.Faults; at += time.Duration(rnd.ExpFloat64() * float64(pace)) {
		f := liked[rnd.IntN(len(liked))]
		own := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		if slices.Contains(c.cfg.Without, f) {
			continue
		}
		c.world.after(at, func() {
			if c.faults {
				c.stats.Faults++
				c.strike(f, own)
			}
		})
	}
}

// strike makes one fault happen.
func (c *cluster) strike(f Fault, rnd *rand.Rand) {
	w := c.world
	n := c.nodes[rnd.IntN(len(c.nodes))]
	outage := between(rnd, 0, 3*time.Second)
	if rnd.IntN(4) == 0 {
		outage *= 5
	}
	loss := []vfs.Loss{vfs.LoseUnsynced, vfs.TearUnsynced, vfs.TearUnsynced}[rnd.IntN(3)]
	switch f {
	case FaultCrash:
		if kind := trapKind(rnd.IntN(4)); kind != trapNone {
			n.trap = &trap{kind: kind, loss: loss, outage: outage / 8}
			return
		}
		n.crash(loss, rnd.IntN(12), outage)
	case FaultKill:
		n.crash(vfs.KeepUnsynced, rnd.IntN(12), outage)
	case FaultPower:
		for _, n := range c.nodes {
			n.crash(loss, rnd.IntN(3), between(rnd, 0, outage))
		}
	case FaultRestart:
		n.restart(outage)
	case FaultPause:
		n.pause(outage)
	case FaultPartition:
		c.partition(rnd, outage)
	case FaultOneWay:
		to := rnd.IntN(len(c.nodes))
		w.log("nothing gets from node %d to node %d for %v", n.index+1, to+1, outage)
		c.net.setCut(n.index, to, true)
		w.after(outage, func() { c.net.setCut(n.index, to, false) })
	case FaultLoss:
		c.slowLinks(n, rnd, outage)
	case FaultSlowDisk:
		n.disk.slow = []float64{3, 10, 50, 200}[rnd.IntN(4)]
		w.log("the disk of node %d is slower by %v for %v", n.index+1, n.disk.slow, outage)
		w.after(outage, func() { n.disk.slow = 1 })
	case FaultFullDisk:
		n.fill(outage)
	case FaultClock:
		if w.now < c.leasing {
			return
		}
		n.clock.disturb(w.now, rnd)
		w.log("the clock of node %d: %v", n.index+1, &n.clock)
	case FaultFlip:
		n.flip(c.cfg.Bits+1+rnd.IntN(3), outage)
	case FaultWipe:
		n.wipe(outage)
	case FaultMembership:
		c.move(rnd)
	case FaultTransfer:
		c.transferSome(rnd)
	case FaultLease:
		c.testLease(rnd, outage)
	case FaultIdle:
		w.log("the clients are idle for %v", outage)
		c.quiet = max(c.quiet, w.now+outage)
	}
}

// partition parts the nodes in two, in both directions.
func (c *cluster) partition(rnd *rand.Rand, outage time.Duration) {
	side := make([]bool, len(c.nodes))
	for i := range side {
		side[i] = rnd.IntN(2) == 0
	}
	c.world.log("the nodes are parted for %v: %v", outage, side)
	set := func(cut bool) {
		for a := range side {
			for b := range side {
				if side[a] != side[b] {
					c.net.setCut(a, b, cut)
				}
			}
		}
	}
	set(true)
	c.world.after(outage, func() { set(false) })
}

// slowLinks makes all links of a node bad ones.
func (c *cluster) slowLinks(n *node, rnd *rand.Rand, outage time.Duration) {
	delay := between(rnd, 0, 400*time.Millisecond)
	rate := []float64{20 << 10, 200 << 10, 100 << 20}[rnd.IntN(3)]
	loss := []float64{0, 0.01, 0.2}[rnd.IntN(3)]
	c.world.log("the links of node %d: delay %v, %v bytes a second, loss %v, for %v", n.index+1, delay, rate, loss, outage)
	for i := range c.nodes {
		for _, l := range []*link{c.net.links[n.index][i], c.net.links[i][n.index]} {
			l.delay, l.jitter, l.rate, l.loss = delay, delay+100*time.Microsecond, rate, loss
			c.world.after(outage, l.normal)
		}
	}
}

// move lets a replica of some group go to another node, or be made anew on its own.
func (c *cluster) move(rnd *rand.Rand) {
	group := c.groups[rnd.IntN(len(c.groups))]
	pick := rnd.Uint64()
	if !c.steady(group) {
		return
	}
	members := c.members(group)
	p := members[pick%uint64(len(members))]
	if to := c.free(group); len(to) > 0 {
		c.replace(p, to[pick/16%uint64(len(to))])
	}
}

// transferSome asks the leader of a group to hand over.
func (c *cluster) transferSome(rnd *rand.Rand) {
	group := c.groups[rnd.IntN(len(c.groups))]
	pick := rnd.Uint64()
	s, at := c.leading(group)
	if s == nil {
		return
	}
	to := s.Members.Voters[pick%uint64(len(s.Members.Voters))]
	c.world.log("%v is asked to hand over to replica %d", at, to)
	n := c.nodes[at.node]
	n.call(func() { n.transfer(at, to) })
}

// heal ends all faults.
func (c *cluster) heal() {
	c.faults = false
	c.net.heal()
	for _, n := range c.nodes {
		n.heal()
	}
}
