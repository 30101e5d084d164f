package sim

import (
	"math/rand/v2"
	"time"
)

const (
	// leaseClocks is how long the clocks run at the speeds that are hardest for leases before a leader is cut
	// off: all its promises are of that time.
	leaseClocks = 3 * time.Second
	// leaseCut is for how long at least it is cut off: others must have time to elect another one.
	leaseCut = 8 * time.Second
	// leaseReads is the time between two reads.
	leaseReads = 5 * time.Millisecond
)

// testLease attacks the lease of a group's leader: its clock runs as slowly, those of the others as fast as
// leases allow for. After a while it is cut off or stands still, and is read from by its lease all the time, while
// the clients turn to the others. A lease that is too long answers when the next leader has applied something.
func (c *cluster) testLease(rnd *rand.Rand, outage time.Duration) {
	group := c.groups[rnd.IntN(len(c.groups))]
	cut, still := leaseCut+outage/4, rnd.IntN(3) == 0
	s, at := c.leading(group)
	w := c.world
	if s == nil || w.now < c.leasing {
		return
	}
	c.leasing = w.now + leaseClocks + cut
	drift := leaseDrift
	if c.cfg.Mutant == MutantClockDrift {
		drift = badDrift
	}
	for i, n := range c.nodes {
		rate := 1 + drift
		if i == at.node {
			rate = 1 - drift
		}
		n.clock.setRate(w.now, rate)
	}
	w.log("the clock of node %d is as slow as may be, the others are as fast", at.node+1)
	w.after(leaseClocks, func() {
		if s, at := c.leading(group); c.faults && s != nil {
			c.cutOff(at, cut, still)
		}
	})
	w.after(leaseClocks+cut, func() {
		if !c.faults {
			return
		}
		for _, n := range c.nodes {
			n.clock.disturb(w.now, rnd)
		}
	})
}

// cutOff parts a leader from all others, or lets it stand still, and reads from it.
func (c *cluster) cutOff(leader *placement, d time.Duration, still bool) {
	w, n := c.world, c.nodes[leader.node]
	w.log("%v, which leads, is cut off for %v, standing still %t", leader, d, still)
	set := func(cut bool) {
		n.aside = cut
		for other := range c.nodes {
			if other != leader.node {
				c.net.setCut(leader.node, other, cut)
				c.net.setCut(other, leader.node, cut)
			}
		}
	}
	set(true)
	if still {
		n.pause(d / 4)
	}
	c.leave(n)
	end := w.now + d
	var probe func()
	probe = func() {
		if w.now >= end || !c.faults {
			set(false)
			return
		}
		if r := n.running[leader.log]; r != nil && !n.paused {
			n.call(func() { r.fresh(r.group.LeaseRead, func(error) {}) })
		}
		w.after(leaseReads, probe)
	}
	probe()
}

// leave makes the clients give up what they asked a node for, and go to others.
func (c *cluster) leave(n *node) {
	for _, cl := range c.clients {
		for _, g := range c.groups {
			if cl.leads[g] == n.index {
				delete(cl.leads, g)
			}
		}
		if cl.op != nil && cl.node == n.index {
			cl.answer(cl.try, result{}, errPatience)
		}
	}
}
