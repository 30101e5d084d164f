package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// CrashConfig sizes a Crash test.
type CrashConfig struct {
	Seed uint64
	Ops  int // length of the workload
	// Nested is how often the recovery after a crash is itself crashed at every operation: after
	// each Nested-th one. 0: never.
	Nested int
	// Release is how many operations of 100 release entries, instead of a few. With many of them
	// segments die young, and their files are used again.
	Release int
	// Key is the node key of an encrypted log, nil for none.
	Key []byte
	// Dirs is over how many directories the log is spread. 0: one.
	Dirs int
}

// CrashStats says what a Crash test has seen.
type CrashStats struct {
	Crashes int   // so many were tried
	Reused  int   // files of dead segments that were used again
	Moved   int64 // bytes that the log moved out of nearly dead segments
}

// Crash runs a workload on a simulated disk and crashes the machine before each single operation on
// the disk, once for every way to lose what was not synced. Each time it recovers the log and
// checks that it holds exactly what a prefix of the workload left, and that this prefix has every
// acknowledged operation in it.
func Crash(t *testing.T, cfg CrashConfig) CrashStats {
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	c := &crasher{t: t, cfg: cfg, base: newModel()}
	before := func(what string) error {
		c.crash(what, mem, manifest)
		return nil
	}
	mem.SetHook(func(o vfs.Op) error {
		if o.Kind == vfs.OpRename && strings.HasSuffix(o.Name, ".spare") {
			c.reused.Add(1)
		}
		return before(o.String())
	})
	manifest.SetHook(before)

	l := c.store(mem, manifest).open(t)
	w := newWorkload(cfg.Seed)
	w.releases, c.needs = cfg.Release, w.needs
	for i := range cfg.Ops {
		o := w.op()
		for id := range w.model.groups {
			if !kept(id) {
				l.Retain(id, retainer{w.needs, id})
			}
		}
		c.submit(o)
		done := make(chan struct{})
		acked := func() { c.ack(i); close(done) }
		switch k := w.rnd.IntN(20); {
		case k < 5 && !o.lazy():
			o.call(l, acked)
			c.wait(l, done)
			if k == 0 { // idle for a while: the mark is written
				<-time.After(30 * time.Millisecond)
			}
		case k < 15:
			o.call(l, acked)
		default:
			o.call(l, nil)
		}
	}
	moved := l.Stats().Moved
	closeLog(t, l)
	c.ack(cfg.Ops - 1)
	c.crash("the end", mem, manifest)
	return CrashStats{Crashes: c.crashes, Reused: int(c.reused.Load()), Moved: moved}
}

// wait returns when done is closed, or the log has stopped for good, which open reports.
func (c *crasher) wait(l *journal.Log, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Second):
			if l.Err() != nil {
				c.t.FailNow()
			}
		}
	}
}

// crasher tries crashes one at a time.
type crasher struct {
	t      *testing.T
	cfg    CrashConfig
	reused atomic.Int64

	// mu is held while a crash is tried, so that the disk and the catalog are of one moment.
	mu      sync.Mutex
	crashes int
	needs   *needs
	base    *model // after baseOps operations, all acknowledged
	baseOps int

	opsMu sync.Mutex
	ops   []op // submitted
	acked int  // so many of them, from the first, are acknowledged
}

func (c *crasher) submit(o op) {
	c.opsMu.Lock()
	c.ops = append(c.ops, o)
	c.opsMu.Unlock()
}

// ack notes that operation i, and so every one before it, is durable.
func (c *crasher) ack(i int) {
	c.opsMu.Lock()
	c.acked = max(c.acked, i+1)
	c.opsMu.Unlock()
}

func (c *crasher) store(mem *vfs.Mem, manifest *Catalog) Store {
	s := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true, key: c.cfg.Key}
	if c.cfg.Dirs > 1 {
		s.FS = spread(c.t, mem, c.cfg.Dirs)
	}
	return s
}

// spread shows several directories of a file system as one, "/journal". New files go where the fewest are.
func spread(t testing.TB, fsys vfs.FS, dirs int) vfs.FS {
	t.Helper()
	names := []string{"/journal"}
	for i := 1; i < dirs; i++ {
		names = append(names, fmt.Sprintf("/disk%d/journal", i+1))
	}
	s, err := vfs.NewSpread(fsys, func(dir string) (int64, error) {
		files, err := fsys.List(dir)
		return 1<<20 - int64(len(files)), err
	}, names...)
	if err != nil {
		t.Fatalf("spread files: %v", err)
	}
	return s
}

