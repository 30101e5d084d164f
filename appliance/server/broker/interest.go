package broker

import (
	"math/rand/v2"
	"slices"
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
// sent after a change gets there after it in any case.
type haste struct {
	batch *flushList // not nil: at the end of the batch
	soon  bool       // with what the route is sent next, after interestDelay at the latest
}

// interestDelay is how long a change of interest that nobody waits for stays behind for company.
const interestDelay = time.Millisecond

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
