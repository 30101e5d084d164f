package formation

import (
	"fmt"
	"hash/crc32"
)

// Kind is what a message says.
type Kind uint8

// The messages. Those that answer go to the one that asked; the others to all.
const (
	Hello    Kind = 1 + iota // I am here and not formed
	Prepare                  // promise me not to help attempts before Ballot
	Promise                  // I promise; this is what I have accepted
	Accept                   // accept Value in Ballot
	Accepted                 // I have
	Refuse                   // Ballot is before what I have promised, which is Promised
	Decision                 // Value is decided
	kinds
)

var kindNames = [...]string{"", "hello", "prepare", "promise", "accept", "accepted", "refuse", "decision"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Message is what a storage node says to another or, with To 0, to all.
type Message struct {
	Kind     Kind
	From, To uint64 // raw node ids
	Size     int    // storage nodes that the sender knows or expects, itself included
	Ballot   Ballot // of Prepare, Promise, Accept, Accepted, Refuse
	Promised Ballot // of Refuse: what the sender has promised; of Promise: in which it accepted Value
	Value    Value  // of Promise, if something was accepted, Accept, Decision
}

// A message, version 1; numbers are little-endian:
//
//	off size
//	  0    1  version, 1
//	  1    1  kind
//	  2    8  from
//	 10    8  to; 0: all
//	 18    4  size
//	 22   16  ballot: round, node
//	 38   16  promised: round, node
//	 54   18  value: cluster id, number of founders
//	 72  8*n  value: founders
//	      4  CRC-32C of all before
//
// Receivers ignore versions and kinds that they do not know.
const messageVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxSize bounds the size that a message tells: nobody has more storage nodes in one cluster.
const maxSize = 1 << 16

// Encode returns the bytes of a message.
func (m *Message) Encode() []byte {
	b := []byte{messageVersion, byte(m.Kind)}
	for _, n := range []uint64{m.From, m.To} {
		b = append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32), byte(n>>40), byte(n>>48), byte(n>>56))
	}
	b = append(b, byte(m.Size), byte(m.Size>>8), byte(m.Size>>16), byte(m.Size>>24))
	b = m.Ballot.append(b)
	b = m.Promised.append(b)
	b = m.Value.append(b)
	sum := crc32.Checksum(b, castagnoli)
	return append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

// DecodeMessage reads what Encode returned, and checks it.
func DecodeMessage(b []byte) (Message, error) {
	m, err := decodeMessage(b)
	if err != nil {
		return Message{}, fmt.Errorf("formation: decode message of %d bytes: %w", len(b), err)
	}
	return m, nil
}

func decodeMessage(b []byte) (Message, error) {
	if len(b) < 6 {
		return Message{}, fmt.Errorf("cut short")
	}
	if b[0] != messageVersion {
		return Message{}, fmt.Errorf("version %d, this program reads %d", b[0], messageVersion)
	}
	body, tail := b[:len(b)-4], decoder{b: b[len(b)-4:]}
	if got, want := crc32.Checksum(body, castagnoli), tail.uint32(); got != want {
		return Message{}, fmt.Errorf("checksum %08x is not %08x", got, want)
	}
	d := decoder{b: body[1:]}
	m := Message{
		Kind: Kind(d.byte()), From: d.uint64(), To: d.uint64(), Size: int(d.uint32()),
		Ballot: d.ballot(), Promised: d.ballot(), Value: d.value(),
	}
	if err := d.end(); err != nil {
		return Message{}, err
	}
	return m, m.check()
}

// check reports what is wrong with a message.
func (m *Message) check() error {
	switch {
	case m.Kind == 0 || m.Kind >= kinds:
		return fmt.Errorf("unknown %s", m.Kind)
	case m.From == 0:
		return fmt.Errorf("%s from node 0", m.Kind)
	case m.Size < 0 || m.Size > maxSize:
		return fmt.Errorf("%s with size %d", m.Kind, m.Size)
	}
	switch m.Kind {
	case Prepare, Promise, Accept, Accepted, Refuse:
		if m.Ballot.Round == 0 || m.Ballot.Node == 0 {
			return fmt.Errorf("%s in ballot %v", m.Kind, m.Ballot)
		}
	}
	switch {
	case m.Kind == Accept, m.Kind == Decision, m.Kind == Promise && m.Promised != Ballot{}:
		return m.Value.check()
	case !m.Value.none():
		return fmt.Errorf("%s with a value", m.Kind)
	}
	return nil
}
