package delivery

import (
	"fmt"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// place gives a new consumer its place in the stream, and lets another one catch up with what happened
// to its configuration and its stream while it did not run here.
func (c *Consumer) place() {
	fresh := !c.m.Started()
	conf := consumer.ConfigOf(c.conf)
	if now := c.m.Config(); fresh || !conf.Equal(&now) {
		c.do(consumer.Op{Kind: consumer.SetConfig, Config: &conf})
	}
	if fresh {
		start, horizon := c.startSeq()
		c.do(consumer.Op{Kind: consumer.Reset, Seq: start, N: horizon})
	} else {
		c.reconcile()
	}
	c.listSkips()
	c.startPace()
}

// startSeq returns the first sequence to deliver by the deliver policy, and for last_per_subject the
// sequence up to which only the last message of a subject counts.
func (c *Consumer) startSeq() (start, horizon uint64) {
	src := c.cfg.Source
	first, last := src.Bounds()
	switch c.conf.DeliverPolicy {
	case api.DeliverLast:
		start = last
		if len(c.filters) > 0 {
			start = last + 1
			if seqs := src.LastPerSubject(c.filters, last); len(seqs) > 0 {
				start = seqs[len(seqs)-1]
			}
		}
	case api.DeliverNew:
		start = last + 1
	case api.DeliverByStartSequence:
		// A start in the future is kept: nothing is delivered until the stream gets there.
		return max(c.conf.OptStartSeq, first, 1), 0
	case api.DeliverByStartTime:
		start = last + 1
		if c.conf.OptStartTime != nil {
			start = src.TimeToSeq(*c.conf.OptStartTime)
		}
	case api.DeliverLastPerSubject:
		start = last + 1
		if seqs := src.LastPerSubject(c.filters, last); len(seqs) > 0 {
			start, horizon = seqs[0], last
		}
	default:
		start = first
	}
	return max(min(start, last+1), first, 1), horizon
}

// listSkips finds what a last-per-subject start has still to deliver, as soon as the stream has all of it.
func (c *Consumer) listSkips() {
	h := c.m.Horizon()
	_, last := c.cfg.Source.Bounds()
	c.unlisted = h > last
	if h == 0 || c.unlisted {
		return
	}
	var left []uint64
	for _, seq := range c.cfg.Source.LastPerSubject(c.filters, h) {
		if seq > c.m.Delivered().Stream {
			left = append(left, seq)
		}
	}
	c.mu.Lock()
	c.skip = left
	c.mu.Unlock()
}

// reconcile compares the state of a consumer that ran before with the stream.
func (c *Consumer) reconcile() {
	first, last := c.cfg.Source.Bounds()
	at := c.m.Delivered()
	if c.cfg.Volatile && at.Consumer > 0 && at.Stream > last {
		// The stream lost messages that were delivered, or is another one. Their sequences will be
		// used again: whatever is not acknowledged below is delivered again, nothing is left out.
		c.fail(fmt.Errorf("delivered up to sequence %d of a stream that ends at %d: starting again after its ack floor", at.Stream, last))
		c.do(consumer.Op{Kind: consumer.Reset, Seq: min(c.m.Floor().Stream, last) + 1})
	} else if first > c.m.Floor().Stream+1 {
		c.do(consumer.Op{Kind: consumer.Purge, Seq: first})
	}
	c.recheck()
}
