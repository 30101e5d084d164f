package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The bytes of a segment file, version 3. All numbers are little-endian, all checksums CRC-32C.
//
// A file has a fixed size, and an identity that it keeps when it is used again for another segment:
//
//	0      header     one block of 4096 bytes
//	4096   mark       one block
//	8192   sectors    of 512 bytes, eight to a block
//
// Header (the rest of its block is zero):
//
//	 0  8  magic "MLRCJRNL"
//	 8  4  version, 3
//	12  4  cipher of the sectors' contents: 0 none, 1 AES-256-XTS (crypt.go)
//	16  8  segment number, as in the file name
//	24  8  size of the file in bytes
//	32  8  salt, random, made anew for each segment
//	40  8  node identity
//	48  8  identity of the file, random
//	56  4  identifier of the data key, 0 without a cipher
//	60  4  checksum of bytes 0..59
//
// Sector. What a sector was before a batch wrote it is zero, or a sector of an earlier segment in the
// same file, whose LSN is smaller: each batch writes whole sectors, and the log goes forward only.
//
//	  0 496  content; encrypted, if the header says so
//	496   8  LSN of the batch that wrote the sector, not 0
//	504   4  checksum, from the seed of the file, over the sector's number (4 bytes: its offset in the
//	         file / 512) and bytes 0..503. The seed of the file is the checksum of its identity.
//	508   4  zero
//
// The contents of the sectors, one after the other, are the batches: all that is said about bytes
// below is about contents, and an offset in a segment is 8192 and what contents stand before. A block
// holds 3968 bytes of content, and a batch fills whole blocks.
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
// Batch: a header, its records, zeros up to a multiple of 3968. Batch n+1 is written only after the
// sync of batch n returned.
//
//	 0  4  magic "BTC1"
//	 4  4  number of records, at least 1
//	 8  8  LSN: 1 for the first batch of the log, then one more for each, across segments
//	16  4  length without the padding at the end, this header included
//	20  4  header checksum (offset 28) of the batch before, 0 for the first of the log
//	24  4  checksum over the headers of all records of the batch, in order. As each of them ends in a
//	       checksum of its own, this one tells how many there are, and nothing else (bodySum)
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
//	32  4  zero: the checksums of the sectors are those of the payload
//	36  4  checksum of bytes 0..35
//
// Record types:
//
//	1  ENTRY      payload: the entry's data, verbatim. It voids the group's entries at index and above.
//	2  HARDSTATE  index: commit. Payload: 8 bytes vote. The latest one of a group counts.
//	3  GROUPDEL   everything of the group before it is void.
//	4  BOUNDS     the log begins after entry index, term is the term of index. Payload:
//	              8 bytes, the last entry: those above it that stand before this record are void. The log goes
//	                on after it, or after index if that is larger (a Reset);
//	              8 bytes, released: nobody needs entries up to it. Missing: it is index.
//	5  SNAPSHOT   index, term: those of the snapshot. The latest one of a group counts. Payload: 8 bytes key of
//	              its first object, 8 bytes length of all, 4 bytes number, 4 bytes checksum, then the members,
//	              opaque to the journal.
//	6  OBJECT     index: the key. Payload: the object, in place of an older one with the key.
//	7  OBJECTDEL  payload: 8 bytes a key; those objects are void.
//	8  RELOCATED  parts of an entry's data, in a new place; the entry type is that of the entry. It voids nothing.
//	              Payload, with the data of all ranges at its end, one after the other:
//	               0  4  length of the entry's data
//	               4  4  number of ranges
//	               8  4  1: it stands for the entry in the log, and has all of it; 0: it does not
//	              12  4  checksum of bytes 0..11 and of the ranges
//	              16     the ranges, ascending and apart: 4 bytes offset, 4 bytes length
//	9  FOOTER     what the segment holds, see footer.go. The only record of the last batch of a segment.
//
// Versions 1 and 2 are read and not written any more. In version 2 a record's header has the checksum of its payload at
// 32..35. So it is in version 1, which differs in this, too: the file is zero before it is
// used and used once; there are no sectors and no ciphers, a batch stands in the file as it is, and is
// filled up to a multiple of 4096; the header has zeros at 12..15, and its checksum, of bytes 0..47, at
// 48..51.
const (
	version1 = 1
	version2 = 2
	version3 = 3

	blockBytes  = 4096
	markOffset  = blockBytes
	dataOffset  = 2 * blockBytes
	headerBytes = 64
	markBytes   = 20
	batchBytes  = 32 // header of a batch
	recordBytes = 40 // header of a record

	boundsBytes    = 16 // payload of a BOUNDS record
	snapshotBytes  = 24 // payload of a SNAPSHOT record, without the members
	relocatedBytes = 16 // payload of a RELOCATED record, without ranges and data

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
	kindSnapshot  kind = 5
	kindObject    kind = 6
	kindObjectDel kind = 7
	kindRelocated kind = 8
	kindFooter    kind = 9
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
	case kindSnapshot:
		return "SNAPSHOT"
	case kindObject:
		return "OBJECT"
	case kindObjectDel:
		return "OBJECTDEL"
	case kindRelocated:
		return "RELOCATED"
	case kindFooter:
		return "FOOTER"
	}
	return fmt.Sprintf("type %d", uint8(k))
}

