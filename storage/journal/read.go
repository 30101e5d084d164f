package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// readBytes is how much Entries reads at once, if no entry is larger.
	readBytes = 1 << 20
	// readGap is how many bytes of other groups Entries rather reads than to read twice.
	readGap = 16 << 10
)

// Term returns the term of an entry, or of the last one before the first. Errors: ErrUnknownGroup,
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

// check tells why an entry is not in the log, or nil.
func (g *group) check(index uint64) error {
	if index < g.base {
		return fmt.Errorf("group %d entry %d, first is %d: %w", g.id, index, g.base, ErrCompacted)
	}
	if index > g.last {
		return fmt.Errorf("group %d entry %d, last is %d: %w", g.id, index, g.last, ErrUnavailable)
	}
	return nil
}

// source is where entries lo to hi-1 of a group are: in memory, or in a segment of which it holds a
// reference.
type source struct {
	group  uint64
	lo, hi uint64
	terms  []termRun // of these entries
	queued []Entry

	seg    *segment
	moved  bool
	rows   []row       // of the entries, when they are in memory
	sparse []sparseRow // likewise, if moved
	tables *tables     // else they are here
	at     uint32      // from this byte on
	count  uint32      // length of the sparse table
}

// sourceLocked finds the entries of a log from lo on that are in one place.
func (l *Log) sourceLocked(g *group, lo, hi uint64) (source, error) {
	src := source{group: g.id, lo: lo, hi: hi}
	if id, count, ok := g.findQueued(lo); ok {
		src.hi = min(hi, lo+uint64(count))
		for lo < src.hi {
			es := l.queuedLocked(id)
			es = es[:min(uint64(len(es)), src.hi-lo)]
			src.queued = append(src.queued, es...)
			lo, id = lo+uint64(len(es)), id+uint64(len(es))
		}
		return src, nil
	}
	r, ok := g.find(lo)
	if !ok {
		return src, ErrCompacted
	}
	r = r.cut(lo, hi)
	src.hi = r.end()
	src.terms = g.termsOf(lo, src.hi)
	return src, l.openSourceLocked(&src, r)
}

// queuedLocked returns an entry that is not durable yet, and those that were appended with it and follow.
func (l *Log) queuedLocked(id uint64) []Entry {
	for _, q := range []*queue{&l.flight, &l.fill} {
		if es := q.find(id); es != nil {
			return es
		}
	}
	panic(fmt.Sprintf("BUG: journal: no entry with id %d is queued", id))
}

// openSourceLocked lets a source read a run.
func (l *Log) openSourceLocked(src *source, r run) error {
	s := l.segs[r.seg]
	if s == nil {
		return ErrClosed // Close forgets all segments at once
	}
	c := s.groups[src.group]
	src.seg, src.moved, src.tables = s, r.moved, s.tables
	switch {
	case r.moved && s.tables == nil:
		src.sparse = slices.Clone(between(c.sparse, r.first, r.end()))
	case r.moved:
		src.at, src.count = c.sparseAt, c.sparseCount
	case s.tables == nil:
		src.rows = c.rows.copy(r.at, r.at+min(r.count, 4096))
		src.hi = src.lo + uint64(len(src.rows))
	default:
		src.at = c.rowsAt + r.at*rowBytes
	}
	s.refs.Add(1)
	return nil
}

// termsOf returns the term runs of entries lo to hi-1 of the log.
func (g *group) termsOf(lo, hi uint64) []termRun {
	from, to := 0, 0
	for i, t := range g.terms {
		if t.from <= lo {
			from = i
		}
		if t.from < hi {
			to = i + 1
		}
	}
	return slices.Clone(g.terms[from:max(from, to)])
}

// place is where an entry's data is in a segment.
type place struct {
	row
	moved bool
}

// place finds an entry of the source.
func (l *Log) place(src *source, index uint64) (place, error) {
	if !src.moved {
		if src.tables == nil {
			return place{src.rows[index-src.lo], false}, nil
		}
		r, err := l.readRow(src.seg, src.tables, src.at+uint32(index-src.lo)*rowBytes)
		return place{r, false}, err
	}
	rows := find(src.sparse, index)
	if src.tables != nil {
		var err error
		if rows, err = l.readSparse(src.seg, src.tables, src.at, src.count, index); err != nil {
			return place{}, err
		}
	}
	for _, r := range slices.Backward(rows) {
		if r.log {
			return place{r.row, true}, nil
		}
	}
	return place{}, fmt.Errorf("%w: entry %d of group %d is not in it", errFooter, index, src.group)
}

