package storagetest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

func TestLogSurvivesCrashAtEveryOperation(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if n := Crash(t, CrashConfig{Seed: seed, Ops: 220, Nested: 20}); n < 500 {
				t.Errorf("only %d crashes were tried", n)
			}
		})
	}
}

// A write that fills several segments may be cut between two entries, but never has a commit index
// beyond them.
func TestLogSurvivesCrashInSplitWrite(t *testing.T) {
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	store := Store{FS: mem, Dir: "/journal", Catalog: manifest}
	l := store.open(t)
	const n = 12
	write := newWorkload(1).append(1, 1, n)
	for i := range write.Entries {
		write.Entries[i].Data = bytes.Repeat([]byte{byte(i + 1)}, 60<<10)
	}
	write.State = &journal.HardState{Term: 1, Vote: 5, Commit: n}
	seen := make(map[uint64]bool)
	try := func(what string, loss vfs.Loss, seed uint64) {
		image := Store{FS: mem.Crash(loss, seed), Dir: "/journal", Catalog: manifest.Clone()}
		l := image.open(t)
		defer closeLog(t, l)
		_, last := l.Bounds(1)
		seen[last] = true
		state, ok := l.State(1)
		if last > 0 && (!ok || state.Term != 1 || state.Vote != 5) || state.Commit > last {
			t.Errorf("crash before %s: %d entries, state %v", what, last, state)
		}
		for index := uint64(1); index <= last; index++ {
			e, err := l.Entries(1, index, index+1, 1)
			if err != nil || !bytes.Equal(e[0].Data, write.Entries[index-1].Data) {
				t.Errorf("crash before %s: entry %d differs or %v", what, index, err)
			}
		}
	}
	var mu sync.Mutex
	before := func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		try(what, vfs.LoseUnsynced, 0)
		try(what, vfs.TearUnsynced, uint64(len(seen)))
		return nil
	}
	mem.SetHook(func(o vfs.Op) error { return before(o.String()) })
	manifest.SetHook(before)
	done := make(chan struct{})
	write.Done = func() { close(done) }
	l.Append(*write)
	<-done
	closeLog(t, l)
	try("the end", vfs.LoseUnsynced, 0)
	if len(seen) < 4 || !seen[0] || !seen[n] {
		t.Errorf("the crashes left %v entries, want several lengths", seen)
	}
}

// A segment must not be deleted while the release of one of its entries is only in memory.
func TestLogReclaimWaitsForDurableRelease(t *testing.T) {
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	store := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}
	l := store.open(t)
	w := newWorkload(1)
	l.Append(*w.append(1, 1, 3))
	index := uint64(0)
	for l.Place(2, index) == "nowhere" || !strings.Contains(l.Place(2, index), "0000000002.seg") {
		index++
		write := w.append(2, index, 1)
		write.Entries[0].Data = make([]byte, 5000)
		l.Append(*write)
		wait(t, l)
	}
	removed := make(chan struct{})
	var mu sync.Mutex // as in crasher: disk and catalog are copied at one moment
	armed, removals := true, 0
	manifest.SetHook(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		return nil
	})
	mem.SetHook(func(o vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case o.Kind == vfs.OpSync && armed && strings.HasSuffix(o.Name, "0000000002.seg"):
			armed = false
			l.Release(1, 3) // while the release of group 2 is synced
		case o.Kind == vfs.OpRemove:
			after := Store{FS: mem.Crash(vfs.LoseUnsynced, 1), Dir: "/journal", Catalog: manifest.Clone(), small: true}
			l := after.open(t)
			if first, last := l.Bounds(1); first != 4 || last != 3 {
				t.Errorf("a segment was deleted while group 1 has entries %d to %d on disk", first, last)
			}
			closeLog(t, l)
			if removals++; removals == 1 {
				close(removed)
			}
		}
		return nil
	})
	l.Release(2, index-1)
	wait(t, l)
	<-removed
	mem.SetHook(nil)
	closeLog(t, l)
}
