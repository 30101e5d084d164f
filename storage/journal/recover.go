package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"millrace/storage/vfs"
)

// recovery is the state of Open while it reads the log.
type recovery struct {
	log  *Log
	last link // the batch that the next one has to follow
	// spans holds what was found in each live segment, in order.
	spans []liveSpan
	gaps  map[uint64][]gap // by group, in the order of the segments
	// missed are records in damaged batches of which nothing is known, as far as they are not explained.
	missed missingRecords
	refuse error // records of an earlier segment are missing
}

type liveSpan struct {
	span
	seg    *segment
	mark   uint64
	sealed bool // its footer is in the manifest
}

// gap says that entries between last and next of a group were not found where they belong, which is right
// only if they were compacted, or moved.
type gap struct {
	last, next uint64
	file       string
	off        int64
}

// recover reads the log and makes it ready for writing. It changes files only after all of them
// were found good.
func (l *Log) recover() error {
	if err := l.cfg.FS.MkdirAll(l.cfg.Dir); err != nil {
		return fmt.Errorf("journal: make directory: %w", err)
	}
	if err := l.loadKeys(); err != nil {
		return err
	}
	manifest, err := l.readManifest()
	if err != nil {
		return err
	}
	strays, err := l.strayFiles(manifest)
	if err != nil {
		return err
	}
	r := &recovery{log: l, gaps: make(map[uint64][]gap)}
	for _, id := range slices.Sorted(maps.Keys(manifest)) {
		l.nextID = id + 1
		if err := r.segment(id, manifest[id]); err != nil {
			return err
		}
	}
	cuts, err := r.judgeTail() // first: a log that was cut short lacks entries, too
	if err != nil {
		return err
	}
	if r.explain(); r.refuse != nil {
		return r.refuse
	}
	for _, group := range slices.Sorted(maps.Keys(l.groups)) {
		if err := r.complete(l.groups[group]); err != nil {
			return err
		}
	}
	if err := l.moveAside(strays); err != nil {
		return err
	}
	if err := r.repairTail(cuts); err != nil {
		return err
	}
	if err := l.sweep(manifest); err != nil {
		return err
	}
	if err := l.storeKeys(); err != nil {
		return err
	}
	l.latest = r.last
	return l.chooseActive()
}

// readManifest returns the manifest, decoded.
func (l *Log) readManifest() (map[uint32]manifestRecord, error) {
	values, err := l.cfg.Catalog.Segments()
	if err != nil {
		return nil, fmt.Errorf("journal: read manifest: %w", err)
	}
	manifest := make(map[uint32]manifestRecord, len(values))
	for id, value := range values {
		m, err := decodeManifestRecord(value)
		if err != nil {
			return nil, fmt.Errorf("journal: manifest of segment %d: %w", id, err)
		}
		manifest[id] = m
	}
	return manifest, nil
}

// strayFiles returns the segment files that the manifest does not know. One that this node wrote
// means that the catalog is older than the log or was lost: then nothing is touched and Open fails.
func (l *Log) strayFiles(manifest map[uint32]manifestRecord) ([]string, error) {
	names, err := l.cfg.FS.List(l.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("journal: list directory: %w", err)
	}
	known := make(map[string]bool, len(manifest))
	for id := range manifest {
		known[filepath.Base(segmentPath(l.cfg.Dir, id))] = true
	}
	var strays []string
	for _, base := range names {
		if known[base] || !strings.HasSuffix(base, segmentSuffix) {
			continue
		}
		name := filepath.Join(l.cfg.Dir, base)
		h, err := l.peekHeader(name)
		if err == nil && (h.node == l.node || len(manifest) == 0) {
			return nil, fmt.Errorf("journal: segment file %s of node %016x is not in the catalog of node %016x: "+
				"the catalog is not the one this log was written with; the data was left as it is",
				name, h.node, l.node)
		}
		strays = append(strays, name)
	}
	return strays, nil
}

