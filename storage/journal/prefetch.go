package journal

// Prefetch lets the disk begin to read n bytes of the segment in which an entry's data stands, from there on: what was
// written after it, as a rule of the same group when that is busy. It waits for no data and promises nothing.
func (l *Log) Prefetch(group, index uint64, n int64) {
	_, sources, err := l.candidates(group, index)
	if err != nil {
		return // which the read will meet
	}
	for i := range sources {
		src := &sources[i]
		if r, ok, err := l.rowOf(src, index); ok && err == nil {
			src.seg.file.raw.WillRead(src.seg.physical(int64(r.off)), n)
			break
		}
	}
	_ = closeSources(sources)
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
