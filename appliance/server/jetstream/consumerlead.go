package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/jetstream/delivery"
)

// leadership is a term in which this node leads a consumer. It is the log of the deliveries of that term:
// all entries that are applied in it are theirs, in order.
type leadership struct {
	entry *consumerEntry
	term  uint64

	group  Group       // set before deliveries begin; nil: the state is in memory
	placed atomic.Bool // the stream has here what it had anywhere in this term

	mu      sync.Mutex
	waiting []func() // for entries in flight, in order
}

// Propose appends an entry in the term; the consumer calls it from one goroutine.
func (l *leadership) Propose(entry []byte, committed func()) error {
	l.mu.Lock()
	l.waiting = append(l.waiting, committed)
	l.mu.Unlock()
	err := l.group.ProposeControl(l.term, entry)
	if err == nil {
		return nil
	}
	l.mu.Lock()
	l.waiting = l.waiting[:len(l.waiting)-1]
	l.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotLeader):
		return fmt.Errorf("%w: %w", delivery.ErrNotLeader, err)
	case errors.Is(err, ErrFull):
		l.entry.stream.account.engine.leaveFull(l.entry.id)
	}
	return err
}

// committed tells of the oldest entry in flight.
func (l *leadership) committed() {
	l.mu.Lock()
	var fn func()
	if len(l.waiting) > 0 {
		fn, l.waiting = l.waiting[0], l.waiting[1:]
	}
	l.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Pauses of what is tried again.
const (
	retryPlace = 50 * time.Millisecond // the stream had no leader to ask
	retryStart = time.Second           // deliveries did not begin
)

// follow makes deliveries begin, change or end as leadership and configuration want it. It is one of jobs.
func (c *consumerEntry) follow() {
	c.life.Lock()
	defer c.life.Unlock()
	c.mu.Lock()
	want, group := c.want, c.group
	inMemory := c.committed == nil
	stopped := c.stopped
	fresh := inMemory || !c.committed.Started()
	c.mu.Unlock()
	if group != nil && !stopped {
		c.tellMembers()
	}
	if c.running != nil && c.running != want {
		c.abandon()
	}
	switch {
	case want == nil || group == nil && !inMemory: // a start under way comes back
	case c.running != nil:
		c.tell()
	case fresh && !want.placed.Load():
		c.awaitPlace(want)
	default:
		want.group = group
		c.begin(want, fresh)
	}
}

// again follows after a pause.
func (c *consumerEntry) again(after time.Duration) {
	time.AfterFunc(after, func() { c.jobs.add(c.follow) })
}

// awaitPlace lets the stream's replica here catch up with all that was acknowledged before the consumer
// gets its place in it. A consumer that delivers only what is new would begin too early otherwise.
func (c *consumerEntry) awaitPlace(want *leadership) {
	e := c.stream.account.engine
	e.work(chores, func() {
		ctx, cancel := context.WithTimeout(e.ctx, gatherWait)
		defer cancel()
		if err := c.stream.awaitWhole(ctx); err != nil {
			c.again(retryPlace)
			return
		}
		want.placed.Store(true)
		c.jobs.add(c.follow)
	})
}

// begin begins deliveries from a copy of what is committed. The caller holds life.
func (c *consumerEntry) begin(want *leadership, fresh bool) {
	s := c.stream
	s.mu.RLock()
	cfg, version := c.config.Clone(), c.version
	s.mu.RUnlock()
	conf := c.deliveryConfig(cfg)
	c.mu.Lock()
	if c.want != want {
		c.mu.Unlock()
		return
	}
	if c.committed != nil {
		conf.State, conf.Log = c.committed.Clone(), want
	} else {
		conf.Settled = c.settledInMemory
	}
	c.mu.Unlock()
	d, err := delivery.New(conf)
	if err == nil {
		d.Retain(s.retains())
		c.running, c.told = want, version
		c.led.Store(d) // from here on it hears of what leaves the stream
		var info *api.ConsumerInfo
		if info, err = d.Start(); err == nil {
			if !fresh {
				info = nil
			}
			// Nobody is told of a consumer before its place in the stream is committed.
			d.Sync(func(err error) {
				if err == nil {
					c.jobs.add(func() { c.announce(want, version, info) })
				}
			})
			return
		}
		c.abandon()
	}
	s.log.Error("consumer does not begin", "account", s.account.name, "stream", s.name, "consumer", c.name, "error", err)
	c.again(retryStart)
}

// announce makes the leader known, to itself and to other nodes. It is one of jobs.
func (c *consumerEntry) announce(l *leadership, version int, first *api.ConsumerInfo) {
	c.life.Lock()
	defer c.life.Unlock()
	if c.running != l {
		return
	}
	if c.quiet == nil {
		quiet, err := c.stream.account.engine.calls.serveLeader(c.id, func(body []byte) (any, *api.Error) {
			return c.stream.takeConsumerCall(c, body)
		})
		if err != nil {
			c.stream.log.Error("consumer cannot be reached by other nodes", "consumer", c.name, "error", err)
		} else {
			c.quiet = quiet
		}
	}
	c.mu.Lock()
	c.serving, c.first, c.inForce = true, first, max(c.inForce, version)
	c.changedLocked()
	c.mu.Unlock()
	c.watched()
}

// watched tells those who watch the account's durable consumers.
func (c *consumerEntry) watched() {
	if c.id == 0 {
		return
	}
	c.stream.mu.RLock()
	metadata := c.config.Metadata
	c.stream.mu.RUnlock()
	c.stream.account.consumersChanged(metadata)
}

// tell gives the leader's deliveries the configuration that the catalogue has. The caller holds life.
func (c *consumerEntry) tell() {
	c.stream.mu.RLock()
	cfg, version := c.config.Clone(), c.version
	c.stream.mu.RUnlock()
	d := c.led.Load()
	if d == nil || c.told == version {
		return
	}
	c.told = version
	d.Update(cfg, func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !errors.Is(err, delivery.ErrNotLeader) {
			c.inForce, c.refused = version, err
			c.changedLocked()
		}
	})
}

