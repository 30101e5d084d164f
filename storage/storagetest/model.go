package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"millrace/storage/journal"
)

// op is one call on a log, for the log and for the model alike.
type op struct {
	write   *journal.Write // Append
	drop    uint64         // Drop, when not 0
	release uint64         // Release of this group, when not 0
	compact uint64         // Compact of this group, when not 0
	upTo    uint64
	put     *object        // PutObject
	remove  []uint64       // DeleteObjects of these keys of group
	install *install       // Install
	repair  *journal.Entry // Repair
	group   uint64         // of put, remove, install and repair
}

// object is a blob of a group.
type object struct {
	key  uint64
	data []byte
}

// install is the parts of an entry that are installed; data is that of the whole entry.
type install struct {
	index, term uint64
	data        []byte
	parts       []journal.Range
}

// lazy reports whether the operation has no Done.
func (o op) lazy() bool { return o.release != 0 || o.compact != 0 || len(o.remove) > 0 }

// call does the operation on a log; done may be nil.
func (o op) call(l *journal.Log, done func()) {
	switch {
	case o.drop != 0:
		l.Drop(o.drop, done)
	case o.release != 0:
		l.Release(o.release, o.upTo)
	case o.compact != 0:
		l.Compact(o.compact, o.upTo)
	case o.put != nil:
		l.PutObject(o.group, o.put.key, o.put.data, done)
	case len(o.remove) > 0:
		l.DeleteObjects(o.group, o.remove...)
	case o.repair != nil:
		l.Repair(o.group, *o.repair, done)
	case o.install != nil:
		in := o.install
		var data []byte
		for _, p := range in.parts {
			data = append(data, in.data[p.Off:p.Off+p.Len]...)
		}
		l.Install(o.group, in.index, in.term, uint32(len(in.data)), in.parts, data, done)
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
	objects  map[uint64][]byte
	snap     *journal.Snapshot
	old      map[uint64]*install // what may be readable before first, or will
	released uint64
	awaits   uint64 // entries up to here were installed, for a Reset
}

func newModel() *model { return &model{groups: make(map[uint64]*modelGroup)} }

func (g *modelGroup) last() uint64 { return g.first + uint64(len(g.entries)) - 1 }

func (m *model) apply(o op) {
	id := max(o.drop, o.release, o.compact, o.group)
	if o.write != nil {
		id = o.write.Group
	}
	g := m.groups[id]
	if g == nil && (o.write != nil || o.put != nil || o.install != nil) {
		g = &modelGroup{first: 1, objects: make(map[uint64][]byte), old: make(map[uint64]*install)}
		m.groups[id] = g
	}
	switch {
	case o.drop != 0:
		delete(m.groups, o.drop)
	case g == nil, o.repair != nil:
	case o.release != 0, o.compact != 0:
		upTo := min(o.upTo, g.last())
		g.compact(upTo)
		if o.release != 0 {
			g.released = max(g.released, upTo)
			maps.DeleteFunc(g.old, func(index uint64, _ *install) bool { return index <= upTo })
		}
	case o.put != nil:
		g.objects[o.put.key] = o.put.data
	case len(o.remove) > 0:
		for _, key := range o.remove {
			delete(g.objects, key)
		}
	case o.install != nil:
		if was, ok := g.old[o.install.index]; !ok {
			g.old[o.install.index] = o.install
		} else if o.install.index > g.last() { // the next piece
			both := *was
			both.parts = append(slices.Clone(was.parts), o.install.parts...)
			g.old[o.install.index] = &both
		}
		if o.install.index > g.last() {
			g.awaits = o.install.index
		}
	default:
		g.write(o.write)
	}
}

// compact moves the first index, and keeps what was before it.
func (g *modelGroup) compact(upTo uint64) {
	for ; g.first <= upTo && len(g.entries) > 0; g.first++ {
		e := g.entries[0]
		g.old[e.Index] = &install{index: e.Index, term: e.Term, data: e.Data, parts: whole(e.Data)}
		g.entries = g.entries[1:]
	}
}

// whole is all of an entry's data.
func whole(data []byte) []journal.Range {
	if len(data) == 0 {
		return nil
	}
	return []journal.Range{{Off: 0, Len: uint32(len(data))}}
}

func (g *modelGroup) write(w *journal.Write) {
	if w.Snapshot != nil {
		g.snap = w.Snapshot
	}
	if w.Reset {
		g.compact(min(max(g.state.Commit, w.Keep), g.last(), w.Snapshot.Index))
		g.entries, g.first, g.awaits = nil, w.Snapshot.Index+1, 0
	}
	if len(w.Entries) > 0 {
		kept := g.entries[:w.Entries[0].Index-g.first]
		g.entries = append(slices.Clone(kept), w.Entries...)
	}
	if w.State != nil {
		g.state, g.hasState = *w.State, true
	}
}

// needs is what is needed of the entries before the first ones; it answers as the Retainer of each
// group. What is needed grows only before an entry is compacted or installed.
type needs struct {
	mu     sync.Mutex
	groups map[uint64]map[uint64][]journal.Range
}

func newNeeds() *needs { return &needs{groups: make(map[uint64]map[uint64][]journal.Range)} }

func (n *needs) set(group, index uint64, parts []journal.Range) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.groups[group] == nil {
		n.groups[group] = make(map[uint64][]journal.Range)
	}
	n.groups[group][index] = parts
}

