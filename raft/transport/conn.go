package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"millrace/raft"
)

// conn is an authenticated connection of one lane.
type conn struct {
	nc     net.Conn
	peer   hello // what the other end said
	dialed bool  // by this node
	since  time.Time

	once  sync.Once
	done  chan struct{} // closed by shut
	cause error         // why; valid when done is closed
}

// shut closes the connection, which ends whoever reads or writes it. The first cause stays.
func (c *conn) shut(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.done)
		closeNow(c.nc)
	})
}

// alive reports whether the connection was not shut.
func (c *conn) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// closeNow closes a connection without the farewell of TLS, which may block and which nothing needs:
// frames know their lengths.
func closeNow(nc net.Conn) {
	if c, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = c.NetConn()
	}
	nc.Close()
}

// setKeepAlive lets the system notice a dead other end too, in case that this process is stopped.
func setKeepAlive(nc net.Conn) {
	if c, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = c.NetConn()
	}
	if c, ok := nc.(*net.TCPConn); ok {
		// An error says that the connection is broken, which reading will find.
		_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}

// within calls f, and closes nc when f takes longer than timeout or ctx ends.
func within(ctx context.Context, nc net.Conn, timeout time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { closeNow(nc) })
	err := f(ctx)
	if !stop() {
		return context.Cause(ctx) // it was closed, whatever f says
	}
	return err
}

// connect makes a connection to a node. For commit see initiate.
func (s *shared) connect(ctx context.Context, node uint64, lane raft.Lane, address string, commit func() error) (*conn, error) {
	dialCtx, cancel := context.WithTimeoutCause(ctx, s.config.DialTimeout, errTimeout)
	nc, err := s.config.Dial(dialCtx, address)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	var h hello
	err = within(ctx, nc, s.config.HandshakeTimeout, func(ctx context.Context) error {
		if s.config.ClientTLS != nil && !isTLS(nc) {
			tc := tls.Client(nc, s.clientTLS(address))
			nc = tc
			if err := tc.HandshakeContext(ctx); err != nil {
				return fmt.Errorf("TLS: %w", err)
			}
		}
		binding, err := bindingOf(nc, s.requireTLS())
		if err != nil {
			return err
		}
		h, err = s.identity.initiate(nc, binding, node, lane, commit)
		return err
	})
	if err != nil {
		closeNow(nc)
		return nil, fmt.Errorf("connect to %s: %w", address, hungUp(err))
	}
	setKeepAlive(nc)
	return &conn{nc: nc, peer: h, dialed: true, since: time.Now(), done: make(chan struct{})}, nil
}

// welcome authenticates an accepted connection and gives it to its lane. It returns what the other
// end said as far as it did.
func (s *shared) welcome(nc net.Conn, find func(node uint64) *peer) (hello, error) {
	var h hello
	err := within(s.ctx, nc, s.config.HandshakeTimeout, func(ctx context.Context) error {
		if s.config.ServerTLS != nil && !isTLS(nc) {
			nc = tls.Server(nc, s.config.ServerTLS)
		}
		if tc, ok := nc.(interface{ HandshakeContext(context.Context) error }); ok {
			if err := tc.HandshakeContext(ctx); err != nil {
				return fmt.Errorf("TLS: %w", err)
			}
		}
		binding, err := bindingOf(nc, s.requireTLS())
		if err != nil {
			return err
		}
		known := func(node uint64) bool { return find(node) != nil }
		admit := func(h *hello) error {
			c := &conn{nc: nc, peer: *h, since: time.Now(), done: make(chan struct{})}
			if p := find(h.node); p != nil {
				return p.judge(p.lanes[h.lane], c)
			}
			return ErrUnknownNode
		}
		h, err = s.identity.respond(nc, binding, known, admit)
		return err
	})
	if err != nil {
		closeNow(nc)
		return h, hungUp(err)
	}
	setKeepAlive(nc)
	c := &conn{nc: nc, peer: h, since: time.Now(), done: make(chan struct{})}
	err = ErrUnknownNode
	if p := find(h.node); p != nil {
		err = p.offer(p.lanes[h.lane], c)
	}
	if err != nil {
		c.shut(err)
	}
	return h, err
}

func (s *shared) requireTLS() bool { return s.config.ClientTLS != nil || s.config.ServerTLS != nil }

// clientTLS returns the configuration for an address, as tls.Dial has it.
func (s *shared) clientTLS(address string) *tls.Config {
	config := s.config.ClientTLS
	if config.ServerName != "" || config.InsecureSkipVerify {
		return config
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	config = config.Clone()
	config.ServerName = host
	return config
}

func isTLS(nc net.Conn) bool {
	_, ok := nc.(tlsConn)
	return ok
}

// hungUp names the end of a connection for what it is.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errHungUp
	}
	return err
}
