package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sync"
)

// A block holds what is known of up to [BlockLen] messages. All numbers are little-endian.
//
//	0  u32  crc        CRC-32C of bytes [4, end)
//	4  u8   version    1
//	5  u8   zero
//	6  u16  n          records, 1 to 1024
//	8  u16  d          distinct subjects, 1 to n
//	10 u8   width      of each column below, in bits, 0 to 64: nine bytes
//	19 u8   zero
//	20 u64  sequence   of the first record
//	28 u64  least index
//	36 i64  least time, ns since 1970
//	44 u32  least offset
//	48 u32  least size
//	52 u32  least distance
//	56 u32  least subject number
//	60 columns, then eight zero bytes
//
// A column is its values less the least one, width bits each, the lowest bit first, filled up to a
// whole byte. Columns, in this order:
//
//	subject   d values: the distinct subject numbers, ascending
//	uses      d values: how many records have the subject, less one
//	gap       n values: sequence - (first sequence + position of the record)
//	index     n values: raft index of the entry that holds the message
//	offset    n values: of the message in the data of its entry
//	size      n values: length of the message in bytes, times two, plus one if it has headers
//	number    n values: position of the message's subject in the column subject
//	time      n values
//	distance  n values: sequence - sequence of the message before it on its subject; 0: there was none
//	          when it was stored; 4294967295: unknown, or further than fits
//
// Sequences grow; indexes and times do not fall.
const (
	blockVersion = 1
	blockHeader  = 60
	blockPadding = 8 // so that a value can be read as eight bytes anywhere

	// BlockLen is how many messages a block holds at most.
	BlockLen = 1024
)

const (
	colSubject = iota
	colUses
	colGap
	colIndex
	colOffset
	colSize
	colNumber
	colTime
	colDistance
	columns
)

// farBack is the distance that says nothing.
const farBack = 1<<32 - 1

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// pack appends values that have at most width bits each.
func pack(b []byte, values []uint64, width uint) []byte {
	if width == 0 {
		return b
	}
	var acc uint64
	var n uint
	for _, v := range values {
		acc |= v << n
		if n += width; n >= 64 {
			b = le.AppendUint64(b, acc)
			n -= 64
			acc = v >> (width - n)
		}
	}
	for ; n > 0; n -= min(n, 8) {
		b = append(b, byte(acc))
		acc >>= 8
	}
	return b
}

// spread takes the least value off all and returns it with the width of the largest rest.
func spread(values []uint64) (least uint64, width uint) {
	least = values[0]
	for _, v := range values {
		least = min(least, v)
	}
	var all uint64
	for i := range values {
		values[i] -= least
		all |= values[i]
	}
	return least, uint(bits.Len64(all))
}

