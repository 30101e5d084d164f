package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/wire"
)

// standbyTime is how long a second connection with a peer waits for the peer's choice.
const standbyTime = 5 * time.Second

// mesh is the part of this server in its cluster: a route with every other server of it.
//
// Invariants:
//  1. routes has at most one route a server id; it alone is told of interest and its interest counts.
//  2. The servers of routes that belong to a cluster of streams, this one included, belong to the same.
//  3. A message that came on a route goes to clients of this server only (router.publishRouted).
type mesh struct {
	b         *Broker
	cfg       *ClusterConfig
	log       *slog.Logger
	hostNames []string        // of the configured routes
	ctx       context.Context // of dialing; ends with the mesh
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	clients   atomic.Pointer[clientView]

	waiting atomic.Int64 // parcels, and servers of which requests are held: whether there is anything to do
	quiet   atomic.Int64 // routes that are
	late    late
	offered atomic.Uint64 // Broker.changes at the last offer

	offering sync.Mutex // before any other lock; see offerAll
	router   router
	touched  flushList

	standing standing

	holding   sync.Mutex // taken with no other lock held but offering
	held      []*parcel  // requests that reached nobody
	heldBytes int64
	gone      []*lostServer

	mu       sync.Mutex // before route.mu
	name     string
	dynamic  bool // the name was made up
	port     int
	refused  time.Duration // to the next attempt after a refusal
	own      []string      // where clients reach this server
	listener net.Listener
	conns    map[*route]bool
	routes   map[string]*route       // by server id
	standby  map[string]*route       // second connections that wait for the peer's choice
	meeting  map[string]bool         // host:port of servers that gossip has named and that are looked after
	selves   map[string]bool         // host:port at which this server has met itself
	formed   [16]byte                // cluster of streams that this server belongs to; zero: none yet
	storage  map[string]*StoragePeer // by name; those that have gone too
	leads    map[string]lead         // by host:port of a configured route, in lower case
	lameDuck bool
	closed   bool
}

// clientView is what INFO tells clients about the cluster. It does not change.
type clientView struct {
	name    string
	dynamic bool
	urls    []string
}

func newMesh(b *Broker, cfg *ClusterConfig) *mesh {
	m := &mesh{
		b: b, cfg: cfg, log: b.log, name: cfg.Name, refused: routeRefused,
		conns: make(map[*route]bool), routes: make(map[string]*route),
		standby: make(map[string]*route), meeting: make(map[string]bool), selves: make(map[string]bool),
		storage: make(map[string]*StoragePeer), leads: make(map[string]lead),
	}
	if cfg.Storage != nil {
		m.formed = cfg.Storage.Cluster
	}
	m.standing.at = make(map[standingKey]standingRequests)
	m.router.touched, m.router.heard = &m.touched, true
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if m.name == "" {
		m.name, m.dynamic = nuid.Next(), true
	}
	for _, text := range cfg.Routes {
		if u, err := parseRoute(text); err == nil && net.ParseIP(u.Hostname()) == nil {
			m.hostNames = append(m.hostNames, u.Hostname())
		}
	}
	for _, a := range b.accounts {
		a.interest = interest{account: a.name, local: make(map[interestKey]int)}
	}
	m.viewLocked()
	return m
}

// JoinCluster takes routes from l, dials the configured ones, and keeps them up until Shutdown, which
// closes l. clients is the address at which this server accepts clients. The broker must have a
// Config.Cluster.
func (b *Broker) JoinCluster(l net.Listener, clients net.Addr) error {
	m := b.mesh
	if m == nil {
		return errors.New("join cluster: none is configured")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		l.Close()
		return ErrClosed
	}
	m.listener = l
	if addr, ok := l.Addr().(*net.TCPAddr); ok {
		m.port = addr.Port
	}
	if addr, ok := clients.(*net.TCPAddr); ok && !m.cfg.NoAdvertise {
		m.own = clientURLs(b.cfg.Host, addr.Port)
	}
	m.viewLocked()
	m.wg.Go(func() {
		b.acceptLoop(l, func(nc net.Conn) bool { return m.start(newRoute(m, nc, nil, gossipDefault)) })
	})
	m.wg.Go(m.watch)
	for _, text := range m.cfg.Routes {
		u, err := parseRoute(text)
		if err != nil {
			return err
		}
		m.wg.Go(func() { m.keep(u) })
	}
	return nil
}

// add notes a connection and reports whether it may go on.
func (m *mesh) add(r *route) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		r.nc.Close()
		return false
	}
	m.conns[r] = true
	loseUnacknowledged(r.nc, routeLostAfter)
	return true
}

