package transport

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/raft"
)

// peer is another node. It stays when it is removed, switched off: a later connection of the same
// process goes on with the same numbers.
//
// Invariants:
//  1. All connections that a peer's lanes have are from one incarnation, or shut.
//  2. Connected alternates between true and false for each peer, and starts with true.
type peer struct {
	*shared
	node  uint64
	lanes [raft.Lanes]*lane

	mu          sync.Mutex // before queue.mu
	enabled     bool
	addresses   []string
	incarnation uint64 // of the process that connected last; 0: none did
	previous    uint64 // the one before
	up          [raft.Lanes]bool
	connected   bool   // control and append are up
	events      []bool // changes of connected that the receiver was not told, at most two
	announcing  bool   // somebody tells the receiver
	slots       [raft.Lanes]slot
}

// slot is what a peer knows of the connections of a lane.
type slot struct {
	current  *conn // that the lane serves
	offered  *conn // that it will serve next
	stopDial context.CancelFunc
	connects uint64
	last     error // why there is or was no connection
	lastAt   time.Time
}

func newPeer(s *shared, node uint64) *peer {
	p := &peer{shared: s, node: node}
	for i := range p.lanes {
		p.lanes[i] = newLane(p, raft.Lane(i))
	}
	return p
}

// callsFirst reports whether this node connects at once: the one with the smaller id does. The other
// one waits for Config.DialGrace; if both succeed, the connection of the former stays.
func (p *peer) callsFirst() bool { return p.config.Node < p.node }

func (p *peer) isEnabled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enabled
}

func (p *peer) enable(addresses []string) {
	p.mu.Lock()
	same := p.enabled && slices.Equal(p.addresses, addresses)
	p.enabled, p.addresses = true, addresses
	p.mu.Unlock()
	if !same {
		p.kick()
	}
}

// disable ends all connections and attempts to connect.
func (p *peer) disable(cause error) {
	p.mu.Lock()
	p.enabled, p.addresses = false, nil
	for i := range p.slots {
		p.slots[i].shut(cause)
	}
	p.mu.Unlock()
	p.kick()
}

// shut ends what a lane has. Closing a socket does not block.
func (s *slot) shut(cause error) {
	if s.current != nil {
		s.current.shut(cause)
	}
	if s.offered != nil {
		s.offered.shut(cause)
		s.offered = nil
	}
	if s.stopDial != nil {
		s.stopDial()
	}
}

// kick lets all lanes look at what has changed.
func (p *peer) kick() {
	for _, l := range p.lanes {
		l.kick()
	}
}

// judge returns why a new connection of a lane is refused, or nil.
func (p *peer) judge(l *lane, c *conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.judgeLocked(l, c)
}

func (p *peer) judgeLocked(l *lane, c *conn) error {
	if !p.enabled {
		return ErrUnknownNode
	}
	if c.peer.incarnation != p.incarnation {
		if c.peer.incarnation == p.previous && p.reachedLocked() {
			return fmt.Errorf("%w: node %d, incarnations %016x and %016x", ErrTwoProcesses, p.node, p.previous, p.incarnation)
		}
		return nil // a new process: whatever connections there are, their other ends are gone
	}
	s := &p.slots[l.id]
	have := s.offered
	if have == nil {
		have = s.current
	}
	if have == nil || !have.alive() {
		return nil
	}
	preferred := func(c *conn) bool { return c.dialed == p.callsFirst() }
	if preferred(c) || !preferred(have) {
		return nil // the dialer has given up the one that we have
	}
	if c.dialed || time.Since(have.since) < p.config.settled() {
		return ErrDuplicate // both called at the same time
	}
	return nil
}

// reachedLocked reports whether any lane has a connection.
func (p *peer) reachedLocked() bool {
	return slices.ContainsFunc(p.slots[:], func(s slot) bool {
		return s.current != nil && s.current.alive() || s.offered != nil && s.offered.alive()
	})
}

// offer hands a connection to its lane, in place of the one it has. The caller keeps it if there is
// an error.
func (p *peer) offer(l *lane, c *conn) error {
	p.mu.Lock()
	if err := p.judgeLocked(l, c); err != nil {
		p.mu.Unlock()
		return err
	}
	if c.peer.incarnation != p.incarnation {
		p.previous, p.incarnation = p.incarnation, c.peer.incarnation
		for i := range p.slots {
			p.slots[i].shut(errReplaced)
		}
	}
	s := &p.slots[l.id]
	s.shut(errReplaced)
	s.offered = c
	p.mu.Unlock()
	l.kick()
	return nil
}

// take returns the connection that the lane serves next, if there is one.
func (p *peer) take(l *lane) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[l.id]
	if s.offered == nil {
		return nil
	}
	s.current, s.offered = s.offered, nil
	s.connects++
	return s.current
}

// address returns where the lane connects to in its nth attempt, and how many addresses there are.
func (p *peer) address(n int) (string, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.addresses) == 0 {
		return "", 0
	}
	return p.addresses[n%len(p.addresses)], len(p.addresses)
}

// beginDial returns a context for an attempt to connect, which ends when it is not needed any more;
// it is nil when that is so already.
func (p *peer) beginDial(l *lane) (context.Context, context.CancelFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[l.id]
	if s.offered != nil || !p.enabled {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(p.ctx)
	s.stopDial = cancel
	return ctx, func() {
		cancel()
		p.mu.Lock()
		s.stopDial = nil
		p.mu.Unlock()
	}
}

// commitDial is called before an attempt goes so far that the other end may use the connection. From
// then on it is not given up for another connection: if both nodes call at the same time, each
// would give up its own call for that of the other, and no connection would be left.
func (p *peer) commitDial(l *lane, ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[l.id].stopDial = nil
	return ctx.Err()
}

// note keeps why a lane has no connection.
func (p *peer) note(l *lane, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[l.id].last, p.slots[l.id].lastAt = err, time.Now()
}

// left notes that the lane does not serve its connection any more.
func (p *peer) left(l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[l.id].current = nil
}

// setUp notes that a lane can be used or not, and tells the receiver what follows from that. The
// receiver is told by whoever finds that nobody is telling it, so that the order is kept and no lock
// is held.
func (p *peer) setUp(l *lane, up bool) {
	p.mu.Lock()
	p.up[l.id] = up
	if connected := p.up[raft.LaneControl] && p.up[raft.LaneAppend]; connected != p.connected {
		p.connected = connected
		if p.events = append(p.events, connected); len(p.events) > 2 {
			p.events = p.events[2:] // up, down, up: up
		}
	}
	if p.announcing {
		p.mu.Unlock()
		return
	}
	p.announcing = true
	for len(p.events) > 0 {
		event := p.events[0]
		p.events = p.events[1:]
		incarnation := p.incarnation
		p.mu.Unlock()
		if event {
			p.config.Logger.Info("transport: node connected", "node", p.node, "incarnation", fmt.Sprintf("%016x", incarnation))
		} else {
			p.config.Logger.Info("transport: node disconnected", "node", p.node)
		}
		p.receiver.Connected(p.node, event)
		p.mu.Lock()
	}
	p.announcing = false
	p.mu.Unlock()
}
