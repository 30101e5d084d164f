package delivery

import (
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/consumer"
)

// maxWindow is the largest flow control window in bytes; it starts at 1/16 of that and doubles with
// every answer (ADR-9).
const maxWindow = 32 << 20

// pushState is the part of a Consumer that delivers to a subject. Owned by run.
type pushState struct {
	cancelWatch func()
	generation  int       // of the watch; events of an older one are void
	beatAt      time.Time // next idle heartbeat; zero: none

	window  int    // bytes that may be sent before the receiver answers
	unpaid  int    // bytes sent since the last answered flow control request, about
	asked   int    // unpaid when the open request was sent
	request string // reply subject of the open request; empty: none is open
}

// watch follows the interest in the deliver subject.
func (c *Consumer) watch() {
	if c.cancelWatch != nil {
		c.cancelWatch()
	}
	c.generation++
	generation := c.generation
	deliver, group := c.conf.DeliverSubject, c.conf.DeliverGroup
	var bound atomic.Bool
	c.cancelWatch = c.cfg.Bus.WatchInterest(deliver, group, func(active bool) {
		bound.Store(active)
		c.post(func() {
			if generation == c.generation {
				c.setActive(active)
			}
		}, nil)
	})
	if c.window == 0 {
		c.window = maxWindow / 16
	}
	c.unpaid, c.asked, c.request = 0, 0, ""
	// Receivers outside of the group do not count.
	active := bound.Load() || group == "" && c.cfg.Bus.HasInterest(deliver)
	c.setActive(active)
	if !active {
		c.inactiveIn(c.inactive)
	}
}

func (c *Consumer) setActive(active bool) {
	if active == c.active {
		return
	}
	c.mu.Lock()
	c.active = active
	c.mu.Unlock()
	c.lastActive = c.now
	c.beatAt = time.Time{}
	if !active {
		c.inactiveIn(c.inactive)
		return
	}
	c.inactiveIn(0)
	if c.conf.Heartbeat > 0 {
		c.beatAt = c.now.Add(c.conf.Heartbeat)
	}
}

// stalled reports whether the receiver has to answer a flow control request first.
func (c *Consumer) stalled() bool { return c.conf.FlowControl && c.unpaid > c.window }

// offerPush sends the loaded message to the deliver subject and reports whether anyone took it.
func (c *Consumer) offerPush(reply string, header, data []byte, size int) bool {
	if c.out.PublishAs(c.conf.DeliverSubject, c.msg.Subject, reply, header, data) == 0 {
		c.setActive(false)
		return false
	}
	if c.conf.Heartbeat > 0 {
		c.beatAt = c.now.Add(c.conf.Heartbeat)
	}
	if !c.conf.FlowControl {
		return true
	}
	c.unpaid += size
	switch {
	case c.request == "" && c.unpaid > c.window/2:
		c.requestFlow()
	case c.request != "" && c.unpaid-c.asked >= c.window:
		c.asked += size
	}
	return true
}

// requestFlow asks the receiver to answer when it has worked off what was sent before.
func (c *Consumer) requestFlow() {
	c.asked = c.unpaid
	c.request = "$JS.FC." + c.cfg.Stream + "." + c.cfg.Name + "." + strconv.FormatUint(rand.Uint64N(36*36*36*36), 36)
	c.out.Publish(c.conf.DeliverSubject, c.request, []byte("NATS/1.0 100 FlowControl Request\r\n\r\n"), nil)
}

// onFlowControl runs on the receiver's goroutine.
func (c *Consumer) onFlowControl(r Request) {
	answered := string(r.Subject)
	c.post(func() {
		if answered != c.request {
			return
		}
		c.window = min(2*c.window, maxWindow)
		c.unpaid = max(c.unpaid-c.asked, 0)
		c.asked, c.request = 0, ""
	}, nil)
}

// beat sends the idle heartbeat of a push consumer when it is due.
func (c *Consumer) beat() {
	if c.beatAt.IsZero() || c.now.Before(c.beatAt) {
		return
	}
	c.beatAt = c.now.Add(c.conf.Heartbeat)
	if c.idleHeartbeat(c.conf.DeliverSubject) == 0 {
		c.setActive(false)
	}
}

// idleHeartbeat tells a receiver where the consumer is and, if it is stalled, what it has to answer.
func (c *Consumer) idleHeartbeat(to string) (receivers int) {
	at := c.m.Delivered()
	h := append(c.headerBuf[:0], "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: "...)
	h = strconv.AppendUint(h, at.Consumer, 10)
	h = append(h, "\r\nNats-Last-Stream: "...)
	h = strconv.AppendUint(h, at.Stream, 10)
	if c.request != "" {
		h = append(h, "\r\nNats-Consumer-Stalled: "...)
		h = append(h, c.request...)
	}
	c.headerBuf = append(h, "\r\n\r\n"...)
	return c.cfg.Bus.Publish(to, "", c.headerBuf, nil)
}

// redeliverAll makes everything pending due at once: it went to a subject that is no longer ours.
func (c *Consumer) redeliverAll() {
	var seqs []uint64
	c.m.Each(func(p consumer.Message) bool {
		seqs = append(seqs, p.Seq)
		return true
	})
	for _, seq := range seqs {
		c.do(consumer.Op{Kind: consumer.Nak, Seq: seq})
	}
}
