package journal

import (
	"fmt"
	"io"

	"millrace/storage/vfs"
)

// windowBytes is how much a scan reads at once, if no batch is larger.
const windowBytes = 1 << 20

// damage says where in a segment the bytes stop making sense, and why. It never leaves the package:
// recovery decides whether it is a torn tail or corruption.
type damage struct {
	off    int64
	reason string
}

func (d *damage) Error() string { return fmt.Sprintf("offset %d: %s", d.off, d.reason) }

// link names the batch that the next one has to follow; zero before the first batch of the log.
type link struct {
	lsn uint64
	crc uint32 // header checksum
}

// batchReader reads the batches of one segment in order. Its memory is one window or the largest
// batch.
type batchReader struct {
	src  io.ReaderAt
	size int64
	seed uint32

	buf  []byte
	at   int64 // file offset of buf[0]
	recs []record
}

// batch is one checked batch. raw (with padding) and records are valid until the next read.
type batch struct {
	batchHeader
	off     int64
	raw     []byte
	records []record
}

// bytes returns n bytes of the file at off; they are valid until the next call.
func (r *batchReader) bytes(off int64, n int) ([]byte, error) {
	if off >= r.at && off+int64(n) <= r.at+int64(len(r.buf)) {
		return r.buf[off-r.at:][:n], nil
	}
	size := int(min(max(int64(n), windowBytes), r.size-off))
	if cap(r.buf) < size {
		r.buf = make([]byte, size)
	}
	r.buf, r.at = r.buf[:size], off
	if _, err := r.src.ReadAt(r.buf, off); err != nil {
		r.buf = r.buf[:0]
		return nil, err
	}
	return r.buf[:n], nil
}

// read returns the batch at off, a multiple of the block size. A *damage error says that there is
// none.
func (r *batchReader) read(off int64) (batch, error) {
	if off+blockBytes > r.size {
		return batch{}, &damage{off, "the segment ends here"}
	}
	b, err := r.bytes(off, blockBytes)
	if err != nil {
		return batch{}, err
	}
	h, ok := decodeBatchHeader(b, r.seed)
	if !ok {
		return batch{}, &damage{off, "no valid batch header"}
	}
	padded := alignUp(int(h.length), blockBytes)
	if h.count == 0 || h.length < batchBytes+recordBytes || int64(padded) > r.size-off {
		return batch{}, &damage{off, fmt.Sprintf("batch %d has an impossible length", h.lsn)}
	}
	raw, err := r.bytes(off, padded)
	if err != nil {
		return batch{}, err
	}
	recs, at, err := decodeBatch(raw, h, r.seed, r.recs[:0])
	if err != nil {
		return batch{}, &damage{off + int64(at), fmt.Sprintf("batch %d: %v", h.lsn, err)}
	}
	r.recs = recs
	return batch{batchHeader: h, off: off, raw: raw, records: recs}, nil
}

// span is what a scan of one segment found: batches first to last that follow each other, and the
// reason why the scan ended at end.
type span struct {
	before, last link  // the batch before the first one, and the last one; last.lsn is 0 without batches
	lastOff, end int64 // offsets of the last batch and of what follows it
	stop         *damage
}

// scan reads batches from the start of the segment as long as they are valid and follow each other,
// and calls fn for each. Errors are those of reading and of fn.
func (r *batchReader) scan(fn func(batch) error) (span, error) {
	s := span{end: dataOffset}
	for {
		b, err := r.read(s.end)
		if d, ok := err.(*damage); ok {
			s.stop = d
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if s.last.lsn != 0 && (b.lsn != s.last.lsn+1 || b.prev != s.last.crc) {
			s.stop = &damage{b.off, fmt.Sprintf("batch %d does not follow batch %d", b.lsn, s.last.lsn)}
			return s, nil
		}
		if err := fn(b); err != nil {
			return s, err
		}
		if s.last.lsn == 0 {
			s.before = link{b.lsn - 1, b.prev}
		}
		s.last = link{b.lsn, b.crc}
		s.lastOff, s.end = b.off, b.off+int64(len(b.raw))
	}
}

// tail judges what stands from off to the end of the segment, where the batch after last would have
// been written and stop says what is wrong with it. It returns the end of the bytes that are not
// zero (0: all are): those are the rest of a write whose sync never returned and may be cut. A
// *damage error says that they may have been acknowledged. The cases are those of
// storage/DESIGN.md, "Torn or corrupt".
func (r *batchReader) tail(off int64, last link, mark uint64, stop *damage) (dirty int64, err error) {
	next := last.lsn + 1
	for at := off; at < r.size; at += blockBytes {
		b, err := r.bytes(at, blockBytes)
		if err != nil {
			return 0, err
		}
		if isZero(b) {
			continue
		}
		dirty = at + blockBytes
		if h, ok := decodeBatchHeader(b, r.seed); ok && h.lsn > next {
			return 0, &damage{stop.off, fmt.Sprintf("%s, but batch %d stands after it at offset %d",
				stop.reason, h.lsn, at)}
		}
	}
	if mark >= next {
		return 0, &damage{stop.off, fmt.Sprintf("%s, but batches up to %d were synced", stop.reason, mark)}
	}
	if dirty == 0 {
		return 0, nil
	}
	first, err := r.bytes(off, vfs.SectorBytes)
	if err != nil {
		return 0, err
	}
	if isZero(first) {
		return dirty, nil
	}
	h, ok := decodeBatchHeader(first, r.seed)
	if !ok || h.lsn != next || h.prev != last.crc || int64(h.length) > r.size-off {
		return 0, &damage{stop.off, stop.reason + ", and its first sector is not what a write leaves behind"}
	}
	for at := off; at < off+int64(h.length); at += vfs.SectorBytes {
		sector, err := r.bytes(at, vfs.SectorBytes)
		if err != nil {
			return 0, err
		}
		if isZero(sector) {
			return dirty, nil
		}
	}
	return 0, &damage{stop.off, stop.reason + ", and no sector of it is missing"}
}
