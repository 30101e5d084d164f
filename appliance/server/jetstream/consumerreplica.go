package jetstream

import (
	"context"
	"fmt"
	"io"
	"time"

	"millrace/appliance/server/jetstream/stream"
)

// consumerReplica is a consumer as its group sees it.
type consumerReplica struct{ *consumerEntry }

var _ Snapshotter = consumerReplica{}

// Apply takes a committed entry.
func (r consumerReplica) Apply(index uint64, entry []byte) {
	c := r.consumerEntry
	c.mu.Lock()
	if c.failed != nil {
		c.mu.Unlock()
		return
	}
	c.effects.Settled = c.effects.Settled[:0]
	placed := c.committed.Started()
	if err := c.committed.Apply(entry, &c.effects); err != nil {
		c.failLocked(fmt.Errorf("apply entry %d (%s): %w", index, c.stream.account.engine.cfg.Log.Place(c.spec.Log, index), err))
		c.mu.Unlock()
		return
	}
	if c.retained && len(c.effects.Settled) > 0 {
		c.settleLocked(c.effects.Settled)
	}
	if c.retained && !placed && c.committed.Started() {
		c.stream.sweepSoon() // it needed everything, and may begin behind what others have settled meanwhile
	}
	c.applied = index
	l, group := c.want, c.group
	c.logged += len(entry)
	due := group != nil && c.logged >= max(snapshotLog, 8*c.stateSize)
	if due {
		c.logged = 0
	}
	c.mu.Unlock()
	if l != nil {
		l.committed()
	}
	if due {
		group.Snapshot()
	}
}

// snapshotLog is how many bytes of log a consumer lets grow, and 8 times its state, before it asks for
// a snapshot: there may be thousands of consumers.
const snapshotLog = 256 << 10

// Lead follows the leadership of the group.
func (r consumerReplica) Lead(term uint64, ready bool) {
	c := r.consumerEntry
	unread := c.stream.failure() != nil
	c.mu.Lock()
	c.want = nil
	if ready && c.failed == nil && !c.stopped {
		c.want = &leadership{entry: c, term: term}
	}
	leave := ready && (unread || c.failed != nil)
	c.mu.Unlock()
	if leave {
		c.stream.account.engine.leaveFailed(c.id)
	}
	if ready {
		c.caughtUp()
	}
	c.jobs.add(c.follow)
}

// Failed takes the replica offline; the others go on.
func (r consumerReplica) Failed(err error) {
	r.mu.Lock()
	r.failLocked(fmt.Errorf("group: %w", err))
	r.mu.Unlock()
}

// failLocked notes the first failure. The stream keeps what the consumer might need.
func (c *consumerEntry) failLocked(err error) {
	if c.failed != nil {
		return
	}
	c.failed, c.want = err, nil
	c.stream.log.Error("consumer cannot be served here; its data is left alone", "account", c.stream.account.name,
		"stream", c.stream.name, "consumer", c.name, "error", err)
	c.stream.account.engine.leaveFailed(c.id)
	c.stream.account.engine.rebuild(c.stream.account, c.stream.name, c.name, c.spec, err)
	c.jobs.add(c.follow)
}

// Snapshot captures what is committed.
func (r consumerReplica) Snapshot() (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return nil, r.failed
	}
	state := r.committed.Snapshot()
	r.logged, r.stateSize = 0, len(state)
	return stateBytes(state), nil
}

// Restore replaces what is committed.
func (r consumerReplica) Restore(index uint64, state io.Reader) error {
	data, err := io.ReadAll(state)
	if err != nil {
		return fmt.Errorf("state of consumer %q: %w", r.name, err)
	}
	c := r.consumerEntry
	c.mu.Lock()
	err = c.committed.Restore(data)
	c.applied, c.logged, c.stateSize = index, 0, len(data)
	retained := c.retained
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("state of consumer %q: %w", r.name, err)
	}
	if retained {
		c.stream.sweepSoon() // what was settled in between is not known one by one
	}
	return nil
}

// Live yields nothing: no entry is needed once its effect is in a state.
func (r consumerReplica) Live(uint64, uint64, func(uint64, []stream.Range) bool) error { return nil }

// LiveBytes returns 0.
func (r consumerReplica) LiveBytes(uint64, uint64) int64 { return 0 }

// Needs reports whether the consumer may still deliver the message or awaits its acknowledgement, by what
// is committed. A replica that may not have all of that yet needs everything.
func (c *consumerEntry) Needs(seq uint64, subj string) bool {
	c.stream.mu.RLock()
	filter := c.filter
	c.stream.mu.RUnlock()
	if !filter.Matches(subj) {
		return false
	}
	if c.committed == nil {
		d := c.led.Load()
		return d == nil || d.Needs(seq, subj)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.complete {
		c.doubted = true
	}
	return c.failed != nil || !c.complete || c.committed.Needs(seq)
}

// Retain tells whether the stream keeps messages for its consumers and so wants to hear of those that are
// settled. What was settled before is not reported.
func (c *consumerEntry) Retain(on bool) {
	c.mu.Lock()
	c.retained = on
	group := c.group
	c.mu.Unlock()
	if d := c.led.Load(); d != nil {
		d.Retain(on)
	}
	if on && group != nil {
		c.catchUp(firstCatchUp)
	}
}

// settleLocked tells the stream, on a worker, of messages that are settled.
func (c *consumerEntry) settleLocked(seqs []uint64) {
	c.unsettled = append(c.unsettled, seqs...)
	if c.settling {
		return
	}
	c.settling = true
	c.stream.account.engine.work(turns, func() {
		c.mu.Lock()
		seqs := c.unsettled
		c.unsettled, c.settling = nil, false
		c.mu.Unlock()
		if c.stream.leads() { // who leads later finds them when it begins to
			c.stream.settled(seqs)
		}
	})
}

// settledInMemory tells the stream of what a consumer without a log has settled.
func (c *consumerEntry) settledInMemory(seqs []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleLocked(seqs)
}

// Pauses between two questions of a replica that starts whether it has caught up.
const (
	firstCatchUp = 50 * time.Millisecond
	lastCatchUp  = time.Second
)

// catchUp finds out when a replica that starts has everything that was committed before. It does not wait.
func (c *consumerEntry) catchUp(pause time.Duration) {
	c.mu.Lock()
	done := c.stopped || c.failed != nil || c.complete
	c.mu.Unlock()
	if done {
		return
	}
	e := c.stream.account.engine
	e.work(chores, func() {
		ctx, cancel := context.WithTimeout(e.ctx, gatherWait)
		defer cancel()
		if err := e.awaitIndex(ctx, c.id, c.appliedIndex); err == nil {
			c.caughtUp()
			return
		}
		time.AfterFunc(pause, func() { c.catchUp(min(2*pause, lastCatchUp)) })
	})
}

// appliedIndex returns the entry that was applied last.
func (c *consumerEntry) appliedIndex() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

// caughtUp notes that the replica has everything that was committed before it started.
func (c *consumerEntry) caughtUp() {
	c.mu.Lock()
	sweep := c.doubted && c.retained
	c.complete, c.doubted = true, false
	c.mu.Unlock()
	if sweep {
		c.stream.sweepSoon()
	}
}
