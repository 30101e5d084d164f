package stream

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// An entry is what a stream's group replicates and the journal stores, little-endian:
//
//	0  u8   version (1)
//	1  u8   kind
//	2  u16  zero
//	4  u32  count     messages: number of records; otherwise zero
//	8  u64  base      messages: sequence of the first record; otherwise zero
//	16 i64  time      ns since 1970: the proposer's clock
//	24 body           messages: records back to back; otherwise JSON of the kind's type
//
// A message record, back to back without padding:
//
//	0  u32  crc       CRC-32C of bytes [4, size)
//	4  u32  size      of the whole record
//	8  u64  seq
//	16 i64  time      ns since 1970
//	24 u16  subject length
//	26 u16  flags
//	28 u32  header length
//	32 u32  data length
//	36 subject | header | data
//
// A record carries its own checksum so that one message can be read and checked without its entry.
const (
	entryVersion  = 1
	entryHeader   = 24
	recordHeader  = 36
	maxSubjectLen = 1<<16 - 1
)

// Kind tells what an entry does.
type Kind uint8

// Kinds of entries.
const (
	KindMessages Kind = 1 + iota
	KindConfig
	KindPurge
	KindRemove
	KindCheckpoint
)

// Flags of a message record: what Apply must do beyond storing it, so that it never parses headers
// of ordinary messages.
const (
	flagMsgID      = 1 << iota // the header holds Nats-Msg-Id
	flagRollupSub              // remove earlier messages of the subject
	flagRollupAll              // remove all earlier messages
	flagNoInterest             // takes a sequence but is not kept: no consumer wants it
)

