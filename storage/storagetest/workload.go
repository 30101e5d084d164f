package storagetest

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"

	"millrace/storage/journal"
)

// workload makes up operations that a log accepts, from a seed.
type workload struct {
	rnd   *rand.Rand
	model *model // after all operations made so far
	next  uint64 // the next unused group id
	term  uint64

	releases int  // of 100 operations, on top of the usual ones
	plain    bool // only entries and hard states: nothing that is needed leaves the log
	needs    *needs
	then     []op // what has to come next
}

func newWorkload(seed uint64) *workload {
	return &workload{rnd: rand.New(rand.NewPCG(seed, 0)), model: newModel(), next: 1, term: 1, needs: newNeeds()}
}

// op makes up the next operation.
func (w *workload) op() op {
	var o op
	if len(w.then) > 0 {
		o, w.then = w.then[0], w.then[1:]
	} else {
		o = w.makeUp()
	}
	w.model.apply(o)
	return o
}

func (w *workload) makeUp() op {
	ids := slices.Sorted(maps.Keys(w.model.groups))
	if len(ids) < 4 {
		w.next++
		return op{write: w.append(w.next-1, 1, 1+w.rnd.IntN(3))}
	}
	id := ids[w.rnd.IntN(len(ids))]
	g := w.model.groups[id]
	pin := id == ids[0] && id%2 == 1 // some groups keep everything for a while, and with it their segments
	if w.releases > 0 && w.rnd.IntN(100) < w.releases && len(g.entries) > 0 {
		return op{release: id, upTo: g.last()}
	}
	if g.awaits > 0 && w.rnd.IntN(4) > 0 {
		return op{write: w.reset(id, g)}
	}
	if !w.plain && w.rnd.IntN(100) < 40 {
		if o, ok := w.compacting(id, g); ok {
			return o
		}
	}
	if g.awaits > 0 { // nothing else may happen to the log
		return op{write: &journal.Write{Group: id, State: w.state(g)}}
	}
	switch k := w.rnd.IntN(100); {
	case k < 3:
		return op{drop: id}
	case k < 12 && len(g.entries) > 0 && !pin:
		return op{release: id, upTo: g.first + uint64(w.rnd.IntN(len(g.entries)))}
	case k < 25:
		return op{write: &journal.Write{Group: id, State: w.state(g)}}
	case k < 35 && g.last() > max(g.state.Commit, g.first-1): // a new leader voids a suffix that is not committed
		w.term++
		from := max(g.state.Commit+1, g.first)
		return op{write: w.append(id, from+w.rnd.Uint64N(g.last()-from+1), 1+w.rnd.IntN(3))}
	case k < 40:
		write := w.append(id, g.last()+1, 1+w.rnd.IntN(2))
		write.State = w.state(g)
		return op{write: write}
	default:
		return op{write: w.append(id, g.last()+1, 1+w.rnd.IntN(5))}
	}
}

// compacting makes up an operation around what leaves the log; false when the group is in no state for it.
func (w *workload) compacting(id uint64, g *modelGroup) (op, bool) {
	switch k := w.rnd.IntN(20); {
	case k < 5 && len(g.entries) > 0:
		upTo := g.first + uint64(w.rnd.IntN(len(g.entries)))
		if upTo > g.state.Commit {
			return op{}, false
		}
		w.need(id, g, upTo)
		return op{compact: id, upTo: upTo}, true
	case k < 8:
		w.forget(id)
		return op{}, false
	case k < 11:
		key := uint64(w.rnd.IntN(6))
		return op{group: id, put: &object{key, w.data()}}, true
	case k < 13 && len(g.objects) > 0:
		keys := slices.Sorted(maps.Keys(g.objects))
		return op{group: id, remove: keys[:1+w.rnd.IntN(len(keys))]}, true
	case k < 15:
		index := max(g.last(), g.awaits) + 1 + w.rnd.Uint64N(3)
		in := &install{index: index, term: w.term, data: w.data()}
		in.parts = w.parts(in.data)
		w.needs.set(id, index, in.parts)
		if n := len(in.parts); n > 0 && in.parts[n-1].Len > 10 && w.rnd.IntN(2) == 0 { // in two pieces
			first, second := *in, *in
			cut := in.parts[n-1]
			first.parts = append(slices.Clone(in.parts[:n-1]), journal.Range{Off: cut.Off, Len: 7})
			second.parts = []journal.Range{{Off: cut.Off + 7, Len: cut.Len - 7}}
			w.then = append(w.then, op{group: id, install: &second})
			in = &first
		}
		return op{group: id, install: in}, true
	case k < 17 && g.awaits == 0:
		return w.repair(id, g)
	case k < 18:
		return op{write: &journal.Write{Group: id, Snapshot: w.snapshot(g.first)}}, true
	}
	return op{}, false
}

