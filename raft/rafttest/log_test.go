package rafttest_test

import (
	"fmt"
	"slices"
	"testing"

	"millrace/raft"
	"millrace/raft/rafttest"
)

func TestLogCrashKeepsWhatWasDurable(t *testing.T) {
	log := rafttest.NewLog()
	var done []uint64 // indexes and terms of the writes whose Done was called
	add := func(index, term uint64) {
		log.Append(raft.Write{Group: 1, Entries: []raft.Entry{{Index: index, Term: term}},
			State: &raft.HardState{Term: term}, Done: func() { done = append(done, index, term) }})
	}
	terms := func(l *rafttest.Log) string {
		var all []uint64
		for _, e := range l.All(1) {
			all = append(all, e.Term)
		}
		state, ok := l.State(1)
		return fmt.Sprint(all, state.Term, ok)
	}
	add(1, 1)
	add(2, 1)
	log.Sync(1, 2)
	add(3, 2)
	add(2, 3) // voids 2 and 3
	add(3, 4)
	if want := []uint64{1, 1, 2, 1}; !slices.Equal(done, want) {
		t.Fatalf("Done of writes (index, term) %v, want %v", done, want)
	}
	for keep, want := range []string{"[1 1] 1 true", "[1 1 2] 2 true", "[1 3] 3 true", "[1 3 4] 4 true"} {
		if got := terms(log.Crash(func(uint64, int) int { return keep })); got != want {
			t.Errorf("after a crash that kept %d: %s, want %s", keep, got, want)
		}
	}
	if got := terms(log); got != "[1 3 4] 4 true" {
		t.Errorf("visible: %s", got)
	}
	dropped := false
	log.Drop(1, func() { dropped = true })
	if got := terms(log.Crash(nil)); got != "[1 1] 1 true" || dropped {
		t.Errorf("after a crash before the deletion is durable: %s, done %t", got, dropped)
	}
	log.SyncAll()
	if got := terms(log.Crash(nil)); got != "[] 0 false" || !dropped {
		t.Errorf("after the deletion: %s, done %t", got, dropped)
	}
}
