package broker

import (
	"fmt"
	"strings"

	"millrace/appliance/server/subject"
	"millrace/appliance/server/wire"
)

// handle carries out one operation. An error ends the connection.
func (c *client) handle(op *wire.Op) error {
	switch op.Kind {
	case wire.OpPub, wire.OpHPub:
		return c.handlePub(op)
	case wire.OpSub:
		c.handleSub(op)
	case wire.OpUnsub:
		c.handleUnsub(op)
	case wire.OpPing:
		c.handlePing()
	case wire.OpPong:
		c.handlePong()
	case wire.OpConnect:
		return c.handleConnect(op.Arg)
	case wire.OpErr:
		return newCloseError(closedProtocol, "", fmt.Sprintf("client sent -ERR %s", op.Arg))
	}
	return nil // INFO and +OK mean nothing from a client
}

// handlePub publishes. Violations of permissions are told and do not end the connection.
func (c *client) handlePub(op *wire.Op) error {
	m := &c.message
	c.active = true
	c.batchMsgs++
	c.batchBytes += int64(op.Size)
	m.subject, m.reply = op.Subject, op.Reply
	m.header, m.hdrText = op.Header, nil
	if op.Kind == wire.OpHPub {
		if !c.headersAllowed() {
			return newCloseError(closedProtocol, "", "message headers not supported")
		}
		if len(op.Header) > 0 {
			m.hdrText = op.HdrText
		}
	}
	m.data, m.body, m.sizText = op.Data, op.Body, op.SizText

	if c.connect.Pedantic && !subject.ValidLiteral(str(m.subject)) {
		c.replyErr(wire.TextInvalidPubSubject)
	}
	if c.perms != nil && c.perms.publish && !c.mayPublish(m.subject) {
		c.replyErr(fmt.Sprintf("Permissions Violation for Publish to %q", m.subject))
		return nil
	}
	if len(m.reply) > 0 {
		for _, prefix := range c.b.cfg.ReservedReplies {
			if strings.HasPrefix(str(m.reply), prefix) {
				c.replyErr(fmt.Sprintf("Permissions Violation for Publish with Reply of %q", m.reply))
				return nil
			}
		}
	}
	if c.connect.Verbose {
		c.reply([]byte(wire.OK))
	}
	m.client = c.info
	mesh := c.b.mesh
	if mesh != nil {
		mesh.offer()
	}
	n := c.router.publish(c.account, str(m.subject), m)
	if mesh != nil {
		mesh.noteStanding(c.account, str(m.subject), m, n, &c.router)
	}
	if n == 0 && len(m.reply) > 0 && c.connect.NoResponders {
		if mesh == nil || !mesh.hold(c, str(m.subject), m) {
			c.noResponders(m)
		}
	}
	return nil
}

// headersAllowed reports whether client and server have agreed on message headers.
func (c *client) headersAllowed() bool { return c.connect.Headers && !c.b.cfg.NoHeaders }

