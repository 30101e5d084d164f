package broker

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/appliance/server/subject"
)

// Account is an isolated subject space: subscriptions and publishers of one account never meet those
// of another. All methods are safe for concurrent use.
type Account struct {
	broker *Broker
	name   string
	cfg    AccountConfig // its limits
	system bool

	// generation changes with every change of subs, remoteGeneration with every change of remote:
	// results of older matches are void.
	generation       atomic.Uint64
	remoteGeneration atomic.Uint64

	mu       sync.RWMutex // before outbound.mu
	subs     subject.Sublist[*Sub]
	remote   subject.Sublist[*remoteSub] // interest of other servers
	interest interest
	conns    int
	watchers subject.Literals[[]*watcher]

	stats      trafficStats
	publishers sync.Pool // *Publisher
}

// Sub is a subscription, of a client or internal.
type Sub struct {
	account *Account
	filter  string
	queue   string
	private bool // other servers do not hear of it
	soon    bool // other servers need not hear of it at once

	callback func(*Msg)  // internal subscription; nil: one of a client
	removed  atomic.Bool // internal subscription: no more callbacks

	client    *client
	sid       []byte
	checkDeny bool // messages may be on a subject the client is denied

	// Guarded by client.out.mu.
	closed    bool
	delivered int
	max       int // messages after which the subscription ends; 0: no limit
}

// Name returns the account's name.
func (a *Account) Name() string { return a.name }

// Subscribe adds an internal subscription; queue "" makes a plain one, any other name a member of
// that queue group. The callback runs on the publisher's goroutine, possibly on several at once, and
// must not block. The subscription counts as interest.
func (a *Account) Subscribe(filter, queue string, callback func(*Msg)) (*Sub, error) {
	s := &Sub{account: a, filter: filter, queue: queue, callback: callback}
	if err := a.insert(s, haste{}); err != nil {
		return nil, fmt.Errorf("subscribe in account %q: %w", a.name, err)
	}
	return s, nil
}

// SubscribeSoon is Subscribe for what is rarely used: other servers hear of its begin and end a moment later,
// with what they are sent meanwhile.
func (a *Account) SubscribeSoon(filter, queue string, callback func(*Msg)) (*Sub, error) {
	s := &Sub{account: a, filter: filter, queue: queue, soon: true, callback: callback}
	if err := a.insert(s, haste{soon: true}); err != nil {
		return nil, fmt.Errorf("subscribe in account %q: %w", a.name, err)
	}
	return s, nil
}

// SubscribeEach is Subscribe for what each server of a cluster subscribes to and one of them is to answer: a message
// that a client or a publisher of this server has sent goes to the subscriptions that the others made in the same way
// only if the callback returns false. Other subscriptions, of whatever filter, get it in any case.
func (a *Account) SubscribeEach(filter string, callback func(*Msg) (settled bool)) (*Sub, error) {
	return a.Subscribe(filter, a.broker.each, func(m *Msg) { m.settled = callback(m) })
}

// eachPrefix begins the names of the queue groups of SubscribeEach, in which each server is alone. What follows is
// nobody else's to know: who has the name gets a share of the messages.
const eachPrefix = "$MILLRACE.EACH."

// Unsubscribe ends an internal subscription. A callback that runs already is not waited for.
func (s *Sub) Unsubscribe() {
	if s.callback != nil && s.removed.CompareAndSwap(false, true) {
		s.account.remove(haste{soon: s.soon}, s)
	}
}

// subscribePrivately is Subscribe for what each server answers to its own clients.
func (a *Account) subscribePrivately(filter string, callback func(*Msg)) error {
	return a.insert(&Sub{account: a, filter: filter, private: true, callback: callback}, haste{})
}

// HasInterest reports whether a message on subject would reach a client or an internal subscription,
// of this server or another.
func (a *Account) HasInterest(subject string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.subs.HasInterest(subject) || a.remoteInterestLocked(subject)
}

// remoteInterestLocked reports whether another server is interested: in the system account, one that is
// heard.
func (a *Account) remoteInterestLocked(subj string) bool {
	found := a.remote.HasInterest(subj)
	if !found || !a.system || a.broker.mesh == nil || a.broker.mesh.quiet.Load() == 0 {
		return found
	}
	var r subject.Result[*remoteSub]
	a.remote.Match(subj, &r)
	return liveIn(&r)
}

// Subscriptions returns the number of subscriptions of this server.
func (a *Account) Subscriptions() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.subs.Len()
}

