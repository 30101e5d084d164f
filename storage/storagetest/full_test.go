package storagetest

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// filler appends entries of one group to a log that may run out of disk.
type filler struct {
	log   *journal.Log
	index uint64
	acked atomic.Uint64
}

// rest lets time pass until nothing goes on any more.
func rest(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// append appends an entry of n bytes and gives the log the time to write it and to look for room.
func (f *filler) append(n int) {
	f.index++
	f.log.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: f.index, Term: 1, Data: make([]byte, n)}},
		Done: func() { f.acked.Add(1) }})
	synctest.Wait()
	rest(2 * time.Second)
}

// fill appends what admit lets through, and returns how many entries that were and why no more.
func (f *filler) fill(t *testing.T, n int, admit func(int) error) (count int, err error) {
	t.Helper()
	for err = admit(n); err == nil && count < 1000; err = admit(n) {
		f.append(n)
		count++
	}
	if f.acked.Load() != f.index {
		t.Fatalf("%d of %d admitted entries were written", f.acked.Load(), f.index)
	}
	return count, err
}

func TestLogAdmitsControlEntriesOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		l := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}.open(t)
		mem.SetCapacity(smallSegmentBytes + segmentBytes + 1000)
		f := &filler{log: l}
		if _, err := f.fill(t, 5000, l.Admit); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("Admit on a full disk returned %v", err)
		}
		// An entry takes a block of 4096 of the 64 in the segment: 16 are kept from payload, 4 from
		// control entries.
		count, err := f.fill(t, 100, l.AdmitControl)
		if !errors.Is(err, journal.ErrFull) || count < 10 || count > 14 {
			t.Fatalf("%d control entries were admitted on a full disk, then %v; want about 12", count, err)
		}
		if err := l.Stalled(); err != nil {
			t.Errorf("Stalled returned %v with room left", err)
		}
		for range 10 {
			f.append(100)
		}
		if err := l.Stalled(); !errors.Is(err, journal.ErrFull) || !vfs.IsNoSpace(err) {
			t.Errorf("Stalled returned %v without room", err)
		}
		if err := l.AdmitStart(); !errors.Is(err, journal.ErrFull) {
			t.Errorf("AdmitStart returned %v without room", err)
		}
		mem.SetCapacity(0)
		rest(2 * time.Second)
		if err := errors.Join(l.Stalled(), l.AdmitStart(), l.AdmitControl(100), l.Admit(5000)); err != nil {
			t.Errorf("space came back: %v", err)
		}
		if f.acked.Load() != f.index {
			t.Errorf("space came back: %d of %d entries were written", f.acked.Load(), f.index)
		}
		closeLog(t, l)
	})
}

func TestLogAdmitsStartsFromTheLastReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		cfg := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}.config()
		cfg.SegmentBytes = 4 << 20
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		mem.SetCapacity(smallSegmentBytes + 4<<20)
		f := &filler{log: l}
		if _, err := f.fill(t, 20_000, l.AdmitControl); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("AdmitControl on a full disk returned %v", err)
		}
		starts, err := f.fill(t, 100, func(int) error { return l.AdmitStart() })
		if !errors.Is(err, journal.ErrFull) || starts < 50 || l.Stalled() != nil {
			t.Errorf("%d starts were admitted, then %v; stalled: %v", starts, err, l.Stalled())
		}
		closeLog(t, l)
	})
}

// What payload leaves is enough to restart all groups several times.
func TestLogKeepsRoomToStartAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 5
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}
		l := s.open(t)
		mem.SetCapacity(smallSegmentBytes + segmentBytes + 1000)
		for group := range uint64(groups - 1) {
			l.Append(journal.Write{Group: 2 + group, State: &journal.HardState{Term: 1}})
		}
		f := &filler{log: l}
		if _, err := f.fill(t, 5000, l.Admit); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("Admit on a full disk returned %v", err)
		}
		for restart := range uint64(3) {
			closeLog(t, l)
			l = s.open(t)
			rest(2 * time.Second)
			for group := range uint64(groups) {
				if err := l.AdmitStart(); err != nil {
					t.Fatalf("restart %d, group %d: %v", restart, group, err)
				}
				for range 2 {
					done := make(chan struct{})
					l.Append(journal.Write{Group: 1 + group, State: &journal.HardState{Term: 2 + restart},
						Done: func() { close(done) }})
					<-done
				}
			}
		}
		closeLog(t, l)
	})
}