// scratch is what encodeBlock needs besides the result.
type scratch struct {
	values [BlockLen]uint64
	block  []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// encodeBlock returns the block of at least one and at most BlockLen records.
func encodeBlock(recs []record) []byte {
	x := scratches.Get().(*scratch)
	defer scratches.Put(x)
	col := &x.values
	n := len(recs)
	values := col[:n]
	subjects, uses := distinct(recs)
	var head [blockHeader]byte
	b := append(x.block[:0], head[:]...)
	var width [columns]uint
	b[4] = blockVersion
	le.PutUint16(b[6:], uint16(n))
	le.PutUint16(b[8:], uint16(len(subjects)))
	le.PutUint64(b[20:], recs[0].seq)

	for i, s := range subjects {
		col[i] = uint64(s)
	}
	least, w := spread(col[:len(subjects)])
	le.PutUint32(b[56:], uint32(least))
	width[colSubject] = w
	b = pack(b, col[:len(subjects)], w)

	for i, u := range uses {
		col[i] = uint64(u - 1)
		width[colUses] = max(width[colUses], uint(bits.Len64(col[i])))
	}
	b = pack(b, col[:len(subjects)], width[colUses])

	for i := range recs {
		values[i] = recs[i].seq - recs[0].seq - uint64(i)
	}
	width[colGap] = uint(bits.Len64(values[n-1]))
	b = pack(b, values, width[colGap])

	for i := range recs {
		values[i] = recs[i].index
	}
	least, width[colIndex] = spread(values)
	le.PutUint64(b[28:], least)
	b = pack(b, values, width[colIndex])

	for i := range recs {
		values[i] = uint64(recs[i].off)
	}
	least, width[colOffset] = spread(values)
	le.PutUint32(b[44:], uint32(least))
	b = pack(b, values, width[colOffset])

	for i := range recs {
		values[i] = uint64(recs[i].size)
	}
	least, width[colSize] = spread(values)
	le.PutUint32(b[48:], uint32(least))
	b = pack(b, values, width[colSize])

	width[colNumber] = uint(bits.Len(uint(len(subjects) - 1)))
	if len(subjects) > 1 {
		for i := range recs {
			values[i] = uint64(numberOf(subjects, recs[i].subject))
		}
		b = pack(b, values, width[colNumber])
	}

	for i := range recs {
		values[i] = uint64(recs[i].time - recs[0].time)
	}
	le.PutUint64(b[36:], uint64(recs[0].time))
	width[colTime] = uint(bits.Len64(values[n-1]))
	b = pack(b, values, width[colTime])

	for i := range recs {
		values[i] = uint64(recs[i].distance)
	}
	least, width[colDistance] = spread(values)
	le.PutUint32(b[52:], uint32(least))
	b = pack(b, values, width[colDistance])

	for i, w := range width {
		b[10+i] = byte(w)
	}
	var padding [blockPadding]byte
	b = append(b, padding[:]...)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	x.block = b
	return bytes.Clone(b)
}

// decodeBlock checks a block and returns it for use. The block keeps b.
func decodeBlock(b []byte) (*block, error) {
	if len(b) < blockHeader+blockPadding {
		return nil, fmt.Errorf("%w: %d bytes", ErrBlock, len(b))
	}
	if crc32.Checksum(b[4:], castagnoli) != le.Uint32(b) {
		return nil, fmt.Errorf("%w: checksum mismatch", ErrBlock)
	}
	return parseBlock(b)
}

// parseBlock is decodeBlock for bytes whose checksum is right.
func parseBlock(b []byte) (*block, error) {
	if b[4] != blockVersion {
		return nil, fmt.Errorf("%w: version %d", ErrBlock, b[4])
	}
	k := &block{raw: b, sum: le.Uint32(b), n: int(le.Uint16(b[6:])), subjects: int(le.Uint16(b[8:])), first: le.Uint64(b[20:])}
	if k.n < 1 || k.n > BlockLen || k.subjects < 1 || k.subjects > k.n {
		return nil, fmt.Errorf("%w: %d records of %d subjects", ErrBlock, k.n, k.subjects)
	}
	least := [columns]uint64{
		colSubject: uint64(le.Uint32(b[56:])), colIndex: le.Uint64(b[28:]), colOffset: uint64(le.Uint32(b[44:])),
		colSize: uint64(le.Uint32(b[48:])), colTime: le.Uint64(b[36:]), colDistance: uint64(le.Uint32(b[52:])), colUses: 1,
	}
	off := blockHeader
	for i := range k.cols {
		w := int(b[10+i])
		if w > 64 {
			return nil, fmt.Errorf("%w: column %d of %d bits", ErrBlock, i, w)
		}
		k.cols[i] = column{off: off, width: uint(w), mask: 1<<w - 1, least: least[i]}
		values := k.n
		if i == colSubject || i == colUses {
			values = k.subjects
		}
		off += (values*w + 7) / 8
	}
	if off+blockPadding != len(b) {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrBlock, len(b), off+blockPadding)
	}
	// The column of numbers has room for some larger ones than there are subjects.
	for i := 0; i < k.n && k.cols[colNumber].mask >= uint64(k.subjects); i++ {
		if k.number(i) >= k.subjects {
			return nil, fmt.Errorf("%w: record %d has subject %d of %d", ErrBlock, i, k.number(i), k.subjects)
		}
	}
	return k, nil
}
