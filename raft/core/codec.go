package core

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A message on the wire, without its length and its group, which the host adds. Numbers are
// little-endian.
//
//	off  len  what
//	  0    1  version, 1
//	  1    1  type, see MessageType
//	  2    1  flags: 1 Reject, 2 a snapshot follows; other bits are 0
//	  3    1  length of Context
//	  4    4  number of entries
//	  8    8  From
//	 16    8  To
//	 24    8  Term
//	 32    8  LogTerm
//	 40    8  Index
//	 48    8  Commit
//	 56    8  RejectHint
//	 64    .  Context
//	       .  16 bytes for each entry; their indexes are Index+1 and on:
//	            0  8  Term
//	            8  4  length of Data
//	           12  1  Type
//	           13  3  0
//	       .  if a snapshot follows:
//	            0  8  Index
//	            8  8  Term
//	           16  1  AutoLeave, 0 or 1
//	           17  7  0
//	           24 16  4 each: number of Voters, Learners, Outgoing, LearnersNext
//	           40  .  8 each: the replicas of these, in this order
//	       .  Data of each entry, one after the other, to the end
const messageVersion = 1

const (
	flagReject   = 1
	flagSnapshot = 2

	messageFixed  = 64
	entryFixed    = 16
	snapshotFixed = 40
)

var errShort = errors.New("it ends too early")

// HeaderSize returns how many bytes AppendHeader appends.
func (m *Message) HeaderSize() int {
	n := messageFixed + len(m.Context) + entryFixed*len(m.Entries)
	if s := m.Snapshot; s != nil {
		n += snapshotFixed
		for _, ids := range s.Members.sets() {
			n += 8 * len(ids)
		}
	}
	return n
}

// DataSize returns the bytes of data of all entries.
func (m *Message) DataSize() int {
	n := 0
	for i := range m.Entries {
		n += len(m.Entries[i].Data)
	}
	return n
}

// AppendHeader appends the encoded message to b, all of it but the data of the entries. That follows
// on the wire: AppendData.
func (m *Message) AppendHeader(b []byte) []byte {
	if len(m.Context) > maxContext {
		panic(fmt.Sprintf("BUG: %s with a context of %d bytes", m.Type, len(m.Context)))
	}
	flags := byte(0)
	if m.Reject {
		flags |= flagReject
	}
	if m.Snapshot != nil {
		flags |= flagSnapshot
	}
	b = append(b, messageVersion, byte(m.Type), flags, byte(len(m.Context)))
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(m.Entries)))
	for _, n := range [...]uint64{m.From, m.To, m.Term, m.LogTerm, m.Index, m.Commit, m.RejectHint} {
		b = le.AppendUint64(b, n)
	}
	b = append(b, m.Context...)
	for i := range m.Entries {
		e := &m.Entries[i]
		b = le.AppendUint64(b, e.Term)
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Type, 0, 0, 0)
	}
	if s := m.Snapshot; s != nil {
		b = le.AppendUint64(b, s.Index)
		b = le.AppendUint64(b, s.Term)
		b = s.Members.Append(b)
	}
	return b
}

// AppendData appends the data of the entries to parts, which are to go on the wire after the header.
// It is not copied.
func (m *Message) AppendData(parts [][]byte) [][]byte {
	for i := range m.Entries {
		if data := m.Entries[i].Data; len(data) > 0 {
			parts = append(parts, data)
		}
	}
	return parts
}

// DecodeMessage decodes the one message that b holds, header and data. What it returns has parts of
// b in it, so b must not change any more. It returns an error for what no replica sends.
func DecodeMessage(b []byte) (Message, error) {
	m, err := decodeMessage(b)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return Message{}, fmt.Errorf("core: decode message of %d bytes: %w", len(b), err)
	}
	return m, nil
}

