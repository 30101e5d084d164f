package storagetest

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// manualLog is a log that works on the test's goroutine, on a simulated disk and clock.
type manualLog struct {
	mem      *vfs.Mem
	manifest *Catalog
	log      *journal.Log
	now      time.Time
	ops      []string // of disk and catalog
	fail     int      // the operation with this number fails; 0: none
	fatal    error
}

// chacha is a source of random bytes that is the same for a seed.
type chacha struct{ *rand.ChaCha8 }

func newManualLog(t *testing.T, seed uint64, change func(*journal.Config)) *manualLog {
	m := &manualLog{mem: vfs.NewMem(), manifest: NewCatalog(7), now: time.Unix(1e9, 0)}
	note := func(what string) error {
		m.ops = append(m.ops, what)
		if len(m.ops) == m.fail {
			return syscall.EIO
		}
		return nil
	}
	m.mem.SetHook(func(o vfs.Op) error { return note(o.String()) })
	m.manifest.SetHook(note)
	m.open(t, seed, change)
	return m
}

func (m *manualLog) open(t *testing.T, seed uint64, change func(*journal.Config)) {
	t.Helper()
	cfg := Store{FS: m.mem, Dir: "/journal", Catalog: m.manifest, small: true, key: testKey(9)}.config()
	cfg.Manual = true
	cfg.Clock = func() time.Time { return m.now }
	cfg.Rand = chacha{rand.NewChaCha8([32]byte{byte(seed)})}
	cfg.OnFatal = func(err error) { m.fatal = err }
	if change != nil {
		change(&cfg)
	}
	var err error
	if m.log, err = journal.Open(cfg); err != nil {
		t.Fatal(err)
	}
}

func (m *manualLog) work() (units int) {
	for m.log.Work() {
		units++
	}
	return units
}

