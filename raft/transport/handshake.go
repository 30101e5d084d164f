package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"millrace/raft"
)

// identity is what a process says of itself in a handshake.
type identity struct {
	node        uint64
	incarnation uint64
	cluster     [16]byte
	maxFrame    uint32
	key         []byte
}

func (id *identity) hello(lane raft.Lane, target uint64, code refusal) *hello {
	h := &hello{
		newest: newestVersion, oldest: oldestVersion, lane: lane, code: code, node: id.node, target: target,
		incarnation: id.incarnation, cluster: id.cluster, maxFrame: id.maxFrame,
	}
	rand.Read(h.nonce[:]) // never returns an error
	return h
}

// The roles, so that the proof of one end is no proof of the other.
const (
	roleDialer   = "millrace raft dialer 1"
	roleAcceptor = "millrace raft acceptor 1"
)

// prove returns the MAC over all that both ends said and, with TLS, over the channel it was said in: a
// proof that is passed on by somebody between two channels fits neither.
func (id *identity) prove(role string, dialer, acceptor, binding []byte) [32]byte {
	mac := hmac.New(sha256.New, id.key)
	for _, part := range [][]byte{[]byte(role), dialer, acceptor, binding} {
		size := len(part)
		mac.Write([]byte{byte(size), byte(size >> 8)})
		mac.Write(part)
	}
	return [32]byte(mac.Sum(nil))
}

// initiate runs the dialer's half of a handshake with the given node and returns what that said. commit
// is called before the other end learns what it needs to use the connection; its error ends it there.
func (id *identity) initiate(rw io.ReadWriter, binding []byte, node uint64, lane raft.Lane, commit func() error) (hello, error) {
	ours := id.hello(lane, node, accepted).encode()
	if _, err := rw.Write(ours); err != nil {
		return hello{}, fmt.Errorf("write hello: %w", err)
	}
	theirs, h, err := readHello(rw)
	if err != nil {
		return hello{}, err
	}
	if err := h.code.err(); err != nil {
		return h, fmt.Errorf("%w (%s)", err, h.who())
	}
	if _, err := id.judge(&h); err != nil {
		return h, err
	}
	switch {
	case h.node != node:
		return h, fmt.Errorf("%w: called %d, answered by %d", ErrNode, node, h.node)
	case h.lane != lane:
		return h, fmt.Errorf("%w: called %d, answered by %d", ErrLane, lane, h.lane)
	}
	if err := commit(); err != nil {
		return h, err
	}
	p := proof{mac: id.prove(roleDialer, ours, theirs, binding)}
	if _, err := rw.Write(p.encode()); err != nil {
		return h, fmt.Errorf("write proof: %w", err)
	}
	p, err = readProof(rw)
	if err != nil {
		return h, err
	}
	if err := p.code.err(); err != nil {
		return h, err
	}
	if want := id.prove(roleAcceptor, ours, theirs, binding); !hmac.Equal(p.mac[:], want[:]) {
		return h, fmt.Errorf("%w: the proof of the other end is wrong", ErrCredentials)
	}
	return h, nil
}

// respond runs the acceptor's half of a handshake and returns what the dialer said. known is asked
// before anything is proved; admit is asked after that, and its error refuses the connection.
func (id *identity) respond(rw io.ReadWriter, binding []byte, known func(node uint64) bool, admit func(*hello) error) (hello, error) {
	theirs, h, err := readHello(rw)
	if err != nil {
		return h, err
	}
	code, err := id.judge(&h)
	switch {
	case err != nil:
	case h.target != id.node:
		code, err = refusedNode, fmt.Errorf("%w: wants node %d, this is %d", ErrNode, h.target, id.node)
	case !known(h.node):
		code, err = refusedUnknown, ErrUnknownNode
	}
	ours := id.hello(h.lane, h.node, code).encode()
	if _, werr := rw.Write(ours); err == nil && werr != nil {
		err = fmt.Errorf("write hello: %w", werr)
	}
	if err != nil {
		return h, err
	}
	p, err := readProof(rw)
	if err != nil {
		return h, err
	}
	want := id.prove(roleDialer, theirs, ours, binding)
	if p.code != accepted {
		return h, p.code.err()
	}
	answer := proof{}
	if !hmac.Equal(p.mac[:], want[:]) {
		answer.code, err = refusedCredentials, fmt.Errorf("%w: the proof of the other end is wrong", ErrCredentials)
	} else if err = admit(&h); err != nil {
		answer.code = codeOf(err)
	} else {
		answer.mac = id.prove(roleAcceptor, theirs, ours, binding)
	}
	if _, werr := rw.Write(answer.encode()); err == nil && werr != nil {
		err = fmt.Errorf("write proof: %w", werr)
	}
	return h, err
}

// judge checks what has to be so whoever called.
func (id *identity) judge(h *hello) (refusal, error) {
	switch {
	case h.oldest > newestVersion || h.newest < oldestVersion:
		return refusedVersion, fmt.Errorf("%w: theirs %d to %d, ours %d to %d",
			ErrVersion, h.oldest, h.newest, oldestVersion, newestVersion)
	case h.cluster != id.cluster:
		return refusedCluster, fmt.Errorf("%w: theirs %x, ours %x", ErrCluster, h.cluster, id.cluster)
	case h.node == id.node:
		return refusedNode, fmt.Errorf("%w: says that it is this node, %d", ErrNode, h.node)
	case h.lane >= raft.Lanes:
		return refusedLane, fmt.Errorf("%w: %d of %d", ErrLane, h.lane, raft.Lanes)
	}
	return accepted, nil
}

// codeOf returns what the other end is told.
func codeOf(err error) refusal {
	for code, e := range refusalErrors {
		if e != nil && errors.Is(err, e) {
			return refusal(code)
		}
	}
	return refusedUnknown
}

// who describes the sender of a hello that refuses.
func (h *hello) who() string {
	return fmt.Sprintf("node %d of cluster %x, protocol %d to %d", h.node, h.cluster, h.oldest, h.newest)
}

// tlsConn is a connection with TLS: a *tls.Conn, or one that embeds it because the caller of Accept
// looked at the first bytes.
type tlsConn interface {
	net.Conn
	ConnectionState() tls.ConnectionState
}

// bindingOf returns what binds a handshake to the TLS channel that it runs in (RFC 9266,
// tls-exporter). It is nil for a connection without TLS, which is refused if TLS is required.
func bindingOf(nc net.Conn, required bool) ([]byte, error) {
	c, ok := nc.(tlsConn)
	if !ok {
		if required {
			return nil, ErrInsecure
		}
		return nil, nil
	}
	state := c.ConnectionState()
	if !state.HandshakeComplete {
		return nil, fmt.Errorf("%w: the TLS handshake is not complete", ErrInsecure)
	}
	binding, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInsecure, err)
	}
	return binding, nil
}
