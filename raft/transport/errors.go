package transport

import "errors"

var (
	// ErrClosed is returned when the transport was closed, or was not started where it has to be.
	ErrClosed = errors.New("transport: closed")

	// ErrPeer is returned for a peer that cannot be: the node itself, or node 0.
	ErrPeer = errors.New("transport: no such peer possible")
)

// Why a connection is refused. Each is known to both ends: who refuses wraps it with the two values
// that differ, who is refused learns it by its code on the wire.
var (
	// ErrVersion is returned when the two ends have no version of the protocol in common.
	ErrVersion = errors.New("transport: no common protocol version")
	// ErrCluster is returned when the two ends belong to different clusters.
	ErrCluster = errors.New("transport: another cluster")
	// ErrNode is returned when the node at the other end is not the one that was called, or says that
	// it is this node.
	ErrNode = errors.New("transport: another node")
	// ErrUnknownNode is returned when the acceptor has no such peer (yet).
	ErrUnknownNode = errors.New("transport: unknown node")
	// ErrLane is returned when the two ends do not mean the same lane.
	ErrLane = errors.New("transport: another lane")
	// ErrCredentials is returned when the other end does not know the secret, or somebody in the middle
	// changed what was said.
	ErrCredentials = errors.New("transport: wrong credentials")
	// ErrDuplicate is returned when the lane has a connection already that is preferred.
	ErrDuplicate = errors.New("transport: connected already")
	// ErrTwoProcesses is returned when two living processes say that they are the same node.
	ErrTwoProcesses = errors.New("transport: two processes with the same node id")
)

// Why a connection is dropped.
var (
	// ErrProtocol is returned when bytes are not what this protocol sends.
	ErrProtocol = errors.New("transport: broken protocol")
	// ErrCorrupt is returned when a checksum does not fit its bytes, or a frame is out of its order.
	ErrCorrupt = errors.New("transport: corrupt frame")
	// ErrInsecure is returned when TLS is configured and the connection has none, or one that cannot be
	// bound to the handshake (TLS 1.2 without extended master secret).
	ErrInsecure = errors.New("transport: connection without TLS")

	errReplaced = errors.New("replaced by a newer connection")
	errRemoved  = errors.New("peer was removed")
	errEvicted  = errors.New("more connections in handshake than Config.MaxHandshakes")
	errTimeout  = errors.New("took too long")
	errHungUp   = errors.New("closed by the other end")
)
