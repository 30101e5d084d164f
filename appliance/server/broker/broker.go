// Package broker serves NATS clients: connections, accounts, authentication, permissions,
// subscriptions and queue groups. It knows nothing of streams; package node connects it to them by
// internal subscriptions and publishes.
package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/nats-io/nuid"

	"millrace/appliance/server/wire"
)

// Broker serves the clients of one node.
type Broker struct {
	cfg      Config
	id       string
	each     string // queue group of this server, see Account.SubscribeEach
	log      *slog.Logger
	auth     *authenticator
	accounts map[string]*Account // does not change
	system   *Account
	info     wire.Info // of every client, without its own fields
	start    time.Time
	chunks   chunkPool

	mesh *mesh // nil: no cluster

	stats         trafficStats
	routeStats    trafficStats // of routes, in both directions
	slowConsumers atomic.Int64
	nextID        atomic.Uint64
	systemSeq     atomic.Uint64
	changes       atomic.Uint64 // of any interest, of this server and others
	lameDuck      atomic.Bool

	wg   sync.WaitGroup // connections and listeners
	quit chan struct{}

	mu        sync.Mutex // before client.mu
	clients   map[uint64]*client
	total     uint64 // connections so far
	listeners map[net.Listener]bool
	draining  bool // no new connections
	closed    bool
}

// New returns a broker that serves no listener yet.
func New(cfg Config) (*Broker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	key, err := nkeys.CreateServer()
	if err != nil {
		return nil, fmt.Errorf("create server id: %w", err)
	}
	id, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("create server id: %w", err)
	}
	setDefault(&cfg.ServerName, id)
	b := &Broker{
		cfg: cfg, id: id, each: eachPrefix + nuid.Next(), log: cfg.Logger, start: time.Now(),
		accounts:  make(map[string]*Account),
		quit:      make(chan struct{}),
		clients:   make(map[uint64]*client),
		listeners: make(map[net.Listener]bool),
	}
	for _, ac := range cfg.Accounts {
		b.accounts[ac.Name] = &Account{name: ac.Name, cfg: ac, broker: b}
	}
	for _, name := range []string{GlobalAccount, cfg.SystemAccount} {
		if b.accounts[name] == nil {
			b.accounts[name] = &Account{name: name, broker: b}
		}
	}
	b.system = b.accounts[cfg.SystemAccount]
	b.system.system = true
	b.auth = newAuthenticator(&cfg, b.accounts)
	b.info = wire.Info{
		ServerID: id, ServerName: cfg.ServerName, Version: cfg.Version, Proto: 1, GitCommit: cfg.GitCommit,
		GoVersion: runtime.Version(), Host: cfg.Host, Port: cfg.Port, Headers: !cfg.NoHeaders,
		AuthRequired: b.auth.required && b.auth.noAuth == nil,
		JetStream:    cfg.JetStream, APILevel: cfg.APILevel,
	}
	if cfg.TLS != nil {
		b.info.TLSRequired = !cfg.AllowNonTLS
		b.info.TLSAvailable = cfg.AllowNonTLS
		b.info.TLSVerify = cfg.TLS.ClientAuth == tls.RequireAndVerifyClientCert
	}
	if cfg.Cluster != nil {
		b.mesh = newMesh(b, cfg.Cluster)
	}
	if err := b.startServices(); err != nil {
		return nil, err
	}
	return b, nil
}

// ID returns the server id of INFO: a public server nkey, new for every Broker.
func (b *Broker) ID() string { return b.id }

// Name returns the server name of INFO.
func (b *Broker) Name() string { return b.cfg.ServerName }

// Account returns the account of that name, or nil.
func (b *Broker) Account(name string) *Account { return b.accounts[name] }

// Accounts returns all accounts, by name.
func (b *Broker) Accounts() []*Account {
	var list []*Account
	for _, a := range b.accounts {
		list = append(list, a)
	}
	slices.SortFunc(list, func(x, y *Account) int { return cmp.Compare(x.name, y.name) })
	return list
}

// SystemAccount returns the account of the system services.
func (b *Broker) SystemAccount() *Account { return b.system }

