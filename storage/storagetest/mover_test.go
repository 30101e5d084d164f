package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// lastPerKey is a machine that keeps the last entry of each key, and the Retainer of its log.
type lastPerKey struct {
	mu   sync.Mutex
	last map[int]uint64 // index by key
	live map[uint64]int // key by index
	size uint32
}

func newLastPerKey(size uint32) *lastPerKey {
	return &lastPerKey{last: make(map[int]uint64), live: make(map[uint64]int), size: size}
}

func (k *lastPerKey) put(key int, index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.live, k.last[key])
	k.last[key], k.live[index] = index, key
}

// drop deletes all but the newest n entries, as a stream with a limit does.
func (k *lastPerKey) drop(newest uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.live, func(index uint64, _ int) bool { return index < newest })
}

func (k *lastPerKey) Live(lo, hi uint64, yield func(uint64, []journal.Range) bool) error {
	k.mu.Lock()
	var found []uint64
	for index := range k.live {
		if index >= lo && index < hi {
			found = append(found, index)
		}
	}
	k.mu.Unlock()
	slices.Sort(found)
	for _, index := range found {
		if !yield(index, []journal.Range{{Off: 0, Len: k.size}}) {
			return nil
		}
	}
	return nil
}

func (k *lastPerKey) LiveBytes(lo, hi uint64) (n int64) {
	k.Live(lo, hi, func(uint64, []journal.Range) bool { n += int64(k.size); return true })
	return n
}

func keyData(key int, index uint64, size int) []byte {
	b := fmt.Appendf(nil, "key %d index %d ", key, index)
	return append(b, bytes.Repeat([]byte{byte(key)}, size-len(b))...)
}

// Overwritten keys and some that never are: the log stays below twice what is needed and a few segments,
// and all that is needed is there, also after a restart.
func TestMoverBoundsSpaceOfOverwrittenKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, hot, cold, writes = 1000, 300, 100, 5000
		mem, manifest := vfs.NewMem(), NewCatalog(1)
		cfg := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}.config()
		cfg.SlackBytes = 0
		cfg.OnFatal = func(err error) { t.Errorf("log stopped: %v", err) }
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		keys := newLastPerKey(size)
		l.Retain(1, keys)
		rnd := rand.New(rand.NewPCG(1, 2))
		most := int64(0)
		for index := uint64(1); index <= writes; index++ {
			key := hot + int(index-1)
			if index > cold {
				key = rnd.IntN(hot)
			}
			done := make(chan struct{})
			l.Append(journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: index},
				Entries: []journal.Entry{{Index: index, Term: 1, Data: keyData(key, index, size)}}, Done: func() { close(done) }})
			<-done
			keys.put(key, index)
			if index%20 == 0 {
				l.Compact(1, index-10)
				<-time.After(time.Second)
				synctest.Wait()
			}
			if index > 1000 {
				most = max(most, l.Stats().Bytes)
			}
		}
		// An entry that is written alone takes a block. Moved ones are dense.
		live := int64(hot+cold) * 4096
		if limit := 2*live + 8*smallSegmentBytes; most > limit {
			t.Errorf("the log took up to %d bytes, want at most %d", most, limit)
		}
		st := l.Stats()
		if st.Moved == 0 || st.Moved > st.Appended/2 {
			t.Errorf("%d of %d bytes were moved", st.Moved, st.Appended)
		}
		t.Logf("at most %d bytes for %d needed, %d of %d appended bytes were moved", most, (hot+cold)*size, st.Moved, st.Appended)
		for round := range 2 {
			for key, index := range keys.last {
				b := make([]byte, size)
				if err := l.ReadAt(1, index, 0, b); err != nil || !bytes.Equal(b, keyData(key, index, size)) {
					t.Fatalf("round %d: key %d, entry %d is not there: %v", round, key, index, err)
				}
			}
			closeLog(t, l)
			if l, err = journal.Open(cfg); err != nil {
				t.Fatal(err)
			}
		}
		closeLog(t, l)
	})
}

