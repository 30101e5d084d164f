package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/storage/vfs"
)

// lockedCatalog is a memCatalog for a log with goroutines, and its KeyStore.
type lockedCatalog struct {
	mu sync.Mutex
	memCatalog
	key []byte
}

func (c *lockedCatalog) Key() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, nil
}

func (c *lockedCatalog) PutKey(value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key = value
	return nil
}

func (c *lockedCatalog) PutSegment(id uint32, v []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.memCatalog.PutSegment(id, v)
}

func (c *lockedCatalog) DeleteSegment(id uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.memCatalog.DeleteSegment(id)
}

func (c *lockedCatalog) Segments() (map[uint32][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.memCatalog), nil
}

// heldLog is a log whose first batch is written and about to be synced, behind which another one was
// encoded ahead.
type heldLog struct {
	*Log
	cfg     Config
	mem     *vfs.Mem
	release chan error   // what the sync of the first batch returns
	batches atomic.Int64 // written to the first segment
	done    chan string  // writes whose Done was called
	fatal   chan error
}

func newHeldLog(t *testing.T, key []byte) *heldLog {
	h := &heldLog{mem: vfs.NewMem(), release: make(chan error), done: make(chan string, 3), fatal: make(chan error, 1)}
	catalog := &lockedCatalog{memCatalog: memCatalog{}}
	h.cfg = Config{FS: h.mem, Dir: "/j", Catalog: catalog, SegmentBytes: 4 << 20, Key: key, Keys: catalog,
		OnFatal: func(err error) { h.fatal <- err }}
	var err error
	if h.Log, err = Open(h.cfg); err != nil {
		t.Fatal(err)
	}
	first := segmentPath(h.cfg.Dir, 1)
	held := make(chan struct{})
	var once sync.Once
	h.mem.SetHook(func(o vfs.Op) (err error) {
		switch {
		case o.Name != first:
		case o.Kind == vfs.OpWrite && o.Off >= dataOffset:
			h.batches.Add(1)
		case o.Kind == vfs.OpSync:
			once.Do(func() {
				close(held)
				err = <-h.release
			})
		}
		return err
	})
	h.append("first", 1, 100)
	<-held
	h.append("large", 2, aheadBytes)
	await(t, "the next batch is encoded", func() bool {
		h.hand.Lock()
		defer h.hand.Unlock()
		return h.next.count == 1 && h.next.sealed > 0
	})
	h.append("small", 3, 100)
	return h
}

func (h *heldLog) append(name string, index uint64, size int) {
	h.Append(Write{Group: 1, Entries: []Entry{{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, size)}},
		Done: func() { h.done <- name }})
}

// await waits until a condition holds.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("it is not so that %s", what)
		}
	}
}

// checkLog demands that group 1 of a log on a disk has the entries of a heldLog up to last.
func (h *heldLog) checkLog(t *testing.T, disk *vfs.Mem, last uint64) {
	t.Helper()
	cfg := h.cfg
	stored, err := cfg.Catalog.Segments()
	if err != nil {
		t.Fatal(err)
	}
	catalog := &lockedCatalog{memCatalog: stored, key: cfg.Catalog.(*lockedCatalog).key}
	cfg.FS, cfg.Catalog, cfg.Keys = disk, catalog, catalog
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, got := l.Bounds(1); got != last {
		t.Fatalf("the last entry is %d, want %d", got, last)
	}
	if last == 0 {
		return
	}
	entries, err := l.Entries(1, 1, last+1, 1<<30)
	if err != nil || len(entries) != int(last) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, size := range []int{100, aheadBytes, 100}[:last] {
		if !bytes.Equal(entries[i].Data, bytes.Repeat([]byte{byte(i + 1)}, size)) {
			t.Errorf("entry %d is not what was appended", i+1)
		}
	}
}

// While a batch is synced the next one is encoded, and not written: a crash leaves nothing of it, whatever
// it leaves of the batch that is synced. What came since then joins it.
func TestNextBatchIsEncodedAheadAndNotWritten(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testNextBatch(t, nil) })
	t.Run("encrypted", func(t *testing.T) { testNextBatch(t, bytes.Repeat([]byte{7}, KeyBytes)) })
}