func TestLogManualDoesTheSame(t *testing.T) {
	run := func(seed uint64) ([]string, string) {
		m := newManualLog(t, seed, nil)
		w := newWorkload(seed)
		w.releases = 20
		rnd := rand.New(rand.NewPCG(seed, 1))
		acked := 0
		for range 400 {
			w.op().call(m.log, func() { acked++ })
			for range rnd.IntN(4) {
				m.log.Work()
			}
			if rnd.IntN(10) == 0 {
				m.now = m.now.Add(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
		}
		m.work()
		check(t, m.log, w.model)
		closeLog(t, m.log)
		sum := fmt.Sprint(acked)
		names, err := m.mem.List("/journal")
		if err != nil {
			t.Fatal(err)
		}
		all := contents(t, m.mem)
		for _, name := range names {
			sum += fmt.Sprintf(" %s %08x", name, crc32.ChecksumIEEE(all["/journal/"+name]))
		}
		m.open(t, seed+100, nil)
		check(t, m.log, w.model)
		closeLog(t, m.log)
		return m.ops, sum
	}
	for seed := range uint64(3) {
		ops, sum := run(seed)
		again, sumAgain := run(seed)
		if !slices.Equal(ops, again) || sum != sumAgain {
			t.Errorf("seed %d: two runs did not do the same in %d and %d operations", seed, len(ops), len(again))
		}
		reused := 0
		for _, o := range ops {
			if strings.HasPrefix(o, "rename") && strings.Contains(o, ".spare") {
				reused++
			}
		}
		if len(ops) < 500 || reused == 0 {
			t.Errorf("seed %d: only %d operations, %d files used again", seed, len(ops), reused)
		}
	}
}

func TestLogManualWaitsForTheClock(t *testing.T) {
	m := newManualLog(t, 1, nil)
	m.work()
	before := len(m.ops)
	w := newWorkload(1)
	m.log.Append(*w.append(1, 1, 2)) // nobody waits
	if n := m.work(); n != 0 || len(m.ops) != before {
		t.Errorf("a write for which nobody waits caused %d units of work", n)
	}
	m.now = m.now.Add(999 * time.Millisecond)
	if n := m.work(); n != 0 {
		t.Errorf("it was written early, in %d units of work", n)
	}
	m.now = m.now.Add(time.Millisecond)
	if n := m.work(); n != 1 || len(m.ops) != before+2 {
		t.Errorf("after a second it took %d units and %v", n, m.ops[before:])
	}
	m.now = m.now.Add(19 * time.Millisecond)
	if n := m.work(); n != 0 {
		t.Errorf("the mark was written early")
	}
	m.now = m.now.Add(time.Millisecond)
	if n := m.work(); n != 1 || !strings.Contains(m.ops[len(m.ops)-1], "off=4096 len=512") {
		t.Errorf("the mark took %d units, the last operation is %s", n, m.ops[len(m.ops)-1])
	}
	acked := false
	m.log.Append(journal.Write{Group: 1, Done: func() { acked = true }})
	if n := m.work(); n != 1 || !acked {
		t.Errorf("an urgent write took %d units, acknowledged: %t", n, acked)
	}
	closeLog(t, m.log)
}

// One unit of work is one batch: a crash can be put between any two.
func TestLogManualWritesOneBatchAtATime(t *testing.T) {
	m := newManualLog(t, 1, nil)
	w := newWorkload(1)
	m.work()
	write := w.append(1, 1, 12)
	for i := range write.Entries {
		write.Entries[i].Data = make([]byte, 40<<10) // one in each segment
	}
	acked := false
	write.Done = func() { acked = true }
	m.log.Append(*write)
	for steps := 0; !acked; steps++ {
		syncs := m.mem.Stats().Syncs
		if !m.log.Work() || steps > 100 {
			t.Fatalf("no work after %d steps, and the write is not done", steps)
		}
		if n := m.mem.Stats().Syncs - syncs; n > 1 {
			t.Errorf("a unit of work had %d syncs", n)
		}
	}
	// Close without Work in between.
	m.log.Append(*w.append(1, 13, 3))
	closeLog(t, m.log)
	m.open(t, 2, nil)
	if first, last := m.log.Bounds(1); first != 1 || last != 15 {
		t.Errorf("entries %d to %d", first, last)
	}
	closeLog(t, m.log)
}

func TestLogManualOnFullDisk(t *testing.T) {
	m := newManualLog(t, 1, nil)
	m.mem.SetCapacity(smallSegmentBytes * 2)
	acked, index := 0, uint64(0)
	appendOne := func() {
		index++
		m.log.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 5000)}},
			Done: func() { acked++ }})
		m.work()
	}
	for m.log.Admit(5000) == nil && index < 100 {
		appendOne()
	}
	if !errors.Is(m.log.Admit(5000), journal.ErrFull) || acked != int(index) || index < 8 {
		t.Fatalf("%d of %d acknowledged, Admit: %v", acked, index, m.log.Admit(5000))
	}
	for m.log.Stalled() == nil && index < 200 {
		appendOne()
	}
	m.mem.SetCapacity(0)
	if m.work(); !errors.Is(m.log.Stalled(), journal.ErrFull) {
		t.Error("the disk was tried again at once")
	}
	m.now = m.now.Add(time.Second)
	if m.work(); acked != int(index) || m.log.Admit(5000) != nil {
		t.Errorf("space came back: %d of %d acknowledged, Admit: %v", acked, index, m.log.Admit(5000))
	}
	m.mem.SetCapacity(1)
	for m.log.Stalled() == nil && index < 300 {
		appendOne()
	}
	if err := m.log.Close(); !errors.Is(err, journal.ErrFull) {
		t.Errorf("Close on a full disk returned %v", err)
	}
	m.mem.SetCapacity(0)
	m.open(t, 2, nil)
	if _, last := m.log.Bounds(1); last != uint64(acked) {
		t.Errorf("%d entries after %d were acknowledged", last, acked)
	}
	closeLog(t, m.log)
}

func TestLogManualStopsAtFailure(t *testing.T) {
	fatals := 0
	for fail := 20; fail < 120; fail += 7 {
		m := newManualLog(t, 1, nil)
		w := newWorkload(2)
		w.releases = 20
		m.fail = fail
		for range 60 {
			w.op().call(m.log, func() {
				if m.fatal != nil {
					t.Errorf("operation %d failed, and a write was acknowledged after that", fail)
				}
			})
			m.work()
			if m.fatal != nil {
				break
			}
		}
		if m.fatal == nil {
			closeLog(t, m.log)
			continue
		}
		fatals++
		if before := len(m.ops); m.log.Work() || len(m.ops) != before || !errors.Is(m.log.Close(), syscall.EIO) {
			t.Errorf("operation %d failed, and the log went on", fail)
		}
	}
	if fatals < 5 {
		t.Errorf("only %d failures", fatals)
	}
}
