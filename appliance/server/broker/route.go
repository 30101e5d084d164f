package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/wire"
)

// Bounds of routes.
const (
	// routeControlLine is the bytes of a protocol line on a route: sixteen times that of clients.
	routeControlLine = 16 * DefaultMaxControlLine
	// routePayload is the bytes of a message on a route, which another server has let in.
	routePayload = 64 << 20
	// routePendingFactor times Config.MaxPending may wait for a route: bursts of streams, whose
	// publishers never wait, come on top of what clients publish. Beyond that the route is dropped.
	routePendingFactor = 4
)

// route is a connection with another server of the cluster. Each side opens with INFO, the one that
// dialed with CONNECT before it; when both have accepted the other, interest and messages flow.
type route struct {
	conn
	mesh   *mesh
	url    *url.URL // where it was dialed; nil: it was accepted
	gossip int      // mode of the gossip that caused the dialing
	start  time.Time
	done   chan struct{}

	// Owned by readLoop.
	parser    wire.RouteParser
	touched   flushList
	message   message
	inbound   map[string]*inbound
	last      *inbound   // of the last message
	active    []*inbound // with messages in this batch
	connected bool       // CONNECT was received
	mode      string     // compression that the peer was told; empty before its first INFO
	switching bool       // what follows is compressed
	info      *wire.Info // of the peer; nil before INFO
	infoDoc   []byte
	greeted   bool // both sides have accepted each other
	left      int  // bytes that handleAll has left

	// Owned by watch.
	probed                  time.Time // when it has asked for a sign of life
	lookedHeard             time.Time // the last sign of life that it knows
	lookedSent, sentAtHeard int64     // messages sent until the last look, and until the sign of life

	inMsgs, inBytes atomic.Int64
	heard, probedAt atomic.Int64 // nanoseconds of the last sign of life, and of a PING of watch; 0: answered
	rtt             atomic.Int64 // nanoseconds that the answer took
	quiet           atomic.Bool  // changes under out.mu

	// Guarded by out.mu.
	parked      []parked // what waits while quiet
	parkedBytes int64
	toldAt      time.Time // when changes of interest alone were last sent

	mu         sync.Mutex // before Account.mu
	id, name   string     // of the peer; empty before INFO
	streams    *streams   // of the peer; nil: it is not a server of ours. What it points to does not change
	told       [16]byte   // cluster of streams that the peer was told of
	clientURLs []string   // of the peer
	registered bool       // its interest counts, and it is told of ours
	subs       map[remoteKey]*remoteSub
	standby    *time.Timer
	handshake  *time.Timer
	pingTimer  *time.Timer
	pingsOut   int
	end        error // why this side has closed it; nil: the peer has
}

// remoteKey is what makes one interest of a peer another than the next.
type remoteKey struct {
	leaf                            bool
	origin, account, subject, queue string
}

// inbound is what comes on a route for one account.
type inbound struct {
	account     *Account
	router      router
	msgs, bytes int64 // in this batch
}

func newRoute(m *mesh, nc net.Conn, u *url.URL, gossip int) *route {
	r := &route{
		mesh: m, url: u, gossip: gossip, start: time.Now(), done: make(chan struct{}),
		inbound: make(map[string]*inbound), subs: make(map[remoteKey]*remoteSub),
	}
	r.conn.init(m.b, nc)
	r.heard.Store(r.start.UnixNano())
	r.out.writeDeadline = m.cfg.WriteDeadline
	r.out.maxPending = routePendingFactor * m.b.cfg.MaxPending
	r.out.fair = true
	r.parser.MaxControlLine, r.parser.MaxPayload = routeControlLine, routePayload
	return r
}

// serve runs the route to its end.
func (r *route) serve() {
	defer close(r.done)
	defer r.mesh.unregister(r)
	handed := false
	defer func() {
		if !handed {
			r.nc.Close()
		}
	}()
	if err := r.secure(); err != nil {
		r.mesh.log.Error("TLS handshake of a route", "address", r.address(), "error", err)
		r.setEnd(err)
		return
	}
	begin := time.Now()
	greeting := r.mesh.greeting(r)
	if s := r.mesh.cfg.Storage; s != nil && s.Carry != nil && r.url == nil {
		carry, err := r.sort(greeting, s.Preamble[0])
		if err != nil {
			r.setEnd(err)
			return
		}
		if handed = carry && r.handOver(); handed {
			s.Carry(r.nc)
			return
		}
		greeting = nil
	}
	r.raw = newRawConn(r.nc)
	r.mesh.wg.Go(r.writeLoop)
	defer func() { <-r.written }()
	r.send(greeting)
	r.mu.Lock()
	r.handshake = time.AfterFunc(r.mesh.cfg.AuthTimeout-time.Since(begin), func() {
		r.fail(newCloseError(closedAuthTimeout, wire.TextAuthTimeout, "no handshake in time"), false)
	})
	r.mu.Unlock()
	r.readLoop(r)
	r.stopTimers()
}