// Errors of the entry codec.
var (
	// ErrEntry is returned when an entry or a record is not well formed.
	ErrEntry = errors.New("stream: malformed entry")
	// ErrChecksum is returned when a stored message does not match its checksum.
	ErrChecksum = errors.New("stream: message checksum mismatch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Purge is the body of a KindPurge entry; see [Machine.Apply]. Seq and Keep exclude each other.
type Purge struct {
	Filter string `json:"filter,omitempty"` // only messages of these subjects; empty: all
	Seq    uint64 `json:"seq,omitempty"`    // only messages before this sequence
	Keep   uint64 `json:"keep,omitempty"`   // leave so many of the newest
}

// Remove is the body of a KindRemove entry: single messages that were deleted, acknowledged on an
// interest or work-queue stream, or have expired. Sequences not stored are ignored.
type Remove struct {
	Seqs []uint64 `json:"seqs,omitempty"`
	Upto uint64   `json:"upto,omitempty"` // also every message up to this sequence
}

// EncodeConfig returns the entry that gives the stream its configuration, as JSON.
func EncodeConfig(now time.Time, config any) []byte { return encodeJSON(KindConfig, now, config) }

// EncodePurge returns the entry of a purge.
func EncodePurge(now time.Time, p Purge) []byte { return encodeJSON(KindPurge, now, p) }

// EncodeRemove returns the entry of removals.
func EncodeRemove(now time.Time, r Remove) []byte { return encodeJSON(KindRemove, now, r) }

func encodeJSON(kind Kind, now time.Time, v any) []byte {
	b := appendEntryHeader(make([]byte, 0, 256), kind, 0, now.UnixNano())
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: encode stream entry: " + err.Error())
	}
	return append(b, body...)
}

func appendEntryHeader(b []byte, kind Kind, base uint64, now int64) []byte {
	b = append(b, entryVersion, byte(kind), 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, base)
	return binary.LittleEndian.AppendUint64(b, uint64(now))
}

type entryHead struct {
	kind  Kind
	count uint32
	base  uint64
	time  int64
}

func decodeHead(b []byte) (entryHead, error) {
	if len(b) < entryHeader {
		return entryHead{}, fmt.Errorf("%w: %d bytes", ErrEntry, len(b))
	}
	if b[0] != entryVersion {
		return entryHead{}, fmt.Errorf("%w: version %d", ErrEntry, b[0])
	}
	return entryHead{
		kind:  Kind(b[1]),
		count: binary.LittleEndian.Uint32(b[4:]),
		base:  binary.LittleEndian.Uint64(b[8:]),
		time:  int64(binary.LittleEndian.Uint64(b[16:])),
	}, nil
}

// record is a message record as it lies in memory; its slices alias the buffer.
type record struct {
	seq                   uint64
	time                  int64
	flags                 uint16
	size                  uint32
	subject, header, data []byte
}

func appendRecord(b []byte, r *record) []byte {
	start := len(b)
	size := recordHeader + len(r.subject) + len(r.header) + len(r.data)
	le := binary.LittleEndian
	b = append(b, 0, 0, 0, 0)
	b = le.AppendUint32(b, uint32(size))
	b = le.AppendUint64(b, r.seq)
	b = le.AppendUint64(b, uint64(r.time))
	b = le.AppendUint16(b, uint16(len(r.subject)))
	b = le.AppendUint16(b, r.flags)
	b = le.AppendUint32(b, uint32(len(r.header)))
	b = le.AppendUint32(b, uint32(len(r.data)))
	b = append(b, r.subject...)
	b = append(b, r.header...)
	b = append(b, r.data...)
	le.PutUint32(b[start:], crc32.Checksum(b[start+4:], castagnoli))
	return b
}

// decodeRecord reads the record at the start of b without checking its checksum.
func decodeRecord(b []byte, r *record) error {
	if len(b) < recordHeader {
		return fmt.Errorf("%w: record of %d bytes", ErrEntry, len(b))
	}
	le := binary.LittleEndian
	size := le.Uint32(b[4:])
	sl, hl, dl := uint64(le.Uint16(b[24:])), uint64(le.Uint32(b[28:])), uint64(le.Uint32(b[32:]))
	if uint64(size) > uint64(len(b)) || recordHeader+sl+hl+dl != uint64(size) {
		return fmt.Errorf("%w: record size %d of %d bytes", ErrEntry, size, len(b))
	}
	r.size = size
	r.seq = le.Uint64(b[8:])
	r.time = int64(le.Uint64(b[16:]))
	r.flags = le.Uint16(b[26:])
	p := b[recordHeader:size]
	r.subject, r.header, r.data = p[:sl:sl], p[sl:sl+hl:sl+hl], p[sl+hl:]
	return nil
}

// checkRecord reads the record at the start of b and checks its checksum.
func checkRecord(b []byte, r *record) error {
	if err := decodeRecord(b, r); err != nil {
		return err
	}
	if crc32.Checksum(b[4:r.size], castagnoli) != binary.LittleEndian.Uint32(b) {
		return ErrChecksum
	}
	return nil
}

// EachSubject calls fn with the subject of each message that a valid entry stores, until fn returns false. The
// subjects alias entry. It has none if it is not one of messages.
func EachSubject(entry []byte, fn func(subj []byte) bool) {
	h, err := decodeHead(entry)
	if err != nil || h.kind != KindMessages {
		return
	}
	var r record
	off := entryHeader
	for range h.count {
		if decodeRecord(entry[off:], &r) != nil || !fn(r.subject) {
			return
		}
		off += int(r.size)
	}
}

// Message is one stored message. Its slices alias the buffer it was decoded from.
type Message struct {
	Seq     uint64
	Time    time.Time
	Subject []byte
	Header  []byte // the raw header block with its version line; nil when there is none
	Data    []byte
}

// validSubject reports whether a stream can store messages of a subject: not empty, not too long, and
// without wildcards and DEL, by which readers could not tell it from a filter.
func validSubject(s []byte) bool {
	if len(s) == 0 || len(s) > maxSubjectLen {
		return false
	}
	for _, c := range s {
		if c == '*' || c == '>' || c == 0x7f {
			return false
		}
	}
	return true
}

// DecodeMessage checks and decodes the record of message seq as it was read back from the journal.
// It returns [ErrChecksum] when the bytes are not those that were stored, and [ErrEntry] when they
// are no record.
func DecodeMessage(b []byte, seq uint64) (Message, error) {
	var r record
	if err := checkRecord(b, &r); err != nil {
		return Message{}, err
	}
	if r.seq != seq {
		return Message{}, fmt.Errorf("%w: record holds sequence %d, not %d", ErrEntry, r.seq, seq)
	}
	m := Message{Seq: r.seq, Time: time.Unix(0, r.time).UTC(), Subject: r.subject, Data: r.data}
	if len(r.header) > 0 {
		m.Header = r.header
	}
	return m, nil
}
