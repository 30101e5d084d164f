package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"millrace/raft"
)

// shadow is what the log of one replica has to hold after a crash, by what its store was told and what
// it answered. The real disk is compared with it at each restart, and now and then in between.
//
//  1. durable has every change up to the last one that was answered, pending all later ones.
type shadow struct {
	durable image
	pending []change
}

// image is the contents of a log after some changes.
type image struct {
	known    bool // something was written
	dropped  bool
	first    uint64
	entries  []mark // of index first and on
	state    *raft.HardState
	snapshot *raft.Snapshot
	objects  map[uint64]uint32 // checksum by key
}

// mark stands for an entry.
type mark struct {
	index, term uint64
	kind        uint8
	sum         uint32
}

func markOf(e *raft.Entry) mark { return mark{e.Index, e.Term, e.Type, checksum32(e.Data)} }

// change is one call of a raft.SnapshotStore that changes a log.
type change struct {
	number  uint64
	write   *raft.Write // without the data of its entries
	marks   []mark
	parts   bool // the write may be larger than a segment: then its entries become durable one after the other
	compact uint64
	drop    bool
	put     uint64 // object, when sum is set
	sum     *uint32
	remove  []uint64
}

func newImage() image { return image{first: 1, objects: make(map[uint64]uint32)} }

func (m *image) clone() image {
	c := *m
	c.entries = slices.Clone(m.entries)
	c.objects = maps.Clone(m.objects)
	return c
}

// String tells what decides about promises.
func (m *image) String() string {
	text := fmt.Sprintf("entries [%d, %d]", m.first, m.last())
	if m.state != nil {
		text += fmt.Sprintf(", hard state %+v", *m.state)
	}
	if m.snapshot != nil {
		text += fmt.Sprintf(", a snapshot of entry %d", m.snapshot.Index)
	}
	return text
}

func (m *image) last() uint64 { return m.first + uint64(len(m.entries)) - 1 }

func (m *image) apply(c *change) {
	switch {
	case c.drop:
		*m = newImage()
		m.dropped = true
	case c.compact > 0:
		if n := c.compact + 1 - m.first; c.compact >= m.first && n <= uint64(len(m.entries)) {
			m.entries = slices.Clone(m.entries[n:])
			m.first += n
		}
	case c.sum != nil:
		m.objects[c.put] = *c.sum
	case c.remove != nil:
		for _, key := range c.remove {
			delete(m.objects, key)
		}
	case c.write != nil:
		m.write(c)
	}
}

func (m *image) write(c *change) {
	w := c.write
	m.known = true
	if w.Snapshot != nil {
		m.snapshot = w.Snapshot
	}
	if w.Reset {
		m.first, m.entries = w.Snapshot.Index+1, nil
	}
	if len(c.marks) > 0 {
		from := c.marks[0].index
		if from < m.first || from > m.last()+1 {
			panic(fmt.Sprintf("BUG: log %d: write at entry %d to a log of [%d, %d]", w.Group, from, m.first, m.last()))
		}
		m.entries = append(m.entries[:from-m.first], c.marks...)
	}
	if w.State != nil {
		m.state = w.State
	}
}

// holds reports whether an entry is durable, or was and is part of a durable snapshot.
func (m *image) holds(e mark) bool {
	switch {
	case e.index < m.first:
		return m.snapshot != nil && m.snapshot.Index >= e.index
	case e.index > m.last():
		return false
	}
	return m.entries[e.index-m.first] == e
}

// answered notes that a change and all before it are durable.
func (s *shadow) answered(number uint64) {
	n := 0
	for n < len(s.pending) && s.pending[n].number <= number {
		s.durable.apply(&s.pending[n])
		n++
	}
	s.pending = slices.Delete(s.pending, 0, n)
}

