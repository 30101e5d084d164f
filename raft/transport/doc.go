// Package transport connects the nodes of a cluster: it carries frames of bytes between them over TCP,
// with TLS when that is configured, and implements raft.Transport. It knows nothing of raft's
// messages, and neither keeps nor repeats a frame.
//
// There are three connections between two nodes, one for each lane, so that what is much does not delay
// what is urgent. In reading order:
//
//	format.go      bytes
//	handshake.go   who may connect, and how it is proved
//	conn.go        how a connection is made and accepted
//	transport.go   Transport: the peers, Send, Accept
//	peer.go        which connection a lane has; when a node counts as connected
//	lane.go        the goroutine that finds connections for a lane and serves them
//	queue.go       frames that wait; writer.go and reader.go are behind it
//
// # Connections
//
// A connection begins with what Config.Dial and the caller of Accept deal with (a greeting), then TLS if
// it is configured, then four messages of a handshake, then frames in both directions until it ends.
// Numbers are little-endian; checksums are CRC-32C (Castagnoli) of all bytes of the message before
// them.
//
// Dialer and acceptor send a hello each, the dialer first:
//
//	off size
//	  0    8  Magic: a9 'M' 'R' 'R' 'A' 'F' 'T' 0a
//	  8    2  size of the hello, 96 to 512; later versions put fields before the checksum
//	 10    1  newest version of the protocol that the sender speaks (1)
//	 11    1  oldest version (1); the newest that both speak is spoken
//	 12    1  lane
//	 13    1  0, or why the acceptor refuses (below); then it closes the connection
//	 14    2  0
//	 16    8  node id of the sender
//	 24    8  node id that the sender talks to
//	 32    8  incarnation of the sender: a random number for each process, not 0
//	 40   16  cluster id
//	 56   32  nonce
//	 88    4  size of the largest frame that the sender takes
//	 92    4  checksum
//
// Then they send a proof each, the dialer first:
//
//	off size
//	  0    1  0, or why the acceptor refuses; then it closes the connection
//	  1    3  0
//	  4   32  HMAC-SHA-256; 0 if refused
//	 36    4  checksum
//
// The key of the HMAC comes from the credentials. Its input is four strings, each after its length as
// 2 bytes: the role of the sender ("millrace raft dialer 1" or "millrace raft acceptor 1"), the hello
// of the dialer, the hello of the acceptor, and the exported keying material of the TLS connection (RFC
// 9266, tls-exporter, 32 bytes; empty without TLS).
//
// Reasons to refuse:
//
//	1  no version in common            5  lane unknown
//	2  another cluster                 6  wrong proof
//	3  another node was meant          7  the lane has a connection that is preferred
//	4  node is no peer (yet)           8  another living process has the same node id
//
// Then each frame is a header and its payload:
//
//	off size
//	  0    4  size of the payload in bytes
//	  4    1  kind: 1 data, 2 ping (without payload)
//	  5    1  lane
//	  6    2  0
//	  8    8  number of the frame in the lane, from 1; in a ping that of the last frame, 0 before the first
//	 16    4  checksum of the payload
//	 20    4  checksum of the header
//
// The first frame of a connection is a ping. Numbers go on from connection to connection as long as
// the sender's process lives, so its number tells how many frames were lost. On one connection
// none may be missing.
package transport
