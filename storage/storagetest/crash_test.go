package storagetest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// testKey is a node key.
func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, journal.KeyBytes) }

func TestLogSurvivesCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t, 1) {
		for name, cfg := range map[string]CrashConfig{
			"keeping":   {Seed: 0, Ops: 220, Nested: 20},
			"more":      {Seed: 1, Ops: 220, Nested: 20},
			"recycling": {Seed: 2, Ops: 200, Nested: 20, Release: 25},
			"releasing": {Seed: 500, Ops: 220}, // releases what is just being moved
			"spread":    {Seed: 4, Ops: 190, Nested: 40, Release: 25, Dirs: 3},
			"encrypted": {Seed: 3, Ops: 150, Nested: 40, Release: 25, Key: testKey(1)},
		} {
			cfg.Seed += 100 * seed
			if seed > 0 {
				name += fmt.Sprintf("/%d", seed)
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				st := Crash(t, cfg)
				t.Logf("%d crashes, %d files were used again, %d bytes were moved", st.Crashes, st.Reused, st.Moved)
				if st.Crashes < 500 {
					t.Errorf("only %d crashes were tried", st.Crashes)
				}
				if seed > 0 {
					return // what the workloads of the other seeds come to is left to chance
				}
				if cfg.Release > 0 && st.Reused < 3 {
					t.Errorf("only %d files were used again", st.Reused)
				}
				if st.Moved == 0 {
					t.Error("nothing was moved")
				}
			})
		}
	}
}

// seeds is how many seeds a long test tries: the environment variable MILLRACE_STORAGE_SEEDS, or usual.
func seeds(t *testing.T, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv("MILLRACE_STORAGE_SEEDS")
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		t.Fatalf("MILLRACE_STORAGE_SEEDS=%q is no number of seeds", text)
	}
	return n
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
		case o.Kind == vfs.OpRemove || o.Kind == vfs.OpRename: // reclaimed, or reclaimed and kept as a spare
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

// A torn write is cut, another one in its place is torn, too: what is left of both must not be taken
// for damage.
func TestLogSurvivesTornWritesInOnePlace(t *testing.T) {
	base := newManualLog(t, 1, nil)
	w := newWorkload(1)
	for range 30 {
		w.op().call(base.log, func() {})
		base.work()
	}
	// tear opens an image, appends n bytes and returns what power loss in the sync of that leaves.
	tear := func(mem *vfs.Mem, manifest *Catalog, n int, seed uint64) (image *vfs.Mem) {
		m := &manualLog{mem: mem, manifest: manifest, now: time.Unix(1e9, 0)}
		m.open(t, seed, nil)
		armed := false
		mem.SetHook(func(o vfs.Op) error {
			if armed && o.Kind == vfs.OpSync && image == nil {
				image = mem.Crash(vfs.TearUnsynced, seed)
			}
			return nil
		})
		m.work()
		armed = true
		_, last := m.log.Bounds(77)
		m.log.Append(journal.Write{Group: 77, Done: func() {}, Entries: []journal.Entry{
			{Index: last + 1, Term: 1, Data: bytes.Repeat([]byte{byte(seed)}, n)}}})
		m.work()
		mem.SetHook(nil)
		closeLog(t, m.log)
		return image
	}
	torn := 0
	for seed := range uint64(60) {
		once := tear(base.mem.Crash(vfs.KeepUnsynced, seed), base.manifest.Clone(), 6000, 2*seed)
		twice := tear(once.Crash(vfs.KeepUnsynced, seed), base.manifest.Clone(), 4000, 2*seed+1)
		m := &manualLog{mem: twice, manifest: base.manifest.Clone()}
		m.open(t, seed, nil) // fails the test when the log is refused
		if _, last := m.log.Bounds(77); last < 2 {
			torn++
		}
		m.log.Append(journal.Write{Group: 78, Entries: []journal.Entry{{Index: 1, Term: 1}}})
		closeLog(t, m.log)
	}
	if torn < 30 {
		t.Errorf("only %d writes were torn", torn)
	}
	closeLog(t, base.log)
}
