package delivery

import (
	"errors"
	"time"

	"millrace/appliance/server/jetstream/consumer"
)

// How long decisions may wait for others to share a log entry with. A crash in between forgets them:
// the messages are delivered again, with an older delivery count.
const (
	linger       = 5 * time.Millisecond  // deliveries and acknowledgements nobody waits for
	settleLinger = time.Millisecond      // the stream waits to remove messages
	retryLog     = 20 * time.Millisecond // after the log refused an entry

	// A leader that hands over takes no entries, and is abandoned when that is done. If that does
	// not come off, it goes on.
	retryLead = 200 * time.Millisecond
)

const (
	maxFlights = 4        // entries proposed and not committed
	fullEntry  = 16 << 10 // bytes of an open entry that are not made to wait
	stopEntry  = 1 << 20  // bytes of an open entry that stop deliveries and acks until the log takes it
)

// waiter wants to know when what was decided before is committed.
type waiter struct {
	reply string      // gets an empty message; empty: none
	done  func(error) // nil: none
}

// flight is an entry of the log, open or proposed, and what follows its commit.
type flight struct {
	settled []uint64 // without a log
	waiters []waiter
}

// commitState is the part of a Consumer that brings decisions into the log. Owned by run.
type commitState struct {
	batch    consumer.Batch
	settles  bool      // the stream waits for batch
	open     flight    // of batch
	flights  []flight  // proposed, oldest first
	spare    []flight  // emptied, for reuse
	flushAt  time.Time // when batch is proposed at the latest; zero: it is empty
	unsent   []byte    // an entry that the log refused, offered again at retryAt; nil: none
	refused  flight    // of unsent
	retryAt  time.Time
	led      bool // the log takes entries from here
	onCommit func()
}

// await answers w after the commit of everything decided so far.
func (c *Consumer) await(w waiter) { c.open.waiters = append(c.open.waiters, w) }

// entryCommitted runs on the log's goroutine.
func (c *Consumer) entryCommitted() {
	c.inbox.committed.Add(1)
	c.wake()
}

// overdue reports whether nothing more can be decided because the log is far behind or takes nothing
// from here.
func (c *Consumer) overdue() bool { return c.batch.Len() >= stopEntry || !c.led }

// commit completes committed entries and proposes the open one when it should not wait.
func (c *Consumer) commit() {
	c.completeCommitted()
	if c.unsent != nil {
		if !c.now.Before(c.retryAt) && c.offer(c.unsent, c.refused) {
			c.unsent, c.refused = nil, flight{}
		}
		if c.unsent != nil {
			return
		}
	}
	if c.batch.Len() == 0 {
		c.flushAt = time.Time{}
		switch {
		case len(c.open.waiters) == 0 && len(c.open.settled) == 0:
		case len(c.flights) == 0:
			c.complete(c.takeOpen())
		default:
			// Nothing new was decided: the newest entry in flight is what they wait for.
			last := &c.flights[len(c.flights)-1]
			last.waiters = append(last.waiters, c.open.waiters...)
			clear(c.open.waiters)
			c.open.waiters = c.open.waiters[:0]
		}
		return
	}
	if c.flushAt.IsZero() {
		c.flushAt = c.now.Add(linger)
	}
	if at := c.now.Add(settleLinger); c.settles && at.Before(c.flushAt) {
		c.flushAt = at
	}
	urgent := len(c.open.waiters) > 0 || c.batch.Len() >= fullEntry
	if len(c.flights) < maxFlights && (urgent || !c.now.Before(c.flushAt)) {
		c.propose()
	}
}

// propose offers the open entry to the log.
func (c *Consumer) propose() {
	entry, f := c.batch.Take(), c.takeOpen()
	c.flushAt, c.settles = time.Time{}, false
	if !c.offer(entry, f) {
		c.unsent, c.refused = entry, f
	}
}

func (c *Consumer) offer(entry []byte, f flight) bool {
	err := c.cfg.Log.Propose(entry, c.onCommit)
	c.led = !errors.Is(err, ErrNotLeader)
	switch {
	case !c.led:
		c.retryAt = c.now.Add(retryLead)
	case err != nil:
		c.fail(err)
		c.retryAt = c.now.Add(retryLog)
	default:
		c.flights = append(c.flights, f)
	}
	return err == nil
}

func (c *Consumer) takeOpen() flight {
	f := c.open
	c.open = flight{}
	if n := len(c.spare); n > 0 {
		c.open = c.spare[n-1]
		c.spare = c.spare[:n-1]
	}
	return f
}

func (c *Consumer) completeCommitted() {
	for range c.inbox.committed.Swap(0) {
		f := c.flights[0]
		n := copy(c.flights, c.flights[1:])
		c.flights[n] = flight{}
		c.flights = c.flights[:n]
		c.complete(f)
	}
}

// complete answers those who waited for f.
func (c *Consumer) complete(f flight) {
	for i := range f.waiters {
		w := &f.waiters[i]
		if w.reply != "" {
			c.cfg.Bus.Publish(w.reply, "", nil, nil)
		}
		if w.done != nil {
			w.done(nil)
		}
		*w = waiter{}
	}
	if len(f.settled) > 0 && c.cfg.Settled != nil {
		c.cfg.Settled(f.settled)
	}
	if cap(f.settled) > 0 || cap(f.waiters) > 0 {
		c.spare = append(c.spare, flight{settled: f.settled[:0], waiters: f.waiters[:0]})
	}
}

// nextCommit returns when commit has to be called again; zero: after an event.
func (c *Consumer) nextCommit() time.Time {
	switch {
	case c.unsent != nil:
		return c.retryAt
	case len(c.flights) >= maxFlights:
		return time.Time{} // the next commit wakes
	}
	return c.flushAt
}
