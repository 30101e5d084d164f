package journal

import (
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
	gaps  map[uint64]gap
}

type liveSpan struct {
	span
	seg  *segment
	mark uint64
}

// gap says that entries up to upTo of a group are in no segment, which is right only if they were
// released.
type gap struct {
	upTo uint64
	err  error
}

// recover reads the log and makes it ready for writing. It changes files only after all of them
// were found good.
func (l *Log) recover() error {
	if err := l.cfg.FS.MkdirAll(l.cfg.Dir); err != nil {
		return fmt.Errorf("journal: make directory: %w", err)
	}
	manifest, err := l.readManifest()
	if err != nil {
		return err
	}
	strays, err := l.strayFiles(manifest)
	if err != nil {
		return err
	}
	r := &recovery{log: l, gaps: make(map[uint64]gap)}
	for _, id := range slices.Sorted(maps.Keys(manifest)) {
		l.nextID = id + 1
		if err := r.segment(id, manifest[id]); err != nil {
			return err
		}
	}
	for _, group := range slices.Sorted(maps.Keys(r.gaps)) {
		if g := l.groups[group]; g != nil && g.released < r.gaps[group].upTo {
			return r.gaps[group].err
		}
	}
	if err := l.moveAside(strays); err != nil {
		return err
	}
	if err := r.repairTail(); err != nil {
		return err
	}
	if err := l.sweep(manifest); err != nil {
		return err
	}
	l.batch.last = r.last
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
	switch m.state {
	case statePreparing:
		return nil // holds nothing; sweep removes it
	case stateDropped:
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
	s, err := openSegment(l.cfg.FS, l.cfg.Dir, id, m, l.node)
	if err != nil {
		return err
	}
	l.segs[id] = s
	live := liveSpan{seg: s}
	var ok bool
	if live.mark, ok, err = s.readMark(); err != nil {
		return fmt.Errorf("journal: read mark: %w", err)
	}
	if !ok {
		l.cfg.Logger.Warn("the mark of a journal segment is damaged and is ignored", "file", s.file.Name())
	}
	live.span, err = s.reader().scan(func(b batch) error { return r.batch(s, b) })
	if err != nil {
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			err = fmt.Errorf("journal: read segment %s: %w", s.file.Name(), err)
		}
		return err
	}
	s.end, s.used, s.marked = live.end, live.end, live.mark
	s.before, s.last = live.before, live.last
	r.spans = append(r.spans, live)
	return nil
}

