package journal

import (
	"errors"
	"fmt"
)

// A batch that was written whole, and of which some sectors are damaged now, is not the end of the log: the rest of it
// says what there was. See storage/DESIGN.md, "Damage in the middle".

// blank is a part of a batch's contents that is not known.
type blank struct{ from, to int }

// blanks are the parts of a batch that are not known, ascending.
type blanks []blank

func (bs blanks) touch(from, to int) bool {
	for _, b := range bs {
		if from < b.to && to > b.from {
			return true
		}
	}
	return false
}

// lenient says under which circumstances a batch with damaged sectors is taken for one that was written whole.
type lenient struct {
	on   bool
	mark uint64 // batches up to this LSN are known to have been synced
}

// written reports whether a batch, with what follows at off, was written whole, though a sector of it is as if it had
// not been: its sync has returned.
func (r *batchReader) written(h batchHeader, off int64) (bool, error) {
	if h.lsn <= r.lenient.mark {
		return true, nil
	}
	at := r.file.physical(off)
	if at+blockBytes > r.size {
		return false, nil
	}
	b, err := r.bytes(at, sectorBytes)
	if err != nil {
		return false, err
	}
	next, d := r.head(b, at)
	return d == nil && next.lsn == h.lsn+1 && next.prev == h.crc, nil
}

// decodeDamaged returns the records of a batch as far as they are known, with those whose payload is not known
// marked, and the number of those of which nothing is known. cause is what is said of the batch if that does not work.
func (r *batchReader) decodeDamaged(off int64, raw []byte, h batchHeader, unknown blanks, cause *damage) (batch, error) {
	recs, lost := r.recs[:0], int(h.count)
	at, length := batchBytes, int(h.length)
	if uint64(h.count) > uint64(length/recordBytes) {
		return batch{}, cause
	}
	seeking := false // for the next record, behind one of which the header is not known
	for lost > 0 && at+recordBytes <= length {
		start := at + recordBytes
		if unknown.touch(at, start) {
			at += payloadAlign
			seeking = true
			continue
		}
		rh, err := decodeRecordHeader(raw[at:], r.seed)
		if err == nil && uint64(rh.length) > uint64(length-start) {
			err = fmt.Errorf("record is longer than its batch")
		}
		if err != nil {
			if !seeking {
				return batch{}, cause
			}
			at += payloadAlign
			continue
		}
		end := start + int(rh.length)
		recs = append(recs, record{recordHeader: rh, off: uint32(start), data: raw[start:end:end], damaged: unknown.touch(start, end)})
		seeking = false
		lost--
		at = alignUp(end, payloadAlign)
	}
	if lost == 0 && at != length || lost > 0 && len(unknown) == 0 {
		return batch{}, cause
	}
	for i := range recs {
		if rec := &recs[i]; !rec.damaged && !rec.payloadOK(r.file.version, r.seed, rec.data) {
			return batch{}, cause
		}
	}
	r.recs = recs
	return batch{batchHeader: h, off: off, raw: raw, records: recs, cause: cause, lost: lost, blank: int64(unknown[0].from)}, nil
}

// usable returns an error for a record whose payload is damaged if that has to be known. What it does not return one
// for is found damaged when it is read. skip says that the record is to be passed over.
func (s *segment) usable(rec *record) (skip bool, err error) {
	switch rec.kind {
	case kindEntry, kindObject:
		return false, nil
	case kindObjectDel:
		return true, nil // what it deleted comes back, and is in nobody's way
	case kindRelocated:
		_, _, err := decodeRelocated(rec.data, len(rec.data))
		return false, err
	}
	return false, fmt.Errorf("a %v record of group %d is damaged, and without it nobody can tell what the group has promised",
		rec.kind, rec.group)
}

// missingRecords are records of which nothing is known, but where they stood.
type missingRecords struct {
	hurt  *segment // the last one with a damaged batch
	count uint64
	seg   *segment // of the latest
	at    row      // where the first of the latest stood
	off   int64
	err   error // a record that cannot be done without
}

// fill enters entries that are missing before one into the segment's tables, as damaged ones: the index of the next one
// of their group says which they were. Each explains one of the records of which nothing is known. Whether all
// are explained is seen at the end.
func (r *recovery) fill(s *segment, rec *record) error {
	last, term, known := r.lastOf(s, rec.group)
	if !known || rec.index <= last+1 {
		return nil
	}
	gap := rec.index - last - 1
	if gap > r.missed.count || term != rec.term || r.missed.seg != s {
		return nil // a hole, which is found later
	}
	rows := make([]row, gap)
	for i := range rows {
		rows[i] = r.missed.at
	}
	if _, err := s.applyEntriesLocked(recordHeader{kind: kindEntry, group: rec.group, index: last + 1, term: term}, rows); err != nil {
		return err
	}
	r.missed.count -= gap
	r.log.cfg.Logger.Error("entries of a group are damaged", "file", s.file.Name(), "offset", r.missed.off, "group", rec.group,
		"first", last+1, "last", last+gap)
	return nil
}

// lastOf returns the last entry of a group before the present record of a segment that is being scanned, and its term.
func (r *recovery) lastOf(s *segment, group uint64) (last, term uint64, known bool) {
	if c := s.groups[group]; c != nil && c.hasLast {
		switch n := len(c.terms); {
		case n > 0 && c.high == c.last:
			return c.last, c.terms[n-1].term, true
		case c.bounds != nil && c.bounds.index == c.last:
			return c.last, c.bounds.term, true
		}
		return 0, 0, false
	}
	g := r.log.groups[group]
	if g == nil {
		return 0, 0, false
	}
	return g.last, g.term(g.last), true
}

// noteDamage takes down that a batch is damaged.
func (r *recovery) noteDamage(s *segment, b *batch) {
	damaged := 0
	for i := range b.records {
		if b.records[i].damaged {
			damaged++
		}
	}
	r.missed.hurt = s
	r.log.cfg.Logger.Error("a batch of the journal is damaged; what is not is used, and the rest waits for repair",
		"file", s.file.Name(), "offset", b.cause.off, "reason", b.cause.reason, "records", b.count, "damaged", damaged, "unknown", b.lost)
	if b.lost == 0 {
		return
	}
	at := b.off + b.blank
	r.missed.count += uint64(b.lost)
	r.missed.seg, r.missed.off = s, b.cause.off
	r.missed.at = row{off: uint32(at) + recordBytes}
}

// trustFooter takes what a segment with damaged batches holds from the footer, which says all that the records did.
func (r *recovery) trustFooter(s *segment, b batch) error {
	read := newSegment(s.header, s.file)
	if err := read.readFooter(b.off, int64(len(b.raw)), link{b.lsn, b.crc}); errors.Is(err, errFooter) {
		return s.corrupt(row{off: uint32(b.off) + batchBytes + recordBytes}, "footer: %v", err)
	} else if err != nil {
		return err
	}
	s.groups, s.foot, s.tables, s.footer = read.groups, read.foot, read.tables, span64{b.off, int64(len(b.raw))}
	r.missed = missingRecords{}
	return nil
}

// explain is called at the end of a segment: what is missing in it and was not explained there makes Open refuse.
func (r *recovery) explain() {
	m := r.missed
	r.missed = missingRecords{}
	switch {
	case r.refuse != nil:
	case m.err != nil:
		r.refuse = m.err
	case m.count > 0:
		r.refuse = &CorruptError{File: m.seg.file.Name(), Offset: m.off, Reason: fmt.Sprintf(
			"%d records that stood there are lost, and nothing tells what they were: any group may have promised what it does not know any more",
			m.count)}
	}
}
