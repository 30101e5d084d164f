package raft

import (
	"encoding/binary"
	"fmt"

	"millrace/raft/core"
)

// A frame is what travels between two hosts in one piece: the sender's incarnation, and records of
// any number of groups. Numbers of fixed size are little-endian, others are uvarints.
//
//	frame    version:1 incarnation:8 record*
//	record   kind:1 group length:4 body
//	body     of recMessage: stamp:8 and a message as package core encodes it
//	         of recOffer: numbers and a message; of recPiece and recFetched: numbers and data; else numbers
const (
	frameVersion = 1
	frameHeader  = 1 + 8
	// maxPart is the data below which copying is cheaper than a part of its own.
	maxPart = 1 << 10
)

// recordKind says what a record is.
type recordKind uint8

const (
	recMessage recordKind = 1 + iota
	recBeat               // sent, sending time and incarnation of the last one received, stamp of the promise, health
	recSleep              // term, last entry: the leader of that term sleeps, and so may who is equal
	recQuery              // term, from replica: does your replica lead the group in that term?
	recRelease            // term: no, and it never will again
	recGone               // replica: it is not a member of the group any more
	recDigest             // term, last entry, leader, from replica: my replica's view
	recOffer              // id, count, bytes and checksum of the state's objects, and the MsgSnap
	recHave               // id, place (phase, number, offset), code, run
	recPiece              // id, place, key or term, size of the entry, run, number in it, and the bytes
	recFetch              // id, kind, entry or key, term, offset, length: what do you have there?
	recFetched            // id, code, term and size of the entry, checksum, type of the entry, and the bytes
	recCheck              // term, entry, format: tell the checksum of your state after it, if you encode it so
	recChecked            // term, entry, checksum, replica
	recDiffers            // term, entry, checksum: that is what most have
	recordKinds
)

// numbers is how many numbers the body of a record has before anything else.
var numbers = [recordKinds]int{
	recBeat: 5, recSleep: 2, recQuery: 2, recRelease: 1, recGone: 1, recDigest: 4,
	recOffer: 4, recHave: 6, recPiece: 8, recFetch: 6, recFetched: 6, recCheck: 3, recChecked: 4, recDiffers: 3,
}

// builder puts records together to a frame whose data is not copied.
type builder struct {
	meta []byte
	cuts []cut
	size int // of cuts' data
}

// cut is data that belongs between two bytes of meta.
type cut struct {
	off  int
	data []byte
}

func (b *builder) empty() bool { return len(b.meta) == 0 }

// bytes is the size of the frame so far.
func (b *builder) bytes() int { return len(b.meta) + b.size }

// begin starts a record, and returns where it starts, for end.
func (b *builder) begin(incarnation uint64, kind recordKind, group GroupID) (start int) {
	if len(b.meta) == 0 {
		b.meta = append(b.meta, frameVersion)
		b.meta = binary.LittleEndian.AppendUint64(b.meta, incarnation)
	}
	b.meta = append(b.meta, byte(kind))
	b.meta = binary.AppendUvarint(b.meta, uint64(group))
	b.meta = append(b.meta, 0, 0, 0, 0)
	// The length of parts that are not copied is taken off again in end.
	binary.LittleEndian.PutUint32(b.meta[len(b.meta)-4:], uint32(b.size))
	return len(b.meta)
}

func (b *builder) end(start int) {
	length := b.meta[start-4 : start]
	before := binary.LittleEndian.Uint32(length)
	binary.LittleEndian.PutUint32(length, uint32(len(b.meta)-start)+uint32(b.size)-before)
}

func (b *builder) uvarints(values ...uint64) {
	for _, v := range values {
		b.meta = binary.AppendUvarint(b.meta, v)
	}
}

// data adds bytes that must not change any more.
func (b *builder) data(data []byte) {
	if len(data) < maxPart {
		b.meta = append(b.meta, data...)
		return
	}
	b.cuts = append(b.cuts, cut{len(b.meta), data})
	b.size += len(data)
}

