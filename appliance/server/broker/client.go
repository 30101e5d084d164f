package broker

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/wire"
)

// Sizes of the read buffer.
const (
	readBufferMin = 512
	readBufferMax = 64 << 10
	// shrinkAfter is the number of successive reads of less than a quarter of the buffer that
	// halve it.
	shrinkAfter = 16
)

// lingerTime bounds the reading of what a client still sends after an error that closes its
// connection. Closing a socket with unread bytes would make the -ERR line vanish.
const lingerTime = closeFlush

// closeReason tells why a connection ended; the texts are those of nats-server's monitoring.
type closeReason string

const (
	closedByClient     closeReason = "Client Closed"
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
)

// client is one connection.
type client struct {
	b     *Broker
	id    uint64
	nc    net.Conn // the TLS connection once TLS is up
	raw   *rawConn // nil: nc has no socket that can be written without waiting
	host  string
	port  int
	start time.Time
	nonce string
	local bool // in-process: TLS is never required

	out     outbound
	written chan struct{} // closed when the writer has ended

	lastIn  atomic.Int64 // unix ns of the last message, subscription change or PING
	inMsgs  atomic.Int64
	inBytes atomic.Int64

	// mu guards the state that others look at; the read loop alone writes it and may read it
	// without mu. Lock order: mu before out.mu.
	mu          sync.Mutex
	connect     wire.Connect
	connected   bool         // CONNECT was received
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
	parser      wire.Parser
	router      router
	touched     flushList
	message     message
	scratch     []byte
	publish     publishCheck
	awaiting    bool // nothing but CONNECT is accepted
	firstPonged bool
	maxSubs     int
	batchMsgs   int64
	batchBytes  int64
	active      bool // the batch had a message, subscription change or PING
}

func newClient(b *Broker, nc net.Conn, local bool) *client {
	c := &client{
		b: b, nc: nc, local: local, start: time.Now(),
		connect: wire.DefaultConnect(),
		subs:    make(map[string]*Sub),
		written: make(chan struct{}),
	}
	c.out.pool = &b.chunks
	c.out.maxPending = b.cfg.MaxPending
	c.out.wake.L = &c.out.mu
	c.out.lastFlush = smallChunk
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

// readLoop reads and handles operations until the connection ends.
func (c *client) readLoop() {
	buf := make([]byte, readBufferMin)
	end, short := 0, 0
	for {
		n, err := c.nc.Read(buf[end:])
		full := n == len(buf)-end
		end += n
		used, perr := c.handleAll(buf[:end])
		c.endBatch()
		if perr != nil {
			c.fail(perr)
			return
		}
		if err != nil {
			c.closeAfterFlush(closedByClient, false)
			return
		}
		end = copy(buf, buf[used:end])

		size := len(buf)
		switch need := c.parser.Need(); {
		case need > size:
			size = need
		case full && size < readBufferMax:
			size, short = 2*size, 0
		case n < size/4 && need == 0:
			if short++; short >= shrinkAfter && size > readBufferMin && end <= size/2 {
				size, short = max(size/2, readBufferMin), 0
			}
		default:
			short = 0
		}
		if end == size {
			size *= 2 // a line longer than the buffer
		}
		if size != len(buf) {
			next := make([]byte, size)
			copy(next, buf[:end])
			buf = next
		}
	}
}

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
	if r := &c.router; r.outMsgs > 0 {
		c.account.stats.addOut(r.outMsgs, r.outBytes)
		c.b.stats.addOut(r.outMsgs, r.outBytes)
		r.outMsgs, r.outBytes = 0, 0
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

// drain reads until the client closes or lingerTime is over, and closes the connection.
func (c *client) drain() {
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	var buf [4096]byte
	for {
		if _, err := c.nc.Read(buf[:]); err != nil {
			break
		}
	}
	c.abort(closedByClient)
}

// address is the client's address for the log.
func (c *client) address() string { return c.nc.RemoteAddr().String() }

// closeAfterFlush ends the connection once what is queued has been written, or closeFlush is over.
// With linger the read loop drains the connection before it is closed.
func (c *client) closeAfterFlush(reason closeReason, linger bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return
	}
	o.closing, o.reason, o.linger = true, reason, linger
	c.nc.SetWriteDeadline(time.Now().Add(closeFlush))
	o.wake.Signal()
}

// abort ends the connection without writing anything more.
func (c *client) abort(reason closeReason) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.abortLocked(reason)
}

// abortLocked needs out.mu. The writer closes the connection; the deadline ends what it and the read
// loop wait for.
func (c *client) abortLocked(reason closeReason) {
	o := &c.out
	if o.hard {
		return
	}
	if !o.closing {
		o.reason = reason
	}
	o.closing, o.hard, o.linger = true, true, false
	c.nc.SetDeadline(time.Unix(1, 0))
	o.wake.Signal()
}

// slowLocked ends a connection that does not take its messages; it needs out.mu.
func (c *client) slowLocked(reason closeReason) {
	if c.out.closing {
		return
	}
	c.b.slowConsumers.Add(1)
	c.abortLocked(reason)
}
