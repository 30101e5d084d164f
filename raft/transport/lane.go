package transport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft"
)

// lane is one of the ways to a peer. One goroutine finds connections for it, one after the other, and
// writes to them; for each connection another one reads.
type lane struct {
	*peer
	id    raft.Lane
	queue queue
	kicks chan struct{} // capacity 1: something has changed that next looks at

	// calls serializes Receive and Drained of this lane, as raft.Receiver wants it. It is held while
	// the receiver is called and nothing else waits for it.
	calls sync.Mutex

	// Owned by run.
	backoff backoff
	sent    uint64 // number of the last frame that was given to a connection, ever

	// Owned by the one that reads.
	received     uint64 // number of the last frame
	receivedFrom uint64 // incarnation that numbers them

	stats readStats
}

type readStats struct {
	frames, bytes, lost, corrupt atomic.Uint64
}

// settle is how long a connection has to live for the next attempt to be made at once.
const settle = time.Second

func newLane(p *peer, id raft.Lane) *lane {
	l := &lane{peer: p, id: id, kicks: make(chan struct{}, 1)}
	l.queue.limit = p.config.Lanes[id].QueueBytes
	l.queue.wake = make(chan struct{}, 1)
	l.backoff = backoff{min: p.config.BackoffMin, max: p.config.BackoffMax}
	return l
}

func (l *lane) kick() {
	select {
	case l.kicks <- struct{}{}:
	default:
	}
}

// run serves connections until the transport is closed.
func (l *lane) run() {
	for {
		c := l.next()
		if c == nil {
			return
		}
		begin := time.Now()
		l.serve(c)
		if time.Since(begin) >= settle {
			l.backoff.tries = 0
		} else {
			l.backoff.tries++
		}
	}
}

// next returns a connection that was accepted or made, or nil when the transport is closed.
func (l *lane) next() *conn {
	for l.ctx.Err() == nil {
		if c := l.peer.take(l); c != nil {
			return c
		}
		address, addresses := l.peer.address(l.backoff.tries)
		if addresses == 0 {
			l.backoff.tries = 0
			l.pause(-1)
			continue
		}
		delay := l.backoff.delay(addresses, rand.Float64())
		if l.backoff.tries == 0 && !l.callsFirst() {
			delay += l.config.DialGrace
		}
		if !l.pause(delay) {
			continue
		}
		l.dial(address)
	}
	return nil
}

// pause waits for a time, or without end if it is negative. It returns false when it was kicked.
func (l *lane) pause(d time.Duration) bool {
	var elapsed <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		elapsed = timer.C
	}
	select {
	case <-elapsed:
		return true
	case <-l.kicks:
		return false
	case <-l.ctx.Done():
		return false
	}
}

// dial makes one attempt to connect and offers what comes of it.
func (l *lane) dial(address string) {
	ctx, end := l.peer.beginDial(l)
	if ctx == nil {
		return
	}
	c, err := l.connect(ctx, l.node, l.id, address, func() error { return l.peer.commitDial(l, ctx) })
	canceled := ctx.Err() != nil
	end()
	if err == nil {
		if err = l.peer.offer(l, c); err == nil {
			return
		}
		c.shut(err)
	}
	if canceled {
		return // another connection came first, or the peer was removed
	}
	l.backoff.tries++
	l.peer.note(l, err)
	l.complain(err)
}

// complain logs why there is no connection: once a minute if it stays so.
func (l *lane) complain(err error) {
	if errors.Is(err, ErrDuplicate) {
		l.config.Logger.Debug("transport: no connection", "node", l.node, "lane", l.id, "reason", err)
		return
	}
	l.log.warn(fmt.Sprintf("connect %d %s", l.node, reasonOf(err)), "transport: no connection", "node", l.node, "lane", l.id, "reason", err)
}

// serve reads and writes a connection until it ends.
func (l *lane) serve(c *conn) {
	l.config.Logger.Debug("transport: lane connected", "node", l.node, "lane", l.id, "remote", remote(c.nc), "dialed", c.dialed)
	drained := l.queue.start(int(min(c.peer.maxFrame, l.identity.maxFrame)))
	l.peer.setUp(l, true)
	if drained {
		l.drained()
	}
	var reader sync.WaitGroup
	reader.Go(func() { c.shut(l.read(c)) })
	w := newWriter(l, c)
	c.shut(w.run())
	reader.Wait()
	l.queue.stop(len(w.frames), w.begun, w.payload)
	l.peer.left(l)
	l.peer.setUp(l, false)
	l.peer.note(l, c.cause)
	level := l.config.Logger.Debug
	if errors.Is(c.cause, ErrCorrupt) || errors.Is(c.cause, ErrProtocol) {
		l.stats.corrupt.Add(1)
		level = l.config.Logger.Error
	}
	level("transport: lane disconnected", "node", l.node, "lane", l.id, "remote", remote(c.nc), "reason", c.cause)
}

// drained tells the receiver that there is room.
func (l *lane) drained() {
	l.calls.Lock()
	defer l.calls.Unlock()
	l.receiver.Drained(l.node, l.id)
}

// deliver gives a frame to the receiver.
func (l *lane) deliver(frame []byte) {
	l.calls.Lock()
	defer l.calls.Unlock()
	l.receiver.Receive(l.node, l.id, frame)
}
