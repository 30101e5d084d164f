package delivery

import (
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// turns says whether a goroutine works for a consumer. One does while something is due; a consumer that waits has
// none, so that ten thousand of them cost little.
type turns struct {
	mu      sync.Mutex
	started bool
	running bool // run works
	again   bool // run has to look once more before it ends
	ended   bool // run ends, and begins no more
}

// wake has run look at what is due. Anyone may call it.
func (c *Consumer) wake() {
	t := &c.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.started || t.ended:
	case t.running:
		t.again = true
	default:
		t.running = true
		c.wg.Go(c.run)
	}
}

// start lets run begin.
func (c *Consumer) start() {
	c.turns.mu.Lock()
	c.turns.started = true
	c.turns.mu.Unlock()
	c.wake()
}

// begin is start by who does the work of run at first, until rest.
func (c *Consumer) begin() {
	c.turns.mu.Lock()
	c.turns.started, c.turns.running = true, true
	c.turns.mu.Unlock()
}

// halt waits until run has ended for good.
func (c *Consumer) halt() {
	c.turns.mu.Lock()
	c.turns.ended = true
	c.turns.mu.Unlock()
	c.wg.Wait()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// rest reports whether run may end: nobody has woken it meanwhile.
func (c *Consumer) rest() bool {
	t := &c.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.again && !t.ended {
		t.again = false
		return false
	}
	t.running = false
	return true
}

// run does what is due and ends; it is the one owner of the state while it works. What is posted
// or the next deadline begins it again; without deadlines no timer runs.
func (c *Consumer) run() {
	for {
		select {
		case <-c.quit:
			return
		default:
		}
		if c.rang.Swap(false) {
			c.armed = time.Time{}
		}
		if c.step(&c.taken) {
			continue
		}
		c.arm()
		if c.rest() {
			return
		}
	}
}

// arm sets the timer of the next deadline. One that is set too early is left alone: it costs one idle step,
// not one call per message.
func (c *Consumer) arm() {
	due := c.nextDue()
	if due.IsZero() || !c.armed.IsZero() && !due.Before(c.armed) {
		return
	}
	c.armed = due
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Until(due), func() {
			c.rang.Store(true)
			c.wake()
		})
	} else {
		c.timer.Reset(time.Until(due))
	}
}

// step does what is due now and reports whether there is more to do at once.
func (c *Consumer) step(in *inbox) (more bool) {
	c.now = time.Now()
	c.arrived.Store(false)
	c.backlog.fresh = false
	c.hungry.Store(false)
	c.takeInbox(in)
	c.expire()
	c.clock()
	more = c.deliver()
	c.signalWorkers()
	c.commit()
	if more || c.tellBehind() {
		return true
	}
	if cap(c.msg.Data) > idleBuffer {
		c.msg = Message{}
	}
	// From here on an arrival wakes; one that came since the look at the source is seen by this load.
	// While something else holds deliveries back, its end looks at the source.
	if (c.workers || c.taker()) && !c.suspended() && (!c.m.Full() || c.behind) {
		c.hungry.Store(true)
		if c.arrived.Load() {
			return true
		}
		c.tellLive()
	}
	return false
}

// tellBehind says that the consumer begins or ceases to wait for the stream to get somewhere here, and reports
// whether it has to look once more: of what came meanwhile nobody has told it.
func (c *Consumer) tellBehind() (again bool) {
	waits := c.unlisted || c.behind
	if waits == c.waits || c.cfg.OnBehind == nil {
		return false
	}
	c.waits = waits
	c.cfg.OnBehind(waits)
	return waits
}

// tellLive says that the consumer is at the end of the stream and holds nothing.
func (c *Consumer) tellLive() {
	if c.live || c.cfg.OnLive == nil || c.conf.AckPolicy != api.AckNone || len(c.skip) > 0 || c.unlisted {
		return
	}
	c.live = true
	c.cfg.OnLive()
}

// idleBuffer is the largest message buffer that a parked consumer keeps, in bytes.
const idleBuffer = 64 << 10

func (c *Consumer) takeInbox(in *inbox) {
	c.inbox.take(in)
	c.removals(in)
	for i := range in.events {
		in.events[i].run()
		in.events[i] = event{}
	}
	if len(in.acks) > 0 {
		c.lastActive = c.now
	}
	for i := range in.acks {
		c.acknowledge(&in.acks[i])
		in.acks[i].more = nil
	}
	for i := range in.pulls {
		c.addPull(in.pulls[i].reply, in.pulls[i].data)
		in.pulls[i] = pullRequest{}
	}
}

