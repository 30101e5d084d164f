package journal

import (
	"fmt"

	"millrace/storage/vfs"
)

// windowBytes is how much a scan reads at once, if no batch is larger.
const windowBytes = 1 << 20

// damage says where in a segment file, physically, the bytes stop making sense, and why. It never
// leaves the package: recovery decides whether it is a torn tail or corruption.
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
	file *sectorFile
	size int64 // of the file
	seed uint32

	buf     []byte
	at      int64              // physical offset of buf[0]
	first   [contentBytes]byte // content of the first sector of a batch
	content []byte             // of the latest batch
	recs    []record
	lenient lenient
}

// batch is one checked batch at an offset of the segment. raw, its contents with padding, and records
// are valid until the next read.
type batch struct {
	batchHeader
	off     int64
	raw     []byte
	records []record

	cause *damage // why not all of it is known, nil: it is
	lost  int     // records of which nothing is known
	blank int64   // what is not known begins here in raw
}

// bytes returns n bytes of the file at the physical offset off; they are valid until the next call.
func (r *batchReader) bytes(off int64, n int) ([]byte, error) {
	if off >= r.at && off+int64(n) <= r.at+int64(len(r.buf)) {
		return r.buf[off-r.at:][:n], nil
	}
	size := int(min(max(int64(n), windowBytes), r.size-off))
	if cap(r.buf) < size {
		r.buf = make([]byte, size)
	}
	r.buf, r.at = r.buf[:size], off
	_, err := r.file.raw.ReadAt(r.buf, off)
	if vfs.IsUnreadable(err) {
		err = r.pieces(off)
	}
	if err != nil {
		r.buf = r.buf[:0]
		return nil, err
	}
	return r.buf[:n], nil
}

