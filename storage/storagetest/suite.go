package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// Store is what a log is opened on.
type Store struct {
	FS      vfs.FS
	Dir     string
	Catalog journal.Catalog
	small   bool // segments of the smallest size
	key     []byte
}

// The sizes of the segments of all tests here: small, so that there are many.
const (
	segmentBytes      = 256 << 10
	smallSegmentBytes = 64 << 10
)

func (s Store) config() journal.Config {
	cfg := journal.Config{FS: s.FS, Dir: s.Dir, Catalog: s.Catalog, SegmentBytes: segmentBytes,
		FirstSegmentBytes: smallSegmentBytes, SlackBytes: 1}
	if s.small {
		cfg.SegmentBytes = smallSegmentBytes
	}
	if s.key != nil {
		cfg.Key, cfg.Keys = s.key, s.Catalog.(journal.KeyStore)
	}
	return cfg
}

// open opens a log that may not fail.
func (s Store) open(t testing.TB) *journal.Log {
	t.Helper()
	cfg := s.config()
	cfg.OnFatal = func(err error) { t.Errorf("log stopped: %v", err) }
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return l
}

func closeLog(t testing.TB, l *journal.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// Suite tests the contract of journal.Log on the stores that fresh returns, each empty.
func Suite(t *testing.T, fresh func(t *testing.T) Store) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"ReadsBackWhatWasAppended", testReadBack},
		{"ReadsQueuedEntries", testQueued},
		{"CallsDoneInOrder", testDoneOrder},
		{"WaitsWithoutRecords", testBarrier},
		{"ReportsMissingEntries", testMissing},
		{"LimitsEntries", testLimits},
		{"HoldsLargeEntries", testLarge},
		{"SplitsAWriteLargerThanASegment", testSplit},
		{"ResetsTheLog", testReset},
		{"KeepsObjects", testObjects},
		{"ForgetsDroppedGroups", testDrop},
		{"ReclaimsSegments", testReclaim},
		{"ReclaimsBetweenLiveSegments", testReclaimMiddle},
		{"ServesConcurrentUse", testConcurrent},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, fresh(t)) })
	}
}

// waitGroup is the group that wait writes to; check ignores it.
const waitGroup = 1 << 40

// wait returns when everything appended before is durable, or the log has failed.
func wait(t testing.TB, l *journal.Log) {
	t.Helper()
	done := make(chan struct{})
	l.Append(journal.Write{Group: waitGroup, State: &journal.HardState{}, Done: func() { close(done) }})
	<-done
}

// check compares a log with the model.
func check(t testing.TB, l *journal.Log, want *model) {
	t.Helper()
	got, err := read(l)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	delete(got.groups, waitGroup)
	if err := got.diff(want); err != nil {
		t.Fatalf("log has %v", err)
	}
}

func testReadBack(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(1)
	for i := range 1500 {
		w.op().call(l, nil)
		if i%100 == 0 {
			wait(t, l)
			check(t, l, w.model)
		}
		if i%500 == 250 {
			closeLog(t, l)
			l = s.open(t)
			check(t, l, w.model)
		}
	}
	closeLog(t, l)
	l = s.open(t)
	check(t, l, w.model)
	closeLog(t, l)
}

