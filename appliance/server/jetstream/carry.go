package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/meta"
)

// carrier brings what runs on this node in line with the catalogue, one change after the other in the
// order of the log. Its invariants:
//
//  1. Nothing is started or deleted before the catalogue has everything that was decided when this node
//     started: a log that was deleted is not begun again.
//  2. What a piece of work finds in the catalogue may be newer than the entry that it is for.
type carrier struct {
	catalog *catalog
	ready   chan struct{} // closed when everything of the start is carried out

	learners learners

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []work
	index  uint64 // of the last entry that was carried out
	closed bool
}

// work is what an entry or a restored state asks for.
type work struct {
	index uint64
	fx    meta.Effects
	all   bool           // look at everything
	again func()         // of no entry: tries again what failed before; else nil
	done  chan<- decided // told when it is carried out; nil: nobody waits
}

func (c *carrier) init(of *catalog) {
	c.catalog, c.ready = of, make(chan struct{})
	c.learners.catalog = of
	c.wake = sync.NewCond(&c.mu)
}

// add queues work; it does not wait.
func (c *carrier) add(w work) {
	c.mu.Lock()
	c.queue = append(c.queue, w)
	c.mu.Unlock()
	c.wake.Signal()
}

// take waits for work; false: there will be none.
func (c *carrier) take() ([]work, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) == 0 && !c.closed {
		c.wake.Wait()
	}
	list := c.queue
	c.queue = nil
	return list, !c.closed
}

func (c *carrier) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wake.Signal()
}

// awaitCarried waits until the entry at index is carried out here. It returns false when ctx ends before.
func (c *carrier) awaitCarried(ctx context.Context, index uint64) bool {
	const every = 2 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		c.mu.Lock()
		done := c.index >= index
		c.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
}

// currentRetry is the pause between two questions whether the catalogue is current.
const currentRetry = 20 * time.Millisecond

// run carries out until the engine ends.
func (c *catalog) run() {
	if !c.awaitCurrent() {
		return
	}
	c.removeOrphans()
	c.bringAll()
	c.awaitAlone()
	close(c.ready)
	for {
		list, ok := c.take()
		if !ok {
			return
		}
		for _, w := range list {
			if w.again != nil {
				w.again()
				continue
			}
			c.carry(w)
			c.carrier.mu.Lock()
			c.carrier.index = w.index
			c.carrier.mu.Unlock()
		}
	}
}

// awaitCurrent waits until this replica has everything that was decided before. It returns false when the
// engine ends meanwhile.
func (c *catalog) awaitCurrent() bool {
	retry := time.NewTicker(currentRetry)
	defer retry.Stop()
	var index uint64
	known := false
	for {
		if !known {
			var err error
			index, err = c.askCurrent()
			known = err == nil
		}
		c.mu.Lock()
		reached := known && c.applied >= index
		c.mu.Unlock()
		if reached {
			return true
		}
		select {
		case <-retry.C:
		case <-c.engine.ctx.Done():
			return false
		}
	}
}

// askCurrent asks the leader how far the catalogue has come.
func (c *catalog) askCurrent() (index uint64, err error) {
	if c.leads() {
		return c.current()
	}
	ctx, cancel := context.WithTimeout(c.engine.ctx, gatherWait)
	defer cancel()
	err = c.engine.calls.call(ctx, leaderSubject(metaGroup), metaCall{}, &index)
	return index, err
}

// awaitAlone waits until the streams serve whose only replica is here: of a node that is alone, all.
func (c *catalog) awaitAlone() {
	for _, a := range c.engine.accounts {
		for _, s := range a.all() {
			if s.alone() {
				select {
				case <-s.opened:
				case <-c.engine.ctx.Done():
					return
				}
			}
		}
	}
}

func (c *catalog) carry(w work) {
	name, account := w.fx.Stream.Name, w.fx.Stream.Account
	switch {
	case w.all:
		c.bringAll()
	case w.fx.Error != nil || name == "" || !w.fx.Changed:
	case w.fx.Consumer != nil:
		c.bringConsumer(account, name, w.fx.Consumer.Name)
	default:
		c.bringStream(account, name)
	}
	if w.done != nil {
		w.done <- decided{fx: w.fx, index: w.index}
	}
}

// removeOrphans drops the logs of replicas of which the catalogue knows that they are gone, but whose log
// was still there when the process ended. Groups that the catalogue never gave out are left alone. No
// stream runs yet, so that no log is dropped under one.
func (c *catalog) removeOrphans() {
	for _, log := range c.engine.cfg.Groups.Logs() {
		if log == metaGroup {
			continue
		}
		c.mu.Lock()
		removed := c.machine.Removed(c.engine.cfg.Node, log)
		c.mu.Unlock()
		if !removed {
			continue
		}
		if err := c.engine.cfg.Groups.Remove(GroupSpec{ID: meta.GroupOfLog(log), Log: log}); err != nil {
			c.engine.cfg.Logger.Error("remove the log of a deleted group", "group", meta.GroupOfLog(log), "error", err)
		}
	}
}