// What dies in the order in which it was written is given back without moving anything.
func TestMoverMovesNothingOfQueues(t *testing.T) {
	for _, released := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const size, window, writes = 1000, 200, 2000
			mem, manifest := vfs.NewMem(), NewCatalog(1)
			cfg := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}.config()
			cfg.SlackBytes = 0
			l, err := journal.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			queue := newLastPerKey(size)
			l.Retain(1, queue)
			for index := uint64(1); index <= writes; index++ {
				done := make(chan struct{})
				l.Append(journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: index},
					Entries: []journal.Entry{{Index: index, Term: 1, Data: keyData(1, index, size)}}, Done: func() { close(done) }})
				<-done
				queue.put(int(index), index)
				if index > window {
					queue.drop(index - window)
					if released {
						l.Release(1, index-window)
					} else {
						l.Compact(1, index-5)
					}
				}
				if index%20 == 0 {
					<-time.After(time.Second)
					synctest.Wait()
				}
			}
			if st := l.Stats(); st.Moved != 0 || st.Bytes > window*4096+10*smallSegmentBytes {
				t.Errorf("released %t: %+v", released, st)
			}
			closeLog(t, l)
		})
	}
}

// Without a Retainer nothing that was only compacted is given up.
func TestMoverKeepsAllWithoutRetainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, manifest := vfs.NewMem(), NewCatalog(1)
		s := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}
		l := s.open(t)
		const n = 200
		for index := uint64(1); index <= n; index++ {
			done := make(chan struct{})
			l.Append(journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: index},
				Entries: []journal.Entry{{Index: index, Term: 1, Data: keyData(1, index, 1000)}}, Done: func() { close(done) }})
			<-done
			l.Compact(1, index)
			l.Append(journal.Write{Group: 2, Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}})
			l.Release(2, index)
			<-time.After(time.Second)
		}
		rest(time.Minute)
		for range 2 {
			for index := uint64(1); index <= n; index++ {
				b := make([]byte, 1000)
				if err := l.ReadAt(1, index, 0, b); err != nil || !bytes.Equal(b, keyData(1, index, 1000)) {
					t.Fatalf("entry %d: %v", index, err)
				}
			}
			if _, err := l.Entries(1, n, n+1, 1); !errors.Is(err, journal.ErrCompacted) {
				t.Errorf("Entries before the first index returned %v", err)
			}
			closeLog(t, l)
			l = s.open(t)
		}
		closeLog(t, l)
	})
}

// A segment with a damaged record that is needed is kept, whatever else dies in it.
func TestMoverKeepsDamagedSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, manifest := vfs.NewMem(), NewCatalog(1)
		s := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}
		l := s.open(t)
		keys := newLastPerKey(1000)
		l.Retain(1, keys)
		append1 := func(index uint64) {
			done := make(chan struct{})
			l.Append(journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: index},
				Entries: []journal.Entry{{Index: index, Term: 1, Data: keyData(int(index), index, 1000)}}, Done: func() { close(done) }})
			<-done
		}
		append1(1)
		append1(2)
		keys.put(1, 1)
		keys.put(2, 2)
		file := "/journal/0000000001.seg"
		at := int64(bytes.Index(contents(t, mem)[file], []byte("key 1 index 1 ")))
		if err := mem.Corrupt(file, at+3, 1); err != nil {
			t.Fatal(err)
		}
		for index := uint64(3); index < 200; index++ {
			append1(index)
		}
		l.Compact(1, 199)
		rest(time.Minute)
		for index := uint64(200); index < 220; index++ {
			append1(index)
		}
		rest(time.Minute)
		all := contents(t, mem)
		if _, ok := all[file]; !ok || len(all) > 10 {
			t.Errorf("the damaged segment should be kept, and others not: %d segments", len(all))
		}
		b := make([]byte, 1000)
		if err := l.ReadAt(1, 2, 0, b); err != nil || !bytes.Equal(b, keyData(2, 2, 1000)) {
			t.Errorf("entry beside the damaged one: %v", err)
		}
		var corrupt *journal.CorruptError
		if err := l.ReadAt(1, 1, 0, b); !errors.As(err, &corrupt) {
			t.Errorf("damaged entry: %v", err)
		}
		done := make(chan struct{})
		data := keyData(1, 1, 1000)
		l.Install(1, 1, 1, 1000, []journal.Range{{Off: 0, Len: 1000}}, data, func() { close(done) })
		<-done
		if err := l.ReadAt(1, 1, 0, b); err != nil || !bytes.Equal(b, data) {
			t.Errorf("repaired entry: %v", err)
		}
		closeLog(t, l)
	})
}

// forgetful is a Retainer that cannot tell what is needed.
type forgetful struct{}

var errForgotten = errors.New("forgotten")

func (forgetful) Live(_, _ uint64, _ func(uint64, []journal.Range) bool) error { return errForgotten }

