package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// metaGroup is the id of the group that holds the catalogue of streams and consumers; all storage nodes
// belong to it. Its log on each node has the same number.
const metaGroup = 1

// catalog is this node's replica of the meta group: what streams and durable consumers there are, and
// where they are, is decided by its log, and what concerns this node is carried out by the carrier.
type catalog struct {
	engine  *Engine
	started chan struct{} // closed when group is set
	group   Group
	carrier

	mu         sync.Mutex
	machine    *meta.Machine
	failed     error
	term       uint64    // in which this node leads the meta group; 0: it does not
	leaderSeen time.Time // when the meta group had a leader, or this node started: others may know of one
	applied    uint64    // index of the last entry
	waiting    map[string]chan<- decided
}

// decided is what became of an entry.
type decided struct {
	fx    meta.Effects
	index uint64
	err   error
}

// decideWait bounds the time from a proposal to its effect on this node.
const decideWait = 10 * time.Second

// startCatalog starts this node's replica of the meta group; the carrier begins when it is current.
func startCatalog(e *Engine) error {
	c := &catalog{engine: e, machine: meta.New(e.cfg.Founders[0]), waiting: map[string]chan<- decided{}, started: make(chan struct{}), leaderSeen: time.Now()}
	c.carrier.init(c)
	e.catalog = c // the group may tell before Start returns
	group, err := e.cfg.Groups.Start(GroupSpec{
		ID: metaGroup, Log: metaGroup, Replica: e.cfg.Replica, Began: e.cfg.Founders,
	}, catalogMachine{c})
	if err != nil {
		return err
	}
	c.group = group
	close(c.started)
	e.wg.Go(c.run)
	e.wg.Go(c.watchLeader)
	return nil
}

// catalogMachine is the catalogue as its group sees it.
type catalogMachine struct{ *catalog }

var _ Snapshotter = catalogMachine{}

// Apply takes a committed entry.
func (m catalogMachine) Apply(index uint64, entry []byte) {
	c := m.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return
	}
	fx, err := c.machine.Apply(entry)
	c.applied = index
	if err != nil {
		c.failLocked(fmt.Errorf("apply entry %d of the catalogue (%s): %w", index, c.engine.cfg.Log.Place(metaGroup, index), err))
		return
	}
	w := work{index: index, fx: fx}
	if fx.ID != "" {
		w.done = c.waiting[fx.ID]
		delete(c.waiting, fx.ID)
	}
	c.carrier.add(w)
}

// Lead tells about leadership of the meta group.
func (m catalogMachine) Lead(term uint64, ready bool) {
	c := m.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = 0
	if ready {
		c.term = term
	}
	c.engine.metaLed(c, c.term)
}

// Failed ends the process: without its catalogue a node knows nothing.
func (m catalogMachine) Failed(err error) {
	m.mu.Lock()
	m.failLocked(err)
	m.mu.Unlock()
	m.engine.cfg.Fatal(fmt.Errorf("catalogue of streams: %w", err))
}

// Snapshot captures the catalogue.
func (m catalogMachine) Snapshot() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return nil, m.failed
	}
	return stateBytes(m.machine.Snapshot()), nil
}

// Restore replaces the catalogue.
func (m catalogMachine) Restore(index uint64, state io.Reader) error {
	data, err := io.ReadAll(state)
	if err != nil {
		return fmt.Errorf("catalogue: %w", err)
	}
	c := m.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.machine.Restore(data); err != nil {
		return fmt.Errorf("catalogue: %w", err)
	}
	c.applied = index
	c.carrier.add(work{index: index, all: true})
	return nil
}

// Live yields nothing: no entry is needed once its effect is in a state.
func (m catalogMachine) Live(uint64, uint64, func(uint64, []stream.Range) bool) error { return nil }

// LiveBytes returns 0.
func (m catalogMachine) LiveBytes(uint64, uint64) int64 { return 0 }

// stateBytes is a captured state that is written already and refers to no objects.
type stateBytes []byte

// WriteTo writes the state.
func (s stateBytes) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}

// Objects returns none.
func (stateBytes) Objects() []uint64 { return nil }

// Release does nothing.
func (stateBytes) Release() {}

// Abandon does nothing.
func (stateBytes) Abandon() {}

// failLocked notes the first failure and tells all who wait.
func (c *catalog) failLocked(err error) {
	if c.failed != nil {
		return
	}
	c.failed = err
	for id, ch := range c.waiting {
		ch <- decided{err: err}
		delete(c.waiting, id)
	}
}

// leads reports whether this node leads the meta group.
func (c *catalog) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term != 0
}

// leaderless reports whether nobody has led the meta group for a while, as far as this node knows.
func (c *catalog) leaderless() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.leaderSeen) > leaderlessAfter
}

