package jetstream

import (
	"fmt"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// catalog runs the meta group: what streams and durable consumers there are is decided by its log,
// and what it decided is carried out here in the same order.
type catalog struct {
	engine *Engine
	group  Group

	mu      sync.Mutex
	machine *meta.Machine
	failed  error
	live    bool           // the log is replayed
	entries int            // applied since the last checkpoint
	waiting []chan applied // for entries in flight, in order

	// carry orders what the engine does by the log: it is held from a proposal until its effects
	// are carried out.
	carry sync.Mutex
}

type applied struct {
	fx  meta.Effects
	err error
}

// startCatalog replays the meta group and starts what it lists.
func startCatalog(e *Engine) (*catalog, error) {
	c := &catalog{engine: e, machine: meta.New()}
	group, err := e.cfg.Groups.Start(metaGroup, applyFunc(c.apply))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.group, c.live = group, true
	err = c.failed
	c.mu.Unlock()
	if err != nil {
		return c, err
	}
	if err := c.removeOrphans(); err != nil {
		return c, err
	}
	for _, name := range c.machine.Accounts() {
		a := e.accounts[name]
		if a == nil {
			e.cfg.Logger.Warn("account has streams but is not configured for them; they are kept and not served",
				"account", name, "streams", len(c.machine.Streams(name, "")))
			continue
		}
		for _, ms := range c.machine.Streams(name, "") {
			if err := c.recover(a, ms); err != nil { // the others are not to suffer for it
				e.cfg.Logger.Error("stream cannot be served; its data is left alone",
					"account", name, "stream", ms.Name, "error", err)
				a.mu.Lock()
				a.offline[ms.Name] = err
				a.mu.Unlock()
			}
		}
	}
	return c, nil
}

// removeOrphans drops the logs of streams and consumers whose deletion the catalogue holds, but whose
// log was still there when the process ended. Groups that the catalogue never gave out are left alone.
func (c *catalog) removeOrphans() error {
	for _, id := range c.engine.cfg.Groups.List() {
		if id == metaGroup {
			continue
		}
		if c.machine.Removed(id) {
			if err := c.engine.cfg.Groups.Remove(id); err != nil {
				return fmt.Errorf("remove the log of deleted group %d: %w", id, err)
			}
		}
	}
	return nil
}

// recover starts a stream that the catalogue lists, and its consumers.
func (c *catalog) recover(a *account, ms meta.Stream) error {
	s, err := a.start(ms)
	if err != nil {
		return err
	}
	for _, mc := range c.machine.Consumers(a.name, ms.Name) {
		if _, err := s.startConsumer(mc.Group, *mc.Config, mc.Created); err != nil {
			// Without one of its consumers an interest stream would drop what that one wants.
			a.mu.Lock()
			delete(a.streams, ms.Name)
			a.mu.Unlock()
			s.shutdown()
			return fmt.Errorf("consumer %q: %w", mc.Name, err)
		}
	}
	s.sweep()
	return nil
}

// start starts a stream of the catalogue and lists it in the account.
func (a *account) start(ms meta.Stream) (*Stream, error) {
	s := newStream(a, ms)
	if err := s.start(*ms.Config); err != nil {
		s.close()
		return nil, err
	}
	a.mu.Lock()
	a.streams[ms.Name] = s
	a.mu.Unlock()
	return s, nil
}

func (c *catalog) apply(index uint64, entry []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fx, err := c.machine.Apply(entry)
	if c.entries++; meta.IsCheckpoint(entry) {
		c.entries = 0
		if c.live {
			c.engine.cfg.Log.Release(metaGroup, index-1)
		}
	}
	if err != nil {
		err = fmt.Errorf("apply entry %d of the catalogue (%s): %w", index, c.engine.cfg.Log.Place(metaGroup, index), err)
		if c.failed == nil {
			c.failed = err
		}
	}
	if c.live && len(c.waiting) > 0 {
		c.waiting[0] <- applied{fx, err}
		c.waiting = c.waiting[1:]
	}
}

// do proposes an entry, waits until it is applied, and carries it out.
func (c *catalog) do(e *meta.Entry, carry func(fx meta.Effects) *api.Error) *api.Error {
	c.carry.Lock()
	defer c.carry.Unlock()
	e.Time = time.Now()
	data, err := e.Encode()
	if err != nil {
		return api.ErrStreamGeneralF(err.Error())
	}
	r := c.propose(data)
	switch {
	case r.err != nil:
		return api.ErrStreamGeneralF(r.err.Error())
	case r.fx.Error != nil:
		return r.fx.Error
	}
	apiErr := carry(r.fx)
	c.checkpoint()
	return apiErr
}

// checkpointEntries is how many entries of the catalogue may follow a checkpoint before the next one.
const checkpointEntries = 64

// checkpoint writes the whole catalogue when its log has grown, so that the log does not hold old
// segments. Nothing is in flight, since carry is held. A refused one is tried again with the next entry.
func (c *catalog) checkpoint() {
	c.mu.Lock()
	due := c.entries >= checkpointEntries
	var snapshot []byte
	if due {
		snapshot = c.machine.Snapshot()
	}
	c.mu.Unlock()
	if due {
		if r := c.propose(snapshot); r.err != nil {
			c.engine.cfg.Logger.Warn("no checkpoint of the catalogue", "error", r.err)
		}
	}
}

// propose gives an entry to the group and waits until it is applied.
func (c *catalog) propose(data []byte) applied {
	done := make(chan applied, 1)
	c.mu.Lock()
	failed := c.failed
	if failed == nil {
		c.waiting = append(c.waiting, done)
	}
	c.mu.Unlock()
	if failed != nil {
		return applied{err: failed}
	}
	if err := c.group.ProposeControl(data); err != nil {
		c.mu.Lock()
		if n := len(c.waiting) - 1; n >= 0 && c.waiting[n] == done {
			c.waiting = c.waiting[:n]
		}
		c.mu.Unlock()
		return applied{err: err}
	}
	return <-done
}

// limitsOf returns what the account's configurations are checked against.
func (a *account) limitsOf() api.Limits {
	l := a.engine.cfg.Limits
	l.Account = a.limits
	return l
}

func (c *catalog) createStream(a *account, r *api.StreamConfigRequest) (s *Stream, apiErr *api.Error) {
	apiErr = c.putStream(a, r, meta.ActionCreate, func(fx meta.Effects) *api.Error {
		if !fx.Created {
			if s, apiErr = a.stream(fx.Stream.Name); apiErr == nil {
				return nil
			} // else it was decided before, but could not be started then
		}
		var err error
		if s, err = a.start(fx.Stream); err != nil {
			return api.ErrStreamCreateF(err.Error())
		}
		a.advise("STREAM.CREATED", s.name, "", "create")
		return nil
	})
	return s, apiErr
}

func (c *catalog) updateStream(a *account, r *api.StreamConfigRequest) (s *Stream, apiErr *api.Error) {
	apiErr = c.putStream(a, r, meta.ActionUpdate, func(fx meta.Effects) *api.Error {
		var err *api.Error
		if s, err = a.stream(fx.Stream.Name); err != nil || !fx.Changed {
			return err
		}
		s.mu.RLock()
		retention := s.machine.Config().Retention
		s.mu.RUnlock()
		if _, err := s.do(stream.EncodeConfig(s.now(), fx.Stream.Config)); err != nil {
			return err
		}
		if err := s.subscribe(); err != nil {
			return api.ErrStreamUpdateF(err.Error())
		}
		if fx.Stream.Config.Retention != retention {
			if err := s.retain(); err != nil {
				return err
			}
		}
		a.advise("STREAM.UPDATED", s.name, "", "modify")
		return nil
	})
	return s, apiErr
}

func (c *catalog) putStream(a *account, r *api.StreamConfigRequest, action meta.Action, carry func(meta.Effects) *api.Error) *api.Error {
	limits := a.limitsOf()
	cfg, err := r.Normalize(&limits, r.Pedantic)
	if err != nil {
		return err
	}
	return c.do(&meta.Entry{
		Op: meta.OpPutStream, Account: a.name, Stream: cfg.Name, StreamConfig: &cfg, Action: action, Limits: &limits,
	}, carry)
}

func (c *catalog) deleteStream(a *account, name string) *api.Error {
	return c.do(&meta.Entry{Op: meta.OpDeleteStream, Account: a.name, Stream: name}, func(fx meta.Effects) *api.Error {
		a.mu.Lock()
		s := a.streams[name]
		delete(a.streams, name)
		delete(a.offline, name)
		a.mu.Unlock()
		if s != nil {
			s.delete()
		} else {
			for _, id := range fx.Removed {
				if err := c.engine.cfg.Groups.Remove(id); err != nil {
					return api.ErrStreamDeleteF(err.Error())
				}
			}
		}
		a.advise("STREAM.DELETED", name, "", "delete")
		return nil
	})
}

func (c *catalog) createConsumer(s *Stream, cfg api.ConsumerConfig) (info *api.ConsumerInfo, apiErr *api.Error) {
	apiErr = c.putConsumer(s, &cfg, meta.ActionCreate, func(fx meta.Effects) *api.Error {
		var err *api.Error
		info, err = s.startConsumer(fx.Consumer.Group, *fx.Consumer.Config, fx.Consumer.Created)
		return err
	})
	return info, apiErr
}

// updateConsumer changes a durable consumer in the catalogue; the caller reconfigures the running one.
func (c *catalog) updateConsumer(s *Stream, cfg api.ConsumerConfig) *api.Error {
	return c.putConsumer(s, &cfg, meta.ActionUpdate, func(meta.Effects) *api.Error { return nil })
}

func (c *catalog) putConsumer(s *Stream, cfg *api.ConsumerConfig, action meta.Action, carry func(meta.Effects) *api.Error) *api.Error {
	limits := s.account.limitsOf()
	return c.do(&meta.Entry{
		Op: meta.OpPutConsumer, Account: s.account.name, Stream: s.name, Consumer: cfg.Name,
		ConsumerConfig: cfg, Action: action, Limits: &limits,
	}, carry)
}

func (c *catalog) pauseConsumer(s *Stream, name string, until *time.Time) *api.Error {
	return c.do(&meta.Entry{
		Op: meta.OpPauseConsumer, Account: s.account.name, Stream: s.name, Consumer: name, PauseUntil: until,
	}, func(meta.Effects) *api.Error { return nil })
}

func (c *catalog) deleteConsumer(s *Stream, name string) *api.Error {
	return c.do(&meta.Entry{
		Op: meta.OpDeleteConsumer, Account: s.account.name, Stream: s.name, Consumer: name,
	}, func(meta.Effects) *api.Error {
		if e, err := s.consumer(name); err == nil {
			s.dropConsumer(e)
		}
		return nil
	})
}

func (c *catalog) close() {
	if c.group != nil {
		c.group.Stop()
	}
	c.mu.Lock()
	if c.failed == nil {
		c.failed = ErrStopped
	}
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, ch := range waiting {
		ch <- applied{err: ErrStopped}
	}
}