// start serves an accepted route on a goroutine of its own.
func (m *mesh) start(r *route) bool {
	if !m.add(r) {
		return false
	}
	m.wg.Go(r.serve)
	return true
}

// greeting is what this server says first on a route.
func (m *mesh) greeting(r *route) []byte {
	var line []byte
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.url != nil {
		c := wire.RouteConnect{
			Echo: true, Name: m.b.id, TLSRequired: m.cfg.TLS != nil, Headers: !m.b.cfg.NoHeaders,
			Cluster: m.name, ClusterDynamic: m.dynamic, LeafOrigin: true, LeafUnsub: true,
		}
		c.User, c.Pass = m.credentials(r.url)
		line = wire.AppendRouteConnect(line, &c)
		if m.cfg.Compression != CompressionOff {
			return line // INFO follows when that of the other server is there
		}
	}
	info := m.infoLocked()
	info.GossipMode, info.Compression = r.gossip, m.cfg.Compression
	m.toldLocked(r)
	return wire.AppendInfo(line, &info)
}

// info is the INFO of this server on a route with what was agreed on.
func (m *mesh) info(r *route) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := m.infoLocked()
	info.GossipMode, info.Compression = r.gossip, r.mode
	m.toldLocked(r)
	return wire.AppendInfo(nil, &info)
}

// credentials returns what to show to the server at u: what u says, or else the password of this
// server, or when that is a hash, what another configured route says.
func (m *mesh) credentials(u *url.URL) (user, pass string) {
	own := func(u *url.URL) (string, string) {
		pass, _ := u.User.Password()
		return u.User.Username(), pass
	}
	if u.User != nil {
		return own(u)
	}
	if !m.b.auth.bcrypt.MatchString(m.cfg.Password) {
		return m.cfg.User, m.cfg.Password
	}
	for _, text := range m.cfg.Routes {
		if u, err := parseRoute(text); err == nil && u.User != nil {
			return own(u)
		}
	}
	return m.cfg.User, ""
}

// admits checks the credentials that a peer shows.
func (m *mesh) admits(user, pass string) bool {
	return m.cfg.User == "" || m.cfg.User == user && m.b.auth.equal(m.cfg.Password, pass)
}

// infoLocked returns the INFO of this server on routes.
func (m *mesh) infoLocked() wire.Info {
	info := wire.Info{
		ServerID: m.b.id, ServerName: m.b.cfg.ServerName, Version: m.b.cfg.Version, Proto: 1,
		GitCommit: m.b.cfg.GitCommit, GoVersion: runtime.Version(), Host: m.cfg.Host, Port: m.port,
		Headers: !m.b.cfg.NoHeaders, AuthRequired: m.cfg.User != "", TLSRequired: m.cfg.TLS != nil, TLSVerify: m.cfg.TLS != nil,
		MaxPayload: max(m.b.cfg.MaxPayload, 0), JetStream: m.b.cfg.JetStream, LameDuck: m.lameDuck,
		Cluster: m.name, ClusterDynamic: m.dynamic, ConnectURLs: m.own,
		LeafOrigin: true, LeafUnsub: true, RouteStandby: true, Millrace: m.infoOfStreams(),
	}
	if m.cfg.Advertise != "" {
		info.IP = "nats-route://" + m.cfg.Advertise + "/"
	}
	return info
}

// agree compares the cluster name of a peer with ours. Of two names that differ, one that was made up
// gives way to one that was not, and of two that were, the lesser to the greater.
func (m *mesh) agree(r *route, name string, dynamic bool) error {
	m.mu.Lock()
	if name == m.name {
		m.mu.Unlock()
		return nil
	}
	if m.dynamic && dynamic && m.name > name {
		m.mu.Unlock()
		return errRenamed // by the peer, which has our name when it comes again
	}
	if !m.dynamic || name == "" {
		ours := m.name
		m.mu.Unlock()
		return newCloseError(closedClusterName, fmt.Sprintf("Rejecting connection, cluster name %q does not match %q", name, ours), "")
	}
	m.log.Info("cluster name taken from another server", "name", name, "server", r.peer())
	m.name, m.dynamic = name, dynamic
	m.viewLocked()
	var others []*route
	for other := range m.conns {
		other.mu.Lock()
		if other != r && other.id != "" {
			others = append(others, other)
		}
		other.mu.Unlock()
	}
	m.mu.Unlock()
	for _, other := range others {
		// They learn the new name when they are connected again.
		other.fail(errRenamed, false)
	}
	m.b.sendInfoUpdates()
	return nil
}

