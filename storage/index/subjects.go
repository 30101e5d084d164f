package index

import (
	"hash/maphash"
	"slices"
)

// Subject is the number of a subject that has messages. It belongs to the subject until its last
// message is gone.
type Subject uint32

// state is what is known of the messages of one subject.
//
//  1. count is the number of live messages.
//  2. first is at or before the oldest of them, and behind every one that was removed as the oldest.
//  3. last is the newest of them.
type state struct {
	name        nameRef
	count       uint64
	first, last uint64
}

const statesLen = 256

// states are those of statesLen consecutive numbers: what is copied at once after a capture.
type states struct {
	gen uint64
	s   []state
}

// reuseAfter is how many numbers may lie idle before they are given out again.
const reuseAfter = 1024

// subjectTable numbers the subjects. A number is reused only after epoch has changed, so that what
// a filter remembers of numbers is true within an epoch. Epochs are this process's own.
type subjectTable struct {
	epoch  uint64
	lists  []*states
	n      uint32 // numbers given out
	recent uint32 // number of the last message appended, or any other
	live   int
	idle   []uint32 // numbers without messages, reusable in the next epoch
	free   []uint32
	names  names
	order  order
	seed   maphash.Seed
	byHash map[uint32]uint32
	// collided has the subjects whose hash was taken. Names that collide on purpose cost no more
	// than others there.
	collided map[string]uint32
}

func newSubjectTable() subjectTable {
	return subjectTable{names: newNames(), seed: maphash.MakeSeed(), byHash: map[uint32]uint32{}}
}

func (t *subjectTable) hash(name []byte) uint32 { return uint32(maphash.Bytes(t.seed, name)) }

// state returns the state of a number for reading.
func (t *subjectTable) state(id uint32) *state { return &t.lists[id/statesLen].s[id%statesLen] }

// own returns the state of a number for a change, copying what a capture refers to.
func (t *subjectTable) own(ix *Index, id uint32) *state {
	k := id / statesLen
	if x := t.lists[k]; x.gen <= ix.frozen.Load() {
		t.lists[k] = &states{gen: ix.gen, s: slices.Clone(x.s)}
	}
	return &t.lists[k].s[id%statesLen]
}

func (t *subjectTable) name(id uint32) []byte { return t.names.get(t.state(id).name) }

// find returns the number of a subject that has messages.
func (t *subjectTable) find(name []byte) (uint32, bool) {
	if id := t.recent; id < t.n { // one after the other on the same subject is common
		if st := t.state(id); st.count > 0 && string(t.names.get(st.name)) == string(name) {
			return id, true
		}
	}
	if id, ok := t.byHash[t.hash(name)]; ok && string(t.name(id)) == string(name) {
		return id, true
	}
	id, ok := t.collided[string(name)]
	return id, ok
}

// add gives a new subject a number. The caller sets its state.
func (t *subjectTable) add(ix *Index, name []byte) uint32 {
	if len(t.free) == 0 && len(t.idle) > max(reuseAfter, t.live) {
		t.free, t.idle = t.idle, nil
		t.epoch++
	}
	var id uint32
	if k := len(t.free); k > 0 {
		id, t.free = t.free[k-1], t.free[:k-1]
	} else {
		id = t.n
		t.grow(ix)
	}
	st := t.own(ix, id)
	*st = state{name: t.names.add(id, name)}
	t.link(id, name)
	t.order.insert(ix, t, id, name)
	t.live++
	return id
}

// grow makes room for the state of number n.
func (t *subjectTable) grow(ix *Index) {
	k := int(t.n / statesLen)
	if k == len(t.lists) {
		t.lists = append(t.lists, &states{gen: ix.gen})
	}
	if i := int(t.n % statesLen); i == len(t.lists[k].s) { // a restored list is full
		if x := t.lists[k]; x.gen <= ix.frozen.Load() {
			t.lists[k] = &states{gen: ix.gen, s: slices.Clone(x.s)}
		}
		t.lists[k].s = append(t.lists[k].s, state{})
	}
	t.n++
}

// link makes a number findable by name.
func (t *subjectTable) link(id uint32, name []byte) {
	h := t.hash(name)
	if _, taken := t.byHash[h]; !taken {
		t.byHash[h] = id
		return
	}
	if t.collided == nil {
		t.collided = map[string]uint32{}
	}
	t.collided[string(name)] = id
}

// drop takes out a subject whose last message is gone.
func (t *subjectTable) drop(ix *Index, id uint32) {
	name := t.name(id)
	h := t.hash(name)
	if found, ok := t.byHash[h]; ok && found == id {
		delete(t.byHash, h)
	} else {
		delete(t.collided, string(name))
	}
	t.order.remove(ix, t, name)
	r := t.state(id).name
	*t.own(ix, id) = state{}
	t.live--
	t.idle = append(t.idle, id)
	page := t.names.drop(r)
	if page < 0 {
		return
	}
	t.names.empty(page, func(id uint32, r nameRef, name []byte) {
		if st := t.state(id); st.count > 0 && st.name == r {
			t.own(ix, id).name = t.names.add(id, name)
		}
	})
}

// clear takes out all subjects.
func (t *subjectTable) clear() {
	epoch := t.epoch + 1
	*t = newSubjectTable()
	t.epoch = epoch
}
