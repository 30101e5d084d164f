package broker

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"time"

	"millrace/appliance/server/wire"
)

// tlsFirstFallback is how long an in-process client may take to start a handshake before INFO when
// TLSHandshakeFirst is set; after that it gets a plain INFO.
const tlsFirstFallback = 50 * time.Millisecond

// infoDeadline bounds the write of the first INFO, and with it how long a client that does not read
// can hold up Shutdown.
const infoDeadline = 2 * time.Second

// recordHandshake is the first byte of a TLS handshake.
const recordHandshake = 0x16

// greet sends INFO and brings up TLS. It reports whether the connection goes on.
func (c *client) greet() bool {
	cfg := &c.b.cfg
	info := c.newInfo()
	if cfg.TLS == nil {
		return c.sendInfo(&info)
	}
	if cfg.TLSHandshakeFirst {
		early := !c.local || c.peek(tlsFirstFallback)
		if early {
			info.TLSRequired, info.TLSAvailable = true, false
			return c.handshake() && c.sendInfo(&info)
		}
	}
	if !c.sendInfo(&info) {
		return false
	}
	if info.TLSRequired {
		return c.handshake()
	}
	// TLS and plain clients are both welcome: the first byte tells them apart.
	if !c.peek(cfg.TLSTimeout) {
		return true // says nothing yet: served plain, as its INFO allows
	}
	if first := c.nc.(*prefixConn).prefix; first[0] == recordHandshake {
		return c.handshake()
	}
	return true
}

// sendInfo writes INFO at once: the writer does not run yet.
func (c *client) sendInfo(info *wire.Info) bool {
	c.nc.SetWriteDeadline(time.Now().Add(min(infoDeadline, c.b.cfg.WriteDeadline)))
	_, err := c.nc.Write(wire.AppendInfo(nil, info))
	c.nc.SetWriteDeadline(time.Time{})
	return err == nil
}

// peek waits for the first byte and reports whether one came; it stays to be read.
func (c *client) peek(wait time.Duration) bool {
	var first [1]byte
	c.nc.SetReadDeadline(time.Now().Add(wait))
	n, _ := io.ReadFull(c.nc, first[:])
	c.nc.SetReadDeadline(time.Time{})
	if n == 0 {
		return false
	}
	c.nc = &prefixConn{Conn: c.nc, prefix: bytes.Clone(first[:])}
	return true
}

// prefixConn gives back bytes that were read ahead.
type prefixConn struct {
	net.Conn
	prefix []byte
}

// Read reads the bytes given back first.
func (p *prefixConn) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// handshake makes the connection a TLS connection.
func (c *client) handshake() bool {
	conn := tls.Server(c.nc, c.b.cfg.TLS)
	conn.SetDeadline(time.Now().Add(c.b.cfg.TLSTimeout))
	if err := conn.Handshake(); err != nil {
		c.b.log.Warn("closing client connection", "client", c.id, "address", c.address(),
			"reason", string(closedTLS), "error", err)
		return false
	}
	conn.SetDeadline(time.Time{})
	c.nc = conn
	return true
}
