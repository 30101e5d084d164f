package stream

import (
	"github.com/nats-io/nats-server/v2/server/stree"
)

// subjectState is what is known of the stored messages of one subject.
type subjectState struct {
	name        string
	count       uint64
	first, last uint64 // sequences of the oldest and newest stored message
}

// subjectTable numbers the subjects of stored messages. The map serves the path of a publish, the
// tree the wildcard queries. An id is reused only after epoch has changed, so that a filter's cache
// of matching ids stays true within an epoch.
type subjectTable struct {
	epoch  uint64
	ids    map[string]uint32
	tree   *stree.SubjectTree[uint32]
	states []subjectState
	freed  []uint32 // ids without messages; reusable in the next epoch
	free   []uint32
}

func newSubjectTable() subjectTable {
	return subjectTable{ids: map[string]uint32{}, tree: stree.NewSubjectTree[uint32]()}
}

// reuseAfter is how many ids may lie idle before an epoch ends.
const reuseAfter = 1024

// id returns the number of a subject, a new one if need be.
func (t *subjectTable) id(subject []byte) uint32 {
	if id, ok := t.ids[string(subject)]; ok {
		return id
	}
	if len(t.free) == 0 && len(t.freed) > max(reuseAfter, len(t.ids)) {
		t.free, t.freed = t.freed, nil
		t.epoch++
	}
	var id uint32
	if n := len(t.free); n > 0 {
		id, t.free = t.free[n-1], t.free[:n-1]
	} else {
		id = uint32(len(t.states))
		t.states = append(t.states, subjectState{})
	}
	name := string(subject)
	t.states[id] = subjectState{name: name}
	t.ids[name] = id
	t.tree.Insert(subject, id)
	return id
}

// drop forgets a subject whose last message is gone.
func (t *subjectTable) drop(id uint32) {
	name := t.states[id].name
	delete(t.ids, name)
	t.tree.Delete([]byte(name))
	t.states[id] = subjectState{}
	t.freed = append(t.freed, id)
}

// get returns the state of a literal subject, or nil.
func (t *subjectTable) get(subject string) *subjectState {
	if id, ok := t.ids[subject]; ok {
		return &t.states[id]
	}
	return nil
}

// match calls fn for every subject that filter matches.
func (t *subjectTable) match(filter string, fn func(id uint32, st *subjectState)) {
	t.tree.Match([]byte(filter), func(_ []byte, id *uint32) { fn(*id, &t.states[*id]) })
}
