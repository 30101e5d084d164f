package journal

// Prefetch lets the disk begin to read n bytes of the segment in which an entry's data stands, from there on: what was
// written after it, as a rule of the same group when that is busy. It waits for no data and promises nothing. When they were
// not in memory, it returns a function that takes them out of it again; else nil.
func (l *Log) Prefetch(group, index uint64, n int64) (forget func()) {
	_, sources, err := l.candidates(group, index)
	if err != nil {
		return nil // which the read will meet
	}
	for i := range sources {
		s := sources[i].seg
		r, ok, err := l.rowOf(&sources[i], index)
		if !ok || err != nil {
			continue
		}
		if off := s.physical(int64(r.off)); s.file.raw.WillRead(off, n) {
			forget = func() { l.uncache(s.id, off, n) }
		}
		break
	}
	_ = closeSources(sources)
	return forget
}

// uncache takes a range of a segment out of memory.
func (l *Log) uncache(seg uint32, off, n int64) {
	l.mu.RLock()
	s := l.segs[seg]
	if s != nil {
		s.refs.Add(1)
	}
	l.mu.RUnlock()
	if s != nil {
		s.file.raw.WontRead(off, n)
		_ = s.release()
	}
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