func (forgetful) LiveBytes(_, _ uint64) int64 { return 0 }

// What a Retainer fails to name is not taken for garbage.
func TestMoverKeepsAllWhenRetainerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, writes = 1000, 500
		mem, manifest := vfs.NewMem(), NewCatalog(1)
		cfg := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}.config()
		cfg.SlackBytes = 0
		cfg.OnFatal = func(err error) { t.Errorf("log stopped: %v", err) }
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer closeLog(t, l)
		l.Retain(1, forgetful{})
		for index := uint64(1); index <= writes; index++ {
			done := make(chan struct{})
			l.Append(journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: index},
				Entries: []journal.Entry{{Index: index, Term: 1, Data: keyData(0, index, size)}}, Done: func() { close(done) }})
			<-done
		}
		l.Compact(1, writes)
		<-time.After(time.Minute)
		synctest.Wait()
		for index := uint64(1); index <= writes; index++ {
			b := make([]byte, size)
			if err := l.ReadAt(1, index, 0, b); err != nil || !bytes.Equal(b, keyData(0, index, size)) {
				t.Fatalf("entry %d is not there: %v", index, err)
			}
		}
	})
}

// What a segment that is given back says besides its entries is not forgotten: where a log ends whose last
// entries are moved, and that an object was deleted which an older segment has.
func TestMoverCarriesEndsAndDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1), small: true}
		l := s.open(t)
		w := newWorkload(1)
		l.Append(*w.append(9, 1, 1)) // not committed: it keeps the first segment
		l.PutObject(1, 5, []byte("deleted later"), nil)
		l.PutObject(1, 6, []byte("kept"), nil)
		index := uint64(0)
		fill := func(file string) {
			for !strings.Contains(l.Place(2, index), file) {
				index++
				l.Append(journal.Write{Group: 2, Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}})
				wait(t, l)
			}
		}
		fill("0000000002.seg")
		l.DeleteObjects(1, 5)
		write := w.append(3, 1, 2)
		write.State = &journal.HardState{Term: 1, Commit: 2}
		l.Append(*write)
		wait(t, l)
		for n := 0; ; n++ { // what is needed is counted for each part of a segment that is appended
			names, err := s.FS.List("/journal")
			if err != nil || n == 1000 || !slices.Contains(names, "0000000001.seg") {
				t.Fatalf("the second segment should be gone and the first not: %v, %v", names, err)
			}
			if !slices.Contains(names, "0000000002.seg") {
				break
			}
			index++
			l.Append(journal.Write{Group: 2, Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}})
			wait(t, l)
			l.Release(2, index)
			rest(2 * time.Second)
		}
		for range 2 {
			if keys := fmt.Sprint(l.ObjectKeys(1)); keys != "[6]" {
				t.Errorf("objects are %s", keys)
			}
			if first, last := l.Bounds(3); first != 1 || last != 2 {
				t.Errorf("entries are %d to %d", first, last)
			}
			if entries, err := l.Entries(3, 1, 3, 1<<20); err != nil || len(entries) != 2 {
				t.Errorf("Entries returned %d, %v", len(entries), err)
			}
			closeLog(t, l)
			l = s.open(t)
		}
		closeLog(t, l)
	})
}

// voidedLog is a log whose first segment has entries 1 to 3 of group 3 and an entry of group 9 that may be
// voided, which keeps it. Entry 2 in the second segment voided 2 and 3. Nothing of group 3 is needed.
type voidedLog struct {
	*manualLog
	t      *testing.T
	filled uint64 // entries of group 2
	before string // segments that verify found
}

const voidedBytes = 3000

func newVoidedLog(t *testing.T, second func(l *voidedLog)) *voidedLog {
	l := &voidedLog{manualLog: newManualLog(t, 1, func(cfg *journal.Config) { cfg.SegmentBytes = segmentBytes }), t: t}
	l.log.Retain(3, newLastPerKey(voidedBytes))
	l.write(3, 1, 1, 3, 1)
	l.write(9, 1, 1, 1, 0)
	for l.fill(); !strings.Contains(l.log.Place(2, l.filled), "0000000002.seg"); l.fill() {
		if l.filled == 100 {
			t.Fatal("the second segment is never written")
		}
	}
	second(l)
	l.write(3, 2, 2, 1, 2)
	return l
}

// write appends n entries of a term to a group and does all there is to do.
func (l *voidedLog) write(group, index, term uint64, n int, commit uint64) {
	l.append(group, index, term, n, commit)
	l.work()
}

