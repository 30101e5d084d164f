package sim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"millrace/storage/journal"
	"millrace/storage/storagetest"
	"millrace/storage/vfs"
)

const journalDir = "/journal"

// errCrashed is what operations answer between the moment of a crash and the end of the event in which it
// happened.
var errCrashed = errors.New("sim: the power is off")

// disk is what outlives a node's process: the file system, and the catalog, whose changes are durable at
// once.
type disk struct {
	world   *world
	rnd     *rand.Rand
	content content
	logs    map[uint64]*shadow
	number  uint64 // of the newest change to any log
	slow    float64

	// A crash that is due at an operation from now on: 0 is none. What the disk holds then is after.
	countdown int
	loss      vfs.Loss
	after     *content
}

// content is what is on a disk.
type content struct {
	mem     *vfs.Mem
	catalog *storagetest.Catalog
	ideal   *ideal // in place of the two, if not nil
}

func newDisk(w *world, node int, id uint64, withoutJournal bool) *disk {
	d := &disk{world: w, rnd: w.source(fmt.Sprintf("disk %d", node+1)), slow: 1}
	if withoutJournal {
		d.content.ideal = newIdeal()
	}
	d.format(id)
	return d
}

// format makes the disk a new one.
func (d *disk) format(id uint64) {
	d.logs = make(map[uint64]*shadow)
	if d.content.ideal != nil {
		d.content.ideal = newIdeal()
		return
	}
	d.content = content{mem: vfs.NewMem(), catalog: storagetest.NewCatalog(id)}
	d.hook()
}

func (d *disk) hook() {
	if d.content.ideal == nil {
		d.content.mem.SetHook(func(vfs.Op) error { return d.before() })
		d.content.catalog.SetHook(func(string) error { return d.before() })
	}
}

// before is called before each operation on the disk.
func (d *disk) before() error {
	if d.after != nil {
		return errCrashed
	}
	if d.countdown > 0 {
		if d.countdown--; d.countdown == 0 {
			d.capture()
			return errCrashed
		}
	}
	return nil
}

// dying reports whether the power has gone off during the present event.
func (d *disk) dying() bool { return d.after != nil }

// capture takes what a crash at this moment leaves.
func (d *disk) capture() {
	c := d.content.crash(d.loss, d.rnd)
	d.after = &c
}

func (c content) crash(loss vfs.Loss, rnd *rand.Rand) content {
	if c.ideal != nil {
		return content{ideal: c.ideal.crash(loss, rnd)}
	}
	return content{mem: c.mem.Crash(loss, rnd.Uint64()), catalog: c.catalog.Clone()}
}

// crashed makes what the crash left the contents of the disk.
func (d *disk) crashed(loss vfs.Loss) {
	if d.after == nil {
		d.loss = loss
		d.capture()
	}
	d.content = *d.after
	d.after, d.countdown = nil, 0
	d.hook()
}

// closed is called when the process has ended in order.
func (d *disk) closed() { d.crashed(vfs.KeepUnsynced) }

// duration draws how long a write and its sync take.
func (d *disk) duration() time.Duration {
	t := between(d.rnd, 100*time.Microsecond, 400*time.Microsecond)
	if chance(d.rnd, 0.04) {
		t += between(d.rnd, 2*time.Millisecond, 8*time.Millisecond)
	}
	return time.Duration(float64(t) * d.slow)
}

// flip inverts a bit of a file, on the disk and for whoever reads it; with late one of the end of what the newest
// file has. It reports whether there was one.
func (d *disk) flip(late bool) (name string, off int64, ok bool) {
	if d.content.ideal != nil {
		return "", 0, false
	}
	names, err := d.content.mem.List(journalDir)
	if err != nil || len(names) == 0 {
		return "", 0, false
	}
	name = journalDir + "/" + names[d.rnd.IntN(len(names))]
	size := d.size(name)
	if size == 0 {
		return "", 0, false
	}
	off = d.rnd.Int64N(size)
	if late {
		if name, off = d.written(names); name == "" {
			return "", 0, false
		}
	}
	return name, off, d.content.mem.Corrupt(name, off, 1<<d.rnd.IntN(8)) == nil
}

// lateBytes is how far before the end of what was written something was written lately.
const lateBytes = 16 << 10