// errRenamed ends a route whose two servers will have the same cluster name at the next attempt.
var errRenamed = newCloseError(closedClusterName, "", "the cluster name changes")

// examine refuses a peer that cannot be in the same cluster.
func (m *mesh) examine(r *route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.examineLocked(r)
}

func (m *mesh) examineLocked(r *route) error {
	switch {
	case r.info.ServerID == m.b.id:
		return newCloseError(closedDuplicateRoute, "", "route to oneself")
	case r.info.ServerName == m.b.cfg.ServerName:
		return newCloseError(closedServerName, fmt.Sprintf("duplicate server name %q", r.info.ServerName), "")
	}
	return m.examineStreamsLocked(r)
}

// register makes a route with a peer that both sides have accepted the one with that peer, unless there
// is one already.
func (m *mesh) register(r *route) error {
	m.mu.Lock()
	err := m.examineLocked(r)
	if err == nil && m.closed {
		err = newCloseError(closedShutdown, "", "server is shutting down")
	}
	if err != nil {
		m.mu.Unlock()
		return err
	}
	told := func() {}
	if m.routes[r.info.ServerID] != nil {
		err = m.duplicateLocked(r)
	} else {
		told = m.registerLocked(r)
	}
	m.mu.Unlock()
	told()
	return err
}

// duplicateLocked is for a second connection with a peer. One of the two servers must choose which one
// stays, or each might close the one that the other keeps: nats-server always chooses, of two like
// this one that with the lesser id does. The other waits for the choice.
func (m *mesh) duplicateLocked(r *route) error {
	id := r.info.ServerID
	if r.info.RouteStandby && m.b.id < id || m.standby[id] != nil {
		return newCloseError(closedDuplicateRoute, "", "duplicate route")
	}
	m.standby[id] = r
	r.mu.Lock()
	r.standby = time.AfterFunc(standbyTime, func() {
		m.mu.Lock()
		waits := m.standby[id] == r
		m.mu.Unlock()
		if waits {
			r.fail(newCloseError(closedDuplicateRoute, "", "duplicate route"), false)
		}
	})
	r.mu.Unlock()
	return nil
}

// registerLocked registers r. The function that it returns tells everybody who wants to know, and is
// to be called without any lock.
func (m *mesh) registerLocked(r *route) func() {
	m.routes[r.info.ServerID] = r
	for _, a := range m.b.accounts {
		a.addRoute(r)
	}
	var watchers []*watcher
	r.mu.Lock()
	r.registered = true
	subscribed := r.subsLocked()
	for account, subs := range subscribed {
		w, err := account.insertRemote(subs...)
		watchers = append(watchers, w...)
		if err != nil {
			m.log.Warn("interest of another server", "server", r.name, "account", account.name, "error", err)
		}
	}
	r.mu.Unlock()
	m.viewLocked()
	m.noteLocked(r)
	m.tellLocked(r)
	gossip := m.gossipLocked(r)
	return func() {
		notify(watchers)
		for account, subs := range subscribed {
			for _, s := range subs {
				m.subscribed(account, s.filter)
			}
		}
		m.log.Info("route up", "server", r.info.ServerName, "id", r.info.ServerID, "address", r.address(), "version", r.info.Version, "dialed", r.url != nil)
		gossip()
		m.changed()
		m.b.sendInfoUpdates()
	}
}

// subsLocked returns the interest of the peer by account.
func (r *route) subsLocked() map[*Account][]*remoteSub {
	by := make(map[*Account][]*remoteSub)
	for _, s := range r.subs {
		by[s.account] = append(by[s.account], s)
	}
	return by
}

// unregister removes what a route that has ended leaves behind, and makes a second connection with the
// same peer the route.
func (m *mesh) unregister(r *route) {
	var watchers []*watcher
	told := func() {}
	m.mu.Lock()
	delete(m.conns, r)
	r.mu.Lock()
	was, id, name := r.registered, r.id, r.name
	storage := r.streams != nil && r.streams.node != 0
	subs := r.subsLocked()
	r.registered, r.subs = false, make(map[remoteKey]*remoteSub)
	r.mu.Unlock()
	if m.standby[id] == r {
		delete(m.standby, id)
	}
	if was {
		delete(m.routes, id)
		m.lostLocked(name, id)
		for _, a := range m.b.accounts {
			a.removeRoute(r)
		}
		next := m.standby[id]
		if next == nil && storage && !m.closed {
			m.lost(subs) // before nobody is there
		}
		for account, list := range subs {
			watchers = append(watchers, account.removeRemote(list...)...)
		}
		if next != nil {
			delete(m.standby, id)
			told = m.registerLocked(next)
		}
		m.viewLocked()
	}
	m.mu.Unlock()
	m.take(r)
	notify(watchers)
	told()
	if was {
		m.log.Warn("route down", "server", name, "id", id, "address", r.address(), "reason", r.whyEnded())
		m.changed()
		m.b.sendInfoUpdates()
	}
}

