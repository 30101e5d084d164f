package raft

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft/core"
)

// Host runs the raft groups of one node over one LogStore.
type Host struct {
	cfg         Config
	snapshots   SnapshotStore // Config.Log, if it is one
	incarnation uint64        // tells this life of the host from earlier ones, not 0
	opened      time.Time
	workers     []*worker
	wg          sync.WaitGroup
	closing     chan struct{}

	attention *attention
	peers     peers
	store     storeHealth
	transfers transfers
	repairs   repairs
	readIDs   atomic.Uint64
	campaigns atomic.Int64 // replicas of this node that campaign
	stats     stats

	beaten   time.Time     // when heartbeats were sent; owned by who calls tick, as the next two
	late     time.Duration // the longest time that this node was held up, which was not told of
	toldLate time.Time

	mu       sync.Mutex // taken with no other lock held
	closed   bool
	groups   map[GroupID]*Group
	order    []*Group            // groups, by id
	removing map[uint64]struct{} // logs
	jobs     []func()            // what would run in the background, of a manual host
	random   *rand.Rand
}

// GroupSpec says which group to run, and this node's replica of it.
type GroupSpec struct {
	ID GroupID

	// Log names the replica's log in the LogStore. A replica that takes the place of one that lost its
	// data has a log of its own. 0: ID.
	Log uint64

	// Replica is the id of this node's replica, never used before in the group by another log.
	// 0: Config.Node.
	Replica uint64

	// Voters and Learners are the replicas with which the group's log began: the same on all its
	// replicas, for ever. A replica that was added later is not among them.
	Voters, Learners []uint64

	// First is the voter that calls the first election of a new group; the others do so only when nothing comes of
	// that. 0: the one with the lowest id.
	First uint64
}

// stats counts what is dropped.
type stats struct {
	unknown, bad, dropped, repaired atomic.Uint64
}

// Stats counts what a host received and could not use, and what it repaired.
type Stats struct {
	UnknownGroup uint64 // records for groups that do not run here
	BadFrames    uint64
	Dropped      uint64 // records over the bound of Config.MaxInboxBytes
	Repaired     uint64 // entries and objects that were damaged here and brought back from other nodes
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	return Stats{h.stats.unknown.Load(), h.stats.bad.Load(), h.stats.dropped.Load(), h.stats.repaired.Load()}
}

// Open starts a host without groups.
func Open(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{
		cfg:      cfg.withDefaults(),
		closing:  make(chan struct{}),
		peers:    peers{nodes: make(map[uint64]*peer)},
		groups:   make(map[GroupID]*Group),
		removing: make(map[uint64]struct{}),
	}
	h.snapshots, _ = h.cfg.Log.(SnapshotStore)
	h.random = h.cfg.Rand
	h.incarnation = h.random.Uint64()>>1 | 1
	h.opened = h.cfg.Now()
	h.attention = newAttention(h.opened, heldUp*h.cfg.TickInterval)
	h.transfers.init(h)
	h.repairs.host = h
	for range h.cfg.Workers {
		w := newWorker(h)
		h.workers = append(h.workers, w)
		if !h.cfg.Manual {
			h.wg.Go(w.loop)
		}
	}
	if h.cfg.Transport != nil && !h.cfg.Manual {
		h.wg.Go(h.tickLoop)
	}
	return h, nil
}

// tickLoop calls tick until the host is closed.
func (h *Host) tickLoop() {
	ticker := time.NewTicker(h.cfg.TickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			h.tick()
		case <-h.closing:
			return
		}
	}
}

// tick passes one unit of time.
func (h *Host) tick() {
	h.tickBeats(h.cfg.Now())
	h.transfers.tick()
	h.repairs.tick()
	for _, w := range h.workers {
		w.tick()
	}
}

// Tick passes one unit of time in a manual host: it sends heartbeats and queues the groups that are
// awake. Run is called next.
func (h *Host) Tick() { h.tick() }

// Run does all work of a manual host that can be done now.
func (h *Host) Run() {
	for {
		worked := false
		for _, w := range h.workers {
			worked = w.drain() || worked
		}
		h.mu.Lock()
		jobs := h.jobs
		h.jobs = nil
		h.mu.Unlock()
		for _, job := range jobs {
			job()
		}
		if !worked && len(jobs) == 0 {
			return
		}
	}
}

// background runs a job that may wait for the disk, and ends when the host is closed.
func (h *Host) background(job func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
	case h.cfg.Manual:
		h.jobs = append(h.jobs, job)
	default:
		h.wg.Go(job)
	}
}

// rand returns a number of [0, n).
func (h *Host) rand(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.IntN(max(n, 1))
}

