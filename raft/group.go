package raft

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/raft/core"
)

// GroupID names a group on all its nodes. Ids are never reused, not even after Remove.
type GroupID uint64

// maxProposeBytes bounds the data that is proposed in one go; one entry is always allowed.
const maxProposeBytes = 1 << 20

// Group is one replica of a raft group. Its methods are safe for concurrent use.
//
// Invariants:
//
//  1. Whoever sets state from idle or queued to active owns the core until it leaves active.
//  2. A group is in its worker's queue if and only if its state is queued.
//  3. When state is idle, the core has nothing outstanding.
//  4. The machine is called in turn or by restore only: by the worker, or by who stands in for it.
//  5. A group is in its worker's list of those that are told the time if and only if listed is true.
type Group struct {
	id      GroupID
	log     uint64
	replica uint64
	host    *Host
	cfg     *Config
	worker  *worker
	machine Machine
	done    func() // onPersisted, once for all writes

	mu         sync.Mutex // taken with no other lock held
	state      groupState
	stopped    bool
	reported   bool          // OnGroupFailure was called
	ready      bool          // leads and applied the entry that opens the term
	handing    bool          // leadership is being handed over: nothing is proposed
	solo       bool          // this replica is the only member
	awake      bool          // is to be told the time
	listed     bool          // is told
	ticked     bool          // time has passed since the last turn
	left       chan struct{} // closed when the group leaves active after it was stopped; else nil
	err        error         // why the group failed
	queue      [][]byte      // proposals that the core has not seen
	pending    int64         // bytes of proposals that are not applied
	persisted  int           // durable writes that the core was not told of
	inbox      []*inbound
	inboxBytes int
	calls      []func(error) // to be made by who owns the core, with nil
	readers    []func(error)
	shown      view
	acks       []ack  // who confirmed that this replica leads in shown.term
	noLease    uint64 // term in which there are no leases any more
	saving     *saving

	stopping atomic.Bool // stopped, for a look between two entries

	// Owned by whoever made state active.
	core         core.Core
	inflight     int    // writes that the core was not told to be durable
	leadTerm     uint64 // term that this replica leads, 0: none
	opens        uint64 // term whose opening entry, written by this replica, is applied
	term         uint64 // of the last Ready
	lead         uint64 // of the last Ready
	role         core.Role
	last         uint64 // last entry of the log
	applied      uint64
	members      core.Membership
	changeIndex  uint64 // entry of the last membership change, or one after it
	removed      bool   // from the group, by an applied change or the word of the leader
	election     electionState
	reads        readState
	changes      []pendingChange
	sleep        sleepState
	refusedIndex uint64 // of a MsgApp
	refusals     int    // of it since the last tick
	snaps        snapshotState
	mending      []mend
	damage       damageState
	checks       checkState
}

// view is what is known of a group without owning its core.
type view struct {
	term, lead uint64
	commit     uint64 // no other node knows of a higher one from this replica
	applied    uint64
	members    *core.Membership
}

type groupState uint8

const (
	idle   groupState = iota
	queued            // in the worker's queue
	active            // someone runs the core
)

// ID returns the group's id.
func (g *Group) ID() GroupID { return g.id }

// Propose appends data to the group's log as one entry and takes ownership of data. It does not
// wait for the disk. A nil error means that the entry is on its way: it is committed when Apply is
// called with it, and undecided when leadership is lost, the group fails or the process ends before
// that. Proposals are applied in the order of the calls.
//
// It returns ErrNotLeader, ErrBusy, ErrStopped or the error of Config.Admit; then nothing was
// proposed.
func (g *Group) Propose(data []byte) error { return g.propose(0, data, g.cfg.Admit) }

// ProposeControl is Propose for entries that give space back or keep the machine going, such as
// deletes and checkpoints: it asks Config.AdmitControl instead of Config.Admit.
func (g *Group) ProposeControl(data []byte) error { return g.propose(0, data, g.cfg.AdmitControl) }

// ProposeIn is Propose for an entry that was made for a term which Machine.Lead has announced: with
// ErrNotLeader it refuses when this replica does not lead in that term, even if it leads in a later one.
func (g *Group) ProposeIn(term uint64, data []byte) error { return g.propose(term, data, g.cfg.Admit) }