// get returns a group's needs at this moment.
func (n *needs) get(group uint64) map[uint64][]journal.Range {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.groups[group])
}

// retainer is the Retainer of a group.
type retainer struct {
	needs *needs
	group uint64
}

func (r retainer) Live(lo, hi uint64, yield func(uint64, []journal.Range) bool) error {
	parts := r.needs.get(r.group)
	for _, index := range slices.Sorted(maps.Keys(parts)) {
		if index >= lo && index < hi && len(parts[index]) > 0 && !yield(index, parts[index]) {
			return nil
		}
	}
	return nil
}

func (r retainer) LiveBytes(lo, hi uint64) (n int64) {
	r.Live(lo, hi, func(_ uint64, parts []journal.Range) bool {
		for _, p := range parts {
			n += int64(p.Len)
		}
		return true
	})
	return n
}

// kept reports whether all entries of a group are kept: it has no Retainer.
func kept(group uint64) bool { return group%4 == 0 }

// checkOld checks what a log has of entries before the first ones: what is needed is there, and what
// else is there is what was written.
func checkOld(l *journal.Log, m *model, n *needs) error {
	for id, g := range m.groups {
		needed := n.get(id)
		for index, in := range g.old {
			if index >= g.first {
				continue
			}
			parts := needed[index]
			if kept(id) {
				parts = in.parts
			}
			for _, p := range parts {
				b := make([]byte, p.Len)
				if err := l.ReadAt(id, index, int(p.Off), b); err != nil {
					return fmt.Errorf("group %d: bytes %d to %d of entry %d are needed: %w", id, p.Off, p.Off+p.Len, index, err)
				}
				if !bytes.Equal(b, in.data[p.Off:p.Off+p.Len]) {
					return fmt.Errorf("group %d: bytes %d to %d of entry %d differ", id, p.Off, p.Off+p.Len, index)
				}
			}
			b := make([]byte, len(in.data)/3)
			err := l.ReadAt(id, index, len(b), b)
			if err == nil && !bytes.Equal(b, in.data[len(b):2*len(b)]) {
				return fmt.Errorf("group %d: %d bytes of entry %d, that nobody needs, differ", id, len(b), index)
			}
			if err != nil && !errors.Is(err, journal.ErrCompacted) {
				return fmt.Errorf("group %d: entry %d: %w", id, index, err)
			}
		}
	}
	return nil
}

// read returns everything a log holds as a model, after checking that its ways of reading agree.
func read(l *journal.Log) (*model, error) {
	m := newModel()
	for _, id := range l.Groups() {
		g := &modelGroup{objects: make(map[uint64][]byte)}
		m.groups[id] = g
		if snap, ok := l.StoredSnapshot(id); ok {
			g.snap = &snap
		}
		for _, key := range l.ObjectKeys(id) {
			data, err := l.Object(id, key)
			if err != nil {
				return nil, err
			}
			g.objects[key] = data
		}
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

// checkEntry compares Term, Stat and ReadAt with what Entries returned.
func checkEntry(l *journal.Log, group uint64, e journal.Entry) error {
	if term, err := l.Term(group, e.Index); err != nil || term != e.Term {
		return fmt.Errorf("group %d entry %d: Term returned %d, %v, want %d", group, e.Index, term, err, e.Term)
	}
	if term, size, err := l.Stat(group, e.Index); err != nil || term != e.Term || int(size) != len(e.Data) {
		return fmt.Errorf("group %d entry %d: Stat returned term %d, %d bytes, %v, want term %d, %d bytes",
			group, e.Index, term, size, err, e.Term, len(e.Data))
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
	if (g.snap == nil) != (want.snap == nil) || g.snap != nil && !reflect.DeepEqual(*g.snap, *want.snap) {
		return fmt.Errorf("snapshot %v, want %v", g.snap, want.snap)
	}
	if !maps.EqualFunc(g.objects, want.objects, bytes.Equal) {
		return fmt.Errorf("objects %v, want %v, or other data", slices.Sorted(maps.Keys(g.objects)),
			slices.Sorted(maps.Keys(want.objects)))
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
		c.objects, c.old = maps.Clone(g.objects), maps.Clone(g.old)
		out.groups[id] = &c
	}
	return out
}