func testQueued(t *testing.T, s Store) {
	l := s.open(t)
	defer closeLog(t, l)
	entry := func(index, term uint64, data string) journal.Entry {
		return journal.Entry{Index: index, Term: term, Type: 7, Data: []byte(data)}
	}
	// No Done: nothing is written for a while.
	l.Append(journal.Write{Group: 3, Entries: []journal.Entry{
		entry(1, 1, "one"), entry(2, 1, "two"), entry(3, 1, "three"),
	}})
	l.Append(journal.Write{
		Group:   3,
		Entries: []journal.Entry{entry(2, 2, "other two")},
		State:   &journal.HardState{Term: 2},
	})
	for range 2 {
		got, err := l.Entries(3, 1, 3, 1<<20)
		if err != nil || len(got) != 2 || string(got[0].Data) != "one" || string(got[1].Data) != "other two" ||
			got[1].Term != 2 || got[1].Type != 7 {
			t.Errorf("Entries returned %v, %v", got, err)
		}
		var p [4]byte
		if err := l.ReadAt(3, 2, 3, p[:]); err != nil || string(p[:]) != "er t" {
			t.Errorf("ReadAt returned %q, %v", p, err)
		}
		if state, ok := l.State(3); !ok || state.Term != 2 {
			t.Errorf("State returned %v, %t", state, ok)
		}
		if first, last := l.Bounds(3); first != 1 || last != 2 {
			t.Errorf("Bounds returned %d, %d", first, last)
		}
		wait(t, l) // now the same from the file
	}
	if place := l.Place(3, 2); !strings.Contains(place, ".seg:") {
		t.Errorf("Place returned %q, want a file and an offset", place)
	}
}

func testDoneOrder(t *testing.T, s Store) {
	l := s.open(t)
	const n = 500
	var order []int
	done := make(chan struct{})
	for i := range n {
		l.Append(journal.Write{
			Group:   uint64(i%7 + 1),
			Entries: []journal.Entry{{Index: uint64(i/7 + 1), Term: 1, Data: make([]byte, i)}},
			Done: func() {
				if order = append(order, i); i == n-1 {
					close(done)
				}
			},
		})
	}
	<-done
	closeLog(t, l)
	for i, got := range order {
		if got != i {
			t.Fatalf("Done of write %d was called as number %d", got, i)
		}
	}
	if len(order) != n {
		t.Errorf("Done was called %d times for %d writes", len(order), n)
	}
}

func testBarrier(t *testing.T, s Store) {
	l := s.open(t)
	defer closeLog(t, l)
	order := make(chan string, 3)
	barrier := func(name string) { l.Append(journal.Write{Group: 1, Done: func() { order <- name }}) }
	barrier("first")
	if got := <-order; got != "first" || len(l.Groups()) != 0 {
		t.Errorf("a write of nothing was followed by %q and made groups %v", got, l.Groups())
	}
	l.Append(journal.Write{Group: 2, State: &journal.HardState{}, Done: func() { order <- "state" }})
	barrier("last")
	if got := <-order + " " + <-order; got != "state last" {
		t.Errorf("Done was called in the order %s", got)
	}
}

func testMissing(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(1)
	for _, index := range []uint64{1, 3, 5} {
		l.Append(*w.append(5, index, 2))
	}
	l.Release(5, 4)
	for _, tc := range []struct {
		group, index uint64
		want         error
	}{{9, 1, journal.ErrUnknownGroup}, {5, 2, journal.ErrCompacted}, {5, 7, journal.ErrUnavailable}} {
		if _, err := l.Entries(tc.group, tc.index, tc.index+1, 1<<20); !errors.Is(err, tc.want) {
			t.Errorf("Entries of group %d index %d returned %v, want %v", tc.group, tc.index, err, tc.want)
		}
		if _, err := l.Term(tc.group, tc.index); !errors.Is(err, tc.want) {
			t.Errorf("Term of group %d index %d returned %v, want %v", tc.group, tc.index, err, tc.want)
		}
		if err := l.ReadAt(tc.group, tc.index, 0, nil); !errors.Is(err, tc.want) {
			t.Errorf("ReadAt of group %d index %d returned %v, want %v", tc.group, tc.index, err, tc.want)
		}
	}
	if term, err := l.Term(5, 4); err != nil || term != 1 {
		t.Errorf("Term of the last released entry returned %d, %v", term, err)
	}
	if err := l.ReadAt(5, 5, 1<<20, make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAt behind the end returned %v", err)
	}
	closeLog(t, l)
	if err := l.ReadAt(5, 5, 0, nil); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("ReadAt after Close returned %v", err)
	}
	if err := l.Admit(1); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("Admit after Close returned %v", err)
	}
}