func testNextBatch(t *testing.T, key []byte) {
	h := newHeldLog(t, key)
	for seed := range uint64(8) {
		h.checkLog(t, h.mem.Crash(vfs.KeepUnsynced, seed), 1)
		h.checkLog(t, h.mem.Crash(vfs.LoseUnsynced, seed), 0)
	}
	if n := h.batches.Load(); n != 1 {
		t.Errorf("%d batches are written while the first is synced", n)
	}
	if entries, err := h.Entries(1, 1, 4, 1<<30); err != nil || len(entries) != 3 {
		t.Errorf("%d entries are readable before they are durable, %v", len(entries), err)
	}
	if len(h.done) > 0 {
		t.Errorf("the %s write was acknowledged", <-h.done)
	}
	h.release <- nil
	for _, want := range []string{"first", "large", "small"} {
		if got := <-h.done; got != want {
			t.Errorf("the %s write was acknowledged, want the %s one", got, want)
		}
	}
	if n := h.batches.Load(); n != 2 {
		t.Errorf("two writes that came while a batch was synced made %d batches", n-1)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h.mem.SetHook(nil)
	h.checkLog(t, h.mem, 3)
	f, err := h.mem.Open(segmentPath(h.cfg.Dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	area := make([]byte, 64*blockBytes)
	if err := readFull(f, area, dataOffset); err != nil {
		t.Fatal(err)
	}
	before, last := uint64(0), uint64(0)
	for sector := range slices.Chunk(area, sectorBytes) {
		if lsn := le.Uint64(sector[contentBytes:]); lsn != 0 {
			before, last = last, lsn
		}
		if last < before {
			t.Fatalf("a sector of batch %d stands behind one of batch %d", last, before)
		}
	}
	if last != 2 {
		t.Errorf("the last sector is of batch %d, want 2", last)
	}
}

// A failed sync ends the log with a batch encoded ahead as without.
func TestFailedSyncDropsTheBatchEncodedAhead(t *testing.T) {
	h := newHeldLog(t, nil)
	broken := errors.New("broken")
	h.release <- broken
	if err := <-h.fatal; !errors.Is(err, broken) {
		t.Errorf("the log ended with %v", err)
	}
	if err := h.Close(); !errors.Is(err, broken) {
		t.Errorf("close returned %v", err)
	}
	if n := h.batches.Load(); n != 1 || len(h.done) > 0 {
		t.Errorf("%d batches were written and %d writes acknowledged", n, len(h.done))
	}
}

// Many write at once: small writes, writes of which a few fill a segment, and such that are larger than one.
func TestManyWritersWithBatchesEncodedAhead(t *testing.T) {
	const writers, writes = 6, 30
	mem := vfs.NewMem()
	cfg := Config{FS: mem, Dir: "/j", Catalog: &lockedCatalog{memCatalog: memCatalog{}}, SegmentBytes: 512 << 10}
	open := func() *Log {
		l := newLog(cfg.withDefaults())
		if err := l.recover(); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	ahead, filler := atomic.Int64{}, uint64(0)
	mem.SetHook(func(o vfs.Op) error {
		l.mu.RLock()
		active := o.Name == segmentPath(cfg.Dir, l.active.id)
		l.mu.RUnlock()
		if o.Kind == vfs.OpSync && active && l.syncing.Load() {
			if ahead.Load() == 0 { // so that there is something to encode ahead, in any case
				filler++
				l.Append(Write{Group: writers + 1, Entries: []Entry{{Index: filler, Term: 1, Data: make([]byte, aheadBytes)}},
					Done: func() {}})
			}
			encoded := false
			for end := time.Now().Add(5 * time.Millisecond); !encoded && time.Now().Before(end); { // a sync takes its time
				runtime.Gosched()
				l.hand.Lock()
				encoded = l.next.count > 0
				l.hand.Unlock()
			}
			if encoded {
				ahead.Add(1)
			}
		}
		return nil
	})
	for _, loop := range []func(){l.run, l.aheadLoop, l.prepareLoop, l.reclaimLoop} {
		l.wg.Go(loop)
	}
	count := func(group uint64, i int) int {
		if group == 0 && i%10 == 9 {
			return 16 // more than a segment
		}
		return 1 + i%3
	}
	sizes := []int{1, 100, 2 << 10, 30 << 10, 90 << 10}
	data := func(group, index uint64) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "%d/%d ", group, index), 1+sizes[(group+index)%5]/10)
	}
	var wg sync.WaitGroup
	for group := range uint64(writers) {
		wg.Go(func() {
			done := make(chan uint64, writes)
			next := uint64(1)
			for i := range writes {
				w := Write{Group: group + 1, Done: func() { done <- uint64(i) }}
				for range count(group, i) {
					w.Entries = append(w.Entries, Entry{Index: next, Term: 1 + next/50, Data: data(group+1, next)})
					next++
				}
				w.State = &HardState{Term: 1 + next/50, Commit: next - 1}
				l.Append(w)
				if i >= 3 { // so many are in flight
					if got := <-done; got != uint64(i-3) {
						t.Errorf("group %d: write %d was acknowledged, want %d", group+1, got, i-3)
					}
				}
			}
			for range 3 {
				<-done
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if ahead.Load() == 0 {
		t.Error("no batch was encoded ahead")
	}
	mem.SetHook(nil)
	l = open()
	defer l.closeFiles()
	for group := uint64(1); group <= writers; group++ {
		_, last := l.Bounds(group)
		want := uint64(0)
		for i := range writes {
			want += uint64(count(group-1, i))
		}
		if last != want {
			t.Fatalf("group %d has %d entries, want %d", group, last, want)
		}
		entries, err := l.Entries(group, 1, last+1, 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		for len(entries) < int(last) { // it returns what is in one place
			more, err := l.Entries(group, uint64(len(entries))+1, last+1, 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, more...)
		}
		for i, e := range entries {
			if e.Index != uint64(i+1) || e.Term != 1+e.Index/50 || !bytes.Equal(e.Data, data(group, e.Index)) {
				t.Fatalf("entry %d of group %d is not what was appended", i+1, group)
			}
		}
	}
}
