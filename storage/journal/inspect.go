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
	p.printf("segment %d: %d bytes, format version %d, node %016x\n", h.id, h.size, version, h.node)
	s := newSegment(h, file)
	mark, ok, err := s.readMark()
	if err != nil {
		return fmt.Errorf("inspect %s: %w", file.Name(), err)
	}
	if ok {
		p.printf("mark: batches up to %d were synced\n", mark)
	} else {
		p.printf("mark: damaged\n")
	}
	r := s.reader()
	found, err := r.scan(func(b batch) error { p.batch(b); return p.err })
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
		p.printf("%d: rest of an unfinished write up to %d: %s\n", found.end, dirty, found.stop.reason)
	default:
		p.printf("%d: free\n", found.end)
	}
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

func (p *printer) batch(b batch) {
	p.printf("%d: batch %d, %d bytes, %d records\n", b.off, b.lsn, b.length, b.count)
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
		p.printf("  %v group %d released %d term %d last %d\n", r.kind, r.group, r.index, r.term, le.Uint64(r.data))
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
