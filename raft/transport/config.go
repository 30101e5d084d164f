package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"millrace/raft"
)

// Config configures a Transport. The durations have defaults that suit nodes in one region.
type Config struct {
	// Node is the id of this node, not 0. Required.
	Node uint64

	// Cluster identifies the cluster. Nodes with another one are refused. Required.
	Cluster [16]byte

	// Credentials are proved by both ends of every connection: Password, Secret or Public. Required.
	Credentials Credentials

	// Peers are the addresses, "host:port", of the other nodes; see SetPeers. nil: none yet.
	Peers map[uint64][]string

	// ClientTLS encrypts connections that Dial returned in plain, ServerTLS those that were accepted
	// in plain. When one of the two is set, connections without TLS are refused at both ends. The
	// server name is the host of the address if ClientTLS has none. Both nil: what Dial and Accept
	// bring is used as it is.
	ClientTLS *tls.Config
	ServerTLS *tls.Config

	// Dial connects to an address of a peer, and does what comes before the handshake, such as
	// reading the greeting of a port that is shared with others. It gives up when ctx ends. nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Lanes are the bounds of each lane to each peer.
	Lanes [raft.Lanes]LaneConfig

	// MaxFrame is the size of the largest frame in bytes, sent or received. The smaller of two nodes'
	// is what may be sent between them. 0: 16 MiB.
	MaxFrame int

	// MaxHandshakes bounds the accepted connections that are not authenticated yet. At the bound the
	// oldest is closed: an honest one takes milliseconds. 0: 128.
	MaxHandshakes int

	// DialTimeout bounds a call of Dial. 0: 5 s.
	DialTimeout time.Duration
	// HandshakeTimeout bounds TLS and authentication of a connection. 0: 5 s.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a peer may take for one write of at most Lanes.BatchBytes; then the
	// connection is dropped. 0: 10 s.
	WriteTimeout time.Duration
	// PingInterval is how often something is sent on every connection, at least each second interval.
	// 0: 4 s.
	PingInterval time.Duration
	// DeadAfter is how long nothing may be received before a connection is dropped; at least three
	// PingInterval of any node. 0: 15 s.
	DeadAfter time.Duration
	// DialGrace is how long the node with the greater id waits for the other one to connect before
	// it does so itself. 0: 1 s.
	DialGrace time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts to connect, which doubles each
	// time. The first attempt is made at once. 0: 100 ms and 5 s.
	BackoffMin, BackoffMax time.Duration

	// Logger receives connects, disconnects and refusals, at most one line a minute for each kind of
	// refusal of each node. nil: nothing is logged.
	Logger *slog.Logger
}

// LaneConfig bounds one lane to one peer.
type LaneConfig struct {
	// QueueBytes bounds the frames that wait or are being written, each counted with FrameOverhead.
	// At the bound Send refuses. 0: 4 MiB for LaneControl, 32 MiB for LaneAppend, 16 MiB for LaneBulk.
	QueueBytes int
	// BatchBytes bounds what is given to the connection in one write. 0: 256 KiB.
	BatchBytes int
}

// FrameOverhead is what a frame is counted with beside its bytes, in bytes: about what its header and
// its place in the queue take.
const FrameOverhead = 64

// maxMaxFrame keeps sizes far below what an int32 holds.
const maxMaxFrame = 1 << 30

func (c *Config) validate() error {
	switch {
	case c.Node == 0:
		return errors.New("transport: config: Node is 0")
	case c.Cluster == [16]byte{}:
		return errors.New("transport: config: Cluster is all zero")
	case len(c.Credentials.key) != keySize:
		return errors.New("transport: config: Credentials are missing")
	case c.MaxFrame < 0 || c.MaxFrame > maxMaxFrame:
		return fmt.Errorf("transport: config: MaxFrame %d is not within 0 and %d", c.MaxFrame, maxMaxFrame)
	case c.MaxHandshakes < 0:
		return errors.New("transport: config: MaxHandshakes is negative")
	case c.BackoffMin > c.BackoffMax && c.BackoffMax != 0:
		return fmt.Errorf("transport: config: BackoffMin %v is above BackoffMax %v", c.BackoffMin, c.BackoffMax)
	}
	for name, d := range map[string]time.Duration{
		"DialTimeout": c.DialTimeout, "HandshakeTimeout": c.HandshakeTimeout, "WriteTimeout": c.WriteTimeout,
		"PingInterval": c.PingInterval, "DeadAfter": c.DeadAfter, "DialGrace": c.DialGrace,
		"BackoffMin": c.BackoffMin, "BackoffMax": c.BackoffMax,
	} {
		if d < 0 {
			return fmt.Errorf("transport: config: %s is negative", name)
		}
	}
	for lane, l := range c.Lanes {
		if l.QueueBytes < 0 || l.QueueBytes > math.MaxInt32 {
			return fmt.Errorf("transport: config: QueueBytes %d of lane %d is not within 0 and 2 GiB", l.QueueBytes, lane)
		}
		if l.BatchBytes < 0 || l.BatchBytes > math.MaxInt32 {
			return fmt.Errorf("transport: config: BatchBytes %d of lane %d is not within 0 and 2 GiB", l.BatchBytes, lane)
		}
	}
	if d := c.withDefaults(); d.DeadAfter < 3*d.PingInterval {
		return fmt.Errorf("transport: config: DeadAfter %v is below three PingInterval %v", d.DeadAfter, d.PingInterval)
	}
	return nil
}

func (c Config) withDefaults() Config {
	setInt := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	setDuration := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	setInt(&c.MaxFrame, 16<<20)
	setInt(&c.MaxHandshakes, 128)
	setInt(&c.Lanes[raft.LaneControl].QueueBytes, 4<<20)
	setInt(&c.Lanes[raft.LaneAppend].QueueBytes, 32<<20)
	setInt(&c.Lanes[raft.LaneBulk].QueueBytes, 16<<20)
	for i := range c.Lanes {
		setInt(&c.Lanes[i].BatchBytes, 256<<10)
	}
	setDuration(&c.DialTimeout, 5*time.Second)
	setDuration(&c.HandshakeTimeout, 5*time.Second)
	setDuration(&c.WriteTimeout, 10*time.Second)
	setDuration(&c.PingInterval, 4*time.Second)
	setDuration(&c.DeadAfter, 15*time.Second)
	setDuration(&c.DialGrace, time.Second)
	setDuration(&c.BackoffMin, 100*time.Millisecond)
	setDuration(&c.BackoffMax, max(5*time.Second, c.BackoffMin))
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// settled is the age of a connection from which on no handshake that began before it can be under way.
func (c *Config) settled() time.Duration { return c.DialTimeout + 2*c.HandshakeTimeout }
