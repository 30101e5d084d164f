package jetstream

import (
	"context"
	"slices"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/membership"
)

// driver brings the members of groups that are led here to those that are wanted, step by step. What a
// step is, package membership decides from the group alone, so that it does not matter how often the
// leader changes meanwhile. A group that has its members costs nothing.
type driver struct {
	engine *Engine

	mu      sync.Mutex
	moves   map[uint64]*move // by group
	due     []*move          // to be looked at, oldest first
	running int
	timer   *time.Timer // set while there are moves
	closed  bool
}

// move is a group that is led here and on its way.
type move struct {
	id    uint64
	group Group
	self  uint64
	// stream, if not nil, returns the stream of the group, nil if it is another group.
	stream func() *Stream
	// target returns the replicas that are wanted as voters; none: nothing is to be done any more.
	target func() []uint64
	// each tells that those who are new become voters one by one, as they catch up.
	each bool
	// hold, if not nil, tells why the members may not change yet, but for learners that are added; empty: they may.
	hold func(target []uint64) string
	// fix, if not nil, is called before a change that cannot be taken back, which is not made if it returns false.
	fix func(target []uint64) bool
	// arrived is called when the members are as wanted. It may be called again until it returns true.
	arrived func(target []uint64) bool

	// Guarded by the driver's mu.
	queued   bool
	changing bool // the group has a change of ours that it has not answered
	progress progress
}

// progress is what people are told of a move.
type progress struct {
	since time.Time // when this node began to drive it
	kind  membership.Reason
	why   string
}

const (
	// driveEvery is the time between two looks at a group that is on its way.
	driveEvery = 250 * time.Millisecond
	// driveAtOnce is how many groups are looked at at the same time: each takes a worker of the engine.
	driveAtOnce = 4
	// driveWait bounds the time for which a look waits for the group.
	driveWait = 2 * time.Second
)

func (d *driver) init(e *Engine) { d.engine, d.moves = e, map[uint64]*move{} }

// watch begins to drive a group, or looks at it at once if it is driven already. It does not wait.
func (d *driver) watch(m *move) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	m.progress.since, m.progress.kind = time.Now(), membership.Changing
	m.progress.why = m.progress.kind.String()
	if old := d.moves[m.id]; old != nil {
		m.changing = old.changing && old.group == m.group
		old.target = func() []uint64 { return nil } // it may be queued yet
	}
	d.moves[m.id] = m
	d.queueLocked(m)
	if d.timer == nil {
		d.timer = time.AfterFunc(driveEvery, d.tick)
	}
}

// forget drives a group no more: it is not led here, or has arrived.
func (d *driver) forget(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.moves, id)
}

// progress returns what a group that is driven here waits for; false: it is not driven.
func (d *driver) progress(id uint64) (progress, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.moves[id]
	if m == nil {
		return progress{}, false
	}
	return m.progress, true
}

func (d *driver) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.due = true, nil
	clear(d.moves)
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *driver) tick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.moves) == 0 {
		d.timer = nil
		return
	}
	for _, m := range d.moves {
		d.queueLocked(m)
	}
	d.timer = time.AfterFunc(driveEvery, d.tick)
}

// queueLocked has a worker look at a group.
func (d *driver) queueLocked(m *move) {
	if m.queued || m.changing {
		return
	}
	m.queued = true
	d.due = append(d.due, m)
	if d.running < driveAtOnce {
		d.running++
		d.engine.work(chores, d.run)
	}
}

// run looks at one group and lets others have the worker before the next one.
func (d *driver) run() {
	d.mu.Lock()
	if len(d.due) == 0 {
		d.running--
		d.mu.Unlock()
		return
	}
	m := d.due[0]
	d.due[0] = nil
	d.due = d.due[1:]
	m.queued = false
	current := d.moves[m.id] == m
	d.mu.Unlock()
	if current {
		d.step(m)
	}
	d.engine.work(chores, d.run)
}

