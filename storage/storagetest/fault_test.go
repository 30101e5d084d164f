package storagetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// faultRun is one run of a workload in which one operation of the disk or the catalog fails with
// EIO.
type faultRun struct {
	mem       *vfs.Mem
	manifest  *Catalog
	ops       []op
	acked     atomic.Int64
	count     atomic.Int64 // operations of disk and catalog so far
	failed    atomic.Bool
	fatal     atomic.Int64
	lateAcks  atomic.Int64 // acknowledged after OnFatal
	fatalOnce chan struct{}
}

// run returns false when fewer than failAt operations happened.
func (r *faultRun) run(t *testing.T, seed uint64, failAt int64) bool {
	r.mem, r.manifest, r.fatalOnce = vfs.NewMem(), NewCatalog(7), make(chan struct{})
	before := func() error {
		if r.count.Add(1) == failAt {
			r.failed.Store(true)
			return syscall.EIO
		}
		return nil
	}
	r.mem.SetHook(func(vfs.Op) error { return before() })
	r.manifest.SetHook(func(string) error { return before() })
	cfg := Store{FS: r.mem, Dir: "/journal", Catalog: r.manifest}.config()
	cfg.OnFatal = func(err error) {
		if r.fatal.Add(1) == 1 {
			close(r.fatalOnce)
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("operation %d failed: OnFatal got %v", failAt, err)
		}
	}
	l, err := journal.Open(cfg)
	if err != nil {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("operation %d failed: Open returned %v", failAt, err)
		}
		return true
	}
	w := newWorkload(seed)
	for i := range 120 {
		o := w.op()
		r.ops = append(r.ops, o)
		done := make(chan struct{})
		o.call(l, func() {
			if r.fatal.Load() > 0 {
				r.lateAcks.Add(1)
			}
			r.acked.Store(int64(i + 1))
			close(done)
		})
		if i%3 == 0 && !o.lazy() {
			select {
			case <-done:
			case <-r.fatalOnce:
			}
		}
	}
	err = l.Close()
	if r.fatal.Load() > 0 {
		if !errors.Is(err, syscall.EIO) || !errors.Is(l.Err(), syscall.EIO) || !errors.Is(l.Admit(1), syscall.EIO) {
			t.Errorf("operation %d failed: Close returned %v, Err %v, Admit %v", failAt, err, l.Err(), l.Admit(1))
		}
	} else if err != nil {
		t.Errorf("Close returned %v", err)
	}
	return r.failed.Load()
}

// After a failed write or sync nothing more is acknowledged, and what was acknowledged is there
// after the process starts again - even if the disk then loses what the page cache showed (Rebello
// et al., ATC'20: a failed fsync leaves pages clean that were never written).
func TestLogStopsAtFirstFailure(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t, 1) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			failEverywhere(t, 3+seed)
		})
	}
}

// failEverywhere lets each operation of a workload fail, one in each run.
func failEverywhere(t *testing.T, seed uint64) {
	fatals := 0
	for failAt := int64(1); ; failAt++ {
		r := &faultRun{}
		if !r.run(t, seed, failAt) {
			break
		}
		fatals += int(r.fatal.Load())
		if r.fatal.Load() > 1 || r.lateAcks.Load() > 0 {
			t.Errorf("operation %d failed: OnFatal was called %d times, %d acknowledged after it", failAt,
				r.fatal.Load(), r.lateAcks.Load())
		}
		c := &crasher{t: t, base: newModel(), baseOps: int(r.acked.Load())}
		for _, o := range r.ops[:c.baseOps] {
			c.base.apply(o)
		}
		restarted, manifest := r.mem.Crash(vfs.KeepUnsynced, 1), r.manifest.Clone()
		store := c.store(restarted, manifest)
		l, err := journal.Open(store.config())
		if err != nil {
			t.Fatalf("operation %d failed: open again: %v", failAt, err)
		}
		got, err := read(l)
		if err == nil {
			_, err = c.matches(got, r.ops)
		}
		if err != nil {
			t.Fatalf("operation %d failed: open again: %v", failAt, err)
		}
		extra := op{write: &journal.Write{Group: 1 << 50, State: &journal.HardState{Term: 1}}}
		done := make(chan struct{})
		extra.call(l, func() { close(done) })
		<-done
		got.apply(extra)
		closeLog(t, l)
		l, err = journal.Open(c.store(restarted.Crash(vfs.LoseUnsynced, 1), manifest).config())
		if err != nil {
			t.Fatalf("operation %d failed, then power: %v", failAt, err)
		}
		again, err := read(l)
		if err == nil {
			err = again.diff(got)
		}
		if err != nil {
			t.Fatalf("operation %d failed, then power: the log has %v", failAt, err)
		}
		closeLog(t, l)
	}
	if fatals < 50 {
		t.Errorf("only %d operations failed", fatals)
	}
}

func TestLogRefusesWhenDiskIsFullAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}
		l := s.open(t)
		mem.SetCapacity(64<<10 + segmentBytes + 1000) // the first segment and one more
		m := newModel()
		w := newWorkload(1)
		acked := 0
		appendOne := func(index uint64) {
			write := w.append(1, index, 1)
			write.Entries[0].Data = make([]byte, 5000)
			o := op{write: write}
			m.apply(o)
			o.call(l, func() { acked++ })
			synctest.Wait()
			<-time.After(time.Second) // the segment after this one is tried
		}
		index := uint64(0)
		var err error
		for err = l.Admit(5000); err == nil && index < 1000; err = l.Admit(5000) {
			index++
			appendOne(index)
		}
		if !errors.Is(err, journal.ErrFull) || !vfs.IsNoSpace(err) {
			t.Fatalf("Admit returned %v after %d entries, want ErrFull", err, index)
		}
		if acked != int(index) || index < 20 {
			t.Errorf("%d of %d admitted entries were acknowledged", acked, index)
		}
		for range 3 { // small records still have room
			o := op{write: &journal.Write{Group: 1, State: &journal.HardState{Term: 9, Commit: index}}}
			m.apply(o)
			done := make(chan struct{})
			o.call(l, func() { close(done) })
			<-done
		}
		check(t, l, m)
		mem.SetCapacity(0)
		<-time.After(2 * time.Second)
		if err := l.Admit(5000); err != nil {
			t.Fatalf("Admit returned %v after space came back", err)
		}
		for range 100 {
			index++
			appendOne(index)
		}
		if acked != int(index) {
			t.Errorf("%d of %d entries were acknowledged", acked, index)
		}
		closeLog(t, l)
		l = s.open(t)
		check(t, l, m)
		closeLog(t, l)
	})
}

// A writer that does not ask Admit waits for the disk; Close then says what was not stored.
func TestLogCloseOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}
		l := s.open(t)
		mem.SetCapacity(1)
		acked := 0
		for i := range uint64(30) {
			l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: i + 1, Term: 1, Data: make([]byte, 5000)}},
				Done: func() { acked++ }})
			synctest.Wait()
		}
		if acked == 0 || acked == 30 {
			t.Errorf("%d of 30 entries were acknowledged on a full disk", acked)
		}
		if err := l.Admit(1); !errors.Is(err, journal.ErrFull) {
			t.Errorf("Admit returned %v", err)
		}
		err := l.Close()
		if want := fmt.Sprintf("%d writes", 30-acked); !errors.Is(err, journal.ErrFull) || !contains(err, want) {
			t.Errorf("Close returned %v, want ErrFull and %q", err, want)
		}
		mem.SetCapacity(0)
		l = s.open(t)
		if first, last := l.Bounds(1); first != 1 || last != uint64(acked) {
			t.Errorf("the log has entries %d to %d, %d were acknowledged", first, last, acked)
		}
		closeLog(t, l)
	})
}

func TestLogAdmitLimitsQueue(t *testing.T) {
	mem := vfs.NewMem()
	cfg := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1)}.config()
	cfg.MaxQueuedBytes = 10000
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: 1, Term: 1, Data: make([]byte, 6000)}}})
	if err := l.Admit(6000); !errors.Is(err, journal.ErrBusy) {
		t.Errorf("Admit returned %v with 6000 of 10000 bytes queued", err)
	}
	wait(t, l)
	closeLog(t, l)
}
