package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The bytes of a segment file, version 1. All numbers are little-endian, all checksums CRC-32C.
//
// A segment has a fixed size and is zero before it is used:
//
//	0      header     one block
//	4096   mark       one block
//	8192   batches    each a multiple of 4096 long, one after the other; zeros follow the last one
//
// Header (the rest of its block is zero):
//
//	 0  8  magic "MLRCJRNL"
//	 8  4  version, 1
//	12  4  zero
//	16  8  segment number, as in the file name
//	24  8  size of the file in bytes
//	32  8  salt, random, made anew for each segment
//	40  8  node identity
//	48  4  checksum of bytes 0..47
//
// All checksums below start from the seed of the segment, the checksum of its salt and number, so
// that bytes of another segment or of an earlier life of the blocks never look valid.
//
// Mark, overwritten in place without a sync of its own: evidence that batches were acknowledged,
// which tells a torn tail from a damaged one.
//
//	 0  4  magic "MRK1"
//	 4  4  zero
//	 8  8  LSN of a batch whose sync had returned before the mark was written
//	16  4  checksum of bytes 0..15
//
// Batch: a header, its records, zeros up to a multiple of 4096. Batch n+1 is written only after the
// sync of batch n returned.
//
//	 0  4  magic "BTC1"
//	 4  4  number of records, at least 1
//	 8  8  LSN: 1 for the first batch of the log, then one more for each, across segments
//	16  4  length without the padding at the end, this header included
//	20  4  header checksum (offset 28) of the batch before, 0 for the first of the log
//	24  4  checksum over the headers of all records of the batch, in order
//	28  4  checksum of bytes 0..27
//
// Record: a header, the payload, zeros up to a multiple of 8.
//
//	 0  1  record type
//	 1  1  entry type, opaque to the journal; 0 for other records
//	 2  2  zero
//	 4  4  length of the payload
//	 8  8  group
//	16  8  index
//	24  8  term
//	32  4  checksum of the payload
//	36  4  checksum of bytes 0..35
//
// Record types:
//
//	1  ENTRY      payload: the entry's data, verbatim. It voids the group's entries at index and above.
//	2  HARDSTATE  index: commit. Payload: 8 bytes vote. The latest one of a group counts.
//	3  GROUPDEL   everything of the group before it is void.
//	4  BOUNDS     entries up to index are released, term is the term of index. Payload: 8 bytes, the last
//	              index of the group; entries above it that stand before this record are void.
const (
	version = 1

	blockBytes   = 4096
	markOffset   = blockBytes
	dataOffset   = 2 * blockBytes
	headerBytes  = 52
	markBytes    = 20
	batchBytes   = 32 // header of a batch
	recordBytes  = 40 // header of a record
	payloadAlign = 8
)

const (
	segmentMagic = "MLRCJRNL"
	markMagic    = 'M' | 'R'<<8 | 'K'<<16 | '1'<<24
	batchMagic   = 'B' | 'T'<<8 | 'C'<<16 | '1'<<24
)

// kind is the type of a record.
type kind uint8

const (
	kindEntry     kind = 1
	kindHardState kind = 2
	kindGroupDel  kind = 3
	kindBounds    kind = 4
)

// maxIndex bounds the indexes that are read, so that one more is still a number.
const maxIndex = 1<<63 - 1

func (k kind) String() string {
	switch k {
	case kindEntry:
		return "ENTRY"
	case kindHardState:
		return "HARDSTATE"
	case kindGroupDel:
		return "GROUPDEL"
	case kindBounds:
		return "BOUNDS"
	}
	return fmt.Sprintf("type %d", uint8(k))
}

var le = binary.LittleEndian

// castagnoli is never written to; the standard library's table makes crc32 use the CPU's
// instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header describes a segment; see the table above.
type header struct {
	id   uint32
	size int64
	salt uint64
	node uint64
}

// seed is what all checksums inside the segment start from.
func (h header) seed() uint32 {
	var b [12]byte
	le.PutUint64(b[0:], h.salt)
	le.PutUint32(b[8:], h.id)
	return crc32.Checksum(b[:], castagnoli)
}

func (h header) encode(b []byte) {
	clear(b[:headerBytes])
	copy(b, segmentMagic)
	le.PutUint32(b[8:], version)
	le.PutUint64(b[16:], uint64(h.id))
	le.PutUint64(b[24:], uint64(h.size))
	le.PutUint64(b[32:], h.salt)
	le.PutUint64(b[40:], h.node)
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes {
		return header{}, errors.New("segment header is cut short")
	}
	if string(b[:8]) != segmentMagic {
		return header{}, errors.New("segment header has a wrong magic number")
	}
	if crc32.Checksum(b[:48], castagnoli) != le.Uint32(b[48:]) {
		return header{}, errors.New("segment header has a wrong checksum")
	}
	if v := le.Uint32(b[8:]); v != version {
		return header{}, fmt.Errorf("segment has format version %d, this program reads %d", v, version)
	}
	id, size := le.Uint64(b[16:]), le.Uint64(b[24:])
	if id == 0 || id > maxSegmentID || size > maxSegmentBytes {
		return header{}, errors.New("segment header has a number or size out of range")
	}
	return header{id: uint32(id), size: int64(size), salt: le.Uint64(b[32:]), node: le.Uint64(b[40:])}, nil
}

func encodeMark(b []byte, seed uint32, lsn uint64) {
	le.PutUint32(b[0:], markMagic)
	le.PutUint32(b[4:], 0)
	le.PutUint64(b[8:], lsn)
	le.PutUint32(b[16:], crc32.Update(seed, castagnoli, b[:16]))
}

