package broker

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/subject"
	"millrace/appliance/server/wire"
)

// Bounds of the time a publishing client waits for a slow subscriber, so that it does not overrun
// it: for one message, and for all messages of one read.
const (
	stallMin   = 2 * time.Millisecond
	stallMax   = 5 * time.Millisecond
	stallTotal = 10 * time.Millisecond
)

// router finds the subscriptions of messages and delivers to them. It belongs to one goroutine at a
// time.
type router struct {
	cache         subject.Cache[*Sub]
	scratch       subject.Result[*Sub]
	remoteCache   subject.Cache[*remoteSub]
	remoteScratch subject.Result[*remoteSub]
	targets       []routeTarget // routes that the message under way goes to
	line          []byte        // scratch
	touched       *flushList    // nil: receivers are woken at each message

	parcel *parcel  // of the message under way, if it waits for a quiet route
	waits  int      // routes that it waits for
	heard  bool     // messages go to no quiet route
	sent   []*route // to which the last message was sent

	settled bool // the message under way is not for the others of SubscribeEach

	from    *client       // the publishing client; nil: a publish from inside or from a route
	last    bool          // nothing that was read of it comes after the message under way
	routed  bool          // of a route: it waits for slow subscribers too, but not for stuck ones
	stalled time.Duration // time waited for slow subscribers since the batch began

	outMsgs, outBytes       int64 // delivered to clients, not yet counted in the totals
	routedMsgs, routedBytes int64 // sent to other servers, not yet counted
}

// count adds what was delivered to the totals.
func (r *router) count(a *Account) {
	if r.outMsgs > 0 {
		a.stats.addOut(r.outMsgs, r.outBytes)
		a.broker.stats.addOut(r.outMsgs, r.outBytes)
		r.outMsgs, r.outBytes = 0, 0
	}
	if r.routedMsgs > 0 {
		a.broker.routeStats.addOut(r.routedMsgs, r.routedBytes)
		r.routedMsgs, r.routedBytes = 0, 0
	}
}

// routeTarget is a route that a message goes to, and the queue groups that get it there.
type routeTarget struct {
	route  *route
	queues []string
}

// match returns the subscriptions of a that a message on subject reaches. The result is good until
// the next call.
func (r *router) match(a *Account, subj string) *subject.Result[*Sub] {
	// Read before the match, so that a change during it voids what is cached.
	generation := a.generation.Load()
	if res := r.cache.Get(generation, subj); res != nil {
		return res
	}
	a.mu.RLock()
	a.subs.Match(subj, &r.scratch)
	a.mu.RUnlock()
	r.cache.Put(generation, subj, &r.scratch)
	return &r.scratch
}

// matchRemote returns the interest of other servers in subj, nil if there is none at all. The result
// is good until the next call.
func (r *router) matchRemote(a *Account, subj string) *subject.Result[*remoteSub] {
	generation := a.remoteGeneration.Load()
	if generation == 0 {
		return nil // never any
	}
	if res := r.remoteCache.Get(generation, subj); res != nil {
		return res
	}
	a.mu.RLock()
	a.remote.Match(subj, &r.remoteScratch)
	a.mu.RUnlock()
	r.remoteCache.Put(generation, subj, &r.remoteScratch)
	return &r.remoteScratch
}

// publish delivers m to every plain subscription and to one member of each queue group that match
// deliver, of this server and the others, and returns the number of receivers; another server is one.
func (r *router) publish(a *Account, deliver string, m *message) int {
	res, remote := r.match(a, deliver), r.matchRemote(a, deliver)
	r.sent, r.settled = r.sent[:0], false
	n := 0
	for _, s := range res.Plain {
		if r.deliver(a, s, m) {
			n++
		}
	}
	if remote == nil || remote.Empty() {
		for i := range res.Queues {
			if r.deliverQueue(a, res.Queues[i].Members, m, nil) {
				n++
			}
		}
		return n
	}
	for i := range res.Queues {
		g := &res.Queues[i]
		if r.deliverQueue(a, g.Members, m, group(remote, g.Name)) {
			n++
		}
	}
	for i := range remote.Queues {
		if g := &remote.Queues[i]; group(res, g.Name) == nil && !(r.settled && strings.HasPrefix(g.Name, eachPrefix)) {
			r.toQueue(g.Members)
		}
	}
	for _, s := range remote.Plain {
		if !r.heard || !s.route.quiet.Load() {
			r.target(s.route)
		}
	}
	taken := n + r.sendRoutes(a, deliver, m)
	if r.parcel != nil {
		if r.waits == taken && len(m.reply) > 0 {
			r.parcel.state.CompareAndSwap(parcelBound, parcelOffered)
		}
		r.parcel, r.waits = nil, 0
	}
	return taken
}

