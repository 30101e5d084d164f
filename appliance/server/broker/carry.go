package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"millrace/appliance/server/wire"
)

// sort sends the greeting and reports whether the connection, which was accepted, is for
// StorageConfig.Carry: its first byte, which stays to be read, tells. A peer that says nothing is a route,
// whose timer ends it.
func (r *route) sort(greeting []byte, preamble byte) (bool, error) {
	defer context.AfterFunc(r.mesh.ctx, func() { r.nc.SetDeadline(time.Unix(1, 0)) })()
	r.nc.SetWriteDeadline(time.Now().Add(min(infoDeadline, r.mesh.cfg.WriteDeadline)))
	if _, err := r.nc.Write(greeting); err != nil {
		return false, fmt.Errorf("send INFO: %w", err)
	}
	r.nc.SetReadDeadline(time.Now().Add(r.mesh.cfg.AuthTimeout))
	if r.mesh.ctx.Err() != nil {
		return false, ErrClosed // its end may have set a deadline before this one
	}
	first, err := r.peek()
	if r.mesh.ctx.Err() != nil {
		return false, ErrClosed
	}
	r.nc.SetDeadline(time.Time{})
	return err == nil && first == preamble, nil
}

// peek waits for the first byte, which stays to be read.
func (r *route) peek() (byte, error) {
	secure, ok := r.nc.(*tls.Conn)
	if !ok {
		return peekSocket(r.nc)
	}
	var first [1]byte
	if _, err := io.ReadFull(secure, first[:]); err != nil {
		return 0, err
	}
	r.out.mu.Lock()
	r.nc = &prefixTLS{secure, bytes.Clone(first[:])}
	r.out.mu.Unlock()
	return first[0], nil
}

// prefixTLS gives back bytes that were read ahead. It is a TLS connection for whoever wants to know.
type prefixTLS struct {
	*tls.Conn
	prefix []byte
}

// Read reads the bytes given back first.
func (p *prefixTLS) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// handOver makes the route let go of its connection, unless it is being closed.
func (r *route) handOver() bool {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	if r.out.closing {
		return false
	}
	r.out.closing, r.out.hard = true, true
	return true
}

// DialCluster connects to the cluster port of another server as routes do, with TLS if they have it, and
// reads its INFO line and nothing behind it. What the caller sends then, if it begins with
// StorageConfig.Preamble, reaches the Carry of the other server. It gives up when ctx ends.
func (b *Broker) DialCluster(ctx context.Context, address string) (net.Conn, error) {
	m := b.mesh
	if m == nil {
		return nil, errors.New("dial cluster: none is configured")
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial cluster: %w", err)
	}
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// Cancels what is under way; the deadline is taken back at the end.
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	conn := nc
	if m.cfg.TLS != nil {
		secure := tls.Client(nc, m.clientTLS(host))
		conn = secure
		err = secure.HandshakeContext(ctx)
	}
	if err == nil {
		err = readInfoLine(conn)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("dial cluster port %s: %w", address, err)
	}
	return conn, nil
}

// readInfoLine reads an INFO line. It reads byte by byte, since what comes after the line is somebody
// else's; it is done once a connection.
func readInfoLine(r io.Reader) error {
	var line []byte
	var one [1]byte
	for len(line) < routeControlLine {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return fmt.Errorf("read INFO: %w", err)
		}
		if one[0] == '\n' {
			doc, ok := bytes.CutPrefix(line, []byte("INFO "))
			if !ok {
				return fmt.Errorf("read INFO: the other end says %q", bytes.TrimSpace(line))
			}
			_, err := wire.ParseInfo(bytes.TrimSpace(doc))
			return err
		}
		line = append(line, one[0])
	}
	return errors.New("read INFO: the line is too long")
}