// secure brings up TLS, before the first byte of the protocol.
func (r *route) secure() error {
	cfg := r.mesh.cfg
	if cfg.TLS == nil {
		return nil
	}
	var secure *tls.Conn
	if r.url == nil {
		secure = tls.Server(r.nc, cfg.TLS)
	} else {
		secure = tls.Client(r.nc, r.mesh.clientTLS(r.url.Hostname()))
	}
	secure.SetDeadline(time.Now().Add(cfg.TLSTimeout))
	if err := secure.HandshakeContext(r.mesh.ctx); err != nil {
		return err
	}
	secure.SetDeadline(time.Time{})
	r.out.mu.Lock()
	r.nc = secure
	r.out.mu.Unlock()
	return nil
}

// clientTLS returns the configuration to dial host with. A server that gossip named by its address
// may prove itself by the name of any configured route.
func (m *mesh) clientTLS(host string) *tls.Config {
	cfg := m.cfg.TLS.Clone()
	cfg.ServerName = host
	if net.ParseIP(host) == nil || cfg.InsecureSkipVerify {
		return cfg
	}
	names := append([]string{host}, m.hostNames...)
	roots := cfg.RootCAs
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(c)
		}
		if _, err := leaf.Verify(opts); err != nil {
			return err
		}
		if !slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) == nil }) {
			return fmt.Errorf("certificate is valid for none of %q", names)
		}
		return nil
	}
	return cfg
}

// handleAll handles all complete operations of buf and returns the bytes they take.
func (r *route) handleAll(buf []byte) (int, error) {
	if len(buf) > r.left { // nothing is new when the connection has ended
		r.hear()
	}
	var op wire.RouteOp
	used := 0
	defer func() { r.left = len(buf) - used }()
	for used < len(buf) && !r.switching {
		n, err := r.parser.Parse(buf[used:], &op)
		if err != nil {
			return used, err
		}
		if n == 0 {
			break
		}
		used += n
		if op.Kind == wire.OpRMsg && r.greeted {
			r.handleMsg(&op)
		} else if err := r.handle(&op); err != nil {
			return used, err
		}
	}
	return used, nil
}

// endBatch flushes the receivers of what one read brought and counts it.
func (r *route) endBatch() {
	r.touched.flush()
	for i, in := range r.active {
		r.inMsgs.Add(in.msgs)
		r.inBytes.Add(in.bytes)
		r.b.routeStats.addIn(in.msgs, in.bytes)
		in.msgs, in.bytes = 0, 0
		in.router.count(in.account)
		in.router.stalled = 0
		r.active[i] = nil
	}
	r.active = r.active[:0]
}

// input switches to compressed input once that is agreed on.
func (r *route) input(rest []byte) io.Reader {
	if !r.switching {
		return nil
	}
	r.switching, r.left = false, 0
	return r.decompressed(rest)
}

// need is what the parser knows of the size of an incomplete operation.
func (r *route) need() int { return r.parser.Need() }

// failRead ends the route because of an error of handleAll.
func (r *route) failRead(err error) {
	r.fail(err, true)
	r.drain()
}

// fail ends the route because of err, which the peer is told. With linger the read loop has to drain.
func (r *route) fail(err error, linger bool) {
	if !r.setEnd(err) {
		return
	}
	reason := closedProtocol
	var pe *wire.ProtocolError
	var ce *closeError
	if errors.As(err, &ce) {
		reason, pe = ce.reason, &ce.protocol
	} else {
		errors.As(err, &pe)
	}
	if pe != nil && pe.Text != "" {
		r.send(wire.AppendErr(nil, pe.Text))
	}
	switch {
	case reason == closedDuplicateRoute:
	case err == errRenamed:
		r.mesh.log.Info("closing route", "server", r.peer(), "address", r.address(), "reason", err)
	default:
		r.mesh.log.Error("closing route", "server", r.peer(), "address", r.address(), "reason", err)
	}
	r.closeAfterFlush(reason, linger)
}

// setEnd notes why the route ends and reports whether nothing else was noted before.
func (r *route) setEnd(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end != nil {
		return false
	}
	r.end = err
	return true
}

// peer is the name of the other server, as far as it is known.
func (r *route) peer() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.name
}

// ping sends a PING and closes the route when too many are unanswered.
func (r *route) ping() {
	r.mu.Lock()
	if r.pingTimer == nil {
		r.mu.Unlock()
		return
	}
	r.pingsOut++
	stale := r.pingsOut > r.mesh.cfg.MaxPingsOut
	if !stale {
		r.pingTimer.Reset(r.mesh.cfg.PingInterval)
	}
	r.mu.Unlock()
	if stale {
		r.fail(newCloseError(closedStale, wire.TextStaleConnection, "no answer to PING"), false)
		return
	}
	r.send([]byte(wire.Ping))
}

func (r *route) stopTimers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range []*time.Timer{r.pingTimer, r.handshake, r.standby} {
		if t != nil {
			t.Stop()
		}
	}
	r.pingTimer, r.handshake, r.standby = nil, nil, nil
}