// publishRouted delivers m, which came on a route, to the plain subscriptions of this server and to
// one member of each of the named queue groups. It never goes to another server.
func (r *router) publishRouted(a *Account, deliver string, queues [][]byte, m *message) {
	res := r.match(a, deliver)
	for _, s := range res.Plain {
		r.deliver(a, s, m)
	}
	for _, name := range queues {
		if members := group(res, str(name)); members != nil {
			r.deliverQueue(a, members, m, nil)
		}
	}
}

// target notes that the message under way goes to rt and returns what it says there.
func (r *router) target(rt *route) *routeTarget {
	for i := range r.targets {
		if r.targets[i].route == rt {
			return &r.targets[i]
		}
	}
	n := len(r.targets)
	if n < cap(r.targets) {
		r.targets = r.targets[:n+1] // keeps the queue names' slice of an earlier use
	} else {
		r.targets = append(r.targets, routeTarget{})
	}
	t := &r.targets[n]
	t.route, t.queues = rt, t.queues[:0]
	return t
}

// toQueue notes that a member of a queue group on another server gets the message under way.
func (r *router) toQueue(members []*remoteSub) {
	s := pick(members)
	if r.heard && s.route.quiet.Load() {
		return
	}
	t := r.target(s.route)
	t.queues = append(t.queues, s.queue)
}

// sendRoutes sends m to the noted routes and returns the number of those that took it.
func (r *router) sendRoutes(a *Account, deliver string, m *message) int {
	n := 0
	for i := range r.targets {
		t := &r.targets[i]
		waits := r.waits
		if t.route.deliver(r, a, deliver, t.queues, m) {
			n++
			if r.waits == waits {
				r.sent = append(r.sent, t.route)
			}
		}
		t.route = nil
		clear(t.queues)
	}
	r.targets = r.targets[:0]
	return n
}

// deliverQueue delivers m to a random member; one that cannot take it now is passed over for the
// next, or for one of the members on other servers, unless no other can either. It reports whether a
// member of this server took m.
func (r *router) deliverQueue(a *Account, members []*Sub, m *message, elsewhere []*remoteSub) bool {
	start := 0
	if len(members) > 1 || len(elsewhere) > 0 {
		start = rand.IntN(len(members))
		for i := range members {
			s := members[(start+i)%len(members)]
			if s.callback == nil && s.client.out.busy() {
				continue
			}
			if r.deliver(a, s, m) {
				return true
			}
		}
	}
	if len(elsewhere) > 0 {
		r.toQueue(elsewhere)
		return false
	}
	for i := range members {
		if r.deliver(a, members[(start+i)%len(members)], m) {
			return true
		}
	}
	return false
}

// busy reports whether fast producers have to wait for the client, or it is closing.
func (o *outbound) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closing || o.stall != nil
}

// deliver hands m to one subscription and reports whether it took it.
func (r *router) deliver(a *Account, s *Sub, m *message) bool {
	if s.callback != nil {
		if s.removed.Load() {
			return false
		}
		m.msg = Msg{
			Subject: m.subject, Reply: m.reply, Header: m.header, Data: m.data, Client: m.client, Account: a,
			Own: r.from != nil, Last: r.last,
		}
		s.callback(&m.msg)
		r.settled = r.settled || m.msg.settled
		return true
	}
	c := s.client
	if c == r.from && !c.connect.Echo {
		return false
	}
	o := &c.out
	o.mu.Lock()
	if o.stall != nil && c != r.from && (r.from != nil || r.routed) {
		r.waitLocked(o)
	}
	if s.closed || o.closing {
		o.mu.Unlock()
		return false
	}
	if s.checkDeny && c.perms.denied(str(m.subject), s.queue) {
		o.mu.Unlock()
		return false
	}
	s.delivered++
	last := s.max > 0 && s.delivered >= s.max
	s.closed = last
	m.appendLocked(o, s.sid)
	if o.pending > o.maxPending {
		c.slowLocked(closedSlowPending)
		o.mu.Unlock()
		return false
	}
	if o.pending > o.stallAt && o.stall == nil {
		o.stall = make(chan struct{})
	}
	o.outMsgs++
	o.outBytes += int64(m.size())
	if o.replies != nil && len(m.reply) > 0 {
		o.replies.add(c.perms, m.reply)
	}
	if r.touched != nil {
		r.touched.addLocked(&c.conn)
	} else {
		o.signalLocked()
	}
	o.mu.Unlock()
	r.outMsgs++
	r.outBytes += int64(m.size())
	if last {
		c.forget(s)
	}
	return true
}