// peekHeader reads the header of a file that is not known to be a segment.
func (l *Log) peekHeader(name string) (header, error) {
	file, err := l.cfg.FS.Open(name)
	if err != nil {
		return header{}, err
	}
	var b [headerBytes]byte
	err = errors.Join(readFull(file, b[:], 0), file.Close())
	if err != nil {
		return header{}, err
	}
	return decodeHeader(b[:])
}

// moveAside renames stray files so that they are neither read nor in the way, and never deletes
// them.
func (l *Log) moveAside(strays []string) error {
	if len(strays) == 0 {
		return nil
	}
	names, err := l.cfg.FS.List(l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("journal: list directory: %w", err)
	}
	for _, name := range strays {
		aside := name + ".unknown"
		for n := 2; slices.Contains(names, filepath.Base(aside)); n++ {
			aside = fmt.Sprintf("%s.unknown-%d", name, n)
		}
		if err := vfs.RenameDurable(l.cfg.FS, name, aside); err != nil {
			return fmt.Errorf("journal: move unknown file aside: %w", err)
		}
		l.cfg.Logger.Warn("moved unknown segment file aside", "file", name, "to", aside)
	}
	return nil
}

// segment reads one segment of the manifest.
func (r *recovery) segment(id uint32, m manifestRecord) error {
	l := r.log
	r.explain()
	switch m.state {
	case statePreparing:
		return nil // holds nothing; sweep removes it
	case stateDropped, stateSpare:
		l.gone[id] = m
		if r.last == (link{}) && len(r.spans) == 0 {
			r.last = m.before // what came before was reclaimed, too
		}
		if err := r.follows(m.before, segmentPath(l.cfg.Dir, id), 0); err != nil {
			return err
		}
		r.last = m.last
		return nil
	}
	s, err := openSegment(l.cfg.FS, l.cfg.Dir, id, m, l.node, l.keys)
	if err != nil {
		return err
	}
	l.segs[id] = s
	if m.foot != (span64{}) {
		return r.sealed(s, m)
	}
	live := liveSpan{seg: s}
	var ok bool
	if live.mark, ok, err = s.readMark(); err != nil {
		return fmt.Errorf("journal: read mark: %w", err)
	}
	if !ok {
		l.cfg.Logger.Warn("the mark of a journal segment is damaged and is ignored", "file", s.file.Name())
	}
	reader := s.reader()
	reader.lenient = lenient{on: true, mark: live.mark}
	live.span, err = reader.scan(func(b batch) error { return r.batch(s, b) })
	if err == nil {
		err = r.apply(s, live.lastOff)
	}
	if err != nil {
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			err = fmt.Errorf("journal: read segment %s: %w", s.file.Name(), err)
		}
		return err
	}
	s.found(live.span, live.mark)
	s.used = s.end + int64(footRoom(s.foot))
	r.spans = append(r.spans, live)
	return nil
}

// sealed reads a segment whose footer the manifest names. A damaged footer is made anew, in memory, from
// the records.
func (r *recovery) sealed(s *segment, m manifestRecord) error {
	l := r.log
	if err := r.follows(m.before, s.file.Name(), dataOffset); err != nil {
		return err
	}
	s.footer, s.known = m.foot, true
	end := m.foot.off + m.foot.length
	s.found(span{before: m.before, last: m.last, end: end}, m.last.lsn)
	err := s.readFooter(m.foot.off, m.foot.length, m.last)
	if errors.Is(err, errFooter) {
		l.cfg.Logger.Error("rebuild the footer of a journal segment", "file", s.file.Name(), "err", err)
		s.groups, err = s.scanContents()
	}
	if err == nil {
		err = r.apply(s, m.foot.off)
	}
	if err != nil {
		return fmt.Errorf("journal: read segment %s: %w", s.file.Name(), err)
	}
	r.last = m.last
	r.spans = append(r.spans, liveSpan{seg: s, sealed: true, span: span{before: m.before, last: m.last,
		lastOff: m.foot.off, end: end, stop: &damage{s.physical(end), "the segment is sealed"}}})
	return nil
}