// decodeMark returns 0 for an unwritten mark; ok is false when it is damaged.
func decodeMark(b []byte, seed uint32) (lsn uint64, ok bool) {
	if isZero(b[:markBytes]) {
		return 0, true
	}
	if le.Uint32(b) != markMagic || crc32.Update(seed, castagnoli, b[:16]) != le.Uint32(b[16:]) {
		return 0, false
	}
	return le.Uint64(b[8:]), true
}

// batchHeader is the header of a batch; see the table above.
type batchHeader struct {
	count  uint32
	lsn    uint64
	length uint32
	prev   uint32
	body   uint32
	crc    uint32
}

func (h *batchHeader) encode(b []byte, seed uint32) {
	le.PutUint32(b[0:], batchMagic)
	le.PutUint32(b[4:], h.count)
	le.PutUint64(b[8:], h.lsn)
	le.PutUint32(b[16:], h.length)
	le.PutUint32(b[20:], h.prev)
	le.PutUint32(b[24:], h.body)
	h.crc = crc32.Update(seed, castagnoli, b[:28])
	le.PutUint32(b[28:], h.crc)
}

// decodeBatchHeader returns false when b does not begin with a batch header of the segment.
func decodeBatchHeader(b []byte, seed uint32) (batchHeader, bool) {
	if le.Uint32(b) != batchMagic || crc32.Update(seed, castagnoli, b[:28]) != le.Uint32(b[28:]) {
		return batchHeader{}, false
	}
	return batchHeader{
		count:  le.Uint32(b[4:]),
		lsn:    le.Uint64(b[8:]),
		length: le.Uint32(b[16:]),
		prev:   le.Uint32(b[20:]),
		body:   le.Uint32(b[24:]),
		crc:    le.Uint32(b[28:]),
	}, true
}

// recordHeader is the header of a record; see the table above.
type recordHeader struct {
	kind      kind
	entryType uint8
	length    uint32
	group     uint64
	index     uint64
	term      uint64
	payload   uint32 // checksum
}

func (h *recordHeader) encode(b []byte, seed uint32) {
	b[0], b[1], b[2], b[3] = byte(h.kind), h.entryType, 0, 0
	le.PutUint32(b[4:], h.length)
	le.PutUint64(b[8:], h.group)
	le.PutUint64(b[16:], h.index)
	le.PutUint64(b[24:], h.term)
	le.PutUint32(b[32:], h.payload)
	le.PutUint32(b[36:], crc32.Update(seed, castagnoli, b[:36]))
}

func decodeRecordHeader(b []byte, seed uint32) (recordHeader, error) {
	if crc32.Update(seed, castagnoli, b[:36]) != le.Uint32(b[36:]) {
		return recordHeader{}, errors.New("record header has a wrong checksum")
	}
	h := recordHeader{
		kind:      kind(b[0]),
		entryType: b[1],
		length:    le.Uint32(b[4:]),
		group:     le.Uint64(b[8:]),
		index:     le.Uint64(b[16:]),
		term:      le.Uint64(b[24:]),
		payload:   le.Uint32(b[32:]),
	}
	switch h.kind {
	case kindEntry:
		if h.index == 0 || h.index > maxIndex {
			return recordHeader{}, fmt.Errorf("entry record has index %d", h.index)
		}
	case kindHardState, kindBounds:
		if h.length != 8 {
			return recordHeader{}, fmt.Errorf("%v record has a payload of %d bytes", h.kind, h.length)
		}
	case kindGroupDel:
		if h.length != 0 {
			return recordHeader{}, fmt.Errorf("%v record has a payload of %d bytes", h.kind, h.length)
		}
	default:
		return recordHeader{}, fmt.Errorf("record has unknown %v", h.kind)
	}
	return h, nil
}

// record is one decoded record: its header, where the payload starts in the batch, and the payload.
type record struct {
	recordHeader
	off  uint32
	data []byte
}

// decodeBatch checks every byte of a batch, whose padded bytes are b, and appends its records to
// recs. The payloads alias b. On an error off is where in b the damage starts, and no record may be
// used: a batch counts whole or not at all.
func decodeBatch(b []byte, h batchHeader, seed uint32, recs []record) (_ []record, off int, err error) {
	length := int(h.length)
	body := seed
	off = batchBytes
	for range h.count {
		if length-off < recordBytes {
			return nil, off, errors.New("batch is too short for its records")
		}
		rh, err := decodeRecordHeader(b[off:], seed)
		if err != nil {
			return nil, off, err
		}
		body = crc32.Update(body, castagnoli, b[off:off+recordBytes])
		start := off + recordBytes
		if uint64(rh.length) > uint64(length-start) {
			return nil, off, errors.New("record is longer than its batch")
		}
		end := start + int(rh.length)
		next := alignUp(end, payloadAlign)
		if next > length {
			return nil, off, errors.New("record is longer than its batch")
		}
		data := b[start:end:end]
		if crc32.Update(seed, castagnoli, data) != rh.payload {
			return nil, off, fmt.Errorf("payload of %v record, group %d index %d, has a wrong checksum",
				rh.kind, rh.group, rh.index)
		}
		if !isZero(b[end:next]) {
			return nil, end, errors.New("padding after a record is not zero")
		}
		recs = append(recs, record{recordHeader: rh, off: uint32(start), data: data})
		off = next
	}
	if off != length || body != h.body {
		return nil, 0, errors.New("records are not those the batch was written with")
	}
	if !isZero(b[length:]) {
		return nil, length, errors.New("padding after a batch is not zero")
	}
	return recs, 0, nil
}

// recordSize is the room a record with n bytes of payload takes in a batch.
func recordSize(n int) int { return recordBytes + alignUp(n, payloadAlign) }

func alignUp(n, align int) int { return (n + align - 1) &^ (align - 1) }

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