func testLimits(t *testing.T, s Store) {
	l := s.open(t)
	defer closeLog(t, l)
	var entries []journal.Entry
	for i := range uint64(10) {
		entries = append(entries, journal.Entry{Index: i + 1, Term: 1, Data: make([]byte, 100)})
	}
	l.Append(journal.Write{Group: 1, Entries: entries})
	for range 2 {
		for _, tc := range []struct {
			lo, hi, maxBytes uint64
			want             int
		}{{1, 11, 0, 1}, {1, 11, 99, 1}, {1, 11, 299, 2}, {1, 11, 300, 3}, {4, 6, 1 << 40, 2}, {3, 3, 100, 0}} {
			got, err := l.Entries(1, tc.lo, tc.hi, tc.maxBytes)
			if err != nil || len(got) != tc.want {
				t.Errorf("Entries %d to %d of %d bytes returned %d, %v, want %d", tc.lo, tc.hi, tc.maxBytes,
					len(got), err, tc.want)
			}
		}
		wait(t, l)
	}
}

func testLarge(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(2)
	m := newModel()
	// The blocks without the trailers of their sectors, but for header, mark and footer; the headers of batch
	// and record; see journal/format.go.
	const largest = (segmentBytes/4096-3)*8*496 - 32 - 40 - 8
	for i, n := range []int{largest, 1, 100 << 10, 0, largest, 200 << 10, largest} {
		if err := l.Admit(n); err != nil {
			t.Errorf("Admit of %d bytes returned %v", n, err)
		}
		write := w.append(1, uint64(i+1), 1)
		write.Entries[0].Data = bytes.Repeat([]byte{byte(i + 1)}, n)
		o := op{write: write}
		o.call(l, nil)
		m.apply(o)
	}
	if err := l.Admit(largest + 9); !errors.Is(err, journal.ErrTooLarge) {
		t.Errorf("Admit of an entry larger than a segment returned %v", err)
	}
	wait(t, l)
	check(t, l, m)
	closeLog(t, l)
	l = s.open(t)
	defer closeLog(t, l)
	check(t, l, m)
}

func testSplit(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(3)
	write := w.append(1, 1, 9)
	for i := range write.Entries {
		write.Entries[i].Data = bytes.Repeat([]byte{byte(i + 1)}, 90<<10)
	}
	write.State = &journal.HardState{Term: 1, Vote: 2, Commit: 9}
	o := op{write: write}
	done := make(chan struct{})
	o.call(l, func() { close(done) })
	<-done
	m := newModel()
	m.apply(o)
	check(t, l, m)
	closeLog(t, l)
	l = s.open(t)
	defer closeLog(t, l)
	check(t, l, m)
}

// A log begins anew after a snapshot, in a write that is larger than a segment.
func testReset(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(3)
	m := newModel()
	do := func(o op) {
		done := make(chan struct{})
		m.apply(o)
		o.call(l, func() { close(done) })
		<-done
	}
	first := w.append(1, 1, 9)
	first.State = &journal.HardState{Term: 1, Vote: 2, Commit: 4}
	do(op{write: first})
	data := bytes.Repeat([]byte("installed "), 100)
	do(op{group: 1, install: &install{index: 20, term: 1, data: data, parts: []journal.Range{{Off: 10, Len: 50}, {Off: 60, Len: 5}}}})
	write := w.append(1, 31, 9)
	for i := range write.Entries {
		write.Entries[i].Data = bytes.Repeat([]byte{byte(i + 1)}, 90<<10)
	}
	write.Snapshot, write.Reset = w.snapshot(30), true
	write.State = &journal.HardState{Term: 2, Vote: 2, Commit: 39}
	do(op{write: write})
	for range 2 {
		check(t, l, m)
		if err := checkOld(l, m, newNeeds()); err != nil {
			t.Error(err)
		}
		part := make([]byte, 55)
		if err := l.ReadAt(1, 20, 10, part); err != nil || !bytes.Equal(part, data[10:65]) {
			t.Errorf("what was installed is not read: %v", err)
		}
		for index, want := range map[uint64]error{4: nil, 5: journal.ErrCompacted, 21: journal.ErrCompacted, 40: journal.ErrUnavailable} {
			if err := l.ReadAt(1, index, 0, nil); !errors.Is(err, want) {
				t.Errorf("ReadAt of entry %d returned %v, want %v", index, err, want)
			}
		}
		if err := l.ReadAt(1, 20, 0, part); !errors.Is(err, journal.ErrCompacted) {
			t.Errorf("ReadAt of what was not installed returned %v", err)
		}
		if _, err := l.Entries(1, 30, 31, 1); !errors.Is(err, journal.ErrCompacted) {
			t.Errorf("Entries before the snapshot returned %v", err)
		}
		closeLog(t, l)
		l = s.open(t)
	}
	closeLog(t, l)
}