// compare checks that a log read from disk has all changes of durable and some prefix of the pending ones.
// It returns the image that it matches.
func (s *shadow) compare(store raft.SnapshotStore, log uint64) (m image, damaged int, err error) {
	m = s.durable.clone()
	var errs []error
	for k := 0; ; k++ {
		damaged = 0
		err := m.matches(store, log, s.pending[k:], &damaged)
		if err == nil {
			m.follow(store, log)
			return m, damaged, nil
		}
		errs = append(errs, fmt.Errorf("with %d: %w", k, err))
		if k == len(s.pending) {
			return m, 0, fmt.Errorf("log %d is not what any prefix of its %d unanswered writes left: %w", log, k, errors.Join(errs...))
		}
		if part, ok := s.pending[k].cut(store, log); ok {
			m.apply(&part)
			if damaged = 0; m.matches(store, log, s.pending[k:], &damaged) == nil {
				return m, damaged, nil
			}
		}
		m.apply(&s.pending[k])
	}
}

// cut returns what a log has of a write that is larger than a segment, when it ends with an entry of that.
func (c *change) cut(store raft.SnapshotStore, log uint64) (part change, ok bool) {
	_, last := store.Bounds(log)
	if !c.parts || last < c.marks[0].index || last > c.marks[len(c.marks)-1].index {
		return change{}, false
	}
	write := *c.write
	write.State = nil // it is the last part
	return change{write: &write, marks: c.marks[:last+1-c.marks[0].index]}, true
}

// follow takes over what became durable early: a first index and deletions of objects.
func (m *image) follow(store raft.SnapshotStore, log uint64) {
	if first, _ := store.Bounds(log); first > m.first {
		m.apply(&change{compact: first - 1})
	}
	keys := store.ObjectKeys(log)
	for key := range m.objects {
		if _, ok := slices.BinarySearch(keys, key); !ok {
			delete(m.objects, key)
		}
	}
}

// matches compares a log with the image. The first index and deletions of objects become durable late, so
// those of the pending changes are allowed for. What is damaged is counted.
func (m *image) matches(store raft.SnapshotStore, log uint64, pending []change, damaged *int) error {
	first, last := store.Bounds(log)
	if m.last() != last && (len(m.entries) > 0 || last >= first) {
		return fmt.Errorf("last entry %d in place of %d", last, m.last())
	}
	limit := m.first
	removed := make(map[uint64]bool)
	for i := range pending {
		limit = max(limit, pending[i].compact+1)
		for _, key := range pending[i].remove {
			removed[key] = true
		}
	}
	if first > limit {
		return fmt.Errorf("first entry %d in place of %d", first, m.first)
	}
	for next := max(first, m.first); next <= last; {
		entries, err := store.Entries(log, next, last+1, 1<<20)
		if errors.Is(err, raft.ErrDamaged) {
			entries, err = store.Entries(log, next, next+1, 0)
		}
		if errors.Is(err, raft.ErrDamaged) {
			// Of a damaged entry the log knows the term at least.
			if term, err := store.Term(log, next); err != nil || term != m.entries[next-m.first].term {
				return fmt.Errorf("damaged entry %d of term %d, %w, in place of %+v", next, term, err, m.entries[next-m.first])
			}
			*damaged++
			next++
			continue
		}
		if err != nil {
			return err
		}
		for i := range entries {
			if got, want := markOf(&entries[i]), m.entries[next-m.first]; got != want {
				return fmt.Errorf("entry %+v in place of %+v", got, want)
			}
			next++
		}
	}
	state, ok := store.State(log)
	switch {
	case ok != (m.state != nil):
		return fmt.Errorf("hard state %+v %t in place of %+v", state, ok, m.state)
	case ok && state != *m.state:
		return fmt.Errorf("hard state %+v in place of %+v", state, *m.state)
	}
	snapshot, ok := store.StoredSnapshot(log)
	switch {
	case ok != (m.snapshot != nil):
		return fmt.Errorf("snapshot %+v %t in place of %+v", snapshot, ok, m.snapshot)
	case ok && (snapshot.Index != m.snapshot.Index || snapshot.Term != m.snapshot.Term ||
		snapshot.Objects != m.snapshot.Objects || snapshot.Checksum != m.snapshot.Checksum):
		return fmt.Errorf("snapshot %+v in place of %+v", snapshot, *m.snapshot)
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if removed[key] {
			continue
		}
		data, err := store.Object(log, key)
		if errors.Is(err, raft.ErrDamaged) {
			*damaged++
			continue
		}
		if err == nil && checksum32(data) != m.objects[key] {
			err = fmt.Errorf("object %d has other bytes", key)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
