package journal

import (
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// readBytes is how much Entries reads at once, if no entry is larger.
	readBytes = 1 << 20
	// readGap is how many bytes of other groups Entries rather reads than to read twice.
	readGap = 16 << 10
)

// Term returns the term of an entry, or of the last released one. Errors: ErrUnknownGroup,
// ErrCompacted, ErrUnavailable.
func (l *Log) Term(group, index uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return 0, ErrUnknownGroup
	}
	if index+1 != g.base {
		if err := g.check(index); err != nil {
			return 0, err
		}
	}
	return g.term(index), nil
}

// check tells why an entry cannot be read, or nil.
func (g *group) check(index uint64) error {
	if index < g.base {
		return fmt.Errorf("group %d entry %d, first is %d: %w", g.id, index, g.base, ErrCompacted)
	}
	if index > g.last() {
		return fmt.Errorf("group %d entry %d, last is %d: %w", g.id, index, g.last(), ErrUnavailable)
	}
	return nil
}

// located is an entry and where it is: in memory when seg is nil.
type located struct {
	entry Entry
	place place
	seg   *segment
}

// locateLocked finds an entry between base and last. The caller owns a reference to the segment.
func (l *Log) locateLocked(g *group, index uint64) located {
	p := g.places[index-g.base]
	if p.seg == 0 {
		e, ok := l.fill.get(p.off)
		if !ok {
			e, _ = l.flight.get(p.off)
		}
		return located{entry: e, place: p}
	}
	s := l.segs[p.seg]
	if s == nil { // closed
		return located{place: p}
	}
	s.refs.Add(1)
	return located{entry: Entry{Index: index, Term: g.term(index)}, place: p, seg: s}
}

// Entries returns entries lo to hi-1 of a group, as many as have up to maxBytes of data together
// but at least one, queued ones included. Their Data must not be changed; entries of one call may
// share memory. Errors: ErrUnknownGroup, ErrCompacted, ErrUnavailable, *CorruptError, or that of
// the read.
func (l *Log) Entries(group, lo, hi, maxBytes uint64) ([]Entry, error) {
	if lo >= hi {
		return nil, nil
	}
	found, err := l.locate(group, lo, hi, maxBytes)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(found))
	for i := 0; i < len(found) && err == nil; {
		n := 1
		if found[i].seg == nil {
			out = append(out, found[i].entry)
		} else {
			n = run(found[i:])
			out, err = readRun(found[i:i+n], out)
		}
		i += n
	}
	for _, f := range found {
		if f.seg != nil {
			if cerr := f.seg.release(); err == nil && cerr != nil {
				err = fmt.Errorf("close segment %s: %w", f.seg.file.Name(), cerr)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read group %d from entry %d: %w", group, lo, err)
	}
	return out, nil
}

// locate finds the entries that Entries returns.
func (l *Log) locate(group, lo, hi, maxBytes uint64) ([]located, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return nil, ErrUnknownGroup
	}
	if err := g.check(lo); err != nil {
		return nil, err
	}
	if err := g.check(hi - 1); err != nil {
		return nil, err
	}
	end, total := lo, uint64(0)
	for ; end < hi; end++ {
		total += uint64(g.places[end-g.base].length)
		if end > lo && total > maxBytes {
			break
		}
	}
	found := make([]located, 0, end-lo)
	for index := lo; index < end; index++ {
		f := l.locateLocked(g, index)
		if f.seg == nil && f.place.seg != 0 {
			return nil, ErrClosed // Close forgets all segments at once: no reference was taken
		}
		found = append(found, f)
	}
	return found, nil
}

// run returns how many of the entries, which start in a file, are worth one read.
func run(found []located) int {
	first := found[0]
	end := first.place.off + first.place.length
	for n, f := range found[1:] {
		if f.seg != first.seg || f.place.off < end || f.place.off-end > readGap ||
			f.place.off+f.place.length-first.place.off > readBytes {
			return n + 1
		}
		end = f.place.off + f.place.length
	}
	return len(found)
}

// readRun reads entries of one segment with one read and checks them.
func readRun(found []located, out []Entry) ([]Entry, error) {
	s := found[0].seg
	start := found[0].place.off - recordBytes
	end := found[len(found)-1].place
	b := make([]byte, end.off+end.length-start)
	if err := readFull(s.file, b, int64(start)); err != nil {
		return nil, fmt.Errorf("read %s at offset %d: %w", s.file.Name(), start, err)
	}
	for _, f := range found {
		at := f.place.off - start
		h, err := decodeRecordHeader(b[at-recordBytes:], s.seed)
		data := b[at : at+f.place.length : at+f.place.length]
		switch {
		case err != nil:
		case h.kind != kindEntry || h.index != f.entry.Index || h.term != f.entry.Term || h.length != f.place.length:
			err = fmt.Errorf("a %v record with index %d stands where entry %d was written", h.kind, h.index,
				f.entry.Index)
		case crc32.Update(s.seed, castagnoli, data) != h.payload:
			err = fmt.Errorf("entry %d has a wrong checksum", f.entry.Index)
		}
		if err != nil {
			return nil, &CorruptError{File: s.file.Name(), Offset: int64(f.place.off - recordBytes), Reason: err.Error()}
		}
		e := Entry{Index: h.index, Term: h.term, Type: h.entryType, Data: data}
		if len(data) == 0 {
			e.Data = nil
		}
		out = append(out, e)
	}
	return out, nil
}

// ReadAt fills p with an entry's data from offset off on. It does not check the data: callers have
// checksums of their own for parts of an entry. Errors: ErrUnknownGroup, ErrCompacted,
// ErrUnavailable, io.ErrUnexpectedEOF when the entry ends before p is full, or that of the read.
func (l *Log) ReadAt(group, index uint64, off int, p []byte) error {
	l.mu.RLock()
	f, err := l.locateOneLocked(group, index)
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	if off < 0 || off > int(f.place.length) || len(p) > int(f.place.length)-off {
		err = io.ErrUnexpectedEOF
	} else if f.seg == nil {
		copy(p, f.entry.Data[off:])
	} else {
		err = readFull(f.seg.file, p, int64(f.place.off)+int64(off))
	}
	if f.seg != nil {
		if cerr := f.seg.release(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("read %d bytes at %d of group %d entry %d: %w", len(p), off, group, index, err)
	}
	return nil
}

func (l *Log) locateOneLocked(group, index uint64) (located, error) {
	g := l.groups[group]
	if g == nil {
		return located{}, ErrUnknownGroup
	}
	if err := g.check(index); err != nil {
		return located{}, err
	}
	f := l.locateLocked(g, index)
	if f.seg == nil && f.place.seg != 0 {
		return located{}, ErrClosed
	}
	return f, nil
}

// Place says where an entry's data is, as "file:offset", for error messages; "memory" while it is
// queued.
func (l *Log) Place(group, index uint64) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil || g.check(index) != nil {
		return "nowhere"
	}
	p := g.places[index-g.base]
	if p.seg == 0 {
		return "memory"
	}
	return fmt.Sprintf("%s:%d", segmentPath(l.cfg.Dir, p.seg), p.off)
}
