package journal

import (
	"errors"
	"fmt"
	"io"

	"millrace/storage/vfs"
)

// Inspect writes a listing of a segment file to w: its header, mark and batches, and runs of
// entries of one group on one line. It checks every byte, needs no catalog and changes nothing.
// Where the batches end it says why; if that is damage the error is a *CorruptError or, when later
// segments decide, there is none.
func Inspect(fsys vfs.FS, name string, w io.Writer) error {
	file, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("inspect segment: %w", err)
	}
	return errors.Join(inspect(file, w), file.Close())
}

func inspect(file vfs.File, w io.Writer) error {
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("inspect %s: %w", file.Name(), err)
	}
	var b [headerBytes]byte
	if err := readFull(file, b[:], 0); err != nil {
		return &CorruptError{File: file.Name(), Reason: "the header is cut short"}
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		return &CorruptError{File: file.Name(), Reason: err.Error()}
	}
	if size != h.size || size%blockBytes != 0 || size < minSegmentBytes {
		return &CorruptError{File: file.Name(), Offset: min(size, h.size),
			Reason: fmt.Sprintf("the file has %d bytes instead of %d", size, h.size)}
	}
	p := &printer{w: w}
	p.printf("segment %d: %d bytes, format version %d, node %016x\n", h.id, h.size, h.version, h.node)
	s := newSegment(h, newSectorFile(h, file, nil))
	mark, ok, err := s.readMark()
	if err != nil {
		return fmt.Errorf("inspect %s: %w", file.Name(), err)
	}
	if ok {
		p.printf("mark: batches up to %d were synced\n", mark)
	} else {
		p.printf("mark: damaged\n")
	}
	if h.cipher != cipherNone {
		return inspectSealed(s, p, mark)
	}
	r := s.reader()
	found, err := r.scan(func(b batch) error { p.batch(b, s.physical(b.off)); return p.err })
	if err != nil {
		return fmt.Errorf("inspect %s: %w", file.Name(), err)
	}
	dirty, err := r.tail(found.end, found.last, mark, found.stop)
	var d *damage
	switch {
	case errors.As(err, &d):
		return &CorruptError{File: file.Name(), Offset: d.off, Reason: d.reason}
	case err != nil:
		return fmt.Errorf("inspect %s: %w", file.Name(), err)
	case dirty > 0:
		p.printf("%d: rest of an unfinished write up to %d: %s\n", s.physical(found.end), s.physical(dirty), found.stop.reason)
	default:
		p.printf("%d: free\n", s.physical(found.end))
	}
	return p.err
}

// inspectSealed lists the sectors of an encrypted segment, by the batches that wrote them. It stops
// where a sector is not one of the batch before or after it.
func inspectSealed(s *segment, p *printer, mark uint64) error {
	p.printf("the contents are encrypted; key %08x\n", s.key)
	r := s.reader()
	var last uint64
	count, start := 0, int64(dataOffset)
	flush := func() {
		if count > 0 {
			p.printf("%d: batch %d, %d sectors\n", start, last, count)
		}
	}
	at := int64(dataOffset)
	for ; at < s.size; at += sectorBytes {
		b, err := r.bytes(at, sectorBytes)
		if err != nil {
			return fmt.Errorf("inspect %s: %w", s.file.Name(), err)
		}
		lsn, ok := s.file.check(b, at)
		if !ok && !isZero(b) {
			return &CorruptError{File: s.file.Name(), Offset: at, Reason: "the sector has a wrong checksum"}
		}
		if !ok || lsn < last || lsn > last+1 && last != 0 {
			break
		}
		if lsn != last {
			flush()
			last, count, start = lsn, 0, at
		}
		count++
	}
	flush()
	if last < mark {
		return &CorruptError{File: s.file.Name(), Offset: at,
			Reason: fmt.Sprintf("no sector of batch %d, but batches up to %d were synced", last+1, mark)}
	}
	p.printf("%d: free, or the rest of an earlier segment in this file\n", at)
	return p.err
}

// printer prints until the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// batch prints a batch that stands at a physical offset.
func (p *printer) batch(b batch, at int64) {
	p.printf("%d: batch %d, %d bytes, %d records\n", at, b.lsn, b.length, b.count)
	for i := 0; i < len(b.records); {
		n := p.run(b.records[i:])
		i += n
	}
}

// run prints the first record, with the entries that follow it in its group and term, and returns
// their number.
func (p *printer) run(recs []record) int {
	r := recs[0]
	switch r.kind {
	case kindHardState:
		p.printf("  %v group %d term %d vote %d commit %d\n", r.kind, r.group, r.term, le.Uint64(r.data), r.index)
	case kindBounds:
		if b := decodeBounds(r.recordHeader, r.data); b.released < b.index {
			p.printf("  %v group %d compacted %d term %d last %d released %d\n", r.kind, r.group, b.index, b.term, b.last,
				b.released)
		} else {
			p.printf("  %v group %d released %d term %d last %d\n", r.kind, r.group, b.index, b.term, b.last)
		}
	case kindSnapshot:
		s := decodeSnapshot(r.index, r.term, r.data)
		p.printf("  %v group %d index %d term %d, %d objects from %d, %d bytes, checksum %08x\n", r.kind, r.group, s.Index,
			s.Term, s.Count, s.Objects, s.Bytes, s.Checksum)
	case kindObject:
		p.printf("  %v group %d key %d, %d bytes\n", r.kind, r.group, r.index, len(r.data))
	case kindObjectDel:
		p.printf("  %v group %d, %d keys\n", r.kind, r.group, len(r.data)/8)
	case kindRelocated:
		rel, _, err := decodeRelocated(r.data, len(r.data))
		p.printf("  %v group %d term %d index %d, %d ranges of %d bytes, in the log %t", r.kind, r.group, r.term, r.index,
			len(rel.ranges), rel.size, rel.log)
		if err != nil {
			p.printf(": %v", err)
		}
		p.printf("\n")
	case kindFooter:
		p.printf("  %v %d groups, %d bytes of tables\n", r.kind, le.Uint32(r.data[4:]), le.Uint32(r.data[12:]))
	case kindGroupDel:
		p.printf("  %v group %d\n", r.kind, r.group)
	case kindEntry:
		n, bytes := 1, len(r.data)
		for n < len(recs) && recs[n].kind == kindEntry && recs[n].group == r.group && recs[n].term == r.term &&
			recs[n].index == r.index+uint64(n) {
			bytes += len(recs[n].data)
			n++
		}
		p.printf("  %v group %d term %d index %d to %d, %d bytes of data\n", r.kind, r.group, r.term, r.index,
			r.index+uint64(n)-1, bytes)
		return n
	}
	return 1
}
