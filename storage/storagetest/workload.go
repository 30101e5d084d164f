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
}

func newWorkload(seed uint64) *workload {
	return &workload{rnd: rand.New(rand.NewPCG(seed, 0)), model: newModel(), next: 1, term: 1}
}

// op makes up the next operation.
func (w *workload) op() op {
	o := w.makeUp()
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
	switch k := w.rnd.IntN(100); {
	case k < 3:
		return op{drop: id}
	case k < 20 && len(g.entries) > 0 && !pin:
		return op{release: id, upTo: g.first + uint64(w.rnd.IntN(len(g.entries)))}
	case k < 25:
		return op{write: &journal.Write{Group: id, State: w.state(g)}}
	case k < 35 && len(g.entries) > 0: // a new leader voids a suffix
		w.term++
		return op{write: w.append(id, g.first+uint64(w.rnd.IntN(len(g.entries))), 1+w.rnd.IntN(3))}
	case k < 40:
		write := w.append(id, g.last()+1, 1+w.rnd.IntN(2))
		write.State = w.state(g)
		return op{write: write}
	default:
		return op{write: w.append(id, g.last()+1, 1+w.rnd.IntN(5))}
	}
}

func (w *workload) state(g *modelGroup) *journal.HardState {
	return &journal.HardState{Term: w.term, Vote: w.rnd.Uint64(), Commit: g.last()}
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