func testObjects(t *testing.T, s Store) {
	l := s.open(t)
	done := make(chan struct{})
	l.PutObject(1, 7, bytes.Repeat([]byte{7}, 100<<10), nil)
	l.PutObject(1, 5, []byte("five"), nil)
	l.PutObject(1, 5, []byte("new five"), nil)
	l.PutObject(1, 6, nil, func() { close(done) })
	for range 3 {
		if keys := fmt.Sprint(l.ObjectKeys(1)); keys != "[5 6 7]" {
			t.Errorf("keys are %s", keys)
		}
		for key, want := range map[uint64][]byte{5: []byte("new five"), 6: nil, 7: bytes.Repeat([]byte{7}, 100<<10)} {
			if got, err := l.Object(1, key); err != nil || !bytes.Equal(got, want) {
				t.Errorf("object %d has %d bytes, %v, want %d", key, len(got), err, len(want))
			}
		}
		if _, err := l.Object(1, 8); !errors.Is(err, journal.ErrNoObject) {
			t.Errorf("Object of a missing key returned %v", err)
		}
		if _, err := l.Object(2, 5); !errors.Is(err, journal.ErrUnknownGroup) {
			t.Errorf("Object of a missing group returned %v", err)
		}
		<-done
		closeLog(t, l)
		l = s.open(t)
	}
	l.DeleteObjects(1, 5, 9)
	wait(t, l)
	closeLog(t, l)
	l = s.open(t)
	if keys := fmt.Sprint(l.ObjectKeys(1)); keys != "[6 7]" {
		t.Errorf("keys are %s after one was deleted", keys)
	}
	closeLog(t, l)
}

func testDrop(t *testing.T, s Store) {
	l := s.open(t)
	w := newWorkload(4)
	l.Append(*w.append(1, 1, 3))
	l.Append(*w.append(2, 1, 3))
	dropped := make(chan struct{})
	l.Drop(1, func() { close(dropped) })
	l.Append(*w.append(1, 4, 1)) // too late, forgotten
	<-dropped
	for range 2 {
		if got := fmt.Sprint(l.Groups()); got != "[2]" {
			t.Errorf("Groups returned %s after a drop", got)
		}
		if _, err := l.Term(1, 1); !errors.Is(err, journal.ErrUnknownGroup) {
			t.Errorf("Term of a dropped group returned %v", err)
		}
		closeLog(t, l)
		l = s.open(t)
	}
	closeLog(t, l)
}

// segments returns how many segment files there are.
func (s Store) segments(t testing.TB) int {
	t.Helper()
	names, err := s.FS.List(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if strings.HasSuffix(name, ".seg") {
			n++
		}
	}
	return n
}

func testReclaim(t *testing.T, s Store) {
	l := s.open(t)
	m := newModel()
	do := func(o op) {
		m.apply(o)
		o.call(l, nil)
	}
	w := newWorkload(5)
	do(op{write: &journal.Write{Group: 9, State: &journal.HardState{Term: 3, Vote: 2, Commit: 0}}})
	do(op{write: w.append(8, 1, 1)})
	do(op{drop: 8})
	for i := uint64(1); i <= 40; i++ {
		for group := uint64(1); group <= 3; group++ {
			write := w.append(group, i, 1)
			write.Entries[0].Data = make([]byte, 30<<10)
			do(op{write: write})
			if i > 6 {
				do(op{release: group, upTo: i - 6})
			}
		}
		wait(t, l)
	}
	do(op{drop: 3})
	check(t, l, m)
	closeLog(t, l)
	// 3.6 MB were written into segments of 256 KiB; what is kept is less than 400 KiB.
	l = s.open(t)
	for n := 0; s.segments(t) > 5; n++ {
		if n == 1000 {
			t.Fatalf("%d segments are kept", s.segments(t))
		}
		wait(t, l)
	}
	check(t, l, m)
	closeLog(t, l)
	l = s.open(t)
	check(t, l, m)
	closeLog(t, l)
}