// step takes the next step of a group.
func (d *driver) step(m *move) {
	target := m.target()
	if len(target) == 0 {
		d.drop(m)
		return
	}
	ctx, cancel := context.WithTimeout(d.engine.ctx, driveWait)
	defer cancel()
	s, err := m.group.Status(ctx)
	if err != nil || s.Lead != m.self {
		return // who leads next goes on
	}
	next := membership.Next
	if m.each {
		next = membership.NextEach
	}
	a := next(membershipState(&s, m.self), target)
	final := a.Kind == membership.Alter && (len(a.Change.Voters) > 0 ||
		slices.ContainsFunc(a.Change.Remove, func(id uint64) bool { return slices.Contains(s.Voters, id) }))
	why := ""
	if m.hold != nil && (final || a.Kind == membership.Transfer || a.Kind == membership.Done) {
		why = m.hold(target)
	}
	switch {
	case why != "":
		a = membership.Action{Kind: membership.Wait}
	case final && m.fix != nil && !m.fix(target):
		return // the next look finds out what is wanted by now
	}
	d.mu.Lock()
	d.noteLocked(m, a, why)
	d.mu.Unlock()
	log := d.engine.cfg.Logger
	switch a.Kind {
	case membership.Alter:
		log.Info("members of a group change", "group", m.id, "voters", s.Voters, "learners", s.Learners, "wanted", target,
			"promote", a.Change.Voters, "add", a.Change.Learners, "remove", a.Change.Remove)
		m.group.ChangeMembers(Change(a.Change), func(err error) { d.altered(m, err) })
	case membership.Transfer:
		log.Info("leader of a group hands over, since it leaves", "group", m.id, "to", a.To)
		var s *Stream
		if m.stream != nil {
			s = m.stream()
		}
		to := func(membership.State) (uint64, *api.Error) { return a.To, nil }
		if err := d.engine.transferTo(ctx, m.group, m.self, s, to); err != nil {
			log.Warn("leader of a group that leaves has not handed over", "group", m.id, "to", a.To, "error", err)
		}
	case membership.Done:
		// Who was cut off may lead no more, not know it, and see members that are not those of now.
		if leaseRead(m.group) == nil && m.arrived(target) {
			d.drop(m)
		}
	}
}

// noteLocked keeps what is shown of a move.
func (d *driver) noteLocked(m *move, a membership.Action, why string) {
	m.changing = a.Kind == membership.Alter
	m.progress.kind = membership.Changing
	switch a.Kind {
	case membership.Wait:
		m.progress.kind, m.progress.why = a.Why, a.Why.String()
		if why != "" {
			m.progress.kind, m.progress.why = membership.Changing, why
		}
	case membership.Alter:
		m.progress.why = "a change of members has to commit"
	case membership.Transfer:
		m.progress.why = "leadership has to be handed over"
	case membership.Done:
		m.progress.why = "the catalogue has to take note of the members"
	}
}

// altered is told that a change is complete or refused: the next step follows at once, or with the timer.
func (d *driver) altered(m *move, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m.changing = false
	if n := d.moves[m.id]; n != nil && n.group == m.group {
		n.changing = false
		if err == nil {
			d.queueLocked(n)
		}
	}
}

// drop drives a move no more, unless there is a newer one of its group.
func (d *driver) drop(m *move) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moves[m.id] == m {
		delete(d.moves, m.id)
	}
}

// membershipState is a leader's status as package membership takes it.
func membershipState(s *GroupStatus, self uint64) membership.State {
	state := membership.State{
		Self: self, Commit: s.Commit, Voters: s.Voters, Learners: s.Learners, Outgoing: s.Outgoing, Transferring: s.Transferring,
	}
	for _, p := range s.Progress {
		state.Peers = append(state.Peers, membership.Peer{Replica: p.Replica, Match: p.Match, Active: p.Active})
	}
	return state
}

// sameMembers reports whether two sets of replicas are the same.
func sameMembers(a, b []uint64) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
