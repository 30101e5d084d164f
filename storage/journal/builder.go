package journal

import (
	"slices"
)

const (
	// maxBatchBytes bounds a batch of several writes, so that the first of them does not wait long.
	maxBatchBytes = 8 << 20
	// keepBufferBytes is the largest batch buffer that is kept for the next batch.
	keepBufferBytes = 16 << 20
)

// builder encodes a batch.
type builder struct {
	buf    []byte // sectors, which hold the content
	size   int    // of the content
	sealed int    // bytes of buf that are sealed, but the first sector; 0: none
	seg    *segment
	off    int64 // where in the segment it goes
	count  uint32
	foot   int // what the records take in the segment's footer at most
	owed   int // what those of the batch before take there, until they count in segment.foot
	cold   int // bytes of blobs that are cold
	added  []added
	rows   []row             // of all ENTRY records, in the batch
	head   [recordBytes]byte // of a record that does not fit in one sector, for put
}

// added is a record of a batch that is not durable yet, or ENTRY records of one group and term that follow
// each other: then it is the first of them.
type added struct {
	recordHeader
	off     uint32 // of the payload in the batch
	entries uint32 // how many ENTRY records it stands for; their places are in builder.rows
	blob    *blob
	small   [boundsBytes]byte // payload of a HARDSTATE or BOUNDS record
}

// data is the payload, which of an ENTRY or FOOTER record is not kept, and of a RELOCATED record what stands before its
// data.
func (a *added) data() []byte {
	if a.blob != nil {
		return a.blob.payload
	}
	return a.small[:min(int(a.length), len(a.small))]
}

// start begins an empty batch that goes to a place in a segment.
func (b *builder) start(s *segment, off int64, owed int) {
	if cap(b.buf) > keepBufferBytes {
		b.buf = nil
	}
	if b.buf == nil {
		b.buf = make([]byte, 0, 64<<10)
	}
	b.buf, b.size, b.sealed = b.buf[:sectorBytes], batchBytes, 0
	b.seg, b.off, b.count, b.foot, b.owed, b.cold = s, off, 0, 0, owed, 0
	clear(b.added)
	b.added, b.rows = b.added[:0], b.rows[:0]
}

// fits reports whether records of n bytes, which take foot bytes in the footer, may join. One write of
// any size may be alone in a batch, if the segment has the room. That for the footer stays free.
func (b *builder) fits(n, foot int) bool {
	if b.count > 0 && b.size+n > maxBatchBytes {
		return false
	}
	end := b.off + int64(b.seg.file.padded(b.size+n))
	return end+int64(footRoom(b.seg.foot+b.owed+b.foot+foot)) <= b.seg.capacity
}

// add encodes a record that is not an ENTRY, with a payload in one or two parts.
func (b *builder) add(h recordHeader, data []byte, more ...byte) {
	b.grow(recordSize(len(data) + len(more)))
	a := added{off: b.put(&h, data, more)}
	a.recordHeader = h
	b.count++
	copy(a.small[:], data)
	b.added = append(b.added, a)
}

// addEntries encodes the ENTRY records of a group's entries that were queued one after the other.
func (b *builder) addEntries(g *group, entries []Entry) {
	n := 0
	for i := range entries {
		n += recordSize(len(entries[i].Data))
	}
	b.grow(n)
	b.count += uint32(len(entries))
	b.rows = slices.Grow(b.rows, len(entries))
	h := recordHeader{kind: kindEntry, group: g.id}
	for i := range entries {
		e := &entries[i]
		h.entryType, h.index, h.term = e.Type, e.Index, e.Term
		off := b.put(&h, e.Data, nil)
		b.rows = append(b.rows, row{off, h.length})
		if last := len(b.added) - 1; last >= 0 && b.added[last].follows(&h) {
			b.added[last].entries++
		} else {
			b.added = append(b.added, added{recordHeader: h, entries: 1})
		}
	}
}

// put encodes a record, of which it sets the length, behind what is there, and returns where its payload
// stands. There is room.
func (b *builder) put(h *recordHeader, data, more []byte) (off uint32) {
	h.length = uint32(len(data) + len(more))
	at, size := b.size, recordSize(int(h.length))
	b.size += size
	if room := b.buf[at/contentBytes*sectorBytes:][:contentBytes][at%contentBytes:]; size <= len(room) { // as most small records
		h.encode(room, b.seg.seed)
		n := recordBytes + copy(room[recordBytes:], data)
		n += copy(room[n:], more)
		clear(room[n:size])
	} else {
		h.encode(b.head[:], b.seg.seed)
		n := spread(b.buf, at, b.head[:])
		n = spread(b.buf, n, data)
		n = spread(b.buf, n, more)
		spread(b.buf, n, padding[:b.size-n])
	}
	return uint32(at + recordBytes)
}

// follows reports whether an ENTRY record is the next one of those that a stands for.
func (a *added) follows(h *recordHeader) bool {
	return a.kind == kindEntry && a.group == h.group && a.term == h.term && a.index+uint64(a.entries) == h.index
}

// addHead encodes the records of an item that stand before its entries.
func (b *builder) addHead(it *item) {
	if it.snapshot != nil {
		b.addBlob(it.group, it.snapshot)
	}
	switch it.special {
	case kindGroupDel:
		b.add(recordHeader{kind: kindGroupDel, group: it.group.id}, nil)
	case kindBounds:
		b.add(recordHeader{kind: kindBounds, group: it.group.id, index: it.bounds.index, term: it.bounds.term},
			it.bounds.encode())
	}
	if it.blob != nil {
		b.addBlob(it.group, it.blob)
	}
}

func (b *builder) addState(g *group, s HardState) {
	var vote [8]byte
	le.PutUint64(vote[:], s.Vote)
	b.add(recordHeader{kind: kindHardState, group: g.id, index: s.Commit, term: s.Term}, vote[:])
}

func (b *builder) addBlob(g *group, from *blob) {
	b.add(recordHeader{kind: from.kind, entryType: from.entryType, group: g.id, index: from.index, term: from.term},
		from.payload, from.data...)
	b.added[len(b.added)-1].blob = from
	if from.cold {
		b.cold += from.size()
	}
}

// grow makes room for n bytes of content more.
func (b *builder) grow(n int) {
	need := (b.size + n + contentBytes - 1) / contentBytes * sectorBytes
	if need > cap(b.buf) {
		buf := make([]byte, len(b.buf), alignUp(max(need, 2*cap(b.buf)), blockBytes))
		copy(buf, b.buf)
		b.buf = buf
	}
	b.buf = b.buf[:need]
}

// seal seals the sectors that are full, but the first, in which the header of the batch is missing.
func (b *builder) seal(lsn uint64) {
	from, to := max(b.sealed, sectorBytes), b.size/contentBytes*sectorBytes
	if from < to {
		b.seg.file.seal(b.buf[from:to], b.seg.file.physical(b.off)+int64(from), lsn)
		b.sealed = to
	}
}

// finish completes the batch and returns its blocks, which are to be sealed as far as they are not, and what the next
// batch has to follow.
func (b *builder) finish(last link) ([]byte, link) {
	h := batchHeader{count: b.count, lsn: last.lsn + 1, length: uint32(b.size), prev: last.crc,
		body: bodySum(b.seg.seed, b.count)}
	h.encode(b.buf, b.seg.seed)
	pad := b.seg.file.padded(b.size) - b.size
	b.grow(pad)
	spread(b.buf, b.size, padding[:pad])
	b.size += pad
	return b.buf, link{h.lsn, h.crc}
}

// padding fills up records and batches.
var padding [blockBytes]byte