// waitLocked waits, without o.mu, until the peer has caught up or the time for it is used up.
func (r *router) waitLocked(o *outbound) {
	wait := stallMin
	if o.pending >= o.maxPending {
		wait = stallMax
	}
	wait = min(wait, stallTotal-r.stalled)
	if wait <= 0 || (o.fair || r.routed) && o.stuckLocked() {
		return
	}
	stall := o.stall
	// The client may be one that this goroutine has promised to flush.
	o.signalLocked()
	o.mu.Unlock()
	start := time.Now()
	timer := time.NewTimer(wait)
	select {
	case <-stall:
	case <-timer.C:
	}
	timer.Stop()
	r.stalled += time.Since(start)
	o.mu.Lock()
}

// noResponders tells the client that its request m reached no one.
func (c *client) noResponders(m *message) {
	var found *Sub
	for _, s := range c.router.match(c.account, str(m.reply)).Plain {
		if s.client == c {
			found = s
			break
		}
	}
	if found == nil {
		return
	}
	c.scratch = wire.AppendNoResponders(c.scratch[:0], m.subject)
	size := strconv.AppendInt(nil, int64(len(c.scratch)), 10)
	line := wire.AppendMsg(nil, m.reply, found.sid, nil, size, size)
	line = append(line, c.scratch...)
	c.reply(append(line, wire.CRLF...))
}

// Publisher publishes a burst of messages from inside. What clients receive is written when the
// burst ends with Flush, or when their writers run before that. It is for one goroutine at a time; a
// callback that one of its publishes reaches must not use it either.
type Publisher struct {
	account *Account
	router  router
	touched flushList
	message message
}

// NewPublisher returns a publisher into a.
func (a *Account) NewPublisher() *Publisher {
	p := &Publisher{account: a}
	p.router.touched = &p.touched
	return p
}

// Publish is like Account.Publish; receivers may get the message only at Flush.
func (p *Publisher) Publish(subject, reply string, header, data []byte) int {
	return p.PublishAs(subject, subject, reply, header, data)
}

// PublishAs is like Account.PublishAs; receivers may get the message only at Flush.
func (p *Publisher) PublishAs(deliver, subject, reply string, header, data []byte) int {
	m := &p.message
	m.subject, m.reply, m.header, m.data = view(subject), view(reply), header, data
	m.setSizes()
	n := p.router.publish(p.account, deliver, m)
	m.subject, m.reply, m.header, m.data, m.msg = nil, nil, nil, nil, Msg{}
	return n
}

// Push has the writers of the receivers begin with what was published. The burst goes on.
func (p *Publisher) Push() { p.touched.push() }

// Flush ends the burst: everything published is on its way to the receivers.
func (p *Publisher) Flush() {
	p.touched.flush()
	p.router.count(p.account)
}

// Return ends the burst of a publisher that was borrowed, which must not be used any more.
func (p *Publisher) Return() {
	p.Flush()
	p.account.publishers.Put(p)
}

// Publish publishes from inside and returns the number of receivers. The arguments are copied before
// it returns. It is safe for concurrent use and does not wait for clients.
func (a *Account) Publish(subject, reply string, header, data []byte) (receivers int) {
	return a.PublishAs(subject, subject, reply, header, data)
}

// PublishAs is like Publish, but reaches the subscriptions that match deliver, while the message
// they get carries subject.
func (a *Account) PublishAs(deliver, subject, reply string, header, data []byte) (receivers int) {
	p := a.Borrow()
	n := p.PublishAs(deliver, subject, reply, header, data)
	p.Return()
	return n
}

// Borrow returns a publisher for one burst, which ends with Return.
func (a *Account) Borrow() *Publisher {
	if p, ok := a.publishers.Get().(*Publisher); ok {
		return p
	}
	return a.NewPublisher()
}
