package journal

import "slices"

const (
	// maxBatchBytes bounds a batch of several writes, so that the first of them does not wait long.
	maxBatchBytes = 8 << 20
	// keepBufferBytes is the largest batch buffer that is kept for the next batch.
	keepBufferBytes = 16 << 20
)

// builder encodes a batch.
type builder struct {
	buf   []byte
	seg   *segment
	off   int64 // where in the segment it goes
	count uint32
	foot  int // what the records take in the segment's footer at most
	owed  int // what those of the batch before take there, until they count in segment.foot
	added []added
	rows  []row // of all ENTRY records, in the batch
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
	b.buf = b.buf[:batchBytes]
	b.seg, b.off, b.count, b.foot, b.owed = s, off, 0, 0, owed
	clear(b.added)
	b.added, b.rows = b.added[:0], b.rows[:0]
}

// fits reports whether records of n bytes, which take foot bytes in the footer, may join. One write of
// any size may be alone in a batch, if the segment has the room. That for the footer stays free.
func (b *builder) fits(n, foot int) bool {
	if b.count > 0 && len(b.buf)+n > maxBatchBytes {
		return false
	}
	end := b.off + int64(b.seg.file.padded(len(b.buf)+n))
	return end+int64(footRoom(b.seg.foot+b.owed+b.foot+foot)) <= b.seg.capacity
}

// add encodes a record that is not an ENTRY, with a payload in one or two parts.
func (b *builder) add(h recordHeader, data []byte, more ...byte) {
	at := len(b.buf)
	b.grow(recordSize(len(data) + len(more)))
	h.encodeRecord(b.buf[at:], data, more, b.seg.seed)
	b.count++
	a := added{recordHeader: h, off: uint32(at + recordBytes)}
	copy(a.small[:], data)
	b.added = append(b.added, a)
}

// addEntries encodes the ENTRY records of entries that were queued one after the other.
func (b *builder) addEntries(entries []queued) {
	n := 0
	for i := range entries {
		n += recordSize(len(entries[i].Data))
	}
	at := len(b.buf)
	b.grow(n)
	b.count += uint32(len(entries))
	b.rows = slices.Grow(b.rows, len(entries))
	h := recordHeader{kind: kindEntry}
	for i := range entries {
		e := &entries[i]
		h.entryType, h.group, h.index, h.term = e.Type, e.group.id, e.Index, e.Term
		size := h.encodeRecord(b.buf[at:], e.Data, nil, b.seg.seed)
		b.rows = append(b.rows, row{uint32(at + recordBytes), h.length})
		if last := len(b.added) - 1; last >= 0 && b.added[last].follows(&h) {
			b.added[last].entries++
		} else {
			b.added = append(b.added, added{recordHeader: h, entries: 1})
		}
		at += size
	}
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
}

// grow lengthens the batch by n bytes, and keeps room for the trailers of its sectors.
func (b *builder) grow(n int) {
	need := len(b.buf) + n
	if most := need + need/16 + 2*blockBytes; most > cap(b.buf) {
		buf := make([]byte, len(b.buf), alignUp(max(most, 2*cap(b.buf)), blockBytes))
		copy(buf, b.buf)
		b.buf = buf
	}
	b.buf = b.buf[:need]
}

// finish completes the batch and returns its bytes, padded and with room for its sectors behind them,
// and what the next batch has to follow.
func (b *builder) finish(last link) ([]byte, link) {
	h := batchHeader{count: b.count, lsn: last.lsn + 1, length: uint32(len(b.buf)), prev: last.crc,
		body: bodySum(b.seg.seed, b.count)}
	h.encode(b.buf, b.seg.seed)
	n := len(b.buf)
	b.grow(b.seg.file.padded(n) - n)
	clear(b.buf[n:])
	return b.buf, link{h.lsn, h.crc}
}
