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

func TestLogKeepsSnapshotsObjectsAndParts(t *testing.T) {
	log := rafttest.NewLog()
	for i := range uint64(5) {
		log.Append(raft.Write{Group: 1, Entries: []raft.Entry{{Index: i + 1, Term: 1 + i/3, Data: []byte("0123456789")}}})
	}
	log.SyncAll()
	log.PutObject(1, 7, []byte("state"), nil)
	snap := raft.Snapshot{SnapshotMeta: raft.SnapshotMeta{Index: 4, Term: 2}, Objects: 7, Count: 1, Bytes: 5}
	log.Append(raft.Write{Group: 1, Snapshot: &snap})
	log.Compact(1, 4)
	check := func(l *rafttest.Log, want string) {
		t.Helper()
		first, last := l.Bounds(1)
		s, ok := l.StoredSnapshot(1)
		term, _ := l.Term(1, first-1)
		p := make([]byte, 3)
		err := l.ReadAt(1, 2, 4, p)
		if got := fmt.Sprint(first, last, s.Index, ok, l.ObjectKeys(1), term, p, err == nil); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	check(log, "5 5 4 true [7] 2 [52 53 54] true")
	check(log.Crash(nil), "1 5 0 false [] 0 [52 53 54] true")
	check(log.Crash(func(uint64, int) int { return 1 }), "1 5 0 false [7] 0 [52 53 54] true")
	check(log.Crash(func(uint64, int) int { return 2 }), "1 5 4 true [7] 0 [52 53 54] true")
	log.SyncAll()
	check(log.Crash(nil), "5 5 4 true [7] 2 [52 53 54] true")

	other := rafttest.NewSyncedLog()
	other.PutObject(1, 9, []byte("state"), nil)
	other.Install(1, 2, 1, 10, []raft.Range{{Off: 4, Len: 3}}, []byte("456"), nil)
	snap.Objects = 9
	other.Append(raft.Write{Group: 1, Snapshot: &snap, Reset: true})
	check(other, "5 4 4 true [9] 2 [52 53 54] true")
	if err := other.ReadAt(1, 2, 3, make([]byte, 3)); err == nil {
		t.Error("bytes that were not installed are read")
	}
	if term, size, err := other.Stat(1, 2); term != 1 || size != 10 || err != nil {
		t.Errorf("Stat: term %d, %d bytes, %v", term, size, err)
	}
}
