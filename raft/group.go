package raft

import (
	"fmt"
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
//  4. The machine is called in turn only, which only the worker does.
type Group struct {
	id      GroupID
	cfg     *Config
	worker  *worker
	machine Machine
	forget  func(*Group)
	done    func() // onPersisted, once for all writes

	mu        sync.Mutex // taken with no other lock held
	state     groupState
	stopped   bool
	left      chan struct{} // closed when the group leaves active after it was stopped; else nil
	err       error         // why the group failed
	reported  bool          // OnGroupFailure was called
	ready     bool          // leads and applied the entry that opens the term
	queue     [][]byte      // proposals that the core has not seen
	pending   int64         // bytes of proposals that are not applied
	persisted int           // durable writes that the core was not told of

	stopping atomic.Bool // stopped, for a look between two entries

	// Owned by whoever made state active.
	core      core.Core
	inflight  int    // writes that the core was not told to be durable
	campaigns bool   // the election after the start was called
	leadTerm  uint64 // term that this replica leads, 0: none
}

type groupState uint8

const (
	idle   groupState = iota
	queued            // in the worker's queue
	active            // someone runs the core
)

// Propose appends data to the group's log as one entry and takes ownership of data. It does not
// wait for the disk. A nil error means that the entry is on its way: it is committed when Apply is
// called with it, and undecided when leadership is lost, the group fails or the process ends before
// that. Proposals are applied in the order of the calls.
//
// It returns ErrNotLeader, ErrBusy, ErrStopped or the error of Config.Admit; then nothing was
// proposed.
func (g *Group) Propose(data []byte) error { return g.propose(data, g.cfg.Admit) }

// ProposeControl is Propose for entries that give space back or keep the machine going, such as
// deletes and checkpoints: it asks Config.AdmitControl instead of Config.Admit.
func (g *Group) ProposeControl(data []byte) error { return g.propose(data, g.cfg.AdmitControl) }

func (g *Group) propose(data []byte, admit func(n int) error) error {
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
	if err := g.refusalLocked(size); err != nil {
		g.mu.Unlock()
		return err
	}
	g.pending += size
	if g.state == idle && g.inflight == 0 {
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

// refusalLocked returns why a proposal of that size is not taken, nil if it is.
func (g *Group) refusalLocked(size int64) error {
	switch {
	case g.err != nil:
		return fmt.Errorf("%w: %w", ErrStopped, g.err)
	case g.stopped:
		return ErrStopped
	case !g.ready:
		return ErrNotLeader
	case g.pending+size > g.cfg.MaxPendingBytes:
		return ErrBusy
	}
	return nil
}

// Stop stops this replica. When it returned, the machine is not called any more, and nothing more
// is written; what was proposed and not applied is undecided. It does not wait for the disk.
func (g *Group) Stop() {
	g.mu.Lock()
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
	if left != nil {
		<-left
	}
	g.forget(g)
}

// onPersisted is told by the store that the oldest write is durable.
func (g *Group) onPersisted() {
	g.mu.Lock()
	g.persisted++
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
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

// start queues the group for the first time.
func (g *Group) start() {
	g.mu.Lock()
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
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
	persisted, proposals := g.persisted, g.takeLocked()
	g.persisted = 0
	g.mu.Unlock()

	if failure != nil {
		if report {
			g.cfg.OnGroupFailure(g.id, failure)
		}
		g.leave(false, nil)
		return
	}
	var again bool
	err := g.guard(func() (err error) {
		again, err = g.turn(rd, persisted, proposals)
		return err
	})
	clear(rd.Committed)
	rd.Append = core.Append{}
	g.leave(again, err)
}

// takeLocked takes queued proposals, as many as go into one proposal of the core.
func (g *Group) takeLocked() [][]byte {
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
	more := again || len(g.queue) > 0 || g.persisted > 0
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
