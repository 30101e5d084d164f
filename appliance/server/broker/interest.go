package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/subject"
	"millrace/appliance/server/wire"
)

// interest is what an account of this server wants to receive from the others of the cluster, and
// which routes have been told. It is guarded by Account.mu.
//
// Invariants:
//  1. local counts the subscriptions of this server by filter and queue group; those of other servers
//     never count, so that interest travels one hop.
//  2. What was sent on each of routes adds up to local: all of it when the route was added, and every
//     change since, in order.
type interest struct {
	account string
	local   map[interestKey]int // nil: the server has no cluster
	routes  []*route
	line    []byte // scratch
}

type interestKey struct{ filter, queue string }

// haste is when the other servers hear of a change of interest. The zero value is at once. What a route is
// sent after a change gets there after it in any case, and a client that has its PONG knows that its changes are sent.
type haste struct {
	batch *flushList // not nil: at the end of the batch, or soon if that has been done less than interestDelay ago
	soon  bool       // with what the route is sent next, after interestDelay at the latest
}

// interestDelay is how long a change of interest stays behind for company: of many that follow each other, each one
// alone would wake all servers of the cluster.
const interestDelay = 10 * time.Millisecond

// changeLocked notes delta subscriptions more, and tells the other servers if that means something to
// them: the first and the last of a filter, and every change of a queue group, whose size is its
// weight.
func (i *interest) changeLocked(filter, queue string, delta int, when haste) {
	if i.local == nil {
		return
	}
	key := interestKey{filter, queue}
	before := i.local[key]
	now := before + delta
	if now > 0 {
		i.local[key] = now
	} else {
		delete(i.local, key)
	}
	if len(i.routes) == 0 || (queue == "" && (before > 0) == (now > 0)) {
		return
	}
	if now > 0 {
		i.line = wire.AppendRouteSub(i.line[:0], i.account, filter, queue, now)
	} else {
		i.line = wire.AppendRouteUnsub(i.line[:0], i.account, filter, queue)
	}
	for _, r := range i.routes {
		r.tell(i.line, when)
	}
}

// tell queues a change of interest.
func (r *route) tell(line []byte, when haste) {
	o := &r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return
	}
	o.appendLocked(line)
	now := time.Now()
	switch {
	case when == (haste{}):
		o.signalLocked()
	case when.batch != nil && now.Sub(r.toldAt) >= interestDelay:
		r.toldAt = now
		when.batch.addLocked(&r.conn)
	case !o.delayed:
		o.delayed = true
		r.mesh.late.add(r)
	}
}

// late is the routes to which changes of interest stay behind. One timer is for all of them.
type late struct {
	mu     sync.Mutex // after outbound.mu
	routes []*route
	n      atomic.Int64 // of routes
}

func (l *late) add(r *route) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.routes) == 0 {
		time.AfterFunc(interestDelay, l.flush)
	}
	l.routes = append(l.routes, r)
	l.n.Add(1)
}

// flush sends what has not gone with anything else.
func (l *late) flush() {
	l.mu.Lock()
	routes := l.routes
	l.routes = nil
	l.n.Store(0)
	l.mu.Unlock()
	now := time.Now()
	for _, r := range routes {
		o := &r.out
		o.mu.Lock()
		o.delayed = false
		left := len(o.chunks) > 0
		if left {
			r.toldAt = now
		}
		o.mu.Unlock()
		if left {
			r.flushTouched(true)
		}
	}
}

// hasten has the changes that stay behind sent at the end of a batch.
func (a *Account) hasten(batch *flushList) {
	if m := a.broker.mesh; m == nil || m.late.n.Load() == 0 {
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, r := range a.interest.routes {
		r.out.mu.Lock()
		if r.out.delayed && len(r.out.chunks) > 0 && !r.out.closing {
			batch.addLocked(&r.conn)
		}
		r.out.mu.Unlock()
	}
}

// addRoute tells a route everything, and every change from now on.
func (a *Account) addRoute(r *route) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []byte
	for key, n := range a.interest.local {
		all = wire.AppendRouteSub(all, a.name, key.filter, key.queue, n)
	}
	r.send(all)
	a.interest.routes = append(a.interest.routes, r)
}

func (a *Account) removeRoute(r *route) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := slices.Index(a.interest.routes, r); n >= 0 {
		a.interest.routes = slices.Delete(a.interest.routes, n, n+1)
	}
}

// remoteSub is the interest of another server, which it has made known on its route.
type remoteSub struct {
	account *Account
	route   *route
	filter  string
	queue   string
	weight  atomic.Int32 // members of the queue group there
}

// insertRemote makes messages go to the servers of subs. The caller notifies the watchers when it has
// released its locks.
func (a *Account) insertRemote(subs ...*remoteSub) (watchers []*watcher, err error) {
	a.mu.Lock()
	for _, s := range subs {
		if e := a.remote.Insert(s.filter, s.queue, s); e != nil {
			err = e
			continue
		}
		watchers = append(watchers, a.affectedLocked(s.filter)...)
	}
	a.remoteGeneration.Add(1)
	a.broker.changes.Add(1)
	a.mu.Unlock()
	return watchers, err
}

// removeRemote takes remote interest out; it is a no-op for what is not there. The caller notifies the
// watchers as after insertRemote.
func (a *Account) removeRemote(subs ...*remoteSub) (watchers []*watcher) {
	a.mu.Lock()
	for _, s := range subs {
		if a.remote.Remove(s.filter, s.queue, s) {
			watchers = append(watchers, a.affectedLocked(s.filter)...)
		}
	}
	a.remoteGeneration.Add(1)
	a.mu.Unlock()
	return watchers
}

// pick returns a member at random, by weight. Members of servers that are quiet are passed over while there
// are others.
func pick(members []*remoteSub) *remoteSub {
	if len(members) == 1 {
		return members[0]
	}
	total, all := int32(0), int32(0)
	for _, s := range members {
		all += s.weight.Load()
		if !s.route.quiet.Load() {
			total += s.weight.Load()
		}
	}
	quiet := total == 0
	if quiet {
		total = all
	}
	at := rand.Int32N(max(total, 1))
	for _, s := range members {
		if !quiet && s.route.quiet.Load() {
			continue
		}
		if at -= s.weight.Load(); at < 0 {
			return s
		}
	}
	return members[0] // something has changed meanwhile
}

// group returns the members of a queue group in r; nil: it is not there.
func group[T comparable](r *subject.Result[T], name string) []T {
	for i := range r.Queues {
		if r.Queues[i].Name == name {
			return r.Queues[i].Members
		}
	}
	return nil
}