// The disk has room for less than two whole segments, so the log lives on small ones, and has room
// again whenever its data was released.
func TestLogGivesSpaceBackOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}
		l := s.open(t)
		mem.SetCapacity(200 << 10)
		f := &filler{log: l}
		for round := range 8 {
			count, err := f.fill(t, 5000, l.Admit)
			if !errors.Is(err, journal.ErrFull) || count < 5 {
				t.Fatalf("round %d: %d entries were admitted, then %v", round, count, err)
			}
			if err := l.AdmitControl(100); err != nil {
				t.Fatalf("round %d: AdmitControl returned %v", round, err)
			}
			l.Release(1, f.index)
			rest(5 * time.Second)
		}
		closeLog(t, l)
		l = s.open(t)
		if first, last := l.Bounds(1); first != f.index+1 || last != f.index {
			t.Errorf("the log has entries %d to %d, all of %d were released", first, last, f.index)
		}
		closeLog(t, l)
	})
}

// A small segment in which the next entry has no room is passed over, and not kept.
func TestLogDropsSegmentThatWasTooSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}
		l := s.open(t)
		mem.SetCapacity(2*smallSegmentBytes + 1000)
		f := &filler{log: l}
		for range 6 {
			f.append(5000) // a second one is prepared
		}
		if n := s.segments(t); n != 2 {
			t.Fatalf("%d segments, want 2", n)
		}
		if err := l.Admit(200_000); !errors.Is(err, journal.ErrFull) {
			t.Errorf("Admit of more than the segments hold returned %v", err)
		}
		f.append(200_000)
		if err := l.Stalled(); !errors.Is(err, journal.ErrFull) {
			t.Errorf("Stalled returned %v", err)
		}
		mem.SetCapacity(0)
		rest(5 * time.Second)
		f.append(5000)
		if f.acked.Load() != f.index {
			t.Errorf("%d of %d entries were written", f.acked.Load(), f.index)
		}
		names, err := mem.List("/journal")
		if err != nil || len(names) < 2 || !strings.HasPrefix(names[0], "0000000001") || strings.HasPrefix(names[1], "0000000002") {
			t.Errorf("segments %v, %v: the second should be gone", names, err)
		}
		l2, err := journal.Open(Store{FS: mem.Crash(vfs.LoseUnsynced, 1), Dir: "/journal",
			Catalog: s.Catalog.(*Catalog).Clone()}.config())
		if err != nil {
			t.Fatalf("open after a crash: %v", err)
		}
		if first, last := l2.Bounds(1); first != 1 || last != f.index {
			t.Errorf("after a crash the log has entries %d to %d, want 1 to %d", first, last, f.index)
		}
		closeLog(t, l2)
		closeLog(t, l)
	})
}

// messages counts log records by message.
type messages struct {
	slog.Handler
	count map[string]int // the calls are serialized by the test
}

func (m messages) Enabled(context.Context, slog.Level) bool { return true }

func (m messages) Handle(_ context.Context, r slog.Record) error {
	m.count[r.Message]++
	return nil
}

func TestLogRetriesReclaimWhenCatalogIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		manifest := NewCatalog(1)
		s := Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: manifest}
		logged := messages{slog.DiscardHandler, map[string]int{}}
		cfg := s.config()
		cfg.Logger = slog.New(logged)
		cfg.OnFatal = func(err error) { t.Errorf("log stopped: %v", err) }
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f := &filler{log: l}
		for range 30 {
			f.append(5000)
		}
		before := s.segments(t)
		tries := 0
		manifest.SetHook(func(string) error { tries++; return syscall.ENOSPC })
		l.Release(1, f.index)
		rest(10 * time.Second)
		if tries < 5 || s.segments(t) != before {
			t.Errorf("%d tries, %d of %d segments while the catalog is full", tries, s.segments(t), before)
		}
		if n := logged.count["no room to reclaim a journal segment"]; n != 1 {
			t.Errorf("the reason was logged %d times, want once", n)
		}
		manifest.SetHook(nil)
		rest(2 * time.Second)
		if n := s.segments(t); n >= before {
			t.Errorf("%d of %d segments are kept after the catalog has room", n, before)
		}
		closeLog(t, l)
	})
}