// written returns a place shortly before the end of what the newest file has, "" if there is none.
func (d *disk) written(names []string) (name string, off int64) {
	for _, name := range slices.Backward(names) {
		full := journalDir + "/" + name
		f, err := d.content.mem.Open(full)
		if err != nil {
			continue
		}
		data := make([]byte, d.size(full))
		_, err = f.ReadAt(data, 0)
		f.Close()
		if end := int64(len(bytes.TrimRight(data, "\x00"))); err == nil && end > lateBytes {
			return full, end - 1 - d.rnd.Int64N(lateBytes)
		}
	}
	return "", 0
}

// size returns the size of a file, 0 if it cannot be opened.
func (d *disk) size(name string) int64 {
	f, err := d.content.mem.Open(name)
	if err != nil {
		return 0
	}
	size, err := f.Size()
	if errors.Join(err, f.Close()) != nil {
		return 0
	}
	return size
}

// limit bounds the sum of the file sizes to what they are now and a little more; unlimit ends that.
func (d *disk) limit() {
	if d.content.ideal != nil {
		return
	}
	names, _ := d.content.mem.List(journalDir)
	sum := int64(4096)
	for _, name := range names {
		sum += d.size(journalDir + "/" + name)
	}
	d.content.mem.SetCapacity(sum)
}

func (d *disk) unlimit() {
	if d.content.ideal == nil {
		d.content.mem.SetCapacity(0)
	}
}

// open opens the store for a process of the node.
func (d *disk) open(n *node) (*store, error) {
	s := &store{
		logs: d.logs, number: &d.number, mutant: n.cluster.cfg.Mutant, failed: d.dying,
		log: d.world.log, segment: n.cluster.tune.segment,
		changed: func(c *change) {
			n.pokeDisk()
			n.sprung(c)
		},
		ghosts: make(map[uint64]uint64),
	}
	var err error
	s.SnapshotStore, s.real, err = d.content.open(n, true)
	if s.mutant == MutantTornAlways {
		for range 5 {
			if err == nil {
				err = s.unreadable(sortedKeys(d.logs))
			}
			if damage := (*journal.CorruptError)(nil); errors.As(err, &damage) && d.cut(damage) {
				s.SnapshotStore, s.real, err = d.content.open(n, true)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if s.mutant == MutantAmnesia {
		for log := range d.logs {
			_, last := s.SnapshotStore.Bounds(log)
			s.ghosts[log] = max(last, 3) - 3
		}
	}
	return s, nil
}

// verify compares what a crash at this moment leaves with what must be there. The disk goes on unchanged.
func (d *disk) verify(n *node, loss vfs.Loss) error {
	rnd := rand.New(rand.NewPCG(d.world.seed, d.world.steps)) // other decisions do not depend on it
	image := d.content
	if image.ideal != nil {
		image.ideal = image.ideal.fork()
	}
	s := &store{logs: d.logs}
	var err error
	s.SnapshotStore, s.real, err = image.crash(loss, rnd).open(n, false)
	if err != nil {
		return err
	}
	damaged, err := s.verify(sortedKeys(d.logs), false)
	if err == nil && damaged > 0 {
		err = fmt.Errorf("%d entries and objects are damaged", damaged)
	}
	return err
}

// cut is a mutant: it takes damage for the end of the log, and clears a segment from there on.
func (d *disk) cut(damage *journal.CorruptError) bool {
	f, err := d.content.mem.Open(damage.File)
	if err != nil {
		return false
	}
	from := damage.Offset / 4096 * 4096
	zeros := make([]byte, max(d.size(damage.File)-from, 0))
	_, err = f.WriteAt(zeros, from)
	return errors.Join(err, f.Sync(), f.Close()) == nil
}

// lazyFS is a mutant: a file system whose syncs do nothing.
type lazyFS struct{ vfs.FS }

func (l lazyFS) Create(name string) (vfs.File, error) { return lazy(l.FS.Create(name)) }
func (l lazyFS) Open(name string) (vfs.File, error)   { return lazy(l.FS.Open(name)) }

func lazy(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

type lazyFile struct{ vfs.File }

func (lazyFile) Sync() error     { return nil }
func (lazyFile) SyncData() error { return nil }