var le = binary.LittleEndian

// castagnoli is never written to; the standard library's table makes crc32 use the CPU's
// instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// cipherID names what encrypts the contents of a segment's sectors.
type cipherID uint32

const (
	cipherNone cipherID = 0
	cipherXTS  cipherID = 1
)

// header describes a segment; see the table above.
type header struct {
	version  uint32
	cipher   cipherID
	id       uint32
	size     int64
	salt     uint64
	node     uint64
	identity uint64 // of the file; 0 in version 1
	key      uint32
}

// seed is what all checksums inside the batches start from.
func (h header) seed() uint32 {
	var b [12]byte
	le.PutUint64(b[0:], h.salt)
	le.PutUint32(b[8:], h.id)
	return crc32.Checksum(b[:], castagnoli)
}

// fileSeed is what the checksums of sectors start from.
func (h header) fileSeed() uint32 {
	return crc32.Checksum(le.AppendUint64(nil, h.identity), castagnoli)
}

// sumAt is where the checksum of a header stands.
func (h header) sumAt() int {
	if h.version == version1 {
		return 48
	}
	return 60
}

func (h header) encode(b []byte) {
	clear(b[:headerBytes])
	copy(b, segmentMagic)
	le.PutUint32(b[8:], h.version)
	le.PutUint32(b[12:], uint32(h.cipher))
	le.PutUint64(b[16:], uint64(h.id))
	le.PutUint64(b[24:], uint64(h.size))
	le.PutUint64(b[32:], h.salt)
	le.PutUint64(b[40:], h.node)
	if h.version != version1 {
		le.PutUint64(b[48:], h.identity)
		le.PutUint32(b[56:], h.key)
	}
	at := h.sumAt()
	le.PutUint32(b[at:], crc32.Checksum(b[:at], castagnoli))
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes {
		return header{}, errors.New("segment header is cut short")
	}
	if string(b[:8]) != segmentMagic {
		return header{}, errors.New("segment header has a wrong magic number")
	}
	h := header{version: le.Uint32(b[8:])}
	at := h.sumAt()
	if crc32.Checksum(b[:at], castagnoli) != le.Uint32(b[at:]) {
		return header{}, errors.New("segment header has a wrong checksum")
	}
	if h.version < version1 || h.version > version3 {
		return header{}, fmt.Errorf("segment has format version %d, this program reads %d to %d", h.version,
			version1, version3)
	}
	h.cipher, h.salt, h.node = cipherID(le.Uint32(b[12:])), le.Uint64(b[32:]), le.Uint64(b[40:])
	if h.version != version1 {
		h.identity, h.key = le.Uint64(b[48:]), le.Uint32(b[56:])
	}
	if h.cipher > cipherXTS || h.cipher != cipherNone && h.version == version1 {
		return header{}, fmt.Errorf("segment is encrypted with cipher %d, this program knows %d", h.cipher, cipherXTS)
	}
	id, size := le.Uint64(b[16:]), le.Uint64(b[24:])
	if id == 0 || id > maxSegmentID || size > maxSegmentBytes {
		return header{}, errors.New("segment header has a number or size out of range")
	}
	h.id, h.size = uint32(id), int64(size)
	return h, nil
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

// bodySum is the checksum over the headers of count records of a segment with a seed. What a message with
// its checksum behind it makes of the checksum before depends on the length of the message alone: the
// headers need not be looked at.
func bodySum(seed, count uint32) uint32 {
	sum := seed
	for range count {
		d := sum ^ seed // what is not as in the checksum of the header itself
		sum = shiftHeader[0][byte(d)] ^ shiftHeader[1][byte(d>>8)] ^ shiftHeader[2][byte(d>>16)] ^ shiftHeader[3][d>>24] ^ ownSum
	}
	return sum
}

// ownSum is the checksum of any bytes with their checksum behind them.
const ownSum = 0x48674bc7

// shiftHeader says, for each byte of a difference between two checksums, what the difference is after the
// header of a record. It is never written to.
var shiftHeader = func() (t [4][256]uint32) {
	var zero [recordBytes]byte
	from0 := crc32.Update(0, castagnoli, zero[:])
	for i := range t {
		for b := range t[i] {
			t[i][b] = crc32.Update(uint32(b)<<(8*i), castagnoli, zero[:]) ^ from0
		}
	}
	return t
}()

// recordHeader is the header of a record; see the table above.
type recordHeader struct {
	kind      kind
	entryType uint8
	length    uint32
	group     uint64
	index     uint64
	term      uint64
	payload   uint32 // checksum, before version 3
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
	if h.kind < kindEntry || h.kind > kindFooter {
		return recordHeader{}, fmt.Errorf("record has unknown %v", h.kind)
	}
	if !h.lengthOK() {
		return recordHeader{}, fmt.Errorf("%v record has a payload of %d bytes", h.kind, h.length)
	}
	if (h.kind == kindEntry || h.kind == kindRelocated) && (h.index == 0 || h.index > maxIndex) {
		return recordHeader{}, fmt.Errorf("%v record has index %d", h.kind, h.index)
	}
	return h, nil
}

// lengthOK reports whether a record of this kind may have a payload of that length.
func (h *recordHeader) lengthOK() bool {
	switch h.kind {
	case kindHardState:
		return h.length == 8
	case kindBounds:
		return h.length == 8 || h.length == boundsBytes
	case kindGroupDel:
		return h.length == 0
	case kindSnapshot:
		return h.length >= snapshotBytes
	case kindObjectDel:
		return h.length > 0 && h.length%8 == 0
	case kindRelocated:
		return h.length >= relocatedBytes
	case kindFooter:
		return h.length >= footHeadBytes
	}
	return true
}

// record is one decoded record: its header, where the payload starts in the batch, and the payload.
type record struct {
	recordHeader
	off     uint32
	data    []byte
	damaged bool // the payload is not what was written
}

// payloadOK reports whether a payload is the one of which the header of its record has the checksum. Since version 3 the
// sectors have checked it.
func (h *recordHeader) payloadOK(version, seed uint32, data []byte) bool {
	return version >= version3 || crc32.Update(seed, castagnoli, data) == h.payload
}

// decodeBatch checks every byte of a batch whose sectors are right, whose padded bytes are b, and appends its records to
// recs. The payloads alias b. On an error off is where in b the damage starts, and no record may be
// used: a batch counts whole or not at all.
func decodeBatch(b []byte, h batchHeader, version, seed uint32, recs []record) (_ []record, off int, err error) {
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
		if !rh.payloadOK(version, seed, data) {
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

// bounds is what a BOUNDS record says.
type bounds struct {
	index, term uint64 // the log begins after index
	last        uint64 // entries above are void
	released    uint64 // nobody needs entries up to here
}

func (b bounds) encode() []byte {
	return le.AppendUint64(le.AppendUint64(nil, b.last), b.released)
}

func decodeBounds(h recordHeader, p []byte) bounds {
	b := bounds{index: h.index, term: h.term, last: le.Uint64(p), released: h.index}
	if len(p) >= boundsBytes {
		b.released = le.Uint64(p[8:])
	}
	return b
}

// check returns an error when no log has such bounds.
func (b bounds) check(group uint64, short bool) error {
	if b.index > maxIndex || b.last > maxIndex || b.released > b.index || short && b.last < b.index {
		return fmt.Errorf("group %d releases entries up to %d of %d, %d of them for good", group, b.index, b.last,
			b.released)
	}
	return nil
}

// encodeSnapshot returns the payload of a SNAPSHOT record.
func encodeSnapshot(s *Snapshot) []byte {
	p := make([]byte, snapshotBytes, snapshotBytes+len(s.Members))
	le.PutUint64(p[0:], s.Objects)
	le.PutUint64(p[8:], uint64(s.Bytes))
	le.PutUint32(p[16:], uint32(s.Count))
	le.PutUint32(p[20:], s.Checksum)
	return append(p, s.Members...)
}

func decodeSnapshot(index, term uint64, p []byte) *Snapshot {
	return &Snapshot{
		Index:    index,
		Term:     term,
		Objects:  le.Uint64(p[0:]),
		Bytes:    int64(le.Uint64(p[8:])),
		Count:    int(le.Uint32(p[16:])),
		Checksum: le.Uint32(p[20:]),
		Members:  append([]byte(nil), p[snapshotBytes:]...),
	}
}

// relocated is what the payload of a RELOCATED record says about the data that follows it.
type relocated struct {
	size   uint32 // of the whole entry
	log    bool   // it stands for the entry in the log
	ranges []Range
}

// headBytes is where the data begins in the payload.
func (r *relocated) headBytes() int { return relocatedBytes + 8*len(r.ranges) }

// whole reports whether the ranges are all of the entry.
func (r *relocated) whole() bool {
	return r.size == 0 || len(r.ranges) == 1 && r.ranges[0] == Range{0, r.size}
}

// at returns where in the payload n bytes from byte off of the entry's data on stand; false when they
// are not all there.
func (r *relocated) at(off, n int) (int, bool) {
	at := r.headBytes()
	for _, p := range r.ranges {
		if off >= int(p.Off) && off+n <= int(p.Off)+int(p.Len) {
			return at + off - int(p.Off), true
		}
		at += int(p.Len)
	}
	return 0, n == 0
}

// encode returns what the payload of a RELOCATED record begins with; the data follows.
func (r *relocated) encode() []byte {
	p := make([]byte, r.headBytes())
	le.PutUint32(p[0:], r.size)
	le.PutUint32(p[4:], uint32(len(r.ranges)))
	if r.log {
		le.PutUint32(p[8:], 1)
	}
	for i, part := range r.ranges {
		le.PutUint32(p[relocatedBytes+8*i:], part.Off)
		le.PutUint32(p[relocatedBytes+8*i+4:], part.Len)
	}
	le.PutUint32(p[12:], crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[relocatedBytes:]))
	return p
}

// decodeRelocated reads what stands before the data. length is that of the payload, whose first bytes
// are p; need is how many of them it takes when p has fewer.
func decodeRelocated(p []byte, length int) (r relocated, need int, err error) {
	if len(p) < relocatedBytes || length < relocatedBytes {
		return r, relocatedBytes, errors.New("relocated record is cut short")
	}
	count := int(le.Uint32(p[4:]))
	if count > (length-relocatedBytes)/8 {
		return r, 0, errors.New("relocated record has more ranges than it has room for")
	}
	if need = relocatedBytes + 8*count; len(p) < need {
		return r, need, errors.New("relocated record is cut short")
	}
	if crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[relocatedBytes:need]) != le.Uint32(p[12:]) {
		return r, 0, errors.New("ranges of a relocated record have a wrong checksum")
	}
	r = relocated{size: le.Uint32(p), log: le.Uint32(p[8:]) == 1, ranges: make([]Range, count)}
	for i := range r.ranges {
		r.ranges[i] = Range{le.Uint32(p[relocatedBytes+8*i:]), le.Uint32(p[relocatedBytes+8*i+4:])}
	}
	n, err := rangesBytes(r.ranges, r.size)
	if err == nil && need+n != length || r.log && !r.whole() {
		err = errors.New("relocated record has not the data of its ranges")
	}
	return r, need, err
}

// rangesBytes checks ranges of an entry with size bytes and returns their length together.
func rangesBytes(ranges []Range, size uint32) (int, error) {
	end, n := uint64(0), 0
	for i, p := range ranges {
		if p.Len == 0 || i > 0 && uint64(p.Off) <= end || uint64(p.Off)+uint64(p.Len) > uint64(size) {
			return 0, fmt.Errorf("bytes %d to %d of an entry of %d bytes do not follow those before", p.Off,
				uint64(p.Off)+uint64(p.Len), size)
		}
		end = uint64(p.Off) + uint64(p.Len)
		n += int(p.Len)
	}
	return n, nil
}