// scanContents reads all records of a sealed segment and returns what it holds.
func (s *segment) scanContents() (map[uint64]*contents, error) {
	scanned := newSegment(s.header, s.file)
	found, err := s.reader().scan(func(b batch) error {
		for i := range b.records {
			rec := &b.records[i]
			if _, err := scanned.applyLocked(rec.recordHeader, uint32(b.off)+rec.off, rec.data); err != nil {
				return s.corrupt(row{off: uint32(b.off) + rec.off}, "%v", err)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case found.end < s.footer.off || found.before != s.before || found.end == s.footer.off && found.last.lsn+1 != s.last.lsn:
		return nil, &CorruptError{File: s.file.Name(), Offset: found.stop.off, Reason: found.stop.reason}
	}
	return scanned.groups, nil
}

// rebuild reads the tables of a segment from its records into memory, because of cause: a damaged
// footer.
func (l *Log) rebuild(id uint32, cause error) error {
	l.mu.RLock()
	s := l.segs[id]
	sound := s == nil || s.tables == nil
	if !sound {
		s.refs.Add(1)
	}
	l.mu.RUnlock()
	if sound {
		return nil
	}
	l.cfg.Logger.Error("rebuild the footer of a journal segment", "file", s.file.Name(), "err", cause)
	scanned, err := s.scanContents()
	if err == nil {
		l.mu.Lock()
		for group, c := range s.groups {
			n := scanned[group]
			if n == nil || n.rowCount != c.rowCount || n.sparseCount != c.sparseCount {
				err = &CorruptError{File: s.file.Name(), Offset: s.physical(s.footer.off), Reason: fmt.Sprintf(
					"the footer and the records differ in what they have of group %d", group)}
				break
			}
			c.rows, c.sparse = n.rows, n.sparse
		}
		if err == nil {
			s.tables = nil
		}
		l.mu.Unlock()
	}
	return errors.Join(err, s.release())
}

// follows checks that the batch after before may come next. If not, batches are missing: the
// segment to blame is the last one that did not end in zeros.
func (r *recovery) follows(before link, file string, off int64) error {
	if before == r.last {
		return nil
	}
	for _, live := range slices.Backward(r.spans) {
		if live.sealed {
			break
		}
		dirty, err := live.seg.reader().tail(live.end, live.last, 0, live.stop)
		if d, ok := err.(*damage); ok {
			return &CorruptError{File: live.seg.file.Name(), Offset: d.off, Reason: d.reason}
		}
		if err != nil {
			return fmt.Errorf("journal: read segment %s: %w", live.seg.file.Name(), err)
		}
		if dirty > 0 || live.last.lsn != 0 {
			return &CorruptError{File: live.seg.file.Name(), Offset: live.stop.off, Reason: fmt.Sprintf(
				"%s, but a later segment goes on with batch %d after batch %d", live.stop.reason,
				before.lsn+1, r.last.lsn)}
		}
	}
	return &CorruptError{File: file, Offset: off, Reason: fmt.Sprintf(
		"batch %d stands where batch %d was expected", before.lsn+1, r.last.lsn+1)}
}

// batch applies one valid batch.
func (r *recovery) batch(s *segment, b batch) error {
	if err := r.follows(link{b.lsn - 1, b.prev}, s.file.Name(), s.physical(b.off)); err != nil {
		return err
	}
	r.last = link{b.lsn, b.crc}
	if b.cause != nil {
		r.noteDamage(s, &b)
	}
	for i := range b.records {
		rec := &b.records[i]
		if rec.damaged {
			skip, err := s.usable(rec)
			if err != nil && r.missed.err == nil {
				r.missed.err = &CorruptError{File: s.file.Name(), Offset: b.cause.off, Reason: fmt.Sprintf("%s: %v", b.cause.reason, err)}
			}
			if skip || err != nil {
				continue
			}
		}
		if rec.kind == kindEntry && r.missed.count > 0 {
			if err := r.fill(s, rec); err != nil {
				return s.corrupt(row{off: uint32(b.off) + rec.off}, "%v", err)
			}
		}
		if rec.kind == kindFooter {
			err := error(nil)
			if r.missed.hurt == s {
				err = r.trustFooter(s, b)
			} else {
				err = s.checkFooter(b)
			}
			if err != nil {
				return err
			}
			continue
		}
		if s.tables != nil {
			return s.corrupt(row{off: uint32(b.off) + rec.off}, "the segment goes on after its footer")
		}
		if _, err := s.applyLocked(rec.recordHeader, uint32(b.off)+rec.off, rec.data); err != nil {
			return s.corrupt(row{off: uint32(b.off) + rec.off}, "%v", err)
		}
	}
	return nil
}

// checkFooter takes the place of the tables from a footer that a scan found, after comparing it with the
// records.
func (s *segment) checkFooter(b batch) error {
	read := newSegment(s.header, s.file)
	err := read.readFooter(b.off, int64(len(b.raw)), link{b.lsn, b.crc})
	if err != nil && !errors.Is(err, errFooter) {
		return err
	}
	if err == nil && len(read.groups) != len(s.groups) {
		err = fmt.Errorf("it has %d groups, the records %d", len(read.groups), len(s.groups))
	}
	for group, c := range s.groups {
		if f := read.groups[group]; err == nil && (f == nil || !bytes.Equal(f.appendItem(nil), c.appendItem(nil))) {
			err = fmt.Errorf("group %d is not what the records say", group)
		}
	}
	if err != nil {
		return s.corrupt(row{off: uint32(b.off) + batchBytes + recordBytes}, "footer: %v", err)
	}
	for group, c := range s.groups {
		c.rowsAt, c.sparseAt = read.groups[group].rowsAt, read.groups[group].sparseAt
	}
	s.tables, s.footer = read.tables, span64{b.off, int64(len(b.raw))}
	return nil
}

// apply enters what a segment holds into the tables of the groups. off is where to look for what is wrong.
func (r *recovery) apply(s *segment, off int64) error {
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		if err := r.group(s, s.groups[id], off); err != nil {
			return &CorruptError{File: s.file.Name(), Offset: s.physical(off), Reason: err.Error()}
		}
	}
	if s.tables != nil {
		for _, c := range s.groups {
			c.shrink()
		}
	}
	return nil
}

// group enters what a segment holds of one group.
func (r *recovery) group(s *segment, c *contents, off int64) error {
	l := r.log
	if c.deleted {
		delete(l.groups, c.group)
		delete(r.gaps, c.group)
		l.dropped[c.group] = s.id
		return nil
	}
	if _, ok := l.dropped[c.group]; ok {
		return fmt.Errorf("group %d goes on after it was deleted", c.group)
	}
	g := l.groups[c.group]
	if g == nil {
		g = newGroup(c.group)
		l.groups[c.group] = g
	}
	if err := r.entries(g, s, c, off); err != nil {
		return err
	}
	if c.bounds != nil {
		g.compact(c.bounds.index, c.bounds.term)
		g.released = max(g.released, c.bounds.released)
		g.durableBase, g.durableReleased, g.boundsSeg = g.base, g.released, s.id
		g.trim()
	}
	if c.state != nil {
		g.state, g.hasState, g.stateSeg = *c.state, true, s.id
	}
	if c.snap != nil {
		g.snap, g.snapSeg = c.snap, s.id
	}
	for _, key := range c.removed {
		delete(g.objects, key)
	}
	for _, o := range c.objects {
		if g.objects == nil {
			g.objects = make(map[uint64]object)
		}
		g.objects[o.key] = object{seg: s.id, row: o.row}
	}
	if c.sparseCount > 0 {
		g.addPart(s.id, c.sparseLow, c.sparseHigh)
	}
	return nil
}

// entries enters the entries and bounds of a segment into a group's log.
func (r *recovery) entries(g *group, s *segment, c *contents, off int64) error {
	if b := c.bounds; b != nil {
		if err := b.follows(g.id, g.base-1, g.released); err != nil {
			return err
		}
	}
	if c.void > 0 && c.void < g.base {
		return fmt.Errorf("group %d has entry %d after entries up to %d were released", g.id, c.void, g.base-1)
	}
	if c.void > 0 && c.void <= g.last {
		g.truncate(c.void)
	}
	at := uint32(0)
	for _, f := range c.runs {
		if f.first > g.last+1 {
			r.missing(g, f.first, s, off)
		}
		g.add(run{first: f.first, count: f.count, at: at, seg: s.id})
		g.last = f.first + uint64(f.count) - 1
		at += f.count
	}
	for _, t := range c.terms {
		g.addTerm(t.from, t.term)
	}
	if c.hasLast && c.last != g.last {
		if c.last > g.last {
			r.missing(g, c.last+1, s, off)
		}
		g.last = c.last
	}
	for _, m := range c.moved {
		if end := m.first + uint64(m.count); end > g.base {
			first := max(m.first, g.base)
			g.setTerm(first, end-first, m.term)
		}
		g.place(run{first: m.first, count: m.count, seg: s.id, moved: true})
	}
	return nil
}

// missing notes that entries between the group's last one and next were not where they belong, as the
// segment shows.
func (r *recovery) missing(g *group, next uint64, s *segment, off int64) {
	r.gaps[g.id] = append(r.gaps[g.id], gap{g.last, next, s.file.Name(), s.physical(off)})
}

// complete returns an error when a log lacks an entry.
func (r *recovery) complete(g *group) error {
	hole, ok := g.hole()
	if !ok {
		return nil
	}
	for _, gap := range r.gaps[g.id] {
		if hole > gap.last && hole < gap.next {
			return &CorruptError{File: gap.file, Offset: gap.off, Reason: fmt.Sprintf(
				"group %d has no entries between %d and %d, and they were not released", g.id, gap.last, gap.next)}
		}
	}
	return &CorruptError{File: r.spans[len(r.spans)-1].seg.file.Name(), Offset: dataOffset, Reason: fmt.Sprintf(
		"group %d has no entry %d, and it was not released", g.id, hole)}
}

// cut is the rest of a write that was never acknowledged.
type cut struct {
	live *liveSpan
	upTo int64
}

// tail returns the number of the span where the log ends, -1 for none. A segment whose footer the manifest
// names is durable, and so is all before: the log ends behind it.
func (r *recovery) tail() int {
	tail := -1
	for i := range r.spans {
		if r.spans[i].last.lsn != 0 {
			tail = i
		}
	}
	if tail >= 0 && r.spans[tail].sealed {
		tail++
	}
	return tail
}

// judgeTail finds the rest of a write that was never acknowledged, or reports that what stands there may
// have been.
func (r *recovery) judgeTail() (cuts []cut, err error) {
	for i := max(r.tail(), 0); i < len(r.spans); i++ {
		live := &r.spans[i]
		dirty, err := live.seg.reader().tail(live.end, r.last, live.mark, live.stop)
		if d, ok := err.(*damage); ok {
			return nil, &CorruptError{File: live.seg.file.Name(), Offset: d.off, Reason: d.reason}
		}
		if err != nil {
			return nil, fmt.Errorf("journal: read segment %s: %w", live.seg.file.Name(), err)
		}
		if dirty > 0 {
			cuts = append(cuts, cut{live, dirty})
		}
	}
	return cuts, nil
}

// repairTail cuts the rest of a write. Then it writes the last batch once more and syncs it: after kill -9
// or a failed sync it may be in the page cache only, and nobody may build on it before it is durable.
func (r *recovery) repairTail(cuts []cut) error {
	for _, c := range cuts {
		name := c.live.seg.file.Name()
		r.log.cfg.Logger.Warn("cut the rest of an unfinished write", "file", name, "offset",
			c.live.seg.physical(c.live.end), "end", c.live.seg.physical(c.upTo))
		if err := c.live.seg.file.zero(c.live.end, c.upTo); err != nil {
			return fmt.Errorf("journal: cut %s at offset %d: %w", name, c.live.seg.physical(c.live.end), err)
		}
	}
	tail := r.tail()
	if tail < 0 || tail == len(r.spans) || r.spans[tail].last.lsn == 0 {
		return nil
	}
	live := &r.spans[tail]
	if err := live.seg.rewrite(live.lastOff, live.end); err != nil {
		return fmt.Errorf("journal: rewrite the last batch of %s: %w", live.seg.file.Name(), err)
	}
	return nil
}

// rewrite writes a range with the bytes it has, and the mark for it, and syncs. A crash in between
// does no harm: every sector has these bytes already or belongs to a batch that was never
// acknowledged.
func (s *segment) rewrite(from, to int64) error {
	if err := s.file.rewrite(from, to); err != nil {
		return err
	}
	return s.mark(s.last.lsn)
}

// sweep removes the files that the manifest says hold nothing, and then what it says about unused
// ones. The directory is synced in between even if no file is left: a removal before the crash may
// not be durable, and a file that came back would be unknown.
func (l *Log) sweep(manifest map[uint32]manifestRecord) error {
	names, err := l.cfg.FS.List(l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("journal: list directory: %w", err)
	}
	idle := false
	ids := slices.Sorted(maps.Keys(manifest))
	for _, id := range ids {
		m := manifest[id]
		if m.state == stateLive {
			continue
		}
		idle = true
		if m.state == stateSpare {
			continue
		}
		for _, name := range []string{segmentPath(l.cfg.Dir, id), sparePath(l.cfg.Dir, id)} {
			if !slices.Contains(names, filepath.Base(name)) {
				continue
			}
			if err := l.cfg.FS.Remove(name); err != nil {
				return fmt.Errorf("journal: remove unused segment: %w", err)
			}
		}
	}
	if err := l.adoptSpares(names); err != nil {
		return err
	}
	if !idle {
		return nil
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, id := range ids {
		if manifest[id].state == statePreparing {
			if err := l.cfg.Catalog.DeleteSegment(id); err != nil {
				return fmt.Errorf("journal: forget unused segment %d: %w", id, err)
			}
		}
	}
	return nil
}

// chooseActive decides where writing goes on; an empty log gets its first segment.
func (l *Log) chooseActive() error {
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		switch s := l.segs[id]; {
		case s.last.lsn == 0:
			l.ready = append(l.ready, s)
		case s.footer != (span64{}):
			l.active, l.ready = s, nil // left for the next one
		default:
			l.active, l.ready = s, nil
		}
	}
	if len(l.segs) == 0 {
		fillAll := func(int64, int64) (bool, error) { return false, nil }
		if err := l.addSegment(l.cfg.FirstSegmentBytes, fillAll); err != nil {
			return fmt.Errorf("journal: make the first segment: %w", err)
		}
		l.ready = nil
	}
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		s := l.segs[id]
		if c, key := l.encryption(); s.version != version3 || s.cipher != c || s.key != key {
			s.capacity = s.end // what would be written now is not what the segment holds
		}
		if s.footer != (span64{}) {
			s.capacity = s.end
		}
		if l.active == nil || s.last.lsn != 0 {
			l.active, l.ready = s, nil
		} else if s.capacity > s.end {
			l.ready = append(l.ready, s)
		}
	}
	l.batch.start(l.active, l.active.end, 0)
	return nil
}
