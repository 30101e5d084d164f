package broker

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"millrace/appliance/server/subject"
	"millrace/appliance/server/wire"
)

// Requests that reach nobody but a quiet server, or a storage node that was lost a moment ago, are held: what
// that server did is often done by another one at once, as with a stream that has a new leader. They were not
// sent to anybody, so whoever subscribes gets them, once; when nobody does in holdTime the client is told that
// there are no responders, and that is true. Requests that anybody has got, and messages that want no
// answer, are not given to others.
const (
	holdTime = 4 * time.Second
	// holdBytes bounds what is held for lost servers; beyond that clients are told at once. What waits for a
	// quiet route counts against the route's bound.
	holdBytes = 32 << 20
)

// parcelOverhead is what a parcel is counted with beside its bytes.
const parcelOverhead = 256

// The states of a parcel.
const (
	parcelBound   = iota // to the routes where it waits
	parcelOffered        // to whoever subscribes: nobody has got it
	parcelResumed        // sent to a route that was heard again; others where it waits get it too, nobody else
	parcelGiven          // to others, or to nobody: no route gets it any more
)

// parcel is a message that waits. All routes that it waits for have the same, or each would offer it.
type parcel struct {
	account *Account
	deliver string // subject that is matched
	message message
	since   time.Time
	asks    bool // the client wants to hear of no responders
	state   atomic.Int32
}

// parked is a parcel that waits for a route.
type parked struct {
	*parcel
	queues []string // that get it there
}

// newParcel copies a message.
func newParcel(a *Account, deliver string, m *message, from *client) *parcel {
	p := &parcel{account: a, deliver: strings.Clone(deliver), since: time.Now()}
	p.asks = from != nil && from.connect.NoResponders
	p.message = message{
		subject: bytes.Clone(m.subject), reply: bytes.Clone(m.reply), header: bytes.Clone(m.header), data: bytes.Clone(m.data),
		client: m.client,
	}
	p.message.setSizes()
	return p
}

func (p *parcel) bytes() int64 {
	m := &p.message
	return int64(parcelOverhead + len(p.deliver) + len(m.subject) + len(m.reply) + m.size())
}

// resume reports whether a route that was heard again gets the parcel.
func (p *parcel) resume() bool {
	return p.state.CompareAndSwap(parcelBound, parcelResumed) || p.state.CompareAndSwap(parcelOffered, parcelResumed) ||
		p.state.Load() == parcelResumed
}

// parkLocked makes a message wait until the route is heard again. It needs out.mu.
func (r *route) parkLocked(from *router, a *Account, deliver string, queues []string, m *message) bool {
	if from.parcel == nil {
		from.parcel = newParcel(a, deliver, m, from.from)
	}
	p := parked{from.parcel, slices.Clone(queues)}
	if r.out.pending+r.parkedBytes+p.bytes() > r.out.maxPending {
		r.slowLocked(closedSlowPending)
		return false
	}
	r.parked = append(r.parked, p)
	r.parkedBytes += p.bytes()
	from.waits++
	r.mesh.waiting.Add(1)
	return true
}

// lostServer is a storage node with which there was a route until a moment ago.
type lostServer struct {
	until time.Time
	subs  map[*Account]*subject.Sublist[*remoteSub]
}

// lost keeps the interest of a storage node whose route has ended.
func (m *mesh) lost(subs map[*Account][]*remoteSub) {
	l := &lostServer{until: time.Now().Add(holdTime), subs: make(map[*Account]*subject.Sublist[*remoteSub])}
	for a, list := range subs {
		if a.system {
			continue // its requests are between servers, which know better
		}
		var all subject.Sublist[*remoteSub]
		for _, s := range list {
			all.Insert(s.filter, s.queue, s) // it was in another list already
		}
		l.subs[a] = &all
	}
	m.holding.Lock()
	m.gone = append(m.gone, l)
	m.holding.Unlock()
	m.waiting.Add(1)
}

// hold keeps a request that has reached nobody if a server was there for it until a moment ago, and reports
// whether it does.
func (m *mesh) hold(c *client, deliver string, msg *message) bool {
	a := c.account
	again := m.b.cfg.Standing.matches(view(deliver)) && m.standing.taken(a, deliver)
	if m.waiting.Load() == 0 && !again {
		return false
	}
	m.holding.Lock()
	defer m.holding.Unlock()
	if !again && !slices.ContainsFunc(m.gone, func(l *lostServer) bool { return l.subs[a] != nil && l.subs[a].HasInterest(deliver) }) {
		return false
	}
	p := newParcel(a, deliver, msg, c)
	p.state.Store(parcelOffered)
	return m.holdLocked(p)
}

// holdLocked needs holding.
func (m *mesh) holdLocked(p *parcel) bool {
	if m.heldBytes+p.bytes() > holdBytes {
		return false
	}
	m.held = append(m.held, p)
	m.heldBytes += p.bytes()
	m.waiting.Add(1)
	return true
}

// take keeps requests that waited for a route that has ended.
func (m *mesh) take(r *route) {
	r.out.mu.Lock()
	list, quiet := r.parked, r.quiet.Swap(false)
	r.parked, r.parkedBytes = nil, 0
	r.out.mu.Unlock()
	if quiet {
		m.quieted(r, false)
	}
	m.holding.Lock()
	defer m.holding.Unlock()
	m.waiting.Add(-int64(len(list)))
	for _, p := range list {
		// One that is bound may be of a publish that has not got round to offering it.
		if s := p.state.Load(); s == parcelOffered || s == parcelBound && len(p.message.reply) > 0 {
			m.holdLocked(p.parcel)
		}
	}
}

