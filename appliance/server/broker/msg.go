package broker

import (
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"millrace/appliance/server/wire"
)

// Msg is a message handed to an internal subscription. Its byte slices are borrowed: they hold only
// until the callback returns and must not be changed.
type Msg struct {
	Subject []byte
	Reply   []byte // nil: none
	Header  []byte // raw block "NATS/1.0\r\n…\r\n\r\n"; nil: none
	Data    []byte
	Client  *ClientInfo // the publishing client; nil for a publish from inside. May be kept.
	Account *Account    // the account it was published in
	Own     bool        // a client of this server has published it, whose goroutine runs the callback
	Last    bool        // and nothing that has been read of that client comes after it

	settled bool // see Account.SubscribeEach
}

// ClientInfo describes a connection that has sent CONNECT. It does not change; the round trip time
// alone is updated.
type ClientInfo struct {
	ID      uint64
	Host    string // address of the client; "" for an in-process connection
	Port    int
	Start   time.Time
	Account string
	User    string // user name or nkey; "" when it has none
	Name    string
	Lang    string
	Version string
	NoAuth  bool // bound through no_auth_user

	rtt         atomic.Int64
	permissions *permissions
}

// RTT returns the last measured round trip time, or 0.
func (i *ClientInfo) RTT() time.Duration { return time.Duration(i.rtt.Load()) }

// message is one message on its way to subscriptions. All slices are borrowed.
type message struct {
	subject []byte
	reply   []byte
	header  []byte
	data    []byte // without header
	body    []byte // header, data and CR LF in one piece; nil when they are not adjacent
	hdrText []byte // size of header in digits; nil: no header
	sizText []byte // size of header and data in digits
	client  *ClientInfo
	digits  [24]byte // backs hdrText and sizText when they do not come from the wire

	msg Msg // for internal subscriptions; reused
}

// setSizes fills in hdrText and sizText.
func (m *message) setSizes() {
	m.hdrText = nil
	b := m.digits[:0]
	if len(m.header) > 0 {
		b = strconv.AppendInt(b, int64(len(m.header)), 10)
		m.hdrText = b
	}
	m.sizText = strconv.AppendInt(b[len(b):], int64(len(m.header)+len(m.data)), 10)
}

// size returns the bytes of header and data.
func (m *message) size() int { return len(m.header) + len(m.data) }

// lineSize is at least the size of the line before the payload for the given sid.
func (m *message) lineSize(sid []byte) int {
	return wire.MsgLineFixed + len(m.subject) + len(sid) + len(m.reply) + len(m.hdrText) + len(m.sizText)
}

// appendLine appends the MSG or HMSG line; without headers the size is that of the data alone.
func (m *message) appendLine(b, sid []byte, headers bool) []byte {
	if m.hdrText == nil || headers {
		return wire.AppendMsg(b, m.subject, sid, m.reply, m.hdrText, m.sizText)
	}
	var digits [20]byte
	return wire.AppendMsg(b, m.subject, sid, m.reply, nil, strconv.AppendInt(digits[:0], int64(len(m.data)), 10))
}

// appendLocked queues m for the subscription sid.
func (m *message) appendLocked(o *outbound, sid []byte) {
	headers := o.headers
	n := m.lineSize(sid) + m.size() + len(wire.CRLF)
	if n > largeChunk {
		var line [512]byte
		o.appendLocked(m.appendLine(line[:0], sid, headers))
		if headers {
			o.appendLocked(m.header)
		}
		o.appendLocked(m.data)
		o.appendLocked([]byte(wire.CRLF))
		return
	}
	t := o.tailLocked(n)
	before := len(*t)
	b := m.appendLine(*t, sid, headers)
	switch {
	case m.body != nil && headers:
		b = append(b, m.body...)
	case m.body != nil:
		b = append(b, m.body[len(m.header):]...)
	default:
		if headers {
			b = append(b, m.header...)
		}
		b = append(b, m.data...)
		b = append(b, wire.CRLF...)
	}
	*t = b
	o.pending += int64(len(b) - before)
}

// str views b as a string for the time b does not change.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// view views s as bytes that must not be written.
func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
