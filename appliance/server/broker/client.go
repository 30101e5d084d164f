package broker

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/wire"
)

// closeReason tells why a connection ended; the texts are those of nats-server's monitoring.
type closeReason string

const (
	closedByPeer       closeReason = "Client Closed"
	closedAuth         closeReason = "Authentication Failure"
	closedAuthTimeout  closeReason = "Authentication Timeout"
	closedProtocol     closeReason = "Protocol Violation"
	closedMaxPayload   closeReason = "Maximum Message Payload Exceeded"
	closedControlLine  closeReason = "Maximum Control Line Exceeded"
	closedMaxConns     closeReason = "Maximum Connections Exceeded"
	closedAccountConns closeReason = "Maximum Account Connections Exceeded"
	closedSlowPending  closeReason = "Slow Consumer (Pending Bytes)"
	closedSlowDeadline closeReason = "Slow Consumer (Write Deadline)"
	closedWriteError   closeReason = "Write Error"
	closedStale        closeReason = "Stale Connection"
	closedBadProtocol  closeReason = "Bad Client Protocol Version"
	closedNoRespHdr    closeReason = "Missing Header for No Responders"
	closedTLS          closeReason = "TLS Handshake Failure"
	closedShutdown     closeReason = "Server Shutdown"
	closedKicked       closeReason = "Kicked"

	closedDuplicateRoute closeReason = "Duplicate Route"
	closedClusterName    closeReason = "Cluster Name Conflict"
	closedWrongPort      closeReason = "Incorrect Port"
	closedServerName     closeReason = "Duplicate Server Name"
	closedForeignStreams closeReason = "JetStream Conflict"
	closedOtherCluster   closeReason = "Cluster ID Conflict"
	closedSameStore      closeReason = "Duplicate Node ID"
)

// client is the connection of a client.
type client struct {
	conn
	id    uint64
	host  string
	port  int
	start time.Time
	nonce string
	local bool // in-process: TLS is never required

	lastIn  atomic.Int64 // unix ns of the last message, subscription change or PING
	inMsgs  atomic.Int64
	inBytes atomic.Int64

	// mu guards the state that others look at; the read loop alone writes it and may read it
	// without mu. Lock order: mu before out.mu.
	mu          sync.Mutex
	connect     wire.Connect
	connected   bool         // CONNECT was received
	ponged      bool         // the first PING after CONNECT was answered
	account     *Account     // nil before authentication
	perms       *permissions // also written under out.mu
	info        *ClientInfo  // nil before CONNECT
	authTimer   *time.Timer
	authExpired bool
	pingTimer   *time.Timer
	pingsOut    int
	pingSent    time.Time
	subs        map[string]*Sub // by sid; auto-unsubscribe removes from other goroutines
	maxPayload  int64           // -1: no limit

	// Owned by readLoop.
	parser     wire.Parser
	router     router
	touched    flushList
	message    message
	scratch    []byte
	publish    publishCheck
	awaiting   bool // nothing but CONNECT is accepted
	maxSubs    int
	batchMsgs  int64
	batchBytes int64
	active     bool // the batch had a message, subscription change or PING
}

func newClient(b *Broker, nc net.Conn, local bool) *client {
	c := &client{
		local: local, start: time.Now(),
		connect: wire.DefaultConnect(),
		subs:    make(map[string]*Sub),
	}
	c.conn.init(b, nc)
	c.router.touched = &c.touched
	c.router.from = c
	c.parser.MaxControlLine = b.cfg.MaxControlLine
	c.limit(nil)
	if addr, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.host, c.port = addr.IP.String(), addr.Port
	}
	c.lastIn.Store(c.start.UnixNano())
	return c
}

// limit sets the limits of the connection: the server's, or the account's when they are less.
func (c *client) limit(a *Account) {
	maxPayload, maxSubs := c.b.cfg.MaxPayload, c.b.cfg.MaxSubs
	if a != nil {
		if n := a.cfg.MaxPayload; n > 0 && (maxPayload < 0 || n < maxPayload) {
			maxPayload = n
		}
		if n := a.cfg.MaxSubs; n > 0 && (maxSubs == 0 || n < maxSubs) {
			maxSubs = n
		}
	}
	c.mu.Lock()
	c.maxPayload = max(maxPayload, -1)
	c.mu.Unlock()
	c.parser.MaxPayload, c.maxSubs = int(max(maxPayload, -1)), maxSubs
}

// need is what the parser knows of the size of an incomplete operation.
func (c *client) need() int { return c.parser.Need() }

// input is the connection always.
func (c *client) input([]byte) io.Reader { return nil }

// failRead ends the connection of a client that has broken the protocol.
func (c *client) failRead(err error) { c.fail(err) }

// handleAll handles all complete operations of buf and returns the bytes they take.
func (c *client) handleAll(buf []byte) (int, error) {
	var op wire.Op
	used := 0
	for used < len(buf) {
		if c.awaiting && buf[used]|0x20 != 'c' && !c.admitWithoutConnect() {
			return used, errAuthorization
		}
		n, err := c.parser.Parse(buf[used:], &op)
		if err != nil {
			return used, err
		}
		if n == 0 {
			break
		}
		used += n
		c.router.last = used == len(buf)
		if err := c.handle(&op); err != nil {
			return used, err
		}
	}
	return used, nil
}

// endBatch flushes the receivers of what one read brought and counts it.
func (c *client) endBatch() {
	c.touched.flush()
	c.router.stalled = 0
	if c.active {
		c.active = false
		c.lastIn.Store(time.Now().UnixNano())
	}
	if c.batchMsgs > 0 {
		c.inMsgs.Add(c.batchMsgs)
		c.inBytes.Add(c.batchBytes)
		c.account.stats.addIn(c.batchMsgs, c.batchBytes)
		c.b.stats.addIn(c.batchMsgs, c.batchBytes)
		c.batchMsgs, c.batchBytes = 0, 0
	}
	if c.account != nil {
		c.router.count(c.account)
	}
}

// fail ends the connection because of err, which the client is told, and lets it read that.
func (c *client) fail(err error) {
	reason := closedProtocol
	var pe *wire.ProtocolError
	var ce *closeError
	switch {
	case errors.As(err, &ce):
		reason = ce.reason
		pe = &ce.protocol
	case errors.As(err, &pe):
		switch pe {
		case wire.ErrMaxPayload:
			reason = closedMaxPayload
		case wire.ErrMaxControlLine:
			reason = closedControlLine
		}
	}
	if pe != nil && pe.Text != "" {
		c.send(wire.AppendErr(nil, pe.Text))
	}
	c.b.log.Warn("closing client connection", "client", c.id, "address", c.address(), "reason", err)
	c.closeAfterFlush(reason, true)
	c.dropSubs()
	c.drain()
}

// reply queues b; the read loop flushes it at the end of its batch.
func (c *client) reply(b []byte) {
	o := &c.out
	o.mu.Lock()
	if !o.closing {
		o.appendLocked(b)
		c.touched.addLocked(&c.conn)
	}
	o.mu.Unlock()
}
