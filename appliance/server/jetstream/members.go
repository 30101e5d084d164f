package jetstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// members looks after who belongs to which group: of the streams and durable consumers that have a replica
// here, and, on the node that leads it, of the meta group. It is told of changes by follow, forget and
// led, and looks itself around every now and then; what is at rest costs nothing but that.
type members struct {
	engine  *Engine
	driver  driver
	stats   nodeStats
	wake    chan struct{} // look around now
	out     atomic.Bool   // this node was removed from the cluster
	said    string        // the last refusal that was logged; owned by join
	joining chan struct{} // holds one while a node is taken in: one after the other
	quiet   []func()      // ends what the leader of the meta group subscribes to; owned by the engine's metaJobs

	mu      sync.Mutex
	assets  map[uint64]*asset    // by group
	voters  []uint64             // with which the meta group was at rest under this leader; nil: not known
	rebuilt map[uint64]time.Time // when a replica that failed here was replaced, by group
}

// asset is this node's replica of a stream or durable consumer as its group matters.
type asset struct {
	account          *account
	stream, consumer string // consumer is empty for a stream
	memory           bool
	spec             GroupSpec
	group            Group
	leaving          atomic.Bool // it is being handed over, see leave

	// Guarded by the mu of members.
	want   meta.Group // what the catalogue says
	term   uint64     // in which this replica leads; 0: it does not
	since  time.Time  // when it began to lead
	silent time.Time  // since when there is no leader; zero: there is one
	told   bool       // that there is none
}

// kind is S for a stream, C for a consumer.
func (a *asset) kind() string {
	if a.consumer == "" {
		return "S"
	}
	return "C"
}

// lookAround is the time between two looks at the state of the cluster.
const lookAround = 5 * time.Second

func (m *members) init(e *Engine) {
	m.engine, m.assets, m.wake = e, map[uint64]*asset{}, make(chan struct{}, 1)
	m.rebuilt = map[uint64]time.Time{}
	m.joining = make(chan struct{}, 1)
	m.driver.init(e)
}

// follow is told of a replica that runs here: when it starts, when the catalogue has something new about it,
// and when it begins to lead in a term or, with 0, leads no more. Only account, stream, consumer, memory, spec
// and group of a are set. It does not wait.
func (m *members) follow(a *asset, want meta.Group, term uint64) {
	m.mu.Lock()
	old := m.assets[a.spec.ID]
	if old == nil || old.group != a.group {
		m.assets[a.spec.ID] = a
	} else {
		a = old
	}
	elected := term != 0 && term != a.term
	drive := term != 0 && len(want.Target) > 0 &&
		(elected || !sameMembers(replicaIDs(want.Target), replicaIDs(a.want.Target)))
	a.want, a.term = want, term
	switch {
	case elected:
		a.since = time.Now()
		a.silent, a.told = time.Time{}, false
	case term == 0:
		a.since = time.Time{}
	}
	m.mu.Unlock()
	if elected && len(want.Members) > 1 {
		m.engine.work(chores, func() { m.adviseElected(a) })
	}
	switch {
	case drive:
		move := &move{
			id: a.spec.ID, group: a.group, self: a.spec.Replica,
			stream:  a.replica,
			target:  func() []uint64 { return m.target(a) },
			fix:     func(target []uint64) bool { return m.record(a, meta.OpFix, target) },
			arrived: func(target []uint64) bool { return m.record(a, meta.OpPlaced, target) },
		}
		if a.consumer == "" {
			move.hold = func([]uint64) string { return m.holds(a) }
		}
		m.driver.watch(move)
	case term == 0 || len(want.Target) == 0:
		m.driver.forget(a.spec.ID)
	}
}

// tellMembers tells who looks after members how it stands with the replica. It does not wait.
func (s *Stream) tellMembers() {
	s.mu.RLock()
	group, ms, term := s.group, s.assigned, s.term
	s.mu.RUnlock()
	if group == nil || ms == nil {
		return
	}
	m := &s.account.engine.members
	m.follow(&asset{
		account: s.account, stream: s.name, memory: s.storage == api.MemoryStorage, spec: s.spec, group: group,
	}, ms.Group, term)
	s.mu.RLock()
	stopped := s.stopped
	s.mu.RUnlock()
	if stopped { // since then
		m.forget(s.spec.ID, group)
	}
}

// tellMembers does so for a durable consumer that has a group.
func (c *consumerEntry) tellMembers() {
	c.stream.mu.RLock()
	memory := c.config.MemoryStorage
	c.stream.mu.RUnlock()
	c.mu.Lock()
	group, want, term := c.group, c.assigned, uint64(0)
	if c.want != nil {
		term = c.want.term
	}
	c.mu.Unlock()
	m := &c.stream.account.engine.members
	m.follow(&asset{
		account: c.stream.account, stream: c.stream.name, consumer: c.name, memory: memory, spec: c.spec, group: group,
	}, want, term)
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped { // since then
		m.forget(c.id, group)
	}
}

// forget is told that a replica does not run here any more. Another one of its group may.
func (m *members) forget(id uint64, group Group) {
	m.mu.Lock()
	a := m.assets[id]
	known := a != nil && a.group == group
	if known {
		delete(m.assets, id)
	}
	m.mu.Unlock()
	if known {
		m.driver.forget(id)
	}
}

// asset returns the replica of a group that runs here, nil if there is none.
func (m *members) asset(group uint64) *asset {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.assets[group]
}

// all returns the replicas that run here, by group.
func (m *members) all() []*asset {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*asset, 0, len(m.assets))
	for _, a := range m.assets {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *asset) int {
		if a.spec.ID < b.spec.ID {
			return -1
		}
		return 1
	})
	return list
}

// target returns the replicas that a group led here is to have, nil if it is where it is to be.
func (m *members) target(a *asset) []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return replicaIDs(a.want.Target)
}

// holds tells which consumer has to leave before the members of a stream may change; empty: none. A consumer
// reads the stream's replica on its own node.
func (m *members) holds(a *asset) string {
	c := m.engine.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	if name, held := c.machine.Holds(a.account.name, a.stream); held {
		return "consumer " + name + " has to leave first"
	}
	return ""
}

// record has the catalogue take note that those who are not in target begin to be taken out of a group
// (OpFix), after which none of them is wanted again, or that its members are those of target (OpPlaced).
func (m *members) record(a *asset, op meta.Op, target []uint64) bool {
	m.mu.Lock()
	want := a.want
	m.mu.Unlock()
	if !sameMembers(target, replicaIDs(want.Target)) {
		return false // it wants others by now
	}
	if op == meta.OpFix && want.Fixed {
		return true
	}
	fx, _, err := m.engine.catalog.do(&meta.Entry{
		Op: op, Account: a.account.name, Stream: a.stream, Consumer: a.consumer, Members: want.Target,
	})
	if err != nil {
		m.engine.cfg.Logger.Warn("where a group is, is not recorded yet", "group", a.spec.ID, "record", op, "error", err)
	}
	return err == nil && !fx.Stale
}

// wakeUp has the node look around now.
func (m *members) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run looks around until the engine ends.
func (m *members) run() {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.wake:
		case <-m.engine.ctx.Done():
			return
		}
		m.stats.tell(m.engine, false)
		m.lookForLeaders(time.Now())
		m.lookForSelf()
		if m.out.Load() {
			m.leave()
		}
		if m.engine.catalog.leads() {
			m.lookAfterNodes()
			m.repair()
		}
	}
}

func (m *members) close() { m.driver.close() }