// mayPublish reports whether the user may publish to subj, as a reply at least.
func (c *client) mayPublish(subj []byte) bool {
	if c.publish.allowed(c.perms, subj) {
		return true
	}
	if c.perms.responses == nil {
		return false
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.replies.use(c.perms, subj)
}

// replyErr tells the client of an error that does not end the connection.
func (c *client) replyErr(text string) {
	c.b.log.Warn("client error", "client", c.id, "address", c.address(), "text", text)
	c.reply(wire.AppendErr(nil, text))
}

// handleSub subscribes. A sid in use is left as it is.
func (c *client) handleSub(op *wire.Op) {
	c.active = true
	s := &Sub{
		account: c.account, client: c,
		filter: string(op.Subject), queue: string(op.Queue), sid: append([]byte(nil), op.SID...),
	}
	if p := c.perms; p != nil {
		if !p.maySubscribe(s.filter, s.queue) {
			text := fmt.Sprintf("Permissions Violation for Subscription to %q", s.filter)
			if s.queue != "" {
				text = fmt.Sprintf("%s using queue %q", text, s.queue)
			}
			c.replyErr(text)
			return
		}
		s.checkDeny = p.mayBeDenied(s.filter, s.queue)
	}
	if n := c.b.cfg.MaxSubTokens; n > 0 && subject.Tokens(s.filter) > n {
		c.replyErr(fmt.Sprintf("Permissions Violation for Subscription to %q, too many tokens", s.filter))
		return
	}
	c.mu.Lock()
	_, exists := c.subs[string(s.sid)]
	full := c.maxSubs > 0 && len(c.subs) >= c.maxSubs
	if !exists && !full {
		c.subs[string(s.sid)] = s
	}
	c.mu.Unlock()
	if full {
		c.replyErr(wire.TextMaxSubs)
		return
	}
	if !exists {
		if err := c.account.insert(s, haste{batch: &c.touched}); err != nil {
			c.mu.Lock()
			delete(c.subs, string(s.sid))
			c.mu.Unlock()
			c.replyErr(wire.TextInvalidSubject)
			return
		}
	}
	if c.connect.Verbose {
		c.reply([]byte(wire.OK))
	}
}

// handleUnsub ends a subscription, at once or after a number of messages.
func (c *client) handleUnsub(op *wire.Op) {
	c.active = true
	c.mu.Lock()
	s := c.subs[string(op.SID)]
	c.mu.Unlock()
	if c.connect.Verbose {
		c.reply([]byte(wire.OK))
	}
	if s == nil {
		return
	}
	c.out.mu.Lock()
	s.max = 0
	if op.Max > s.delivered {
		s.max = op.Max
	} else {
		s.closed = true
	}
	ended := s.closed
	c.out.mu.Unlock()
	if ended {
		c.forget(s)
	}
}

// forget removes a subscription that is closed.
func (c *client) forget(s *Sub) {
	c.mu.Lock()
	if c.subs[string(s.sid)] == s {
		delete(c.subs, string(s.sid))
	}
	c.mu.Unlock()
	s.account.remove(haste{soon: true}, s)
}

// dropSubs ends all subscriptions.
func (c *client) dropSubs() {
	c.mu.Lock()
	subs := make([]*Sub, 0, len(c.subs))
	for _, s := range c.subs {
		subs = append(subs, s)
	}
	clear(c.subs)
	account := c.account
	c.mu.Unlock()
	if len(subs) == 0 {
		return
	}
	c.out.mu.Lock()
	for _, s := range subs {
		s.closed = true
	}
	c.out.mu.Unlock()
	account.remove(haste{soon: true}, subs...)
}

// handlePing answers; the first PING after CONNECT is answered with INFO too, which tells the client
// what it is bound to.
func (c *client) handlePing() {
	c.active = true
	if c.account != nil {
		c.account.hasten(&c.touched)
	}
	c.reply([]byte(wire.Pong))
	if !c.connected || c.ponged {
		return
	}
	c.mu.Lock()
	c.ponged = true
	c.mu.Unlock()
	if c.connect.Protocol < 1 {
		return
	}
	info := c.newInfo()
	info.ConnectInfo = true
	info.RemoteAccount = c.account.name
	info.IsSystemAccount = c.account.system
	c.reply(wire.AppendInfo(nil, &info))
}

// handleConnect authenticates the client and takes its options. A second CONNECT may change both.
func (c *client) handleConnect(doc []byte) error {
	c.mu.Lock()
	if c.authExpired {
		c.mu.Unlock()
		return nil // the timer is closing the connection
	}
	if c.authTimer != nil {
		c.authTimer.Stop()
		c.authTimer = nil
	}
	first := !c.connected
	c.connected = true
	connect := c.connect
	err := connect.Parse(doc)
	if err == nil {
		c.connect = connect
	}
	c.mu.Unlock()
	if err != nil {
		return newCloseError(closedProtocol, wire.TextUnknownOp, err.Error())
	}
	if !first {
		c.dropSubs()
	}
	if err := c.authenticate(); err != nil {
		return err
	}
	if first {
		// Not before: while a hash is compared the client waits for its PONG and expects no PING.
		c.startPings(true)
	}
	if connect.Protocol < 0 || connect.Protocol > 1 {
		return newCloseError(closedBadProtocol, wire.TextBadProtocol, fmt.Sprint(connect.Protocol))
	}
	if connect.NoResponders && !c.headersAllowed() {
		return newCloseError(closedNoRespHdr, wire.TextNoRespHeaders, "")
	}
	if connect.Verbose {
		c.reply([]byte(wire.OK))
	}
	return nil
}

// admitWithoutConnect binds a client whose first operation is not CONNECT to the no_auth_user, and
// reports whether there is one.
func (c *client) admitWithoutConnect() bool {
	if c.b.auth.noAuth == nil {
		return false
	}
	c.mu.Lock()
	expired := c.authExpired
	if c.authTimer != nil {
		c.authTimer.Stop()
		c.authTimer = nil
	}
	c.connected = true
	c.mu.Unlock()
	return !expired && c.authenticate() == nil
}

// authenticate binds the client to the account its credentials give it.
func (c *client) authenticate() error {
	id, ok := c.b.auth.check(&c.connect, c.nonce)
	if !ok || c.connect.Account != "" || c.connect.AccountNew {
		name := c.connect.User
		if name == "" {
			name = c.connect.Nkey
		}
		return newCloseError(closedAuth, wire.TextAuthViolation, fmt.Sprintf("user %q", name))
	}
	if !c.bind(id) {
		return newCloseError(closedAccountConns, wire.TextMaxAccountConns, fmt.Sprintf("account %q", id.account.name))
	}
	c.awaiting = false
	if c.connected {
		c.sendClientEvent("")
	}
	return nil
}

// bind gives the client its account and permissions. It reports false when the account has no room.
func (c *client) bind(id identity) bool {
	if c.account != id.account {
		if !id.account.addConn() {
			return false
		}
		if c.account != nil {
			c.account.removeConn()
		}
	}
	connect := &c.connect
	info := &ClientInfo{
		ID: c.id, Host: c.host, Port: c.port, Start: c.start, Account: id.account.name, User: id.user,
		Name: connect.Name, Lang: connect.Lang, Version: connect.Version, NoAuth: id.noAuth, permissions: id.permissions,
	}
	c.mu.Lock()
	if c.info != nil {
		info.rtt.Store(c.info.rtt.Load())
	}
	c.account, c.info = id.account, info
	c.out.mu.Lock()
	c.perms = id.permissions
	c.out.headers = c.headersAllowed()
	c.out.replies = nil
	if c.perms != nil && c.perms.responses != nil {
		c.out.replies = &replyTracker{replies: make(map[string]*trackedReply)}
	}
	c.out.mu.Unlock()
	c.mu.Unlock()
	c.publish = publishCheck{}
	c.router.cache.Clear()
	c.router.remoteCache.Clear()
	c.limit(id.account)
	return true
}