func (l *voidedLog) append(group, index, term uint64, n int, commit uint64) {
	w := journal.Write{Group: group, State: &journal.HardState{Term: term, Commit: commit}, Done: func() {}}
	for i := range uint64(n) {
		w.Entries = append(w.Entries, journal.Entry{Index: index + i, Term: term, Data: keyData(int(term), index+i, voidedBytes)})
	}
	l.log.Append(w)
}

// fill writes an entry that takes room, and releases the one before. It works on until there is nothing to
// do.
func (l *voidedLog) fill() {
	l.appendFiller()
	l.work()
}

func (l *voidedLog) appendFiller() {
	l.log.Release(2, l.filled)
	l.filled++
	l.append(2, l.filled, 1, 1, l.filled)
	l.now = l.now.Add(2 * time.Second)
}

// turn writes an entry and does what there is to do; no crash in between brings a voided entry back.
func (l *voidedLog) turn() {
	l.fill()
	for l.verify(); l.log.Work(); l.verify() {
	}
}

func (l *voidedLog) segments() string {
	list, err := l.mem.List("/journal")
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.Join(slices.DeleteFunc(list, func(n string) bool { return !strings.HasSuffix(n, ".seg") }), " ")
}

// verify crashes when there are other segments than before, and reads what was voided.
func (l *voidedLog) verify() {
	now := l.segments()
	if now == l.before {
		return
	}
	l.before = now
	crashed := &manualLog{mem: l.mem.Crash(vfs.LoseUnsynced, 1), manifest: l.manifest.Clone(), now: l.now}
	crashed.open(l.t, 2, nil)
	defer closeLog(l.t, crashed.log)
	b := make([]byte, voidedBytes)
	if err := crashed.log.ReadAt(3, 2, 0, b); err == nil && !bytes.Equal(b, keyData(2, 2, voidedBytes)) {
		l.t.Fatalf("with %s entry 2 is read as %.20q, which was voided", now, b)
	}
	if err := crashed.log.ReadAt(3, 3, 0, b); err == nil {
		l.t.Fatalf("with %s entry 3 is read as %.20q, which was voided", now, b)
	}
}

// endsInOrder demands that both segments are there as long as the first has to stay, and that it goes first.
func (l *voidedLog) endsInOrder() {
	for range 100 {
		l.turn()
	}
	if now := l.segments(); !strings.Contains(now, "0000000001.seg") || !strings.Contains(now, "0000000002.seg") {
		l.t.Fatalf("one of the first two segments is gone: %s", now)
	}
	l.write(9, 2, 1, 1, 2) // now it can be moved
	for n := 0; strings.Contains(l.segments(), "0000000002.seg"); n++ {
		if l.turn(); n == 100 {
			l.t.Fatalf("the first two segments are still there: %s", l.segments())
		}
	}
	if now := l.segments(); strings.Contains(now, "0000000001.seg") {
		l.t.Errorf("the second segment went before the first: %s", now)
	}
	closeLog(l.t, l.log)
}

// Entries that were voided, and that only a younger segment says so of once the log begins behind them, stay
// void: their segment goes first, and when it cannot go, the younger one waits. No crash brings them back.
func TestMoverGivesVoidedEntriesBackFirst(t *testing.T) {
	l := newVoidedLog(t, func(*voidedLog) {})
	l.log.Compact(3, 2)
	l.work()
	l.endsInOrder()
}

// The same when the log begins behind them only after the younger segment was chosen, and before what it has
// of the group was looked at.
func TestMoverLooksForVoidedEntriesAgain(t *testing.T) {
	const entries = 530 // more than the mover looks at in one step
	l := newVoidedLog(t, func(l *voidedLog) {
		w := journal.Write{Group: 1, State: &journal.HardState{Term: 1, Commit: entries}, Done: func() {}}
		for i := range uint64(entries) {
			w.Entries = append(w.Entries, journal.Entry{Index: i + 1, Term: 1, Data: []byte{1}})
		}
		l.log.Append(w)
		l.work()
	})
	for n := 0; l.log.Stats().Moved == 0; n++ { // the second segment
		if n == 100 {
			t.Fatalf("nothing is moved: %s", l.segments())
		}
		l.appendFiller()
		for l.log.Stats().Moved == 0 && l.log.Work() {
		}
	}
	l.log.Compact(3, 2)
	l.work()
	l.endsInOrder()
}
