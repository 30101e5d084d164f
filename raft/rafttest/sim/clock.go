package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxDrift is by how much the speed of a clock is wrong, as a part of it.
	maxDrift = 0.01
	// leaseDrift is what the hosts' leases allow for, but for what rounding takes.
	leaseDrift = 0.0999
	// badDrift is a mutant: too much for them.
	badDrift = 0.2
)

// clock is the clock of a node: monotonic, at another time than others and at a slightly other speed.
type clock struct {
	base  time.Duration // world time since which rate holds
	local time.Duration // local time then
	rate  float64
}

func newClock(rnd *rand.Rand) clock {
	return clock{local: between(rnd, 0, time.Hour), rate: 1}
}

// at returns the local time.
func (c *clock) at(world time.Duration) time.Duration {
	return c.local + time.Duration(float64(world-c.base)*c.rate)
}

// disturb changes the speed.
func (c *clock) disturb(world time.Duration, rnd *rand.Rand) {
	c.setRate(world, 1+(2*rnd.Float64()-1)*maxDrift)
}

// setRate sets the speed.
func (c *clock) setRate(world time.Duration, rate float64) {
	c.local, c.base, c.rate = c.at(world), world, rate
}

// until returns how much world time passes during a local duration.
func (c *clock) until(local time.Duration) time.Duration {
	return time.Duration(float64(local) / c.rate)
}

func (c *clock) String() string { return fmt.Sprintf("runs at %.4f of the true speed", c.rate) }