// Entries returns entries lo to hi-1 of a group, as many as have up to maxBytes of data together
// but at least one, queued ones included. Their Data must not be changed; entries of one call may
// share memory. Errors: ErrUnknownGroup, ErrCompacted, ErrUnavailable, *CorruptError, or that of
// the read.
func (l *Log) Entries(group, lo, hi, maxBytes uint64) ([]Entry, error) {
	if lo >= hi {
		return nil, nil
	}
	var out []Entry
	left := maxBytes
	for next := lo; next < hi; {
		src, err := l.source(group, next, hi)
		if err == nil {
			n := len(out)
			out, left, err = l.readSource(&src, out, left)
			next += uint64(len(out) - n)
		}
		if errors.Is(err, errFooter) {
			if err = l.rebuild(src.seg.id, err); err == nil {
				continue // the tables are in memory now
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read group %d from entry %d: %w", group, lo, err)
		}
		if next < src.hi {
			break
		}
	}
	return out, nil
}

// source finds the entries from lo on that are in one place.
func (l *Log) source(group, lo, hi uint64) (source, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return source{}, ErrUnknownGroup
	}
	if err := g.check(lo); err != nil {
		return source{}, err
	}
	if err := g.check(hi - 1); err != nil {
		return source{}, err
	}
	return l.sourceLocked(g, lo, hi)
}

// readSource appends the entries of a source, as long as they fit in left, and gives the source up. The
// first entry of all fits in any case.
func (l *Log) readSource(src *source, out []Entry, left uint64) ([]Entry, uint64, error) {
	if src.seg == nil {
		for _, e := range src.queued {
			n := uint64(len(e.Data))
			if len(out) > 0 && n > left {
				break
			}
			left -= min(n, left)
			out = append(out, e)
		}
		return out, left, nil
	}
	out, left, err := l.readStored(src, out, left)
	if cerr := src.seg.release(); err == nil && cerr != nil {
		err = fmt.Errorf("close segment %s: %w", src.seg.file.Name(), cerr)
	}
	return out, left, err
}

// readStored reads the entries of a source in as few pieces as are worth it.
func (l *Log) readStored(src *source, out []Entry, left uint64) ([]Entry, uint64, error) {
	var found []place
	first := src.lo
	flush := func() (err error) {
		if len(found) > 0 {
			out, err = src.readRun(first, found, out)
		}
		first += uint64(len(found))
		found = found[:0]
		return err
	}
	for index := src.lo; index < src.hi; index++ {
		p, err := l.place(src, index)
		if err != nil {
			return out, left, errors.Join(err, flush())
		}
		n := uint64(p.length)
		if p.moved {
			n -= min(n, relocatedBytes+8) // it has one range, or, being empty, none
		}
		if n > left && (len(out) > 0 || len(found) > 0) {
			src.hi = index + 1 // there are more, but not for this call
			break
		}
		left -= min(n, left)
		if len(found) > 0 && !joins(found, p) {
			if err := flush(); err != nil {
				return out, left, err
			}
		}
		found = append(found, p)
	}
	return out, left, flush()
}

// joins reports whether an entry is worth the same read as those found before.
func joins(found []place, p place) bool {
	end := found[len(found)-1].off + found[len(found)-1].length
	return p.off >= end && p.off-end <= readGap && p.off+p.length-found[0].off <= readBytes
}