// Start runs this node's replica of a group. The stored snapshot and log are read and applied by the
// group's worker, so Start returns before that; the machine is told Lead(term, true) when this replica
// leads. The only voter of a group leads it without waiting for an election.
//
// It returns ErrGroupExists, ErrStopped after Close, and errors that name what is wrong with the
// stored log.
func (h *Host) Start(spec GroupSpec, m Machine) (*Group, error) {
	if spec.Log == 0 {
		spec.Log = uint64(spec.ID)
	}
	if spec.Replica == 0 {
		spec.Replica = h.cfg.Node
	}
	if err := h.checkSpec(&spec, m); err != nil {
		return nil, fmt.Errorf("raft: start group %d: %w", spec.ID, err)
	}
	g := &Group{
		id:      spec.ID,
		log:     spec.Log,
		replica: spec.Replica,
		host:    h,
		cfg:     &h.cfg,
		worker:  h.workers[uint64(spec.ID)%uint64(len(h.workers))],
		machine: m,
		state:   active, // messages may come from here on: they wait until there is a core
	}
	g.done = g.onPersisted
	if err := h.reserve(g); err != nil {
		return nil, err
	}
	err := g.guard(func() (err error) {
		g.core, err = core.New(core.Config{
			Group:          g.log,
			Replica:        g.replica,
			Voters:         spec.Voters,
			Learners:       spec.Learners,
			Log:            h.cfg.Log,
			MaxApplyBytes:  uint64(h.cfg.MaxApplyBytes),
			ElectionTicks:  h.cfg.ElectionTicks,
			HeartbeatTicks: h.cfg.HeartbeatTicks,
			Logger:         h.cfg.Logger,
		})
		if err != nil {
			return err
		}
		return g.prepare(spec.First)
	})
	if err != nil {
		g.mu.Lock()
		g.stopped = true
		g.mu.Unlock()
		g.leave(false, nil)
		g.abandon()
		g.Stop()
		return nil, fmt.Errorf("raft: start: %w", err)
	}
	g.leave(true, nil)
	return g, nil
}

func (h *Host) checkSpec(spec *GroupSpec, m Machine) error {
	_, snapshotter := m.(Snapshotter)
	alone := len(spec.Voters) == 1 && len(spec.Learners) == 0 && spec.Voters[0] == spec.Replica
	switch {
	case m == nil:
		return fmt.Errorf("no machine")
	case h.cfg.NodeOf(spec.Replica) != h.cfg.Node:
		return fmt.Errorf("replica %d is not of node %d", spec.Replica, h.cfg.Node)
	case len(spec.Voters) == 0:
		return fmt.Errorf("voters %v", spec.Voters)
	case !alone && h.cfg.Transport == nil:
		return fmt.Errorf("voters %v and learners %v without a transport to other nodes", spec.Voters, spec.Learners)
	case (!alone || snapshotter) && h.snapshots == nil:
		return fmt.Errorf("the log store keeps no snapshots")
	}
	return nil
}

// reserve enters the group, so that no other Start has the same id.
func (h *Host) reserve(g *Group) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrStopped
	}
	if _, ok := h.removing[g.log]; ok {
		return fmt.Errorf("%w: log %d of group %d is being removed", ErrGroupExists, g.log, g.id)
	}
	if h.groups[g.id] != nil {
		return fmt.Errorf("%w: group %d", ErrGroupExists, g.id)
	}
	h.groups[g.id] = g
	at, _ := slices.BinarySearchFunc(h.order, g.id, compareID)
	h.order = slices.Insert(h.order, at, g)
	return nil
}

func compareID(g *Group, id GroupID) int {
	switch {
	case g.id < id:
		return -1
	case g.id > id:
		return 1
	}
	return 0
}

// group returns a group that runs, nil for others.
func (h *Host) group(id GroupID) *Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.groups[id]
}

// groupsAfter returns up to n groups with the ids after one.
func (h *Host) groupsAfter(id GroupID, n int) []*Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, _ := slices.BinarySearchFunc(h.order, id+1, compareID)
	return slices.Clone(h.order[at:min(at+n, len(h.order))])
}

// sortedGroups returns the groups by id.
func (h *Host) sortedGroups() []*Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.order)
}

// Remove stops the group if it runs, and deletes its log: spec's ID and Log count. It returns when that
// is durable; the log's id must not be used again. When the host is closed or the store has failed it
// returns an error that wraps ErrStopped or ErrLogFailed, and a restart may find the log. It must not be
// called by a Machine, nor in a manual host.
func (h *Host) Remove(spec GroupSpec) error {
	dropped := make(chan struct{})
	if err := h.StartRemove(spec, func() { close(dropped) }); err != nil {
		return err
	}
	select {
	case <-dropped:
		return nil
	case <-h.cfg.LogFailed:
		return fmt.Errorf("raft: remove group %d: %w before the removal was durable", spec.ID, ErrLogFailed)
	case <-h.closing:
		return fmt.Errorf("raft: remove group %d: %w before the removal was durable", spec.ID, ErrStopped)
	}
}

// StartRemove is Remove that does not wait: done is called when the removal is durable.
func (h *Host) StartRemove(spec GroupSpec, done func()) error {
	id, log := spec.ID, spec.Log
	if log == 0 {
		log = uint64(id)
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ErrStopped
	}
	if _, ok := h.removing[log]; ok {
		h.mu.Unlock()
		return fmt.Errorf("raft: remove group %d: %w", id, errRemoving)
	}
	g := h.groups[id]
	if g != nil && g.log != log {
		g = nil // the log is that of an earlier replica
	}
	h.removing[log] = struct{}{}
	h.mu.Unlock()

	if g != nil {
		g.Stop()
	}
	h.cfg.Log.Drop(log, func() {
		h.mu.Lock()
		delete(h.removing, log)
		h.mu.Unlock()
		done()
	})
	return nil
}

// forget is called when a group was stopped.
func (h *Host) forget(g *Group) {
	h.mu.Lock()
	if h.groups[g.id] == g { // else it was started anew
		delete(h.groups, g.id)
		if at, ok := slices.BinarySearchFunc(h.order, g.id, compareID); ok {
			h.order = slices.Delete(h.order, at, at+1)
		}
	}
	h.mu.Unlock()
}

// Close stops all groups and waits until nothing of the host runs. The LogStore stays open.
func (h *Host) Close() error {
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	groups := slices.Clone(h.order)
	h.mu.Unlock()
	if first {
		close(h.closing)
		for _, g := range groups {
			g.Stop()
		}
		for _, w := range h.workers {
			w.close()
		}
	}
	h.wg.Wait()
	return nil
}
