package delivery

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// Update replaces the configuration by one that was checked to be an allowed change. done is called
// when it is in force and committed; it does not block.
func (c *Consumer) Update(conf api.ConsumerConfig, done func(error)) {
	conf = conf.Clone()
	c.post(func() {
		old := c.conf
		if conf.AckPolicy != old.AckPolicy || conf.IsPush() != old.IsPush() || conf.FlowControl != old.FlowControl {
			done(fmt.Errorf("delivery: consumer %q: ack policy, flow control, pull and push can not be changed", c.cfg.Name))
			return
		}
		c.update(old, &conf)
		c.await(waiter{done: done})
	}, done)
}

func (c *Consumer) update(old, conf *api.ConsumerConfig) {
	c.setConf(conf)
	now, next := c.m.Config(), consumer.ConfigOf(conf)
	if !next.Equal(&now) {
		c.do(consumer.Op{Kind: consumer.SetConfig, Config: &next})
	}
	if !slices.Equal(old.Filters(), conf.Filters()) {
		c.rewind()
		c.listSkips()
	}
	if conf.DeliverSubject != old.DeliverSubject || conf.DeliverGroup != old.DeliverGroup {
		if conf.DeliverSubject != old.DeliverSubject {
			c.redeliverAll()
		}
		c.setActive(false)
		c.watch()
	}
	if conf.InactiveThreshold != old.InactiveThreshold {
		c.inactiveIn(0)
		if !conf.IsPush() || !c.active {
			c.inactiveIn(c.inactive)
		}
	}
	before, after := pauseOf(old), pauseOf(conf)
	if !before.Equal(after) {
		c.updatePause()
		c.advisePause(!c.pausedUntil.IsZero(), after)
	}
	c.resumeAt = time.Time{}
}

func pauseOf(conf *api.ConsumerConfig) time.Time {
	if conf.PauseUntil == nil {
		return time.Time{}
	}
	return *conf.PauseUntil
}

func (c *Consumer) updatePause() {
	c.pausedUntil = time.Time{}
	if until := pauseOf(c.conf); c.now.Before(until) {
		c.pausedUntil = until
	}
}

// rewind forgets what is known about the messages that come next.
func (c *Consumer) rewind() {
	c.cursor = 0
	c.unlisted = false
	c.backlog = backlog{}
	c.mu.Lock()
	c.skip = nil
	c.mu.Unlock()
}

// Reset forgets all deliveries and goes on at seq, or after the ack floor if seq is 0 (ADR-59). done
// gets the sequence that is delivered next when that is committed, or why it is not allowed.
func (c *Consumer) Reset(seq uint64, done func(next uint64, err error)) {
	c.post(func() {
		next, err := c.resetSeq(seq)
		if err != nil {
			done(0, err)
			return
		}
		c.do(consumer.Op{Kind: consumer.Reset, Seq: next})
		c.rewind()
		c.await(waiter{done: func(err error) { done(next, err) }})
	}, func(err error) { done(0, err) })
}

func (c *Consumer) resetSeq(seq uint64) (uint64, error) {
	if seq == 0 {
		return c.m.Floor().Stream + 1, nil
	}
	switch c.conf.DeliverPolicy {
	case api.DeliverAll:
	case api.DeliverByStartSequence:
		if seq < c.conf.OptStartSeq {
			return 0, errors.New("below start seq")
		}
	case api.DeliverByStartTime:
		if c.conf.OptStartTime != nil && seq < c.cfg.Source.TimeToSeq(*c.conf.OptStartTime) {
			return 0, errors.New("below start time")
		}
	default:
		return 0, errors.New("not allowed")
	}
	return seq, nil
}
