package storagetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"millrace/storage/journal"
)

// op is one call on a log, for the log and for the model alike.
type op struct {
	write   *journal.Write // Append
	drop    uint64         // Drop, when not 0
	release uint64         // Release of this group, when not 0
	upTo    uint64
}

// call does the operation on a log; done may be nil.
func (o op) call(l *journal.Log, done func()) {
	switch {
	case o.drop != 0:
		l.Drop(o.drop, done)
	case o.release != 0:
		l.Release(o.release, o.upTo)
	default:
		w := *o.write
		w.Done = done
		l.Append(w)
	}
}

// model is what a log should hold: plain slices in memory.
type model struct {
	groups map[uint64]*modelGroup
}

type modelGroup struct {
	first    uint64
	entries  []journal.Entry
	state    journal.HardState
	hasState bool
}

func newModel() *model { return &model{groups: make(map[uint64]*modelGroup)} }

func (g *modelGroup) last() uint64 { return g.first + uint64(len(g.entries)) - 1 }

func (m *model) apply(o op) {
	switch {
	case o.drop != 0:
		delete(m.groups, o.drop)
	case o.release != 0:
		g := m.groups[o.release]
		if g == nil {
			return
		}
		if upTo := min(o.upTo, g.last()); upTo >= g.first {
			g.entries = g.entries[upTo+1-g.first:]
			g.first = upTo + 1
		}
	default:
		g := m.groups[o.write.Group]
		if g == nil {
			g = &modelGroup{first: 1}
			m.groups[o.write.Group] = g
		}
		if len(o.write.Entries) > 0 {
			kept := g.entries[:o.write.Entries[0].Index-g.first]
			g.entries = append(slices.Clone(kept), o.write.Entries...)
		}
		if o.write.State != nil {
			g.state, g.hasState = *o.write.State, true
		}
	}
}

// read returns everything a log holds as a model, after checking that its ways of reading agree.
func read(l *journal.Log) (*model, error) {
	m := newModel()
	for _, id := range l.Groups() {
		g := &modelGroup{}
		m.groups[id] = g
		g.state, g.hasState = l.State(id)
		first, last := l.Bounds(id)
		g.first = first
		for index := first; index <= last; {
			entries, err := l.Entries(id, index, last+1, 64<<10)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if e.Index != index {
					return nil, fmt.Errorf("group %d: entry %d is where %d should be", id, e.Index, index)
				}
				if err := checkEntry(l, id, e); err != nil {
					return nil, err
				}
				index++
			}
			g.entries = append(g.entries, entries...)
		}
	}
	return m, nil
}

// checkEntry compares Term and ReadAt with what Entries returned.
func checkEntry(l *journal.Log, group uint64, e journal.Entry) error {
	if term, err := l.Term(group, e.Index); err != nil || term != e.Term {
		return fmt.Errorf("group %d entry %d: Term returned %d, %v, want %d", group, e.Index, term, err, e.Term)
	}
	part := make([]byte, len(e.Data)/2)
	off := len(e.Data) - len(part)
	if err := l.ReadAt(group, e.Index, off, part); err != nil || !bytes.Equal(part, e.Data[off:]) {
		return fmt.Errorf("group %d entry %d: ReadAt returned other bytes than Entries, or %v", group, e.Index, err)
	}
	return nil
}

// diff returns the first difference from what is wanted, or nil.
func (m *model) diff(want *model) error {
	if a, b := slices.Sorted(maps.Keys(m.groups)), slices.Sorted(maps.Keys(want.groups)); !slices.Equal(a, b) {
		return fmt.Errorf("groups %v, want %v", a, b)
	}
	for id, g := range m.groups {
		if err := g.diff(want.groups[id]); err != nil {
			return fmt.Errorf("group %d: %w", id, err)
		}
	}
	return nil
}

func (g *modelGroup) diff(want *modelGroup) error {
	if g.first != want.first || g.last() != want.last() {
		return fmt.Errorf("entries %d to %d, want %d to %d", g.first, g.last(), want.first, want.last())
	}
	if g.hasState != want.hasState || g.state != want.state {
		return fmt.Errorf("state %v %t, want %v %t", g.state, g.hasState, want.state, want.hasState)
	}
	for i, e := range g.entries {
		w := want.entries[i]
		if e.Index != w.Index || e.Term != w.Term || e.Type != w.Type || !bytes.Equal(e.Data, w.Data) {
			return fmt.Errorf("entry %d (term %d type %d, %d bytes), want index %d term %d type %d, %d bytes",
				e.Index, e.Term, e.Type, len(e.Data), w.Index, w.Term, w.Type, len(w.Data))
		}
	}
	return nil
}

// clone returns a copy that may be changed with apply.
func (m *model) clone() *model {
	out := newModel()
	for id, g := range m.groups {
		c := *g
		out.groups[id] = &c
	}
	return out
}