// follows checks that the batch after before may come next. If not, batches are missing: the
// segment to blame is the last one that did not end in zeros.
func (r *recovery) follows(before link, file string, off int64) error {
	if before == r.last {
		return nil
	}
	for _, live := range slices.Backward(r.spans) {
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
	if err := r.follows(link{b.lsn - 1, b.prev}, s.file.Name(), b.off); err != nil {
		return err
	}
	r.last = link{b.lsn, b.crc}
	for i := range b.records {
		rec := &b.records[i]
		if err := r.record(s, rec, b.off); err != nil {
			return &CorruptError{File: s.file.Name(), Offset: b.off + int64(rec.off) - recordBytes, Reason: err.Error()}
		}
	}
	return nil
}

// record applies one record to the tables.
func (r *recovery) record(s *segment, rec *record, batchOff int64) error {
	l := r.log
	if rec.kind == kindGroupDel {
		delete(l.groups, rec.group)
		l.dropped[rec.group] = s.id
		s.noteLocked(rec.group, 0)
		return nil
	}
	if _, ok := l.dropped[rec.group]; ok {
		return fmt.Errorf("group %d goes on after it was deleted", rec.group)
	}
	g := l.groups[rec.group]
	if g == nil {
		g = newGroup(rec.group)
		l.groups[rec.group] = g
	}
	switch rec.kind {
	case kindEntry:
		off := batchOff + int64(rec.off)
		if err := r.entry(g, s, rec, off); err != nil {
			return err
		}
		s.noteLocked(rec.group, rec.index)
	case kindHardState:
		g.state = HardState{Term: rec.term, Vote: le.Uint64(rec.data), Commit: rec.index}
		g.hasState, g.stateSeg = true, s.id
		s.noteLocked(rec.group, 0)
	case kindBounds:
		last := le.Uint64(rec.data)
		if last < rec.index || last > maxIndex || rec.index < g.released {
			return fmt.Errorf("group %d releases entries up to %d of %d after it released up to %d",
				g.id, rec.index, last, g.released)
		}
		r.bounds(g, s, rec, last, batchOff)
		g.released, g.boundsSeg = rec.index, s.id
		s.noteLocked(rec.group, 0)
	}
	return nil
}

// entry puts an entry into its group's table.
func (r *recovery) entry(g *group, s *segment, rec *record, off int64) error {
	if rec.index <= g.released {
		return fmt.Errorf("group %d has entry %d after entries up to %d were released", g.id, rec.index, g.released)
	}
	if rec.index > g.last()+1 {
		r.missing(g, rec.index-1, s, off)
	}
	if rec.index > g.last()+1 || rec.index < g.base {
		g.places, g.terms = nil, nil
		g.base, g.baseTerm = rec.index, 0
	}
	g.put(rec.index, rec.term, place{seg: s.id, off: uint32(off), length: rec.length})
	return nil
}

// bounds applies a BOUNDS record: what stands above last is void, what stands up to the index is
// released.
func (r *recovery) bounds(g *group, s *segment, rec *record, last uint64, batchOff int64) {
	switch {
	case last >= g.last():
	case last >= g.base:
		g.truncate(last + 1)
	default:
		g.places, g.terms = nil, nil
		g.base, g.baseTerm = last+1, 0
	}
	g.release(rec.index, rec.term)
	if last > g.last() {
		r.missing(g, last, s, batchOff+int64(rec.off))
	}
}

// missing notes that entries up to upTo are in no segment, as the record whose payload is at off
// shows. They must have been reclaimed: a BOUNDS record, which may come later, has to release them.
func (r *recovery) missing(g *group, upTo uint64, s *segment, off int64) {
	if upTo <= r.gaps[g.id].upTo {
		return
	}
	r.gaps[g.id] = gap{upTo: upTo, err: &CorruptError{
		File:   s.file.Name(),
		Offset: off - recordBytes,
		Reason: fmt.Sprintf("group %d has no entries between %d and %d, and they were not released",
			g.id, g.last(), upTo+1),
	}}
}

// repairTail cuts the rest of a write that was never acknowledged, or reports that what stands
// there may have been. Then it writes the last batch once more and syncs it: after kill -9 or a
// failed sync it may be in the page cache only, and nobody may build on it before it is durable.
func (r *recovery) repairTail() error {
	type cut struct {
		live *liveSpan
		upTo int64
	}
	var cuts []cut
	tail := -1
	for i := range r.spans {
		if r.spans[i].last.lsn != 0 {
			tail = i
		}
	}
	for i := max(tail, 0); i < len(r.spans); i++ {
		live := &r.spans[i]
		dirty, err := live.seg.reader().tail(live.end, r.last, live.mark, live.stop)
		if d, ok := err.(*damage); ok {
			return &CorruptError{File: live.seg.file.Name(), Offset: d.off, Reason: d.reason}
		}
		if err != nil {
			return fmt.Errorf("journal: read segment %s: %w", live.seg.file.Name(), err)
		}
		if dirty > 0 {
			cuts = append(cuts, cut{live, dirty})
		}
	}
	for _, c := range cuts {
		name := c.live.seg.file.Name()
		r.log.cfg.Logger.Warn("cut the rest of an unfinished write", "file", name, "offset", c.live.end,
			"end", c.upTo)
		if err := c.live.seg.zero(c.live.end, c.upTo); err != nil {
			return fmt.Errorf("journal: cut %s at offset %d: %w", name, c.live.end, err)
		}
	}
	if tail < 0 {
		return nil
	}
	live := &r.spans[tail]
	if err := live.seg.rewrite(live.lastOff, live.end); err != nil {
		return fmt.Errorf("journal: rewrite the last batch of %s: %w", live.seg.file.Name(), err)
	}
	return nil
}

// zero overwrites a range with zeros and syncs.
func (s *segment) zero(from, to int64) error {
	zeros := make([]byte, min(fillBytes, to-from))
	for off := from; off < to; off += int64(len(zeros)) {
		if _, err := s.file.WriteAt(zeros[:min(int64(len(zeros)), to-off)], off); err != nil {
			return err
		}
	}
	return s.file.SyncData()
}

// rewrite writes a range with the bytes it has, and the mark for it, and syncs. A crash in between
// does no harm: every sector has these bytes already or belongs to a batch that was never
// acknowledged.
func (s *segment) rewrite(from, to int64) error {
	b := make([]byte, to-from)
	if err := readFull(s.file, b, from); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(b, from); err != nil {
		return err
	}
	if err := s.file.SyncData(); err != nil {
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
	for id, m := range manifest {
		if m.state == stateLive {
			continue
		}
		idle = true
		if name := segmentPath(l.cfg.Dir, id); slices.Contains(names, filepath.Base(name)) {
			if err := l.cfg.FS.Remove(name); err != nil {
				return fmt.Errorf("journal: remove unused segment: %w", err)
			}
		}
	}
	if !idle {
		return nil
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for id, m := range manifest {
		if m.state == statePreparing {
			if err := l.cfg.Catalog.DeleteSegment(id); err != nil {
				return fmt.Errorf("journal: forget unused segment %d: %w", id, err)
			}
		}
	}
	return nil
}

// chooseActive decides where writing goes on; an empty log gets its first segment.
func (l *Log) chooseActive() error {
	if len(l.segs) == 0 {
		fillAll := func(int64, int64) (bool, error) { return false, nil }
		if err := l.addSegment(l.cfg.FirstSegmentBytes, fillAll); err != nil {
			return fmt.Errorf("journal: make the first segment: %w", err)
		}
		l.ready = nil
	}
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		if s := l.segs[id]; l.active == nil || s.last.lsn != 0 {
			l.active, l.ready = s, nil
		} else {
			l.ready = append(l.ready, s)
		}
	}
	return nil
}