// bringAll looks at every stream that is in the catalogue or runs here.
func (c *catalog) bringAll() {
	c.mu.Lock()
	accounts := c.machine.Accounts()
	c.mu.Unlock()
	for _, account := range accounts {
		if c.engine.accounts[account] == nil {
			c.mu.Lock()
			streams := len(c.machine.Streams(account, ""))
			c.mu.Unlock()
			c.engine.cfg.Logger.Warn("account has streams but is not configured for them; they are kept and not served",
				"account", account, "streams", streams)
		}
	}
	for name, a := range c.engine.accounts {
		streams := map[string]bool{}
		for _, s := range a.all() {
			streams[s.name] = true
		}
		c.mu.Lock()
		for _, ms := range c.machine.Streams(name, "") {
			streams[ms.Name] = true
		}
		c.mu.Unlock()
		for _, stream := range slices.Sorted(maps.Keys(streams)) {
			c.bringStream(name, stream)
		}
	}
}

// bringStream starts, tells or ends this node's replica of a stream, and of its consumers.
func (c *catalog) bringStream(account, name string) {
	a := c.engine.accounts[account]
	if a == nil {
		return
	}
	c.mu.Lock()
	ms, ok := c.machine.Stream(account, name)
	consumers := c.machine.Consumers(account, name)
	c.mu.Unlock()
	member, here := ms.Group.Replica(c.engine.cfg.Node)
	here = here && ok
	s := a.local(name)
	if s != nil && (!here || s.spec.ID != ms.Group.ID || s.spec.Replica != member.Replica) {
		a.forget(s)
		s.delete()
		s = nil
	}
	if !here {
		a.setOffline(name, nil)
		return
	}
	if s == nil {
		if c.engine.members.out.Load() {
			return
		}
		var err error
		if s, err = a.start(ms, GroupSpec{
			ID: ms.Group.ID, Log: ms.Group.LogOf(member), Replica: member.Replica, Began: ms.Group.Began,
		}); err != nil { // the others are not to suffer for it
			c.cannotServe(a, name, "", err)
			c.rebuild(a, name, "", err)
			return
		}
		a.setOffline(name, nil)
	}
	for _, mc := range consumers {
		if err := s.bringConsumer(mc.Name, mc, true); err != nil {
			// Without one of its consumers an interest stream would drop what that one wants.
			a.forget(s)
			s.shutdown()
			c.cannotServe(a, name, "", fmt.Errorf("consumer %q: %w", mc.Name, err))
			c.rebuild(a, name, mc.Name, err)
			return
		}
	}
	s.dropOthers(consumers)
	s.assign(ms)
}

// bringConsumer does so for one consumer.
func (c *catalog) bringConsumer(account, name, consumer string) {
	a := c.engine.accounts[account]
	if a == nil {
		return
	}
	s := a.local(name)
	if s == nil {
		a.mu.RLock()
		_, offline := a.offline[name]
		a.mu.RUnlock()
		if offline { // maybe because of this consumer
			c.bringStream(account, name)
		}
		return
	}
	mc, ok := c.consumer(account, name, consumer)
	if err := s.bringConsumer(consumer, mc, ok); err != nil {
		c.cannotServe(a, name, consumer, err)
		c.rebuild(a, name, consumer, err)
	}
}

// rebuild has the replica of a stream or consumer replaced that could not be started here because of its log.
func (c *catalog) rebuild(a *account, name, consumer string, err error) {
	if errors.Is(err, ErrFull) || errors.Is(err, ErrStopped) {
		return
	}
	group, ok := c.groupOf(a.name, name, consumer)
	if member, here := group.Replica(c.engine.cfg.Node); ok && here {
		c.engine.rebuild(a, name, consumer, GroupSpec{ID: group.ID, Log: group.LogOf(member), Replica: member.Replica}, err)
	}
}

// bringAgain is when the carrier tries again what it could not start, for want of room on the disk.
const bringAgain = 5 * time.Second

// cannotServe notes why a stream, or a consumer of it if that is named, does not run here, and tries again later.
func (c *catalog) cannotServe(a *account, name, consumer string, err error) {
	c.engine.cfg.Logger.Error("stream or consumer cannot be served; its data is left alone",
		"account", a.name, "stream", name, "consumer", consumer, "error", err)
	if consumer == "" {
		a.setOffline(name, err)
	}
	if !errors.Is(err, ErrFull) {
		return // it would be the same
	}
	time.AfterFunc(bringAgain, func() {
		c.carrier.add(work{again: func() {
			if consumer == "" {
				c.bringStream(a.name, name)
			} else {
				c.bringConsumer(a.name, name, consumer)
			}
		}})
	})
}