// offer gives requests that wait to those who have subscribed since. A client does it before it publishes, so
// that its messages stay in order.
func (m *mesh) offer() {
	if m.waiting.Load() == 0 || m.offered.Load() == m.b.changes.Load() {
		return
	}
	m.mu.Lock()
	routes := make([]*route, 0, len(m.routes))
	for _, r := range m.routes {
		routes = append(routes, r)
	}
	m.mu.Unlock()
	m.offerAll(routes, false)
}

// offerAll is offer; watch does it always, for requests that began to wait while somebody subscribed.
//
// The lock is held over the deliveries, callbacks included, or others could overtake what is being
// delivered. No callback waits for it: publishes from inside do not offer.
func (m *mesh) offerAll(routes []*route, always bool) {
	m.offering.Lock()
	defer m.offering.Unlock()
	changes := m.b.changes.Load()
	if !always && m.offered.Load() == changes {
		return
	}
	for _, r := range routes {
		for _, p := range r.allParked() {
			m.offerOne(p.parcel)
		}
	}
	m.holding.Lock()
	held := slices.Clone(m.held)
	m.holding.Unlock()
	for _, p := range held {
		m.offerOne(p)
	}
	m.touched.flush()
	m.offered.Store(changes)
}

// allParked returns what waits for the route.
func (r *route) allParked() []parked {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	return slices.Clone(r.parked)
}

// offerOne needs offering.
func (m *mesh) offerOne(p *parcel) {
	if p.state.Load() == parcelOffered && m.router.live(p.account, p.deliver) && p.state.CompareAndSwap(parcelOffered, parcelGiven) {
		n := m.router.publish(p.account, p.deliver, &p.message)
		m.router.count(p.account)
		if n == 0 { // who was there has gone at this moment
			m.holdAgain(p)
		}
		m.noteStanding(p.account, p.deliver, &p.message, n, &m.router)
	}
}

// holdAgain keeps a parcel that was given and that nobody got. Where it waited it may have been taken for settled
// meanwhile.
func (m *mesh) holdAgain(p *parcel) {
	p.state.Store(parcelOffered)
	m.holding.Lock()
	held := slices.Contains(m.held, p) || m.holdLocked(p)
	m.holding.Unlock()
	if !held {
		p.refuse()
	}
}

// live reports whether anybody would get a message, servers that are quiet aside.
func (r *router) live(a *Account, deliver string) bool {
	if !r.match(a, deliver).Empty() {
		return true
	}
	remote := r.matchRemote(a, deliver)
	return remote != nil && liveIn(remote)
}

// liveIn reports whether any of the interest is on a route that is not quiet.
func liveIn(r *subject.Result[*remoteSub]) bool {
	heard := func(s *remoteSub) bool { return !s.route.quiet.Load() }
	return slices.ContainsFunc(r.Plain, heard) ||
		slices.ContainsFunc(r.Queues, func(g subject.Group[*remoteSub]) bool { return slices.ContainsFunc(g.Members, heard) })
}

// tend offers what waits, tells clients of requests that nobody takes, and forgets what is over.
func (m *mesh) tend(routes []*route, now time.Time) {
	m.offerAll(routes, true)
	for _, r := range routes {
		for _, p := range r.allParked() {
			p.expire(now)
		}
		r.out.mu.Lock()
		before := len(r.parked)
		r.parked = slices.DeleteFunc(r.parked, func(p parked) bool {
			over := p.state.Load() == parcelGiven
			if over {
				r.parkedBytes -= p.bytes()
			}
			return over
		})
		m.waiting.Add(int64(len(r.parked) - before))
		r.out.mu.Unlock()
	}
	m.holding.Lock()
	held := slices.Clone(m.held)
	m.holding.Unlock()
	for _, p := range held {
		p.expire(now)
	}
	m.forget(now)
}

// forget drops what is over.
func (m *mesh) forget(now time.Time) {
	m.holding.Lock()
	defer m.holding.Unlock()
	before := len(m.held) + len(m.gone)
	m.held = slices.DeleteFunc(m.held, func(p *parcel) bool {
		// One that has come since the last loop and wants an answer gets it the next time. One that is bound waits for
		// a route that has ended, and is for nobody else.
		state, old := p.state.Load(), now.Sub(p.since) >= holdTime
		over := state != parcelOffered && (state != parcelBound || old) || state == parcelOffered && !p.asks && old
		if over {
			m.heldBytes -= p.bytes()
		}
		return over
	})
	m.gone = slices.DeleteFunc(m.gone, func(l *lostServer) bool { return !now.Before(l.until) })
	m.waiting.Add(int64(len(m.held) + len(m.gone) - before))
}

// expire tells the client of a request that nobody takes.
func (p *parcel) expire(now time.Time) {
	if now.Sub(p.since) >= holdTime {
		p.refuse()
	}
}

// refuse tells a client that wants to hear of it that there are no responders.
func (p *parcel) refuse() {
	if p.asks && p.state.CompareAndSwap(parcelOffered, parcelGiven) {
		p.account.Publish(string(p.message.reply), "", wire.AppendNoResponders(nil, p.message.subject), nil)
	}
}