// An election takes a second; a node that hears of nobody for leaderlessAfter tells clients. It looks every
// lookForLeader.
const (
	leaderlessAfter = 3 * time.Second
	lookForLeader   = 500 * time.Millisecond
)

// watchLeader notes when the meta group has a leader.
func (c *catalog) watchLeader() {
	look := time.NewTicker(lookForLeader)
	defer look.Stop()
	for {
		if replica, _ := c.group.Leader(); replica != 0 {
			c.mu.Lock()
			c.leaderSeen = time.Now()
			c.mu.Unlock()
		}
		select {
		case <-look.C:
		case <-c.engine.ctx.Done():
			return
		}
	}
}

// do proposes an entry, here or at the node that leads the meta group, and waits until it is applied and
// carried out on this node. It returns the index of the entry.
func (c *catalog) do(e *meta.Entry) (meta.Effects, uint64, *api.Error) {
	e.Time, e.ID = time.Now(), nuid.Next()
	data, err := e.Encode()
	if err != nil {
		return meta.Effects{}, 0, api.ErrStreamGeneralF(err.Error())
	}
	ch := make(chan decided, 1)
	c.mu.Lock()
	failed, term := c.failed, c.term
	if failed == nil {
		c.waiting[e.ID] = ch
	}
	c.mu.Unlock()
	if failed != nil {
		return meta.Effects{}, 0, api.ErrStreamGeneralF(failed.Error())
	}
	forget := func() {
		c.mu.Lock()
		delete(c.waiting, e.ID)
		c.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(c.engine.ctx, decideWait)
	defer cancel()
	if err := c.submit(ctx, term, data); err != nil && !errors.Is(err, errLeaderGone) { // who took it with him, or not
		forget()
		var refused *api.Error
		if errors.As(err, &refused) {
			return meta.Effects{}, 0, refused
		}
		if errors.Is(err, ErrNotLeader) || errors.Is(err, errNoLeader) || ctx.Err() != nil {
			return meta.Effects{}, 0, api.ErrClusterNotAvail
		}
		return meta.Effects{}, 0, api.ErrStreamGeneralF(err.Error())
	}
	select {
	case d := <-ch:
		switch {
		case d.err != nil:
			return d.fx, d.index, api.ErrStreamGeneralF(d.err.Error())
		case d.fx.Error != nil:
			return d.fx, d.index, d.fx.Error
		}
		return d.fx, d.index, nil
	case <-ctx.Done(): // undecided
		forget()
		return meta.Effects{}, 0, api.ErrClusterNotAvail
	}
}

// submit hands an entry to the leader of the meta group. Who says that he is not that any more has taken nothing: the
// next one is asked.
func (c *catalog) submit(ctx context.Context, term uint64, data []byte) error {
	if term != 0 {
		return c.group.ProposeControl(term, data)
	}
	for {
		err := c.engine.calls.call(ctx, leaderSubject(metaGroup), metaCall{data}, nil)
		if !errors.Is(err, api.ErrClusterNotLeader) {
			return err
		}
		select {
		case <-time.After(retryLeader):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// metaCall is what another node asks of the leader of the meta group: to propose an entry, or if there is
// none, how far the catalogue has come.
type metaCall struct {
	Entry []byte `json:"entry,omitempty"`
}

// takeCall answers another node as the leader of the meta group. Whether an entry is applied, that node sees
// by itself.
func (c *catalog) takeCall(body []byte) (any, *api.Error) {
	var call metaCall
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, api.ErrBadRequest
	}
	if call.Entry == nil {
		index, err := c.current()
		if err != nil {
			return nil, api.ErrClusterNotLeader
		}
		return index, nil
	}
	c.mu.Lock()
	term := c.term
	c.mu.Unlock()
	if term == 0 {
		return nil, api.ErrClusterNotLeader
	}
	if err := c.group.ProposeControl(term, call.Entry); err != nil {
		if errors.Is(err, ErrNotLeader) {
			return nil, api.ErrClusterNotLeader
		}
		return nil, api.ErrStreamGeneralF(err.Error())
	}
	return nil, nil
}

// current returns, at the leader, the index up to which the catalogue has come.
func (c *catalog) current() (uint64, error) {
	if err := leaseRead(c.group); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied, nil
}

// lost reports whether no node is left that has a stream's data.
func (c *catalog) lost(account, name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Lost(account, name)
}

// stream returns a stream of the catalogue.
func (c *catalog) stream(account, name string) (meta.Stream, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Stream(account, name)
}

// consumer returns a durable consumer of the catalogue.
func (c *catalog) consumer(account, streamName, name string) (meta.Consumer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Consumer(account, streamName, name)
}

func (c *catalog) close() {
	if c.group != nil {
		c.group.Stop()
	}
	c.mu.Lock()
	c.failLocked(ErrStopped)
	c.mu.Unlock()
	c.carrier.close()
}