// crash tries every kind of crash at this moment.
func (c *crasher) crash(what string, mem *vfs.Mem, manifest *Catalog) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t.Failed() {
		return // one report is enough
	}
	// Acknowledged first, then the image, then what was submitted: a prefix between the two is in
	// the image.
	c.opsMu.Lock()
	acked := c.acked
	c.opsMu.Unlock()
	type image struct {
		mem      *vfs.Mem
		manifest *Catalog
		loss     vfs.Loss
	}
	var images []image
	for _, loss := range []vfs.Loss{vfs.KeepUnsynced, vfs.LoseUnsynced, vfs.TearUnsynced, vfs.TearUnsynced} {
		seed := c.cfg.Seed + uint64(c.crashes+len(images))
		images = append(images, image{mem.Crash(loss, seed), manifest.Clone(), loss})
	}
	c.opsMu.Lock()
	ops := slices.Clip(c.ops)
	c.opsMu.Unlock()
	for ; c.baseOps < acked; c.baseOps++ {
		c.base.apply(ops[c.baseOps])
	}
	for _, im := range images {
		c.crashes++
		name := fmt.Sprintf("crash %d, %v unsynced, before %s", c.crashes, im.loss, what)
		if c.cfg.Nested > 0 && c.crashes%c.cfg.Nested == 0 {
			c.nested(name, im.mem, im.manifest, ops)
		}
		if err := c.recover(im.mem, im.manifest, ops, true); err != nil {
			c.t.Errorf("%s (seed %d, %d operations acknowledged, %d submitted): %v", name, c.cfg.Seed, acked,
				len(ops), err)
			return
		}
	}
}

// nested crashes the recovery from an image at each of its operations.
func (c *crasher) nested(name string, mem *vfs.Mem, manifest *Catalog, ops []op) {
	mem, manifest = mem.Crash(vfs.KeepUnsynced, 0), manifest.Clone()
	n := 0
	before := func(what string) error {
		n++
		c.crashes++
		loss := []vfs.Loss{vfs.LoseUnsynced, vfs.TearUnsynced}[n%2]
		if err := c.recover(mem.Crash(loss, uint64(n)), manifest.Clone(), ops, false); err != nil {
			c.t.Errorf("%s, then %v before %s: %v", name, loss, what, err)
		}
		return nil
	}
	var mu sync.Mutex // the log's goroutines go on while Open returns
	mem.SetHook(func(o vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		return before(o.String())
	})
	l, err := journal.Open(c.store(mem, manifest).config())
	if err != nil {
		return // the caller's own recovery of the image reports it
	}
	mem.SetHook(nil)
	closeLog(c.t, l)
}

// recover opens the log of an image and compares it with what was submitted. With goOn it also uses
// the log, closes it and opens it again.
func (c *crasher) recover(mem *vfs.Mem, manifest *Catalog, ops []op, goOn bool) error {
	store := c.store(mem, manifest)
	l, err := journal.Open(store.config())
	if err != nil {
		return err
	}
	got, err := read(l)
	var want *model
	if err == nil {
		want, err = c.matches(got, ops)
	}
	if err == nil {
		err = checkOld(l, want, c.needs)
	}
	if err != nil || !goOn {
		closeLog(c.t, l)
		return err
	}
	if c.crashes%2 == 0 {
		for id := range want.groups {
			if !kept(id) {
				l.Retain(id, retainer{c.needs, id})
			}
		}
	}
	extra := op{write: &journal.Write{Group: 1 << 50, Entries: []journal.Entry{
		{Index: 1, Term: 1, Data: make([]byte, 5000)}, {Index: 2, Term: 1, Data: []byte("after the crash")},
	}}}
	done := make(chan struct{})
	extra.call(l, func() { close(done) })
	<-done
	got.apply(extra)
	closeLog(c.t, l)
	if l, err = journal.Open(store.config()); err != nil {
		return fmt.Errorf("open once more: %w", err)
	}
	defer closeLog(c.t, l)
	again, err := read(l)
	if err != nil {
		return fmt.Errorf("read once more: %w", err)
	}
	if err := again.diff(got); err != nil {
		return fmt.Errorf("opened once more, the log has %w", err)
	}
	if err := checkOld(l, want, c.needs); err != nil {
		return fmt.Errorf("opened once more: %w", err)
	}
	return nil
}

// matches checks that a recovered log is what some prefix of the operations left, and returns that.
func (c *crasher) matches(got *model, ops []op) (*model, error) {
	m := c.base.clone()
	var first error
	for n := c.baseOps; ; n++ {
		err := got.diff(m)
		if err == nil {
			return m, nil
		}
		if first == nil {
			first = err
		}
		if n == len(ops) {
			return nil, fmt.Errorf("the log is no prefix of what was appended; compared with the acknowledged part it has %w",
				first)
		}
		m.apply(ops[n])
	}
}