// abandon ends deliveries here: another node leads, or will. The caller holds life.
func (c *consumerEntry) abandon() {
	c.mu.Lock()
	c.serving, c.first = false, nil
	c.changedLocked()
	c.mu.Unlock()
	if c.quiet != nil {
		c.quiet()
		c.quiet = nil
	}
	if d := c.led.Swap(nil); d != nil {
		d.Abandon()
	}
	c.running = nil
	c.watched()
}

// changedLocked wakes who waits in current.
func (c *consumerEntry) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// leads reports whether this node leads the consumer and has begun to serve it.
func (c *consumerEntry) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serving
}

// confirmed reports whether this node still leads the consumer, if that has a group: another node may lead it
// before this one knows.
func (c *consumerEntry) confirmed() bool {
	c.mu.Lock()
	group := c.group
	c.mu.Unlock()
	return group == nil || leaseRead(group) == nil
}

// current returns the consumer's state when this node leads it with the configuration that the
// catalogue has here, or an error when ctx ends before, or it leads no more. The first answer about a new consumer is its
// state before any delivery.
func (c *consumerEntry) current(ctx context.Context) (*api.ConsumerInfo, *api.Error) {
	for {
		c.stream.mu.RLock()
		version := c.version
		c.stream.mu.RUnlock()
		c.mu.Lock()
		ready, refused := c.serving && (c.id == 0 || c.inForce >= version), c.refused
		first, changed, stopped := c.first, c.changed, c.stopped
		lost := c.want == nil && !c.serving
		if ready {
			c.first = nil
		}
		c.mu.Unlock()
		switch {
		case stopped:
			return nil, api.ErrConsumerNotFound
		case ready && refused != nil:
			return nil, api.ErrConsumerCreateF(refused.Error())
		case ready && first != nil:
			return c.shown(first), nil
		case ready:
			return c.Info(), nil
		case lost:
			return nil, api.ErrClusterNotAvail
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, api.ErrClusterNotAvail
		}
	}
}

// Info returns the state of the consumer: the leader's if that is here, or else what is committed.
func (c *consumerEntry) Info() *api.ConsumerInfo {
	if d := c.led.Load(); d != nil {
		return c.shown(d.Info())
	}
	conf := c.deliveryConfig(c.Config())
	c.mu.Lock()
	if c.committed != nil {
		conf.State = c.committed.Clone()
	} else {
		conf.State = consumer.New()
	}
	c.mu.Unlock()
	d, err := delivery.New(conf) // it never starts
	if err != nil {
		return &api.ConsumerInfo{Stream: c.stream.name, Name: c.name, Created: c.created.UTC(), Config: &conf.Config}
	}
	return c.shown(d.Info())
}

// shown adds to what deliveries say of the consumer where it is.
func (c *consumerEntry) shown(info *api.ConsumerInfo) *api.ConsumerInfo {
	info.Cluster = c.stream.account.engine.clusterInfo(c.id)
	return info
}

// Update gives the leader another configuration, see delivery.Consumer.
func (c *consumerEntry) Update(cfg api.ConsumerConfig, done func(error)) {
	if d := c.led.Load(); d != nil {
		d.Update(cfg, done)
		return
	}
	done(delivery.ErrNotLeader)
}

// Reset starts the consumer again, see delivery.Consumer.
func (c *consumerEntry) Reset(seq uint64, done func(next uint64, err error)) {
	if d := c.led.Load(); d != nil {
		d.Reset(seq, done)
		return
	}
	done(0, delivery.ErrNotLeader)
}

// NewMessages tells that the stream has new messages here.
func (c *consumerEntry) NewMessages() {
	if d := c.led.Load(); d != nil {
		d.NewMessages()
	}
}

// Removed tells that messages left the stream here.
func (c *consumerEntry) Removed(seqs []uint64) {
	if d := c.led.Load(); d != nil {
		d.Removed(seqs...)
	}
}

// HeadMoved tells that many messages left the stream here.
func (c *consumerEntry) HeadMoved(first uint64, byPurge bool) {
	if d := c.led.Load(); d != nil {
		d.HeadMoved(first, byPurge)
	}
}