// expire puts messages whose ack wait is over up for redelivery, or drops them at the limit.
func (c *Consumer) expire() {
	if at, ok := c.m.NextDeadline(); !ok || c.now.Before(at) {
		return
	}
	c.mu.Lock()
	c.exceeded = c.m.Expire(c.now, c.exceeded[:0])
	c.mu.Unlock()
	for _, p := range c.exceeded {
		c.adviseExceeded(p)
		c.do(consumer.Op{Kind: consumer.Exceed, Seq: p.Seq})
	}
}

// clock handles deadlines other than those of pending messages and the log.
func (c *Consumer) clock() {
	if !c.pausedUntil.IsZero() && !c.now.Before(c.pausedUntil) {
		c.pausedUntil = time.Time{}
		c.advisePause(false, *c.conf.PauseUntil)
	}
	if at := c.waiting.dueAt; !at.IsZero() && !c.now.Before(at) {
		c.sweep(false)
	}
	c.beat()
	if !c.inactiveAt.IsZero() && !c.now.Before(c.inactiveAt) {
		c.checkInactive()
	}
}

// nextDue returns when step has to run again without being woken; zero: never.
func (c *Consumer) nextDue() time.Time {
	due := earlier(c.nextCommit(), c.beatAt)
	due = earlier(due, c.waiting.dueAt)
	due = earlier(due, c.inactiveAt)
	due = earlier(due, c.pausedUntil)
	if c.resumeAt.After(c.now) && (c.workers || c.taker()) {
		due = earlier(due, c.resumeAt)
	}
	if at, ok := c.m.NextDeadline(); ok {
		due = earlier(due, at)
	}
	return due
}

// inactiveIn looks at the inactivity after d; 0: never.
func (c *Consumer) inactiveIn(d time.Duration) {
	c.inactiveAt = time.Time{}
	if d > 0 {
		c.inactiveAt = c.now.Add(d)
	}
}

// checkInactive ends the use of the consumer when nobody used it for its threshold. Deliveries that
// may still be worked on count as use until their ack wait is over.
func (c *Consumer) checkInactive() {
	if c.conf.IsPush() {
		if c.active {
			c.inactiveIn(0)
			return
		}
	} else {
		c.sweep(true)
		if c.waiting.n > 0 || c.workers {
			c.inactiveIn(c.inactive)
			return
		}
	}
	last := c.lastActive
	if !c.conf.IsPush() {
		c.m.Each(func(p consumer.Message) bool {
			if p.Deadline.After(last) {
				last = p.Deadline
			}
			return true
		})
	}
	if at := last.Add(c.inactive); c.now.Before(at) {
		c.inactiveAt = at
		return
	}
	c.inactiveIn(0)
	if c.cfg.OnInactive != nil {
		c.cfg.OnInactive()
	}
}

// shutdown follows the end of run, on the goroutine that ends the consumer.
func (c *Consumer) shutdown() {
	c.now = time.Now()
	if c.cancelWatch != nil {
		c.cancelWatch()
	}
	c.completeCommitted()
	var in inbox
	c.inbox.close(&in)
	if c.how == closed {
		c.removals(&in)
		for i := range in.acks {
			c.acknowledge(&in.acks[i])
		}
		if c.unsent == nil && c.batch.Len() > 0 {
			// Nobody can be told any more, but what is known need not be learned again.
			if err := c.cfg.Log.Propose(c.batch.Take(), func() {}); err != nil {
				c.fail(err)
			}
		}
	}
	if c.cfg.Log == nil {
		c.complete(c.takeOpen())
	}
	for p := c.waiting.head; p != nil; p = p.next {
		if c.how == closed {
			c.statusLeft(p, c.how.status())
		} else {
			c.status(p.reply, c.how.status())
		}
	}
	c.mu.Lock()
	c.waiting = requestQueue{}
	c.mu.Unlock()
	for _, p := range in.pulls {
		c.status(p.reply, c.how.status())
	}
	c.flights = append(c.flights, c.refused, c.open)
	for _, f := range c.flights {
		for _, w := range f.waiters {
			if w.done != nil {
				w.done(c.how.err())
			}
		}
	}
	for _, a := range in.acks {
		if c.how != closed && a.kind == ackBarrier {
			a.more.done(c.how.err())
		}
	}
	for _, e := range in.events {
		if e.refused != nil {
			e.refused(c.how.err())
		}
	}
	close(c.ready)
}