// whyEnded is the reason of the end for the log.
func (r *route) whyEnded() string {
	r.mu.Lock()
	end := r.end
	r.mu.Unlock()
	r.out.mu.Lock()
	reason := r.out.reason
	r.out.mu.Unlock()
	switch {
	case end != nil:
		return end.Error()
	case reason == closedByPeer:
		return "connection ended: " + fmt.Sprint(r.readErr)
	}
	return string(reason)
}

// viewLocked renews what clients are told.
func (m *mesh) viewLocked() {
	v := &clientView{name: m.name, dynamic: m.dynamic}
	if !m.cfg.NoAdvertise {
		v.urls = append(v.urls, m.own...)
		for _, r := range m.routes {
			r.mu.Lock()
			v.urls = append(v.urls, r.clientURLs...)
			r.mu.Unlock()
		}
		slices.Sort(v.urls)
		v.urls = slices.Compact(v.urls)
		rand.Shuffle(len(v.urls), func(i, j int) { v.urls[i], v.urls[j] = v.urls[j], v.urls[i] })
	}
	m.clients.Store(v)
}

// forgetClients no longer sends clients to a peer that is about to leave.
func (m *mesh) forgetClients(r *route) {
	m.mu.Lock()
	r.mu.Lock()
	r.clientURLs = nil
	r.mu.Unlock()
	m.viewLocked()
	m.mu.Unlock()
	m.b.sendInfoUpdates()
}

// leave tells the other servers that this one is in lame duck mode.
func (m *mesh) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lameDuck = true
	info := m.infoLocked()
	line := wire.AppendInfo(nil, &info)
	for _, r := range m.routes {
		r.send(line)
	}
}

// close ends all routes and waits for them.
func (m *mesh) close() {
	m.takeLeave()
	m.mu.Lock()
	m.closed = true
	l := m.listener
	var all []*route
	for r := range m.conns {
		all = append(all, r)
	}
	m.mu.Unlock()
	m.cancel()
	if l != nil {
		l.Close()
	}
	for _, r := range all {
		r.closeAfterFlush(closedShutdown, false)
	}
	m.wg.Wait()
}

// Modes of gossip, by which a new server is made known without every server telling every other.
const (
	gossipDefault  = 0
	gossipDisabled = 1 // the receiver does not pass on what it learns by following this
	gossipOverride = 2 // the receiver passes it on
)

// gossipLocked returns what tells the other servers about a new one, so that they dial it. A server that
// was met by gossip itself is known to the others already.
func (m *mesh) gossipLocked(r *route) func() {
	met := r.url != nil && !m.configured(r.url)
	if met && r.gossip != gossipOverride || r.info.GossipMode == gossipDisabled || len(m.routes) < 2 {
		return func() {}
	}
	type notice struct {
		route *route
		line  []byte
	}
	var notices []notice
	for id, other := range m.routes {
		if id == r.info.ServerID {
			continue
		}
		mode := gossipDefault
		switch {
		case r.url == nil && other.url != nil && m.configured(other.url), r.url != nil && !met:
			mode = gossipOverride
		case r.url == nil:
			mode = gossipDisabled
		}
		line, err := gossipLine(r.infoDoc, r.info.IP, mode)
		if err != nil {
			m.log.Warn("pass on INFO", "server", r.info.ServerName, "error", err)
			continue
		}
		notices = append(notices, notice{other, line})
	}
	return func() {
		for _, n := range notices {
			n.route.send(n.line)
		}
	}
}

// gossipLine is the INFO of a new server, with everything it says, for another.
func gossipLine(doc []byte, address string, mode int) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(doc, &fields); err != nil {
		return nil, err
	}
	delete(fields, "nonce")
	delete(fields, "gossip_mode")
	fields["ip"] = address
	if mode != gossipDefault {
		fields["gossip_mode"] = mode
	}
	doc, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return wire.AppendInfoDoc(nil, doc), nil
}