// readRun reads entries of the source's segment, as if in one read, and checks them.
func (src *source) readRun(index uint64, found []place, out []Entry) ([]Entry, error) {
	s := src.seg
	size := 0
	for _, f := range found {
		size += recordBytes + int(f.length)
	}
	last := found[len(found)-1]
	if int64(last.off)+int64(last.length) > s.capacity || found[0].off < dataOffset+recordBytes || int64(size) > s.capacity {
		return out, s.corrupt(last.row, "entry %d cannot stand there", index)
	}
	r := s.file.reader(int64(last.off) + int64(last.length))
	defer r.close()
	b := make([]byte, size)
	for i, f := range found {
		record := b[:recordBytes+f.length]
		b = b[len(record):]
		off := int64(f.off - recordBytes)
		if err := readFull(&r, record, off); err != nil {
			if errors.As(err, new(*CorruptError)) && len(found) > 1 { // what the disk cannot read may lie between the entries
				err = readFull(s.file, record, off)
			}
			if err != nil {
				return out, fmt.Errorf("read %s at offset %d: %w", s.file.Name(), s.physical(off), err)
			}
		}
		e, err := src.entry(index+uint64(i), f, record)
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

// entry checks the record of an entry of the log.
func (src *source) entry(index uint64, p place, b []byte) (Entry, error) {
	s := src.seg
	want := kindEntry
	if p.moved {
		want = kindRelocated
	}
	h, err := decodeRecordHeader(b, s.seed)
	data := b[recordBytes:len(b):len(b)]
	switch {
	case err != nil:
		return Entry{}, s.corrupt(p.row, "%v", err)
	case h.kind != want || h.group != src.group || h.index != index || h.term != termAt(src.terms, index) || h.length != p.length:
		return Entry{}, s.corrupt(p.row, "a %v record with index %d stands where entry %d was written", h.kind, h.index,
			index)
	case !h.payloadOK(s.version, s.seed, data):
		return Entry{}, s.corrupt(p.row, "entry %d has a wrong checksum", index)
	}
	if p.moved {
		r, n, err := decodeRelocated(data, len(data))
		if err != nil || !r.whole() {
			return Entry{}, s.corrupt(p.row, "entry %d is not whole in its new place: %v", index, err)
		}
		data = data[n:]
	}
	e := Entry{Index: h.index, Term: h.term, Type: h.entryType, Data: data}
	if len(data) == 0 {
		e.Data = nil
	}
	return e, nil
}

// ReadAt fills p with an entry's data from offset off on. Of entries before the first one of the log it
// serves what the group's Retainer names. Only what is read is checked, sector by sector. Errors:
// ErrUnknownGroup, ErrCompacted, ErrUnavailable, *CorruptError, io.ErrUnexpectedEOF when the entry ends
// before p is full, or that of the read.
func (l *Log) ReadAt(group, index uint64, off int, p []byte) error {
	return l.readEntry(group, index, off, p, nil)
}

// readEntry is ReadAt, with a Bulk that may have what segments hold; nil: there is none.
func (l *Log) readEntry(group, index uint64, off int, p []byte, bulk *Bulk) error {
	again := true
	for err := error(nil); again; {
		if again, err = l.tryRead(group, index, off, p, bulk); err != nil {
			return fmt.Errorf("read %d bytes at %d of group %d entry %d: %w", len(p), off, group, index, err)
		}
	}
	return nil
}

// tryRead does the work of readEntry; again says that tables were rebuilt meanwhile.
func (l *Log) tryRead(group, index uint64, off int, p []byte, bulk *Bulk) (again bool, err error) {
	blobs, sources, err := l.candidates(group, index)
	if err != nil {
		return false, err
	}
	defer func() {
		if cerr := closeSources(sources); err == nil {
			err = cerr
		}
	}()
	r := reading{off: off, p: p, bulk: bulk}
	for _, b := range blobs {
		if done, err := r.payload(b); done || err != nil {
			return false, err
		}
	}
	for i := range sources {
		done, err := l.readCandidate(&sources[i], index, &r)
		if errors.Is(err, errFooter) {
			err = l.rebuild(sources[i].seg.id, err)
			return err == nil, err
		}
		if done || err != nil {
			return false, err
		}
	}
	return false, ErrCompacted
}

// reading fills p with the bytes of an entry from off on, out of the places that have some of them.
type reading struct {
	off   int
	p     []byte
	bulk  *Bulk // may have what segments hold; nil: there is none
	begun bool
	rest  []Range // what is still missing, once it has begun
}

// take reads what is still missing and in one place, of which read fills a part from a byte of its payload
// on. done says that nothing is missing any more.
func (r *reading) take(have *relocated, read func(at int, p []byte) error) (done bool, err error) {
	if r.off < 0 || r.off > int(have.size) || len(r.p) > int(have.size)-r.off {
		return false, io.ErrUnexpectedEOF
	}
	if !r.begun {
		r.begun, r.rest = true, joined([]Range{{uint32(r.off), uint32(len(r.p))}})
	}
	both, rest := overlap(r.rest, have.ranges)
	for _, b := range both {
		at, _ := have.at(int(b.Off), int(b.Len))
		if err := read(at, r.p[int(b.Off)-r.off:][:b.Len]); err != nil {
			return false, err
		}
	}
	r.rest = rest
	return len(rest) == 0, nil
}

// segment fills p with what stands in a segment from off on.
func (r *reading) segment(s *segment, p []byte, off int64) error {
	if r.bulk != nil {
		return r.bulk.read(s, p, off)
	}
	return readFull(s.file, p, off)
}

// wholeEntry describes an entry of n bytes as a record that has all of it.
func wholeEntry(n uint32) relocated { return relocated{size: n, ranges: joined([]Range{{0, n}})} }

// payload reads from a record that is queued.
func (r *reading) payload(b *blob) (done bool, err error) {
	have, data := wholeEntry(uint32(len(b.payload))), b.payload
	if b.kind == kindRelocated {
		if have, _, err = decodeRelocated(b.payload, b.size()); err != nil {
			return false, err
		}
		data = b.data
	}
	head := have.headBytes() // which is not in data
	return r.take(&have, func(at int, p []byte) error {
		copy(p, data[at-head:])
		return nil
	})
}

// closeSources gives up references to segments.
func closeSources(sources []source) error {
	var errs []error
	for _, src := range sources {
		errs = append(errs, src.seg.release())
	}
	return errors.Join(errs...)
}

// candidates returns where the data of an entry may be, the best place first: in memory, or in segments
// that the caller gives up.
func (l *Log) candidates(group, index uint64) (blobs []*blob, sources []source, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return nil, nil, ErrUnknownGroup
	}
	if index > g.last || index <= g.released {
		return nil, nil, g.check(index)
	}
	if index < g.base {
		blobs = slices.Clone(g.pending[index])
		slices.Reverse(blobs)
	}
	if id, _, ok := g.findQueued(index); ok {
		e := l.queuedLocked(id)[0]
		return append(blobs, &blob{kind: kindEntry, term: e.Term, payload: e.Data}), nil, nil
	}
	sources, err = l.placesLocked(g, index)
	if len(sources) == 0 && len(blobs) == 0 && err == nil {
		err = g.check(min(index, g.base-1))
	}
	return blobs, sources, err
}

// placesLocked returns where the data of an entry may be in segments: RELOCATED records of entries before
// the first one, from the youngest segment on, then the place of the whole entry.
func (l *Log) placesLocked(g *group, index uint64) (sources []source, err error) {
	if index < g.base {
		for _, p := range slices.Backward(g.parts) {
			if index < p.low || index > p.high {
				continue
			}
			src := source{group: g.id, lo: index, hi: index + 1}
			if err = l.openSourceLocked(&src, run{first: index, count: 1, seg: p.seg, moved: true}); err != nil {
				break
			}
			sources = append(sources, src)
		}
	}
	if r, ok := g.find(index); ok && err == nil {
		src := source{group: g.id, lo: index, hi: index + 1}
		if err = l.openSourceLocked(&src, r.cut(index, index+1)); err == nil {
			sources = append(sources, src)
		}
	}
	if err != nil {
		return nil, errors.Join(err, closeSources(sources))
	}
	return sources, nil
}

// readCandidate reads from one place of an entry.
func (l *Log) readCandidate(src *source, index uint64, r *reading) (done bool, err error) {
	if !src.moved {
		at, err := l.place(src, index)
		if err != nil {
			return false, err
		}
		if at.length == 0 && len(r.p) > 0 { // it may be one of which only the place is known
			if _, err := src.seg.termAt(at.row, kindEntry, index); err != nil {
				return false, err
			}
		}
		have := wholeEntry(at.length)
		return r.take(&have, func(from int, p []byte) error {
			return r.segment(src.seg, p, int64(at.off)+int64(from-have.headBytes()))
		})
	}
	rows, err := l.sparseRows(src, index)
	if err != nil {
		return false, err
	}
	for _, row := range slices.Backward(rows) {
		have, err := src.seg.readRanges(row.row)
		if err != nil {
			return false, err
		}
		done, err := r.take(&have, func(from int, p []byte) error {
			return r.segment(src.seg, p, int64(row.off)+int64(from))
		})
		if done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// sparseRows returns the RELOCATED records of an entry, the oldest first.
func (l *Log) sparseRows(src *source, index uint64) ([]sparseRow, error) {
	if src.tables == nil {
		return find(src.sparse, index), nil
	}
	return l.readSparse(src.seg, src.tables, src.at, src.count, index)
}

// readRanges reads what a RELOCATED record says about its data, and checks that.
func (s *segment) readRanges(r row) (relocated, error) {
	need := relocatedBytes + 8*8
	for {
		b := make([]byte, min(need, int(r.length)))
		if int64(r.off)+int64(len(b)) > s.capacity {
			return relocated{}, s.corrupt(r, "no record can stand there")
		}
		if err := readFull(s.file, b, int64(r.off)); err != nil {
			return relocated{}, fmt.Errorf("read %s at offset %d: %w", s.file.Name(), s.physical(int64(r.off)), err)
		}
		rel, n, err := decodeRelocated(b, int(r.length))
		if err == nil || n <= len(b) {
			if err != nil {
				err = s.corrupt(r, "%v", err)
			}
			return rel, err
		}
		need = n
	}
}

// Place says where an entry's data is, as "file:offset", for error messages; "memory" while it is
// queued.
func (l *Log) Place(group, index uint64) string {
	_, sources, err := l.candidates(group, index)
	if err != nil {
		return "nowhere"
	}
	if len(sources) == 0 {
		return "memory"
	}
	src := &sources[len(sources)-1]
	name := src.seg.file.Name()
	at, err := l.place(src, index)
	where := src.seg.physical(int64(at.off))
	if err = errors.Join(err, closeSources(sources)); err != nil {
		return name
	}
	return fmt.Sprintf("%s:%d", name, where)
}
