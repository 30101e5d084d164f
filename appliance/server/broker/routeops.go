package broker

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/wire"
)

// handle carries out one operation of the peer. An error ends the route.
func (r *route) handle(op *wire.RouteOp) error {
	switch op.Kind {
	case wire.OpPing:
		r.reply([]byte(wire.Pong))
	case wire.OpPong:
		return r.handlePong()
	case wire.OpInfo:
		return r.handleInfo(op.Arg)
	case wire.OpConnect:
		return r.handleConnect(op.Arg)
	case wire.OpErr:
		return r.refusedBy(op.Arg)
	case wire.OpRSub, wire.OpLSub:
		if r.info == nil || r.url == nil && !r.connected {
			return errRouteOrder
		}
		r.handleSub(op)
	case wire.OpRUnsub, wire.OpLUnsub:
		r.handleUnsub(op)
	case wire.OpRMsg:
		// The peer has accepted us and begins; whether we accept it is not known yet.
		if r.info == nil || r.url == nil {
			return errRouteOrder
		}
		r.handleMsg(op)
	}
	return nil // A+, A- and +OK mean nothing here
}

// errRouteOrder is returned for interest and messages before the handshake.
var errRouteOrder = newCloseError(closedProtocol, wire.TextUnknownOp, "operation before INFO and CONNECT")

// reply queues b; the read loop flushes it at the end of its batch.
func (r *route) reply(b []byte) {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	if !r.out.closing {
		r.out.appendLocked(b)
		r.touched.addLocked(&r.conn)
	}
}

// handleConnect admits a peer that has dialed this server.
func (r *route) handleConnect(doc []byte) error {
	var c wire.RouteConnect
	if err := c.Parse(doc); err != nil {
		return newCloseError(closedProtocol, wire.TextUnknownOp, err.Error())
	}
	switch {
	case r.url != nil || r.connected:
		return newCloseError(closedProtocol, wire.TextUnknownOp, "unexpected CONNECT")
	case c.Lang != "":
		return newCloseError(closedWrongPort, wire.TextClientOnRoutePort, "")
	case c.Gateway != "":
		return newCloseError(closedWrongPort, fmt.Sprintf("Rejecting connection from gateway %q on the Route port", c.Gateway), "")
	case !r.mesh.admits(c.User, c.Pass):
		return newCloseError(closedAuth, wire.TextAuthViolation, fmt.Sprintf("user %q", c.User))
	}
	r.connected = true
	return r.mesh.agree(r, c.Cluster, c.ClusterDynamic)
}

// refusedBy ends a route that the peer does not want.
func (r *route) refusedBy(text []byte) error {
	reason := string(bytes.Trim(text, "' "))
	if strings.HasPrefix(reason, "Not possible to have a dedicated route") {
		// nats-server tries a connection for its system account alone and gives it up by itself.
		return newCloseError(closedDuplicateRoute, "", reason)
	}
	return newCloseError(closedByPeer, "", fmt.Sprintf("server %q at %s refuses: %s", r.peer(), r.address(), reason))
}

// handleInfo takes the first INFO as the identity of the peer; later ones tell about other servers, that
// the peer is about to leave, or that it belongs to a cluster of streams now.
func (r *route) handleInfo(doc []byte) error {
	info, err := wire.ParseInfo(doc)
	if err != nil {
		return newCloseError(closedProtocol, wire.TextUnknownOp, err.Error())
	}
	if r.info != nil {
		return r.handleUpdate(&info)
	}
	if r.url == nil && !r.connected {
		return errRouteOrder
	}
	if info.ServerID == "" {
		return newCloseError(closedProtocol, wire.TextUnknownOp, "INFO without server_id")
	}
	if wait, err := r.negotiate(info.Compression); wait || err != nil {
		return err
	}
	if info.RouteAccount != "" {
		return newCloseError(closedDuplicateRoute, "Not possible to have a dedicated route for an account", info.RouteAccount)
	}
	if info.IP == "" {
		host := info.Host
		if addr, ok := r.nc.RemoteAddr().(*net.TCPAddr); ok {
			host = addr.IP.String()
		}
		info.IP = "nats-route://" + net.JoinHostPort(host, fmt.Sprint(info.Port)) + "/"
	}
	theirs, err := readStreams(info.Millrace)
	if err != nil {
		return newCloseError(closedProtocol, wire.TextUnknownOp, err.Error())
	}
	r.info, r.infoDoc = &info, bytes.Clone(doc)
	r.mu.Lock()
	r.id, r.name, r.streams, r.clientURLs = info.ServerID, info.ServerName, theirs, info.ConnectURLs
	r.mu.Unlock()
	r.out.mu.Lock()
	r.out.headers = info.Headers && !r.b.cfg.NoHeaders
	r.out.mu.Unlock()
	if err := r.mesh.agree(r, info.Cluster, info.ClusterDynamic); err != nil {
		return err
	}
	if err := r.mesh.examine(r); err != nil {
		return err
	}
	if r.url != nil {
		// The handshake may end here, since there is a route already.
		r.mesh.leadsTo(r.url, lead{server: info.ServerName, streams: info.JetStream || theirs != nil && theirs.node != 0})
		// What answers this has seen our CONNECT and accepted it.
		r.reply([]byte(wire.Ping))
		return nil
	}
	return r.greet()
}