// pieces fills buf from off on sector by sector. Those that the disk cannot read are zero: damaged, or never written.
func (r *batchReader) pieces(off int64) error {
	for b, at := r.buf, off; len(b) > 0; {
		n := min(sectorBytes, len(b))
		_, err := r.file.raw.ReadAt(b[:n], at)
		if vfs.IsUnreadable(err) {
			clear(b[:n])
		} else if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// read returns the batch at off, the start of a block. A *damage error says that there is none.
func (r *batchReader) read(off int64) (batch, error) {
	at := r.file.physical(off)
	if at+blockBytes > r.size {
		return batch{}, &damage{at, "the segment ends here"}
	}
	if r.file.version == version1 {
		return r.readPlain(off)
	}
	b, err := r.bytes(at, sectorBytes)
	if err != nil {
		return batch{}, err
	}
	h, d := r.head(b, at)
	if d != nil {
		return batch{}, d
	}
	n := r.file.padded(int(h.length))
	sectors := int64(n/contentBytes) * sectorBytes
	if h.count == 0 || h.length < batchBytes+recordBytes || sectors > r.size-at {
		return batch{}, &damage{at, fmt.Sprintf("batch %d has an impossible length", h.lsn)}
	}
	if b, err = r.bytes(at, int(sectors)); err != nil {
		return batch{}, err
	}
	if cap(r.content) < n {
		r.content = make([]byte, n)
	}
	raw := r.content[:n]
	var unknown blanks
	var cause *damage
	never := false // one of these sectors may never have been written
	for i := 0; i*contentBytes < n; i++ {
		sector, place := b[i*sectorBytes:][:sectorBytes], at+int64(i)*sectorBytes
		lsn, ok := r.file.check(sector, place)
		var d *damage
		switch {
		case ok && lsn == h.lsn:
			r.file.open(raw[i*contentBytes:][:contentBytes], sector, place)
			continue
		case ok:
			d, never = &damage{place, fmt.Sprintf("a sector of batch %d has that of batch %d", h.lsn, lsn)}, true
		case isZero(sector):
			d, never = &damage{place, fmt.Sprintf("a sector of batch %d is zero", h.lsn)}, true
		default:
			d = &damage{place, fmt.Sprintf("a sector of batch %d has a wrong checksum", h.lsn)}
		}
		if !r.lenient.on {
			return batch{}, d
		}
		if cause == nil {
			cause = d
		}
		clear(raw[i*contentBytes:][:contentBytes])
		unknown = append(unknown, blank{i * contentBytes, (i + 1) * contentBytes})
	}
	if cause == nil {
		return r.decode(off, raw, h)
	}
	if never {
		if ok, err := r.written(h, off+int64(n)); !ok || err != nil {
			if err == nil {
				err = cause
			}
			return batch{}, err
		}
	}
	return r.decodeDamaged(off, raw, h, unknown, cause)
}

// head checks the first sector of a batch, which stands at a physical offset, and returns the header
// of the batch.
func (r *batchReader) head(b []byte, at int64) (batchHeader, *damage) {
	lsn, ok := r.file.check(b, at)
	switch {
	case !ok && isZero(b):
		return batchHeader{}, &damage{at, "no batch"}
	case !ok:
		return batchHeader{}, &damage{at, "the first sector of a batch has a wrong checksum"}
	}
	r.file.open(r.first[:], b, at)
	h, ok := decodeBatchHeader(r.first[:], r.seed)
	if !ok || h.lsn != lsn {
		return batchHeader{}, &damage{at, fmt.Sprintf("a sector of batch %d that is not the first of a batch", lsn)}
	}
	return h, nil
}

// decode checks and returns a batch whose contents, with padding, are raw.
func (r *batchReader) decode(off int64, raw []byte, h batchHeader) (batch, error) {
	recs, at, err := decodeBatch(raw, h, r.file.version, r.seed, r.recs[:0])
	if err != nil {
		return batch{}, &damage{r.file.physical(off + int64(at)), fmt.Sprintf("batch %d: %v", h.lsn, err)}
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
			s.stop = &damage{r.file.physical(b.off), fmt.Sprintf("batch %d does not follow batch %d", b.lsn, s.last.lsn)}
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
// been written and stop says what is wrong with it. It returns the end of what has to be overwritten
// (0: nothing): the rest of a write whose sync never returned. A *damage error says that what stands
// there may have been acknowledged. The cases are those of storage/DESIGN.md, "Torn or corrupt".
func (r *batchReader) tail(off int64, last link, mark uint64, stop *damage) (dirty int64, err error) {
	if r.file.version == version1 {
		return r.tailPlain(off, last, mark, stop)
	}
	next := last.lsn + 1
	start, end := r.file.physical(off), int64(0)
	for at := start; at < r.size; at += sectorBytes {
		b, err := r.bytes(at, sectorBytes)
		if err != nil {
			return 0, err
		}
		if le.Uint64(b[contentBytes:]) < next {
			continue
		}
		lsn, ok := r.file.check(b, at)
		switch {
		case !ok:
		case lsn > next:
			return 0, &damage{stop.off, fmt.Sprintf("%s, but a sector of batch %d stands after it at offset %d",
				stop.reason, lsn, at)}
		default:
			end = at + sectorBytes
		}
	}
	if mark >= next {
		return 0, &damage{stop.off, fmt.Sprintf("%s, but batches up to %d were synced", stop.reason, mark)}
	}
	if start >= r.size {
		return 0, nil
	}
	if d, err := r.torn(start, last, stop); d != nil || err != nil {
		if err == nil {
			err = d
		}
		return 0, err
	}
	if end == 0 {
		return 0, nil
	}
	return r.file.logical(alignUp64(end)), nil
}

// torn returns nil when the sectors from start on are what a write of the batch after last leaves
// behind that was never begun or did not end: a sector is written whole or not at all, so each is of
// that batch or as it was before, zero or of an earlier batch, and one of the latter is there.
func (r *batchReader) torn(start int64, last link, stop *damage) (*damage, error) {
	next := last.lsn + 1
	first, err := r.bytes(start, sectorBytes)
	if err != nil {
		return nil, err
	}
	lsn, ok := r.file.check(first, start)
	switch {
	case !ok && isZero(first), ok && lsn < next:
		return nil, nil
	case !ok:
		return &damage{stop.off, stop.reason + ", and its first sector is not what a write leaves behind"}, nil
	}
	h, d := r.head(first, start)
	if d != nil || h.prev != last.crc || h.count == 0 || h.length < batchBytes+recordBytes ||
		int64(r.file.padded(int(h.length))/contentBytes)*sectorBytes > r.size-start {
		return &damage{stop.off, stop.reason + ", and its first sector is not what a write leaves behind"}, nil
	}
	missing := false
	for i := range int64(r.file.padded(int(h.length)) / contentBytes) {
		at := start + i*sectorBytes
		b, err := r.bytes(at, sectorBytes)
		if err != nil {
			return nil, err
		}
		switch lsn, ok := r.file.check(b, at); {
		case !ok && isZero(b), ok && lsn < next:
			missing = true
		case !ok:
			return &damage{at, fmt.Sprintf("a sector of batch %d has a wrong checksum", next)}, nil
		}
	}
	if !missing {
		return &damage{stop.off, stop.reason + ", and no sector of it is missing"}, nil
	}
	return nil, nil
}
