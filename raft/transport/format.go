package transport

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"millrace/raft"
)

// The byte tables are in the package comment.

// Magic is how every connection begins, after what Dial and Accept deal with. No other protocol begins
// so: the first byte is neither ASCII nor the begin of TLS.
const Magic = "\xa9MRRAFT\n"

// Versions of the protocol that this package speaks.
//
// Version 1 is the first.
const (
	oldestVersion = 1
	newestVersion = 1
)

const (
	helloSize  = 96  // of version 1
	maxHello   = 512 // later versions may add fields
	proofSize  = 40
	headerSize = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// refusal is why an end refuses a connection, on the wire.
type refusal uint8

// The refusals of version 1.
const (
	accepted refusal = iota
	refusedVersion
	refusedCluster
	refusedNode
	refusedUnknown
	refusedLane
	refusedCredentials
	refusedDuplicate
	refusedProcess
)

// refusalErrors has the errors in the order of their codes.
var refusalErrors = [...]error{
	refusedVersion: ErrVersion, refusedCluster: ErrCluster, refusedNode: ErrNode, refusedUnknown: ErrUnknownNode,
	refusedLane: ErrLane, refusedCredentials: ErrCredentials, refusedDuplicate: ErrDuplicate,
	refusedProcess: ErrTwoProcesses,
}

// err returns the error of a refusal that came from the other end, nil for accepted.
func (r refusal) err() error {
	switch {
	case r == accepted:
		return nil
	case int(r) < len(refusalErrors):
		return fmt.Errorf("refused by the other end: %w", refusalErrors[r])
	}
	return fmt.Errorf("refused by the other end: %w: reason %d", ErrProtocol, r)
}

// hello is the first message of both ends.
type hello struct {
	newest, oldest uint8 // versions spoken
	lane           raft.Lane
	code           refusal // accepted in the dialer's
	node           uint64
	target         uint64 // the node that is meant to read this
	incarnation    uint64 // of the sender's process
	cluster        [16]byte
	nonce          [32]byte
	maxFrame       uint32 // that the sender takes
}

func (h *hello) encode() []byte {
	b := make([]byte, 0, helloSize)
	b = append(b, Magic...)
	b = binary.LittleEndian.AppendUint16(b, helloSize)
	b = append(b, h.newest, h.oldest, byte(h.lane), byte(h.code), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.node)
	b = binary.LittleEndian.AppendUint64(b, h.target)
	b = binary.LittleEndian.AppendUint64(b, h.incarnation)
	b = append(b, h.cluster[:]...)
	b = append(b, h.nonce[:]...)
	b = binary.LittleEndian.AppendUint32(b, h.maxFrame)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// readHello reads a hello and nothing behind it. It returns the bytes too, which proofs cover.
func readHello(r io.Reader) ([]byte, hello, error) {
	b := make([]byte, maxHello)
	const prefix = len(Magic) + 2
	if _, err := io.ReadFull(r, b[:prefix]); err != nil {
		return nil, hello{}, fmt.Errorf("read hello: %w", err)
	}
	if string(b[:len(Magic)]) != Magic {
		return nil, hello{}, fmt.Errorf("%w: begins with %q", ErrProtocol, b[:len(Magic)])
	}
	size := int(binary.LittleEndian.Uint16(b[len(Magic):]))
	if size < helloSize || size > maxHello {
		return nil, hello{}, fmt.Errorf("%w: hello of %d bytes", ErrProtocol, size)
	}
	b = b[:size]
	if _, err := io.ReadFull(r, b[prefix:]); err != nil {
		return nil, hello{}, fmt.Errorf("read hello: %w", err)
	}
	if got, want := checksum(b[:size-4]), binary.LittleEndian.Uint32(b[size-4:]); got != want {
		return nil, hello{}, fmt.Errorf("%w: checksum %08x of hello is not %08x", ErrProtocol, got, want)
	}
	h := hello{
		newest: b[10], oldest: b[11], lane: raft.Lane(b[12]), code: refusal(b[13]),
		node:        binary.LittleEndian.Uint64(b[16:]),
		target:      binary.LittleEndian.Uint64(b[24:]),
		incarnation: binary.LittleEndian.Uint64(b[32:]),
		cluster:     [16]byte(b[40:56]),
		nonce:       [32]byte(b[56:88]),
		maxFrame:    binary.LittleEndian.Uint32(b[88:]),
	}
	if h.node == 0 || h.incarnation == 0 || h.maxFrame > maxMaxFrame {
		return nil, hello{}, fmt.Errorf("%w: hello of node %d, incarnation %d, largest frame %d",
			ErrProtocol, h.node, h.incarnation, h.maxFrame)
	}
	return b, h, nil
}

// proof is the second message of both ends: a refusal or the MAC.
type proof struct {
	code refusal
	mac  [32]byte
}

func (p *proof) encode() []byte {
	b := make([]byte, 4, proofSize)
	b[0] = byte(p.code)
	b = append(b, p.mac[:]...)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func readProof(r io.Reader) (proof, error) {
	var b [proofSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return proof{}, fmt.Errorf("read proof: %w", err)
	}
	if got, want := checksum(b[:proofSize-4]), binary.LittleEndian.Uint32(b[proofSize-4:]); got != want {
		return proof{}, fmt.Errorf("%w: checksum %08x of proof is not %08x", ErrProtocol, got, want)
	}
	return proof{refusal(b[0]), [32]byte(b[4:36])}, nil
}

// kind is what a frame is for.
type kind uint8

const (
	kindData kind = 1
	kindPing kind = 2 // opens a connection, and shows that it lives; has no payload
)

// header goes before every frame.
type header struct {
	size uint32 // of the payload
	kind kind
	lane raft.Lane
	seq  uint64 // of the frame; in a ping that of the last frame
	sum  uint32 // of the payload
}

func (h *header) append(b []byte) []byte {
	n := len(b)
	b = binary.LittleEndian.AppendUint32(b, h.size)
	b = append(b, byte(h.kind), byte(h.lane), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = binary.LittleEndian.AppendUint32(b, h.sum)
	return binary.LittleEndian.AppendUint32(b, checksum(b[n:]))
}

// decodeHeader reads a header of headerSize bytes. It checks what does not depend on the connection.
func decodeHeader(b []byte) (header, error) {
	if got, want := checksum(b[:headerSize-4]), binary.LittleEndian.Uint32(b[headerSize-4:]); got != want {
		return header{}, fmt.Errorf("%w: checksum %08x of header is not %08x", ErrCorrupt, got, want)
	}
	h := header{
		size: binary.LittleEndian.Uint32(b), kind: kind(b[4]), lane: raft.Lane(b[5]),
		seq: binary.LittleEndian.Uint64(b[8:]), sum: binary.LittleEndian.Uint32(b[16:]),
	}
	if h.kind != kindData && h.kind != kindPing {
		return header{}, fmt.Errorf("%w: frame of kind %d", ErrCorrupt, h.kind)
	}
	if h.kind == kindPing && h.size != 0 {
		return header{}, fmt.Errorf("%w: ping of %d bytes", ErrCorrupt, h.size)
	}
	return h, nil
}