// negotiate agrees with the peer on compression. The one that has dialed chooses first, so its INFO
// comes after that of the other; when they compress, both send INFO once more, compressed. It reports
// whether that of the peer has to be waited for.
func (r *route) negotiate(theirs string) (wait bool, err error) {
	own := r.mesh.cfg.Compression
	if own == CompressionOff {
		return false, nil
	}
	if r.mode != "" { // the compressed INFO
		if r.url != nil {
			r.send(r.mesh.info(r))
		}
		return false, nil
	}
	level, err := chooseCompression(own, theirs)
	if err != nil {
		return false, newCloseError(closedProtocol, err.Error(), "")
	}
	if level == "" {
		if r.mode = CompressionOff; r.url != nil {
			r.send(r.mesh.info(r))
		}
		return false, nil
	}
	r.mode, r.switching = level, true
	if r.url != nil {
		r.send(r.mesh.info(r))
	}
	r.compress(level)
	if r.url == nil {
		r.send(r.mesh.info(r))
	}
	return true, nil
}

// handlePong notes that the peer is alive.
func (r *route) handlePong() error {
	r.answered()
	r.mu.Lock()
	r.pingsOut = 0
	r.mu.Unlock()
	if r.greeted || r.info == nil || r.url == nil {
		return nil
	}
	return r.greet()
}

// greet ends the handshake: from now on the two servers share their interest.
func (r *route) greet() error {
	r.greeted = true
	r.mu.Lock()
	if r.handshake != nil {
		r.handshake.Stop()
	}
	r.pingTimer = time.AfterFunc(r.mesh.cfg.PingInterval, r.ping)
	r.mu.Unlock()
	return r.mesh.register(r)
}

// handleUpdate takes a later INFO.
func (r *route) handleUpdate(info *wire.Info) error {
	switch {
	case info.RouteRequest != "" || info.RouteAccount != "" || info.Gateway != "":
	case info.ServerID != r.info.ServerID:
		r.mesh.meet(info)
	case info.LameDuck:
		r.mesh.log.Info("server of the cluster is about to leave", "server", r.info.ServerName)
		r.mesh.forgetClients(r)
	default:
		return r.mesh.hearStreams(r, info)
	}
	return nil
}

// keyOf returns the identity of the interest in an RS+, RS-, LS+ or LS-.
func keyOf(op *wire.RouteOp) remoteKey {
	return remoteKey{
		leaf:   op.Kind == wire.OpLSub || op.Kind == wire.OpLUnsub,
		origin: string(op.Origin), account: string(op.Account), subject: string(op.Subject), queue: string(op.Queue),
	}
}

// handleSub notes interest of the peer, or the new weight of a queue group.
func (r *route) handleSub(op *wire.RouteOp) {
	account := r.b.accounts[str(op.Account)]
	if account == nil {
		r.mesh.log.Debug("interest in an unknown account", "server", r.info.ServerName, "account", string(op.Account))
		return
	}
	key := keyOf(op)
	weight := int32(op.Weight)
	r.mu.Lock()
	s := r.subs[key]
	if s != nil {
		s.weight.Store(weight)
		r.mu.Unlock()
		return
	}
	s = &remoteSub{account: account, route: r, filter: key.subject, queue: key.queue}
	s.weight.Store(weight)
	r.subs[key] = s
	var watchers []*watcher
	var err error
	if r.registered {
		watchers, err = account.insertRemote(s)
	}
	r.mu.Unlock()
	notify(watchers)
	r.mesh.subscribed(account, s.filter)
	if err != nil {
		r.mesh.log.Warn("interest of another server", "server", r.info.ServerName, "account", account.name, "error", err)
	}
}