// repair installs all of an entry that is there.
func (w *workload) repair(id uint64, g *modelGroup) (op, bool) {
	if len(g.entries) > 0 && g.first <= g.state.Commit {
		e := g.entries[w.rnd.Uint64N(min(g.state.Commit, g.last())-g.first+1)]
		return op{group: id, repair: &e}, true
	}
	for _, index := range slices.Sorted(maps.Keys(g.old)) {
		if in := g.old[index]; index < g.first && len(in.parts) > 0 {
			return op{group: id, install: in}, true
		}
	}
	return op{}, false
}

// need makes up what is needed of entries that leave the log.
func (w *workload) need(id uint64, g *modelGroup, upTo uint64) {
	for _, e := range g.entries {
		if e.Index <= upTo {
			w.needs.set(id, e.Index, w.parts(e.Data))
		}
	}
}

// parts makes up which parts of an entry are needed.
func (w *workload) parts(data []byte) []journal.Range {
	switch n := uint32(len(data)); {
	case w.rnd.IntN(3) == 0 || n == 0:
		return nil
	case w.rnd.IntN(2) == 0 || n < 8:
		return whole(data)
	default:
		return []journal.Range{{Off: w.rnd.Uint32N(n / 4), Len: 1 + w.rnd.Uint32N(n/4)}, {Off: n / 2, Len: n / 4}}
	}
}

// forget makes up that some entries are not needed any more.
func (w *workload) forget(id uint64) {
	parts := w.needs.get(id)
	for _, index := range slices.Sorted(maps.Keys(parts)) {
		switch p := parts[index]; {
		case w.rnd.IntN(3) == 0:
			w.needs.set(id, index, nil)
		case len(p) > 1:
			w.needs.set(id, index, p[1:])
		}
	}
}

func (w *workload) snapshot(index uint64) *journal.Snapshot {
	return &journal.Snapshot{Index: index, Term: w.term, Members: []byte("members"), Objects: w.rnd.Uint64(), Count: w.rnd.IntN(9),
		Bytes: w.rnd.Int64(), Checksum: w.rnd.Uint32()}
}

// reset makes up a snapshot with which a group begins anew.
func (w *workload) reset(id uint64, g *modelGroup) *journal.Write {
	index := max(g.last(), g.awaits) + uint64(w.rnd.IntN(5))
	keep := min(g.state.Commit, g.last())
	keep += w.rnd.Uint64N(g.last() - keep + 1)
	w.need(id, g, keep)
	write := w.append(id, index+1, w.rnd.IntN(3))
	write.Snapshot, write.Reset, write.Keep = w.snapshot(index), true, keep
	if w.rnd.IntN(2) == 0 {
		write.State = &journal.HardState{Term: w.term, Vote: w.rnd.Uint64(), Commit: index}
	}
	return write
}

func (w *workload) state(g *modelGroup) *journal.HardState {
	commit := min(g.state.Commit, g.last())
	commit = max(g.first-1, commit+w.rnd.Uint64N(g.last()-commit+1))
	return &journal.HardState{Term: w.term, Vote: w.rnd.Uint64(), Commit: max(commit, g.state.Commit)}
}

func (w *workload) append(group, index uint64, n int) *journal.Write {
	write := &journal.Write{Group: group}
	for i := range uint64(n) {
		write.Entries = append(write.Entries, journal.Entry{
			Index: index + i,
			Term:  w.term,
			Type:  uint8(w.rnd.IntN(3)),
			Data:  w.data(),
		})
	}
	return write
}

// data makes up random bytes; some have whole sectors of zeros, as a lost sector has.
func (w *workload) data() []byte {
	n := w.rnd.IntN(900)
	switch w.rnd.IntN(20) {
	case 0:
		n = 0
	case 1:
		n = 4096 + w.rnd.IntN(12<<10)
	}
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], w.rnd.Uint64())
	}
	if n > 4096 && w.rnd.IntN(2) == 0 {
		clear(b[1024:4096])
	}
	return b
}
