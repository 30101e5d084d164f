package rafttest

import (
	"fmt"
	"maps"
	"slices"

	"millrace/raft"
)

// image is the state of a group's log after some writes.
type image struct {
	before     uint64 // index of the entry before the first one
	beforeTerm uint64
	entries    []raft.Entry // of index before+1 and on
	state      *raft.HardState
	snapshot   *raft.Snapshot
	objects    map[uint64][]byte
	old        map[uint64]raft.Entry // entries up to before, as they were appended
	parts      map[uint64]*parts     // of entries up to before, as they were installed
}

// parts are some bytes of an entry.
type parts struct {
	term uint64
	data []byte
	have []bool
}

// write is one change of an image.
type write struct {
	raft.Write
	drop    bool
	compact uint64
	put     *object
	del     []uint64
	install *installed
	repair  *raft.Entry
}

type object struct {
	key  uint64
	data []byte
}

type installed struct {
	index, term uint64
	size        uint32
	ranges      []raft.Range
	data        []byte
}

func (m *image) last() uint64 { return m.before + uint64(len(m.entries)) }

// apply makes a write.
func (m *image) apply(w *write) {
	switch {
	case w.drop:
		*m = image{}
	case w.put != nil:
		if m.objects == nil {
			m.objects = make(map[uint64][]byte)
		}
		m.objects[w.put.key] = w.put.data
	case w.del != nil:
		for _, key := range w.del {
			delete(m.objects, key)
		}
	case w.install != nil:
		m.installParts(w.install)
	case w.repair != nil:
		if e := w.repair; e.Index > m.before && e.Index <= m.last() {
			m.entries[e.Index-m.before-1] = *e
		}
	case w.compact > 0:
		m.compact(w.compact)
	default:
		m.append(&w.Write)
	}
}

func (m *image) append(w *raft.Write) {
	if w.Snapshot != nil {
		snapshot := *w.Snapshot
		m.snapshot = &snapshot
		for i := range snapshot.Count {
			if m.objects[snapshot.Objects+uint64(i)] == nil {
				panic(fmt.Sprintf("BUG: group %d: snapshot without object %d", w.Group, snapshot.Objects+uint64(i)))
			}
		}
	}
	if w.Reset {
		m.keepOld(min(w.Keep, w.Snapshot.Index))
		m.before, m.beforeTerm, m.entries = w.Snapshot.Index, w.Snapshot.Term, nil
	}
	if len(w.Entries) > 0 {
		from := w.Entries[0].Index
		if from <= m.before || from > m.last()+1 {
			panic(fmt.Sprintf("BUG: group %d: write at index %d to a log of entries %d to %d",
				w.Group, from, m.before+1, m.last()))
		}
		m.entries = append(m.entries[:from-m.before-1], w.Entries...)
	}
	if w.State != nil {
		state := *w.State
		m.state = &state
	}
}

func (m *image) compact(upTo uint64) {
	upTo = min(upTo, m.last())
	if upTo <= m.before {
		return
	}
	m.keepOld(upTo)
	n := upTo - m.before
	m.beforeTerm = m.entries[n-1].Term
	m.entries = slices.Clone(m.entries[n:])
	m.before = upTo
}

// keepOld keeps what ReadAt serves of entries that leave the log.
func (m *image) keepOld(upTo uint64) {
	if m.old == nil {
		m.old = make(map[uint64]raft.Entry)
	}
	for _, e := range m.entries[:min(max(upTo, m.before)-m.before, uint64(len(m.entries)))] {
		m.old[e.Index] = e
	}
}

func (m *image) installParts(in *installed) {
	if m.parts == nil {
		m.parts = make(map[uint64]*parts)
	}
	p := m.parts[in.index]
	if p == nil || len(p.data) != int(in.size) || p.term != in.term {
		p = &parts{term: in.term, data: make([]byte, in.size), have: make([]bool, in.size)}
	} else {
		p = &parts{term: p.term, data: slices.Clone(p.data), have: slices.Clone(p.have)}
	}
	m.parts[in.index] = p
	data := in.data
	for _, r := range in.ranges {
		copy(p.data[r.Off:r.Off+r.Len], data[:r.Len])
		for i := r.Off; i < r.Off+r.Len; i++ {
			p.have[i] = true
		}
		data = data[r.Len:]
	}
	if len(data) > 0 {
		panic(fmt.Sprintf("BUG: %d bytes too many are installed of entry %d", len(data), in.index))
	}
}

// stat returns an entry or parts of one.
func (m *image) stat(index uint64) (*parts, error) {
	if index > m.before && index <= m.last() {
		e := &m.entries[index-m.before-1]
		return &parts{term: e.Term, data: e.Data}, nil
	}
	if p := m.parts[index]; p != nil {
		return p, nil
	}
	if e, ok := m.old[index]; ok {
		return &parts{term: e.Term, data: e.Data}, nil
	}
	return nil, fmt.Errorf("nothing is kept of entry %d; the log has %d to %d", index, m.before+1, m.last())
}

func (m *image) clone() image {
	c := *m
	c.entries = slices.Clone(m.entries)
	c.objects, c.old, c.parts = maps.Clone(m.objects), maps.Clone(m.old), maps.Clone(m.parts)
	return c
}