// Serve accepts clients from l until Shutdown or LameDuck, which close l; then it returns nil.
func (b *Broker) Serve(l net.Listener) error {
	b.mu.Lock()
	if b.draining {
		b.mu.Unlock()
		l.Close()
		return ErrClosed
	}
	b.listeners[l] = true
	b.wg.Add(1)
	b.mu.Unlock()
	defer b.wg.Done()
	if err := b.acceptLoop(l, func(nc net.Conn) bool { return b.startConn(nc, false) }); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.draining {
			return err
		}
	}
	return nil
}

// acceptLoop calls start with every connection that l accepts. It ends without an error when start
// returns false or the broker is shut down, and with one when l is closed.
func (b *Broker) acceptLoop(l net.Listener, start func(net.Conn) bool) error {
	const minDelay, maxDelay = 10 * time.Millisecond, time.Second
	delay := minDelay
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %s: %w", l.Addr(), err)
			}
			// Such as too many open files: others are still served, so try again.
			b.log.Error("accept connection", "listener", l.Addr().String(), "error", err, "retry", delay)
			select {
			case <-time.After(delay):
			case <-b.quit:
				return nil
			}
			delay = min(2*delay, maxDelay)
			continue
		}
		delay = minDelay
		if !start(nc) {
			return nil
		}
	}
}

// startConn serves nc on a goroutine of its own, unless the broker takes no more connections.
func (b *Broker) startConn(nc net.Conn, local bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		nc.Close()
		return false
	}
	b.wg.Go(func() { b.serve(newClient(b, nc, local)) })
	return true
}

// ServeConn serves one client until its connection ends, and closes it. A client that does not come
// over TCP, but over net.Pipe say, never has to use TLS.
func (b *Broker) ServeConn(nc net.Conn) {
	b.mu.Lock()
	if b.draining {
		b.mu.Unlock()
		nc.Close()
		return
	}
	b.wg.Add(1)
	b.mu.Unlock()
	defer b.wg.Done()
	_, tcp := nc.(*net.TCPConn)
	b.serve(newClient(b, nc, !tcp))
}

// InProcessConn returns the client's end of a new connection that the broker serves. With it a
// Broker is an in-process server for the option nats.InProcessServer.
func (b *Broker) InProcessConn() (net.Conn, error) {
	ours, theirs := net.Pipe()
	if !b.startConn(ours, true) {
		return nil, ErrClosed
	}
	return theirs, nil
}

// serve runs a connection from INFO to its end.
func (b *Broker) serve(c *client) {
	defer c.nc.Close()
	c.id = b.nextID.Add(1)
	if b.auth.nonces {
		c.nonce = newNonce()
	}
	if !c.greet() {
		return
	}
	err := b.register(c)
	if err == nil {
		defer b.unregister(c)
	}
	c.raw = newRawConn(c.nc)
	b.wg.Go(c.writeLoop)
	defer func() { <-c.written }()
	if err == nil && !b.auth.required {
		err = c.authenticate()
	}
	if err != nil {
		c.fail(err)
		return
	}
	if b.auth.required {
		c.awaiting = true
		c.startAuthTimer()
	}
	c.startPings(false)
	c.readLoop(c)
	c.dropSubs()
}

// register adds a connection to those the broker knows.
func (b *Broker) register(c *client) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return newCloseError(closedShutdown, "", "server is shutting down")
	}
	if b.cfg.MaxConns < 0 || len(b.clients) >= b.cfg.MaxConns {
		return newCloseError(closedMaxConns, wire.TextMaxConns, fmt.Sprint(b.cfg.MaxConns))
	}
	b.clients[c.id] = c
	b.total++
	return nil
}

// unregister removes what a connection that has ended leaves behind.
func (b *Broker) unregister(c *client) {
	c.stopTimers()
	if c.account != nil {
		c.account.removeConn()
	}
	b.mu.Lock()
	delete(b.clients, c.id)
	b.mu.Unlock()
	c.out.mu.Lock()
	reason := c.out.reason
	c.out.mu.Unlock()
	c.sendClientEvent(cmp.Or(reason, closedByPeer))
	level := slog.LevelDebug
	if reason == closedSlowPending || reason == closedSlowDeadline {
		level = slog.LevelWarn
	}
	b.log.Log(context.Background(), level, "client connection closed", "client", c.id, "address", c.address(), "reason", string(reason))
}

