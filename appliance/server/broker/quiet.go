package broker

import (
	"time"

	"millrace/appliance/server/wire"
)

// A server whose power was cut says nothing more, and its connection stays open. The routes with servers of
// ours are therefore asked for a sign of life all the time: when nothing came for routePingAfter although
// messages were sent, or for routeIdlePing. One that does not answer is quiet: what is for it waits here, in
// order, until it is heard again, so that a server that is slow loses nothing by being taken for dead; see
// hold.go for what becomes of requests meanwhile. When the other machine does not even acknowledge bytes
// for routeLostAfter, the connection is given up.
const (
	routeLook      = 50 * time.Millisecond
	routePingAfter = 100 * time.Millisecond
	routeIdlePing  = 300 * time.Millisecond
	// routeQuietAfter is the time without an answer to a PING, or three times what the last answer took if
	// that is more.
	routeQuietAfter = 150 * time.Millisecond
	routeLostAfter  = 4 * time.Second
)

// watch looks at the routes until the mesh is closed.
func (m *mesh) watch() {
	look := time.NewTicker(routeLook)
	defer look.Stop()
	var routes []*route
	var announcer announcer
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-look.C:
		}
		routes = routes[:0]
		m.mu.Lock()
		for _, r := range m.routes {
			r.mu.Lock()
			if r.streams != nil { // others may be slow to answer
				routes = append(routes, r)
			}
			r.mu.Unlock()
		}
		all := len(m.routes)
		m.mu.Unlock()
		now := time.Now()
		announcer.look(m, all, now)
		for _, r := range routes {
			r.look(now)
		}
		if m.waiting.Load() > 0 {
			m.tend(routes, now)
		}
	}
}

// look asks for a sign of life when there was none for a while, and notes that there is none. It is called
// by watch alone.
func (r *route) look(now time.Time) {
	heard := time.Unix(0, r.heard.Load())
	after := r.pingAfter(heard)
	switch {
	case r.probed.After(heard):
		if now.Sub(r.probed) >= max(routeQuietAfter, 3*time.Duration(r.rtt.Load())) && !r.quiet.Load() {
			r.hush()
		}
	case r.quiet.Load(): // it was heard while it was being hushed
		r.resume()
	case now.Sub(heard) >= after:
		r.probed = now
		r.probedAt.Store(now.UnixNano())
		r.send([]byte(wire.Ping))
	}
}

// pingAfter is the time without a sign of life after which the peer is asked for one.
func (r *route) pingAfter(heard time.Time) time.Duration {
	r.out.mu.Lock()
	sent := r.out.outMsgs
	r.out.mu.Unlock()
	if !heard.Equal(r.lookedHeard) {
		r.lookedHeard, r.sentAtHeard = heard, r.lookedSent // some may be from after it: they count
	}
	r.lookedSent = sent
	if sent != r.sentAtHeard {
		return routePingAfter
	}
	return routeIdlePing
}

// answered measures what the answer to look's PING took. The shortest of late counts: long ones say that a
// machine is busy.
func (r *route) answered() {
	at := r.probedAt.Swap(0)
	if at == 0 {
		return
	}
	took := time.Now().UnixNano() - at
	if old := r.rtt.Load(); old != 0 {
		took = min(took, old+old/8)
	}
	r.rtt.Store(took)
}

// hear notes a sign of life.
func (r *route) hear() {
	r.heard.Store(time.Now().UnixNano())
	if r.quiet.Load() {
		r.resume()
	}
}

// hush makes what is for the peer wait.
func (r *route) hush() {
	r.out.mu.Lock()
	quiet := !r.out.closing
	r.quiet.Store(quiet)
	r.out.mu.Unlock()
	if quiet {
		r.mesh.quieted(r, true)
	}
}

// resume sends the peer what waited for it.
func (r *route) resume() {
	var line []byte
	o := &r.out
	o.mu.Lock()
	for _, p := range r.parked {
		if !o.closing && p.resume() {
			line = r.appendMsgLocked(line, p.account, p.deliver, p.queues, &p.message)
		}
	}
	r.mesh.waiting.Add(-int64(len(r.parked)))
	r.parked, r.parkedBytes = nil, 0
	was := r.quiet.Swap(false) // last: until then nobody offers what waits here
	if !o.closing && len(o.chunks) > 0 {
		o.signalLocked()
	}
	o.mu.Unlock()
	if was {
		r.mesh.quieted(r, false)
	}
}

// quieted tells of a route that is quiet, or is not any more. In the system account interest on a quiet
// route does not count: the servers of a cluster learn from it who is there.
func (m *mesh) quieted(r *route, quiet bool) {
	m.log.Debug("route", "server", r.peer(), "quiet", quiet)
	if quiet {
		m.quiet.Add(1)
	} else {
		m.quiet.Add(-1)
	}
	m.b.changes.Add(1)
	notify(m.b.system.allWatchers())
}

// allWatchers returns the watchers of all subjects.
func (a *Account) allWatchers() (list []*watcher) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	a.watchers.Match(">", func(w []*watcher) { list = append(list, w...) })
	return list
}