// Connections returns the number of client connections bound to the account.
func (a *Account) Connections() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.conns
}

// insert makes s receive messages.
func (a *Account) insert(s *Sub, when haste) error {
	a.mu.Lock()
	err := a.subs.Insert(s.filter, s.queue, s)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	a.generation.Add(1)
	a.broker.changes.Add(1)
	if !s.private {
		a.interest.changeLocked(s.filter, s.queue, 1, when)
	}
	watchers := a.affectedLocked(s.filter)
	a.mu.Unlock()
	notify(watchers)
	if m := a.broker.mesh; m != nil {
		m.subscribed(a, s.filter)
	}
	return nil
}

// remove takes subscriptions out; it is a no-op for those that are not there.
func (a *Account) remove(when haste, subs ...*Sub) {
	var watchers []*watcher
	a.mu.Lock()
	for _, s := range subs {
		if a.subs.Remove(s.filter, s.queue, s) {
			if !s.private {
				a.interest.changeLocked(s.filter, s.queue, -1, when)
			}
			watchers = append(watchers, a.affectedLocked(s.filter)...)
		}
	}
	a.generation.Add(1)
	a.mu.Unlock()
	notify(watchers)
}

// addConn counts a client connection and reports whether the account takes it.
func (a *Account) addConn() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.MaxConns > 0 && a.conns >= a.cfg.MaxConns {
		return false
	}
	a.conns++
	return true
}

func (a *Account) removeConn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns--
}

// watcher follows the interest in one literal subject.
type watcher struct {
	account *Account
	subject string
	queue   string
	fn      func(active bool)

	mu      sync.Mutex
	known   bool // interest last told
	dirty   bool // interest may have changed
	running bool // a goroutine is telling
	stopped bool
}

// WatchInterest calls fn whenever interest in the literal subject begins or ends; with a queue name
// the interest of that queue group alone counts. When there is interest already, fn(true) is called
// before WatchInterest returns. Calls of fn do not overlap and no lock of the broker is held in
// them. After cancel no new call starts.
func (a *Account) WatchInterest(subj, queue string, fn func(active bool)) (cancel func()) {
	w := &watcher{account: a, subject: subj, queue: queue, fn: fn}
	a.mu.Lock()
	a.watchers.Set(subj, append(a.watchers.Get(subj), w))
	a.mu.Unlock()
	notify([]*watcher{w})
	return func() {
		w.mu.Lock()
		stopped := w.stopped
		w.stopped = true
		w.mu.Unlock()
		if stopped {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		list := a.watchers.Get(subj)
		i := slices.Index(list, w)
		if list = slices.Delete(list, i, i+1); len(list) == 0 {
			a.watchers.Delete(subj)
		} else {
			a.watchers.Set(subj, list)
		}
	}
}

// affectedLocked returns the watchers whose subject filter matches.
func (a *Account) affectedLocked(filter string) []*watcher {
	if a.watchers.Len() == 0 {
		return nil
	}
	var list []*watcher
	a.watchers.Match(filter, func(w []*watcher) { list = append(list, w...) })
	return list
}

func notify(watchers []*watcher) {
	for _, w := range watchers {
		w.update()
	}
}

// update tells the present interest if it is not the one told last. Of concurrent and recursive
// calls one does the telling, so that the last call of fn has the last state.
func (w *watcher) update() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true
	if w.running {
		return
	}
	w.running = true
	for w.dirty && !w.stopped {
		w.dirty = false
		w.mu.Unlock()
		active := w.account.hasInterest(w.subject, w.queue)
		w.mu.Lock()
		if active != w.known && !w.stopped {
			w.known = active
			w.mu.Unlock()
			w.fn(active)
			w.mu.Lock()
		}
	}
	w.running = false
}

// hasInterest reports whether subject has interest, of the queue group alone unless queue is "".
func (a *Account) hasInterest(subj, queue string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if queue == "" {
		return a.subs.HasInterest(subj) || a.remoteInterestLocked(subj)
	}
	return hasQueue(&a.subs, subj, queue) || hasQueue(&a.remote, subj, queue)
}

// hasQueue reports whether the queue group has a member that subj reaches.
func hasQueue[T comparable](subs *subject.Sublist[T], subj, queue string) bool {
	var r subject.Result[T]
	subs.Match(subj, &r)
	return slices.ContainsFunc(r.Queues, func(g subject.Group[T]) bool { return g.Name == queue })
}
