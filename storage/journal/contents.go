package journal

import (
	"cmp"
	"fmt"
	"slices"
)

// contents is what one segment holds of one group: what a replay of all its records leaves behind. It is
// filled record by record while the segment is written or scanned, or read from the segment's footer.
// Guarded by Log.mu; run alone changes that of the active segment.
//
//  1. rows are the entries that no later record of the segment voids, by ascending index; runs says
//     which, in the same order.
//  2. sparse is sorted by index, then by offset, that is by age.
type contents struct {
	group   uint64
	deleted bool   // a GROUPDEL record stands here, and nothing after it
	void    uint64 // entries in older segments from this index on are void; 0: none are
	last    uint64 // the group's last index after the segment, when it has entries or bounds
	hasLast bool
	low     uint64 // the lowest index in runs, 0 without
	high    uint64 // the highest

	// What the group's table has, too: nil once the segment has its footer.
	runs   []fileRun
	terms  []termRun  // of rows
	moved  []movedRun // of sparse rows that stand for entries in the log
	bounds *bounds
	state  *HardState
	snap   *Snapshot

	objects []objectRow // by key
	removed []uint64    // keys in OBJECTDEL records, sorted

	// The tables, empty while they are read from the footer.
	rows   rowTable
	sparse []sparseRow

	rowCount, sparseCount   uint32
	rowBytes, sparseBytes   int64  // data of rows, payloads of sparse
	rowsAt, sparseAt        uint32 // where the tables begin in those of the footer, in bytes
	sparseLow, sparseHigh   uint64 // of the indexes in sparse
	sparseLive, measureTurn int64  // what was needed of sparseBytes when the mover counted last, and when
}

// fileRun says that count rows from the next one on are the entries from first on.
type fileRun struct {
	first uint64
	count uint32
}

// movedRun says that sparse rows stand for count entries of one term in the log.
type movedRun struct {
	first, term uint64
	count       uint32
}

// row says where a record's payload stands in the segment.
type row struct {
	off, length uint32
}

// sparseRow is the row of a RELOCATED record.
type sparseRow struct {
	index uint64
	row
	log bool // it stands for the entry in the log
}

// objectRow is the row of an OBJECT record.
type objectRow struct {
	key uint64
	row
}

// applyLocked takes in one more record of the segment, whose payload stands at off; data is not kept.
func (s *segment) applyLocked(h recordHeader, off uint32, data []byte) (*contents, error) {
	if h.kind == kindFooter {
		return nil, nil
	}
	r := row{off, h.length}
	if h.kind == kindEntry {
		return s.applyEntriesLocked(h, []row{r})
	}
	c := s.contentsLocked(h.group)
	s.foot -= c.footBytes()
	err := c.apply(h, r, data)
	s.foot += c.footBytes()
	return c, err
}

// applyEntriesLocked takes in ENTRY records of one group and term that follow each other: the header of the
// first, and where the payloads of all stand.
func (s *segment) applyEntriesLocked(h recordHeader, rows []row) (*contents, error) {
	c := s.contentsLocked(h.group)
	s.foot -= c.footBytes()
	err := c.entries(h.index, h.term, rows)
	s.foot += c.footBytes()
	return c, err
}

// contentsLocked returns what the segment holds of a group, of which it gets a record now.
func (s *segment) contentsLocked(group uint64) *contents {
	c := s.groups[group]
	if c == nil {
		c = &contents{group: group}
		s.groups[group] = c
		s.foot += c.footBytes()
	}
	return c
}

// apply takes in a record that is not an ENTRY.
func (c *contents) apply(h recordHeader, r row, data []byte) error {
	if c.deleted && h.kind != kindGroupDel {
		return c.errDeleted()
	}
	switch h.kind {
	case kindHardState:
		c.state = &HardState{Term: h.term, Vote: le.Uint64(data), Commit: h.index}
	case kindGroupDel:
		*c = contents{group: c.group, deleted: true}
	case kindBounds:
		return c.setBounds(decodeBounds(h, data), len(data) < boundsBytes)
	case kindSnapshot:
		c.snap = decodeSnapshot(h.index, h.term, data)
	case kindObject:
		c.object(h.index, r)
	case kindObjectDel:
		for ; len(data) >= 8; data = data[8:] {
			c.remove(le.Uint64(data))
		}
	case kindRelocated:
		rel, _, err := decodeRelocated(data, int(h.length))
		if err != nil {
			return err
		}
		c.relocated(sparseRow{h.index, r, rel.log}, h.term)
	}
	return nil
}

func (c *contents) errDeleted() error {
	return fmt.Errorf("group %d goes on after it was deleted", c.group)
}