func decodeMessage(b []byte) (Message, error) {
	le := binary.LittleEndian
	if len(b) < messageFixed {
		return Message{}, errShort
	}
	if b[0] != messageVersion {
		return Message{}, fmt.Errorf("version %d, known is %d", b[0], messageVersion)
	}
	flags := b[2]
	if flags&^(flagReject|flagSnapshot) != 0 {
		return Message{}, fmt.Errorf("unknown flags %#x", flags)
	}
	m := Message{
		Type: MessageType(b[1]), Reject: flags&flagReject != 0,
		From: le.Uint64(b[8:]), To: le.Uint64(b[16:]), Term: le.Uint64(b[24:]),
		LogTerm: le.Uint64(b[32:]), Index: le.Uint64(b[40:]), Commit: le.Uint64(b[48:]),
		RejectHint: le.Uint64(b[56:]),
	}
	context, entries := int(b[3]), uint64(le.Uint32(b[4:]))
	b = b[messageFixed:]
	if uint64(len(b)) < uint64(context)+entries*entryFixed {
		return Message{}, errShort
	}
	if context > 0 {
		m.Context, b = b[:context:context], b[context:]
	}
	heads := b[:entries*entryFixed]
	b = b[entries*entryFixed:]
	if flags&flagSnapshot != 0 {
		var err error
		if m.Snapshot, b, err = decodeSnapshot(b); err != nil {
			return Message{}, err
		}
	}
	if entries > 0 {
		m.Entries = make([]Entry, entries)
	}
	for i := range m.Entries {
		h := heads[i*entryFixed:]
		n := uint64(le.Uint32(h[8:]))
		switch {
		case uint64(len(b)) < n:
			return Message{}, errShort
		case h[13] != 0 || h[14] != 0 || h[15] != 0:
			return Message{}, fmt.Errorf("entry %d: unknown flags", i)
		}
		e := &m.Entries[i]
		e.Index, e.Term, e.Type = m.Index+1+uint64(i), le.Uint64(h), h[12]
		if n > 0 {
			e.Data, b = b[:n:n], b[n:]
		}
	}
	if len(b) > 0 {
		return Message{}, fmt.Errorf("%d bytes too many", len(b))
	}
	return m, nil
}

func decodeSnapshot(b []byte) (*SnapshotMeta, []byte, error) {
	le := binary.LittleEndian
	if len(b) < snapshotFixed {
		return nil, nil, errShort
	}
	s := &SnapshotMeta{Index: le.Uint64(b), Term: le.Uint64(b[8:])}
	var err error
	if s.Members, b, err = DecodeMembership(b[16:]); err != nil {
		return nil, nil, fmt.Errorf("snapshot: %w", err)
	}
	return s, b, nil
}

// Append appends the encoded membership to b: the part of a snapshot in the table above from
// AutoLeave on.
func (m *Membership) Append(b []byte) []byte {
	le := binary.LittleEndian
	autoLeave := uint64(0)
	if m.AutoLeave {
		autoLeave = 1
	}
	b = le.AppendUint64(b, autoLeave)
	sets := m.sets()
	for _, ids := range sets {
		b = le.AppendUint32(b, uint32(len(ids)))
	}
	for _, ids := range sets {
		for _, id := range ids {
			b = le.AppendUint64(b, id)
		}
	}
	return b
}

// DecodeMembership decodes what Append has appended, and returns what follows it in b.
func DecodeMembership(b []byte) (m Membership, rest []byte, err error) {
	le := binary.LittleEndian
	const fixed = snapshotFixed - 16
	if len(b) < fixed {
		return m, nil, errShort
	}
	autoLeave := le.Uint64(b)
	if autoLeave > 1 {
		return m, nil, fmt.Errorf("unknown flags %#x", autoLeave)
	}
	m.AutoLeave = autoLeave == 1
	counts := b[8:fixed]
	b = b[fixed:]
	for i, set := range []*[]uint64{&m.Voters, &m.Learners, &m.Outgoing, &m.LearnersNext} {
		n := uint64(le.Uint32(counts[4*i:]))
		if uint64(len(b)) < 8*n {
			return Membership{}, nil, errShort
		}
		if n > 0 {
			*set = make([]uint64, n)
		}
		for j := range *set {
			(*set)[j] = le.Uint64(b[8*j:])
		}
		b = b[8*n:]
	}
	return m, b, nil
}

// sets returns the replicas of a membership by kind.
func (m *Membership) sets() [4][]uint64 {
	return [4][]uint64{m.Voters, m.Learners, m.Outgoing, m.LearnersNext}
}