// ProposeControlIn is ProposeControl in a term, see ProposeIn.
func (g *Group) ProposeControlIn(term uint64, data []byte) error {
	return g.propose(term, data, g.cfg.AdmitControl)
}

// propose takes an entry for a term, or for whichever this replica leads in if that is 0.
func (g *Group) propose(term uint64, data []byte, admit func(n int) error) error {
	size := int64(len(data))
	switch {
	case size == 0:
		return fmt.Errorf("raft: propose to group %d: no data", g.id)
	case size > g.cfg.MaxPendingBytes:
		return fmt.Errorf("raft: propose to group %d: %d bytes exceed the bound of %d",
			g.id, size, g.cfg.MaxPendingBytes)
	}
	if err := admit(len(data)); err != nil {
		return fmt.Errorf("raft: propose to group %d: %w", g.id, err)
	}
	g.mu.Lock()
	if err := g.refusalLocked(term, size); err != nil {
		wake := !g.ready && !g.awake && !g.solo && g.wakeLocked()
		if wake {
			// Somebody wants a leader: see whether the one that is known is still there.
			g.calls = append(g.calls, asked(g.seekLeader))
		}
		g.mu.Unlock()
		if wake {
			g.worker.push(g)
		}
		return err
	}
	g.pending += size
	if g.state == idle && g.solo && g.inflight == 0 {
		// Nobody is in the core and nothing is on its way: go to the disk without a change of
		// goroutine. See DESIGN.md.
		g.state = active
		g.mu.Unlock()
		g.leave(false, g.guard(func() error { return g.proposeNow(data) }))
		return nil
	}
	g.queue = append(g.queue, data)
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
	return nil
}

// stoppedLocked returns why the group does nothing any more, nil if it does.
func (g *Group) stoppedLocked() error {
	switch {
	case g.err != nil:
		return fmt.Errorf("%w: %w", ErrStopped, g.err)
	case g.stopped:
		return ErrStopped
	}
	return nil
}

// refusalLocked returns why a proposal of that size in that term, if it is not 0, is not taken, nil if it is.
func (g *Group) refusalLocked(term uint64, size int64) error {
	if err := g.stoppedLocked(); err != nil {
		return err
	}
	switch {
	case !g.ready || g.handing || term != 0 && term != g.shown.term:
		return ErrNotLeader
	case g.pending+size > g.cfg.MaxPendingBytes:
		return ErrBusy
	}
	return nil
}

// Leader returns the replica that leads the group as far as this one knows, 0 for none, and the term.
func (g *Group) Leader() (replica, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shown.lead, g.shown.term
}

// Stop stops this replica. When it returned, the machine is not called any more, and nothing more
// is written; what was proposed and not applied is undecided. It does not wait for the disk.
func (g *Group) Stop() {
	g.mu.Lock()
	first := !g.stopped
	g.stopped = true
	g.stopping.Store(true)
	var left chan struct{}
	if g.state == active {
		if g.left == nil {
			g.left = make(chan struct{})
		}
		left = g.left
	}
	g.mu.Unlock()
	if left != nil && !g.cfg.Manual { // a manual host is not in a turn, or it is this one's
		<-left
	}
	if first {
		g.abandon()
	}
	g.host.forget(g)
}

// abandon answers those who wait for a group that does nothing any more, and tells the other nodes
// that this replica does not lead.
func (g *Group) abandon() {
	g.mu.Lock()
	err := g.stoppedLocked()
	readers, calls, shown, saving := g.readers, g.calls, g.shown, g.saving
	g.readers, g.inbox, g.inboxBytes, g.calls = nil, nil, 0, nil
	g.mu.Unlock()
	if saving != nil {
		saving.cancel()
	}
	g.countCampaign(false)
	for _, f := range slices.Concat(calls, readers) {
		f(err)
	}
	g.failReads(err)
	g.failChanges(err)
	g.host.transfers.stopped(g)
	g.host.repairs.stopped(g)
	if shown.lead == g.replica && shown.members != nil {
		for replica := range others(shown.members, g.replica) {
			if p := g.peerOf(replica); p != nil {
				g.host.sendRecord(p, recRelease, g.id, shown.term)
			}
		}
	}
}

// onPersisted is told by the store that the oldest write is durable.
func (g *Group) onPersisted() {
	if g.cfg.Transport != nil {
		g.host.store.end(g.cfg.Now())
	}
	g.mu.Lock()
	g.persisted++
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
}