// The second of three segments dies. What it said about entries in the first one must not be
// forgotten: that a suffix was voided, that a group was dropped or trimmed, what a group's hard
// state is.
func testReclaimMiddle(t *testing.T, s Store) {
	s.small = true
	l := s.open(t)
	m := newModel()
	do := func(o op) {
		m.apply(o)
		o.call(l, nil)
	}
	const pin, voided, dropped, filler, trimmed = 1, 2, 3, 4, 5
	w := newWorkload(6)
	do(op{write: w.append(pin, 1, 1)})
	do(op{write: w.append(voided, 1, 7)})
	do(op{write: w.append(dropped, 1, 3)})
	do(op{write: w.append(trimmed, 1, 3)})
	index := uint64(0)
	fill := func(file string) {
		for !strings.Contains(l.Place(filler, index), file) {
			index++
			write := w.append(filler, index, 1)
			write.Entries[0].Data = make([]byte, 3000)
			do(op{write: write})
			wait(t, l)
		}
	}
	fill("0000000002.seg")
	w.term = 2
	again := w.append(voided, 5, 1)
	again.State = &journal.HardState{Term: 2, Vote: 1, Commit: 5}
	do(op{write: again})
	do(op{drop: dropped})
	do(op{release: trimmed, upTo: 2})
	fill("0000000003.seg")
	do(op{release: voided, upTo: 5})
	do(op{release: filler, upTo: index - 1})
	wait(t, l)
	for n := 0; ; n++ {
		names, err := s.FS.List(s.Dir)
		if err != nil || n == 10000 || !slices.Contains(names, "0000000001.seg") {
			t.Fatalf("segment 2 alone should be gone: %v, %v", names, err)
		}
		if !slices.Contains(names, "0000000002.seg") {
			break
		}
		wait(t, l)
		if l.Err() != nil {
			t.Fatal(l.Err())
		}
	}
	for range 3 {
		check(t, l, m)
		closeLog(t, l)
		l = s.open(t)
	}
	if term, err := l.Term(voided, 5); err != nil || term != 2 {
		t.Errorf("the last released entry has term %d, %v, want 2", term, err)
	}
	do(op{write: w.append(voided, 6, 2)})
	wait(t, l)
	check(t, l, m)
	closeLog(t, l)
}

func testConcurrent(t *testing.T, s Store) {
	l := s.open(t)
	const producers, rounds = 8, 60
	var wg sync.WaitGroup
	for p := range uint64(producers) {
		wg.Go(func() {
			for i := range uint64(rounds) {
				data := bytes.Repeat([]byte{byte(p), byte(i)}, 50*int(p+1))
				done := make(chan struct{})
				l.Append(journal.Write{
					Group:   p + 1,
					Entries: []journal.Entry{{Index: i + 1, Term: 1, Data: data}},
					Done:    func() { close(done) },
				})
				got := make([]byte, len(data))
				if err := l.ReadAt(p+1, i+1, 0, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("queued entry %d of group %d is not read back: %v", i+1, p+1, err)
				}
				<-done
				if entries, err := l.Entries(p+1, i/2+1, i+2, 1<<20); err != nil ||
					!bytes.Equal(entries[len(entries)-1].Data, data) {
					t.Errorf("entry %d of group %d is not read back: %v", i+1, p+1, err)
				}
				if i%10 == 9 {
					l.Release(p+1, i/2)
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
}