// handleUnsub forgets interest of the peer.
func (r *route) handleUnsub(op *wire.RouteOp) {
	key := keyOf(op)
	r.mu.Lock()
	s := r.subs[key]
	delete(r.subs, key)
	var watchers []*watcher
	if s != nil {
		watchers = s.account.removeRemote(s)
	}
	r.mu.Unlock()
	notify(watchers)
}

// handleMsg delivers a message to the clients of this server. A reply such as
// "$JS.ACK.…@orders.new" says that they are to see another subject than the one that reaches them.
func (r *route) handleMsg(op *wire.RouteOp) {
	in := r.last
	if in == nil || in.account.name != str(op.Account) {
		if in = r.inboundOf(op.Account); in == nil {
			return
		}
	}
	if in.msgs == 0 {
		r.active = append(r.active, in)
	}
	in.msgs++
	in.bytes += int64(op.Size)
	m := &r.message
	m.subject, m.reply = op.Subject, op.Reply
	m.header, m.hdrText = op.Header, op.HdrText
	m.data, m.body, m.sizText = op.Data, op.Body, op.SizText
	if at := r.b.cfg.CarrierReply.at(m.reply); at > 0 {
		m.subject, m.reply = m.reply[at+1:], m.reply[:at]
	}
	in.router.publishRouted(in.account, str(op.Subject), op.Queues, m)
}

// inboundOf returns what comes for an account; nil: there is none of that name.
func (r *route) inboundOf(name []byte) *inbound {
	in := r.inbound[string(name)]
	if in == nil {
		account := r.b.accounts[string(name)]
		if account == nil {
			return nil
		}
		in = &inbound{account: account}
		in.router.touched, in.router.routed = &r.touched, true
		r.inbound[account.name] = in
	}
	r.last = in
	return in
}

// deliver queues m for the peer, whose interest matches subject and whose queue groups get it, and
// reports whether the route takes it.
func (r *route) deliver(from *router, a *Account, subject string, queues []string, m *message) bool {
	o := &r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stall != nil && from.from != nil {
		from.waitLocked(o)
	}
	switch {
	case o.closing:
		return false
	case r.quiet.Load():
		return r.parkLocked(from, a, subject, queues, m)
	}
	from.line = r.appendMsgLocked(from.line, a, subject, queues, m)
	if o.pending > o.maxPending {
		r.slowLocked(closedSlowPending)
		return false
	}
	if o.pending > o.stallAt && o.stall == nil {
		o.stall = make(chan struct{})
	}
	if from.touched != nil {
		from.touched.addLocked(&r.conn)
	} else {
		o.signalLocked()
	}
	from.routedMsgs++
	from.routedBytes += int64(m.size())
	return true
}

// appendMsgLocked queues m, and returns scratch, which it uses for the line. It needs out.mu.
func (r *route) appendMsgLocked(scratch []byte, a *Account, subject string, queues []string, m *message) []byte {
	line := wire.RouteMsg{
		Account: a.name, Subject: subject, Reply: m.reply, Queues: queues, Hdr: m.hdrText, Size: m.sizText,
	}
	if subject != str(m.subject) && r.b.cfg.CarrierReply.matches(m.reply) {
		line.As = m.subject
	}
	o := &r.out
	body := m.body
	if m.hdrText != nil && !o.headers {
		var digits [20]byte
		line.Hdr, line.Size = nil, strconv.AppendInt(digits[:0], int64(len(m.data)), 10)
		if body != nil {
			body = body[len(m.header):]
		}
	}
	scratch = line.Append(scratch[:0])
	o.appendLocked(scratch)
	if body != nil {
		o.appendLocked(body)
	} else {
		if line.Hdr != nil {
			o.appendLocked(m.header)
		}
		o.appendLocked(m.data)
		o.appendLocked([]byte(wire.CRLF))
	}
	o.outMsgs++
	o.outBytes += int64(m.size())
	return scratch
}