// newInfo returns the INFO of this client.
func (c *client) newInfo() wire.Info {
	info := c.b.info
	info.ClientID, info.ClientIP, info.Nonce = c.id, c.host, c.nonce
	info.LameDuck = c.b.lameDuck.Load()
	if m := c.b.mesh; m != nil {
		view := m.clients.Load()
		info.Cluster, info.ClusterDynamic, info.ConnectURLs = view.name, view.dynamic, view.urls
	}
	if c.local && info.TLSRequired {
		info.TLSRequired, info.TLSAvailable = false, true
	}
	c.mu.Lock()
	info.MaxPayload = c.maxPayload
	c.mu.Unlock()
	return info
}

// allClients returns the present connections in random order.
func (b *Broker) allClients() []*client {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*client, 0, len(b.clients))
	for _, c := range b.clients {
		list = append(list, c)
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// stopListening closes the listeners and refuses new connections from now on.
func (b *Broker) stopListening() {
	b.mu.Lock()
	b.draining = true
	listeners := b.listeners
	b.listeners = map[net.Listener]bool{}
	b.mu.Unlock()
	for l := range listeners {
		l.Close()
	}
}

// LameDuck makes the clients leave: it stops accepting, tells them by INFO that this server is in
// lame duck mode, waits for grace, and then closes the connections spread over duration less grace.
// At the end, or when ctx ends, the broker is shut down.
func (b *Broker) LameDuck(ctx context.Context, duration, grace time.Duration) {
	defer b.Shutdown()
	b.stopListening()
	b.lameDuck.Store(true)
	if b.mesh != nil {
		b.mesh.leave()
	}
	clients := b.allClients()
	for _, c := range clients {
		c.sendLameDuck()
	}
	if len(clients) == 0 || !b.sleep(ctx, grace) {
		return
	}
	spread := duration - grace
	if spread <= 0 {
		spread = time.Second
	}
	pause := min(max(spread/time.Duration(len(clients)), 1), time.Second)
	// Closes in batches when the pause would be too short for a timer.
	batch := 1
	if pause < time.Millisecond {
		batch = int(time.Millisecond / pause)
		pause = time.Millisecond
	}
	for i, c := range clients {
		c.closeAfterFlush(closedShutdown, false)
		if (i+1)%batch == 0 && i+1 < len(clients) && !b.sleep(ctx, pause/2+rand.N(pause/2+1)) {
			return
		}
	}
}

// sleep waits for d and reports whether it did; it ends early with ctx or the broker.
func (b *Broker) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-b.quit:
	}
	return false
}

// sendLameDuck tells a client that takes INFO at any time.
func (c *client) sendLameDuck() {
	c.mu.Lock()
	takes := c.connected && c.connect.Protocol >= 1
	c.mu.Unlock()
	if takes {
		info := c.newInfo()
		c.send(wire.AppendInfo(nil, &info))
	}
}

// sendInfoUpdates tells clients that the cluster has changed: those that take INFO at any time and have
// had the answer to their first PING, before which some clients do not expect one.
func (b *Broker) sendInfoUpdates() {
	for _, c := range b.allClients() {
		c.mu.Lock()
		takes := c.ponged && c.connect.Protocol >= 1
		c.mu.Unlock()
		if takes {
			info := c.newInfo()
			c.send(wire.AppendInfo(nil, &info))
		}
	}
}

// Shutdown closes listeners and connections, after what is queued for clients has been written or a
// short time is over, and waits for all goroutines of the broker.
func (b *Broker) Shutdown() {
	b.stopListening()
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.quit)
	}
	b.mu.Unlock()
	for _, c := range b.allClients() {
		c.closeAfterFlush(closedShutdown, false)
	}
	b.wg.Wait()
	if b.mesh != nil {
		b.mesh.close()
	}
}