// entries appends the rows of entries of one term that follow each other, which void what stands at the
// index of the first and above.
func (c *contents) entries(first, term uint64, rows []row) error {
	if c.deleted {
		return c.errDeleted()
	}
	if c.bounds != nil && first <= c.bounds.index {
		return fmt.Errorf("group %d has entry %d after entries up to %d were released", c.group, first, c.bounds.index)
	}
	c.truncate(first)
	count := uint32(len(rows))
	c.rows.append(rows)
	c.rowCount += count
	for _, r := range rows {
		c.rowBytes += int64(r.length)
	}
	if n := len(c.runs); n > 0 && c.runs[n-1].first+uint64(c.runs[n-1].count) == first {
		c.runs[n-1].count += count
	} else {
		c.runs = append(c.runs, fileRun{first, count})
	}
	if n := len(c.terms); n == 0 || c.terms[n-1].term != term {
		c.terms = append(c.terms, termRun{first, term})
	}
	c.high = first + uint64(count) - 1
	c.last, c.hasLast, c.low = c.high, true, c.runs[0].first
	return nil
}

// truncate voids what stands at an index and above.
func (c *contents) truncate(from uint64) {
	if c.void == 0 || from < c.void {
		c.void = from
	}
	for n := len(c.runs); n > 0; n-- {
		last := &c.runs[n-1]
		keep := uint32(0)
		if last.first < from {
			keep = uint32(min(uint64(last.count), from-last.first))
		}
		for range last.count - keep {
			c.rowCount--
			c.rowBytes -= int64(c.rows.pop().length)
		}
		if last.count = keep; keep > 0 {
			c.high = last.first + uint64(keep) - 1
			break
		}
		c.runs, c.high = c.runs[:n-1], 0
	}
	for n := len(c.terms); n > 0 && c.terms[n-1].from >= from; n-- {
		c.terms = c.terms[:n-1]
	}
}

func (c *contents) setBounds(b bounds, short bool) error {
	if err := b.check(c.group, short); err != nil {
		return err
	}
	if old := c.bounds; old != nil {
		if err := b.follows(c.group, old.index, old.released); err != nil {
			return err
		}
	}
	c.truncate(b.last + 1)
	c.bounds = &b
	c.last, c.hasLast = max(b.last, b.index), true
	return nil
}

// follows returns an error when bounds go back behind those before.
func (b bounds) follows(group, index, released uint64) error {
	if b.index < index || b.released < released {
		return fmt.Errorf("group %d releases entries up to %d of %d after it released up to %d", group, b.index,
			b.last, index)
	}
	return nil
}

func (c *contents) object(key uint64, r row) {
	i := c.objectAt(key)
	if i == len(c.objects) || c.objects[i].key != key {
		c.objects = slices.Insert(c.objects, i, objectRow{key: key})
	}
	c.objects[i].row = r
	if i, found := slices.BinarySearch(c.removed, key); found {
		c.removed = slices.Delete(c.removed, i, i+1)
	}
}

func (c *contents) remove(key uint64) {
	if i, found := slices.BinarySearch(c.removed, key); !found {
		c.removed = slices.Insert(c.removed, i, key)
	}
	if i := c.objectAt(key); i < len(c.objects) && c.objects[i].key == key {
		c.objects = slices.Delete(c.objects, i, i+1)
	}
}

// objectAt returns where the row of a key is, or belongs.
func (c *contents) objectAt(key uint64) int {
	i, _ := slices.BinarySearchFunc(c.objects, key, func(o objectRow, key uint64) int { return cmp.Compare(o.key, key) })
	return i
}

// relocated adds the row of a RELOCATED record.
func (c *contents) relocated(r sparseRow, term uint64) {
	i := len(c.sparse)
	for i > 0 && c.sparse[i-1].index > r.index {
		i-- // mostly none: they are written in order
	}
	c.sparse = slices.Insert(c.sparse, i, r)
	c.sparseCount++
	c.sparseBytes += int64(r.length)
	c.sparseLow, c.sparseHigh = c.sparse[0].index, c.sparse[len(c.sparse)-1].index
	if !r.log {
		return
	}
	if n := len(c.moved); n > 0 {
		m := &c.moved[n-1]
		if m.first+uint64(m.count) == r.index && m.term == term {
			m.count++
			return
		}
	}
	c.moved = append(c.moved, movedRun{r.index, term, 1})
}

// find returns the sparse rows of an index, the oldest first.
func find(sparse []sparseRow, index uint64) []sparseRow { return between(sparse, index, index+1) }

// between returns the sparse rows of entries lo to hi-1.
func between(sparse []sparseRow, lo, hi uint64) []sparseRow {
	at := func(index uint64) int {
		i, _ := slices.BinarySearchFunc(sparse, index, func(r sparseRow, x uint64) int { return cmp.Compare(r.index, x) })
		return i
	}
	return sparse[at(lo):at(hi)]
}
