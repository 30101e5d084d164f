package journal

import (
	"errors"
	"fmt"
)

// Stat returns the term of an entry and the size of its data, in bytes, also of one before the first of
// the log of which only parts are kept. Errors are those of ReadAt.
func (l *Log) Stat(group, index uint64) (term uint64, size uint32, err error) {
	for {
		again, err := l.stat(group, index, &term, &size)
		if err != nil {
			return 0, 0, fmt.Errorf("look at group %d entry %d: %w", group, index, err)
		}
		if !again {
			return term, size, nil
		}
	}
}

// stat does the work of Stat; again says that tables were rebuilt meanwhile.
func (l *Log) stat(group, index uint64, term *uint64, size *uint32) (again bool, err error) {
	blobs, sources, err := l.candidates(group, index)
	if err != nil {
		return false, err
	}
	defer func() {
		if cerr := closeSources(sources); err == nil {
			err = cerr
		}
	}()
	if len(blobs) > 0 {
		b := blobs[0]
		*term = b.term
		*size = uint32(len(b.payload))
		if b.kind == kindRelocated {
			rel, _, err := decodeRelocated(b.payload, b.size())
			*size = rel.size
			return false, err
		}
		return false, nil
	}
	for i := range sources {
		done, err := l.statCandidate(&sources[i], index, term, size)
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

// statCandidate looks at one place of an entry; false when it is not there.
func (l *Log) statCandidate(src *source, index uint64, term *uint64, size *uint32) (bool, error) {
	r, ok, err := l.rowOf(src, index)
	if !ok || err != nil {
		return false, err
	}
	k := kindEntry
	*size = r.length
	if src.moved {
		rel, err := src.seg.readRanges(r)
		if err != nil {
			return false, err
		}
		k, *size = kindRelocated, rel.size
	}
	*term, err = src.seg.termAt(r, k, index)
	return true, err
}

// termAt reads the header of the record whose payload stands at r, and returns its term.
func (s *segment) termAt(r row, k kind, index uint64) (uint64, error) {
	var b [recordBytes]byte
	if err := readFull(s.file, b[:], int64(r.off)-recordBytes); err != nil {
		return 0, fmt.Errorf("read %s at offset %d: %w", s.file.Name(), s.physical(int64(r.off)-recordBytes), err)
	}
	h, err := decodeRecordHeader(b[:], s.seed)
	switch {
	case err != nil:
		return 0, s.corrupt(r, "%v", err)
	case h.kind != k || h.index != index || h.length != r.length:
		return 0, s.corrupt(r, "a %v record of entry %d stands where entry %d was written", h.kind, h.index, index)
	}
	return h.term, nil
}

// rowOf is where the data of an entry, or its latest part, stands in one place of it; false when it is not there.
func (l *Log) rowOf(src *source, index uint64) (row, bool, error) {
	if !src.moved {
		at, err := l.place(src, index)
		return at.row, err == nil, err
	}
	rows, err := l.sparseRows(src, index)
	if err != nil || len(rows) == 0 {
		return row{}, false, err
	}
	return rows[len(rows)-1].row, true, nil
}