// ask lets who owns the core call f with nil, or somebody call it with the reason why the group does
// nothing any more.
func (g *Group) ask(f func(error)) {
	g.mu.Lock()
	if err := g.stoppedLocked(); err != nil {
		g.mu.Unlock()
		f(err)
		return
	}
	g.calls = append(g.calls, f)
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
}

// call lets who owns the core call f, unless the group is stopped or failed.
func (g *Group) call(f func()) { g.ask(asked(f)) }

// asked is f for those who do not care when it is not called.
func asked(f func()) func(error) {
	return func(err error) {
		if err == nil {
			f()
		}
	}
}

// wakeLocked makes an idle group queued; if it returns true, the caller pushes it to the worker.
func (g *Group) wakeLocked() bool {
	if g.state != idle || g.stopped || g.err != nil {
		return false
	}
	g.state = queued
	return true
}

// arrived is what came since the last turn.
type arrived struct {
	persisted int
	ticked    bool
	inbox     []*inbound
	calls     []func(error)
	readers   []func(error)
	proposals [][]byte
}

// run is called by the worker for each time that the group was queued.
func (g *Group) run(rd *core.Ready) {
	g.mu.Lock()
	if g.stopped {
		g.state = idle
		g.mu.Unlock()
		return
	}
	g.state = active
	failure, report := g.err, g.err != nil && !g.reported
	g.reported = g.reported || report
	restore := failure == nil && g.snaps.toRestore != nil
	var in arrived
	if failure == nil && !restore {
		in = g.takeLocked()
	}
	g.mu.Unlock()

	switch {
	case failure != nil:
		if report {
			g.cfg.OnGroupFailure(g.id, failure)
			g.abandon()
		}
		g.leave(false, nil)
		return
	case restore:
		g.runRestore()
		return
	}
	var again bool
	err := g.guard(func() (err error) {
		if again, err = g.turn(rd, &in); err != nil {
			return err
		}
		g.settleMends(in.ticked)
		return g.lookForDamage()
	})
	rd.Reset()
	g.list()
	g.leave(again, err)
}

// takeLocked takes what arrived.
func (g *Group) takeLocked() arrived {
	in := arrived{
		persisted: g.persisted, ticked: g.ticked, inbox: g.inbox, calls: g.calls, readers: g.readers,
	}
	g.persisted, g.ticked = 0, false
	g.inbox, g.inboxBytes, g.calls, g.readers = nil, 0, nil, nil
	if !g.handing {
		in.proposals = g.takeProposalsLocked()
	}
	return in
}

// takeProposalsLocked takes queued proposals, as many as go into one proposal of the core.
func (g *Group) takeProposalsLocked() [][]byte {
	size := 0
	for i, data := range g.queue {
		if size += len(data); size > maxProposeBytes && i > 0 {
			taken := g.queue[:i:i]
			g.queue = g.queue[i:]
			return taken
		}
	}
	taken := g.queue
	g.queue = nil
	return taken
}

// list puts the group on its worker's list of those that are told the time, if it is to be. It is called by
// the worker.
func (g *Group) list() {
	awake := !g.sleep.asleep
	g.mu.Lock()
	g.awake = awake
	add := awake && !g.listed
	g.listed = g.listed || add
	g.mu.Unlock()
	if add {
		g.worker.awake = append(g.worker.awake, g)
	}
}

// leave ends the active state. The group goes back to its worker when there is more to do: again,
// what arrived meanwhile, or a failure to report.
func (g *Group) leave(again bool, err error) {
	if err != nil {
		g.cfg.Logger.Error("raft group failed", "group", uint64(g.id), "err", err)
	}
	g.mu.Lock()
	if err != nil {
		g.err = err
		g.queue, g.pending, g.ready = nil, 0, false
	}
	more := again || g.persisted > 0 || g.ticked || len(g.queue) > 0 && !g.handing ||
		len(g.inbox) > 0 || len(g.calls) > 0 || len(g.readers) > 0
	if g.err != nil {
		more = !g.reported
	}
	g.state = idle
	if g.stopped {
		more = false
	} else if more {
		g.state = queued
	}
	if g.stopped && g.left != nil {
		close(g.left)
		g.left = nil
	}
	g.mu.Unlock()
	if more {
		g.worker.push(g)
	}
}