// record adds a record of numbers.
func (b *builder) record(incarnation uint64, kind recordKind, group GroupID, values ...uint64) {
	start := b.begin(incarnation, kind, group)
	b.uvarints(values...)
	b.end(start)
}

// message adds a raft message. stamp is that of the sender's promise, 0 for none.
func (b *builder) message(incarnation uint64, group GroupID, m *core.Message, stamp uint64) {
	start := b.begin(incarnation, recMessage, group)
	b.meta = binary.LittleEndian.AppendUint64(b.meta, stamp)
	b.meta = m.AppendHeader(b.meta)
	for i := range m.Entries {
		b.data(m.Entries[i].Data)
	}
	b.end(start)
}

// parts returns the frame and empties the builder; what it returned is not touched again.
func (b *builder) parts() [][]byte {
	parts := make([][]byte, 0, 2*len(b.cuts)+1)
	at := 0
	for _, c := range b.cuts {
		if c.off > at {
			parts = append(parts, b.meta[at:c.off:c.off])
		}
		parts = append(parts, c.data)
		at = c.off
	}
	if at < len(b.meta) {
		parts = append(parts, b.meta[at:])
	}
	*b = builder{}
	return parts
}

// record is a part of a frame that was received. Its bytes are those of the frame.
type record struct {
	kind  recordKind
	group GroupID
	num   [8]uint64    // of all kinds but recMessage
	stamp uint64       // recMessage
	msg   core.Message // recMessage and recOffer
	data  []byte       // recPiece and recFetched
	size  int          // of the body
}

// decodeFrame calls yield for each record of a frame. It returns an error that wraps ErrBadFrame for
// what no Host sends; the records before it were good.
func decodeFrame(frame []byte, yield func(incarnation uint64, r *record)) error {
	d := decoder{rest: frame}
	version, incarnation := d.byte(), d.fixed(8)
	if d.failed || version != frameVersion {
		return fmt.Errorf("%w: version %d, %d bytes", ErrBadFrame, version, len(frame))
	}
	for len(d.rest) > 0 {
		at := len(frame) - len(d.rest)
		var r record
		r.kind = recordKind(d.byte())
		r.group = GroupID(d.uvarint())
		body := d.take(d.fixed(4))
		if d.failed {
			return fmt.Errorf("%w: a record of kind %d at byte %d is cut off", ErrBadFrame, r.kind, at)
		}
		r.size = len(body)
		if !r.decode(body) {
			return fmt.Errorf("%w: record of kind %d for group %d at byte %d", ErrBadFrame, r.kind, r.group, at)
		}
		yield(incarnation, &r)
	}
	return nil
}

// decode fills in what the body says; false if it is not valid.
func (r *record) decode(body []byte) bool {
	if r.kind == 0 || r.kind >= recordKinds {
		return false
	}
	d := decoder{rest: body}
	if r.kind == recMessage {
		r.stamp = d.fixed(8)
	}
	for i := range numbers[r.kind] {
		r.num[i] = d.uvarint()
	}
	if d.failed {
		return false
	}
	switch r.kind {
	case recMessage, recOffer:
		var err error
		r.msg, err = core.DecodeMessage(d.rest)
		return err == nil && (r.kind == recMessage) == (r.msg.Type != core.MsgSnap)
	case recPiece, recFetched:
		r.data = d.rest
		return true
	}
	return len(d.rest) == 0
}

// decoder takes values off the front of a slice. After the first that is not there it returns zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) fail() {
	d.failed, d.rest = true, nil
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	p := d.rest[:n:n]
	d.rest = d.rest[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

// fixed returns a number of n bytes, at most 8.
func (d *decoder) fixed(n uint64) (v uint64) {
	for i, b := range d.take(n) {
		v |= uint64(b) << (8 * i)
	}
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 { // the last: longer than it had to be
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
