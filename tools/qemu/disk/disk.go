package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"sync"
)

const (
	// SectorBytes is the unit that is written whole or not at all.
	SectorBytes = 512

	// maxCached bounds the write cache, in bytes; what is oldest is made durable when it is full, as disks do.
	maxCached = 32 << 20
)

// Config describes a disk.
type Config struct {
	Path  string // file of what is durable, made sparse when missing
	Bytes int64  // size of a new file, in whole sectors; an existing one keeps its own

	// IgnoreFlush makes a disk that answers a flush, and a write that is to be durable at once, without doing it:
	// what is to be found by tests that look for lost data.
	IgnoreFlush bool
}

// Disk is a disk with a volatile write cache. Its methods may be called concurrently.
//
// Invariants, under mu:
//  1. The file is what the disk holds after a cut that drops all of the cache.
//  2. The cache has, for each sector, every write that was answered since the sector was last made durable, in order.
//  3. latest has the last of them; a sector that is not in it is read from the file.
type Disk struct {
	cfg   Config
	bytes int64

	mu      sync.Mutex
	file    *os.File
	cache   []*write // oldest first
	cached  int64    // bytes in cache
	latest  map[int64][]byte
	armed   *trigger // nil: none
	power   int      // number of cuts: requests of before are of a machine without power
	flushes int
}

// write is one request in the cache. A sector that was made durable meanwhile is nil.
type write struct {
	first   int64 // number of the first sector
	sectors [][]byte
}

// trigger is a cut that waits for the cache to have some writes.
type trigger struct {
	writes int
	seed   uint64
	done   chan struct{} // closed when it was carried out
	losses Losses
	err    error
}

// Losses says what became of the writes that were in the cache at a cut.
type Losses struct {
	Writes                int // in the cache
	Kept, Dropped, Torn   int // of them: whole, not at all, in parts
	SectorsKept, SectorsN int // sectors that got to the disk, of all in the cache
}

// Open opens a disk. The caller closes it.
func Open(c Config) (*Disk, error) {
	f, err := os.OpenFile(c.Path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if c.Bytes <= 0 || c.Bytes%SectorBytes != 0 {
			return nil, fmt.Errorf("make disk %s: %d bytes are no whole sectors", c.Path, c.Bytes)
		}
		if f, err = os.OpenFile(c.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err == nil {
			err = f.Truncate(c.Bytes)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.Size()%SectorBytes != 0 {
		err = fmt.Errorf("%d bytes are no whole sectors", st.Size())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open disk %s: %w", c.Path, err), f.Close())
	}
	return &Disk{cfg: c, bytes: st.Size(), file: f, latest: make(map[int64][]byte)}, nil
}

// Bytes is the size of the disk.
func (d *Disk) Bytes() int64 { return d.bytes }

// Flushes is how many flushes were answered.
func (d *Disk) Flushes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes
}

// Close keeps what is in the cache, as a disk does that is switched off in order, and closes the file.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.writeBackLocked(len(d.cache)), d.file.Close())
}

// powerOn returns what Disk.do wants of a machine that is connected now.
func (d *Disk) powerOn() (power int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.power
}

// do carries out a request of a machine; on is false when the power was cut since it was connected, and then
// nothing is done.
func (d *Disk) do(power int, q request, data []byte) (answer []byte, code uint32, on bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.power != power {
		return nil, 0, false, nil
	}
	switch q.Type {
	case cmdFlush:
		err = d.flushLocked()
	case cmdRead, cmdWrite:
		if q.At > math.MaxInt64 || d.check(int64(q.At), int(q.Len)) != nil {
			return nil, errInvalid, true, nil
		}
		if q.Type == cmdWrite {
			err = d.writeLocked(data, int64(q.At), q.Flags&cmdFUA != 0)
			break
		}
		answer = make([]byte, q.Len)
		_, err = d.readLocked(answer, int64(q.At))
	default:
		return nil, errInvalid, true, nil
	}
	if err != nil {
		return nil, errIO, true, err
	}
	return answer, 0, d.power == power, nil
}

// check refuses what is not in whole sectors of the disk.
func (d *Disk) check(at int64, n int) error {
	if at < 0 || at%SectorBytes != 0 || n%SectorBytes != 0 || at > d.bytes-int64(n) {
		return fmt.Errorf("%d bytes at %d: not in whole sectors of a disk of %d bytes", n, at, d.bytes)
	}
	return nil
}

// ReadAt reads whole sectors: what was written last, durable or not.
func (d *Disk) ReadAt(p []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readLocked(p, at)
}

func (d *Disk) readLocked(p []byte, at int64) (int, error) {
	if err := d.check(at, len(p)); err != nil {
		return 0, err
	}
	if _, err := d.file.ReadAt(p, at); err != nil {
		return 0, err
	}
	for i := 0; i < len(p); i += SectorBytes {
		if b, ok := d.latest[(at+int64(i))/SectorBytes]; ok {
			copy(p[i:], b)
		}
	}
	return len(p), nil
}

// Write writes whole sectors into the cache; durable makes them, and no others, durable before it returns.
func (d *Disk) Write(p []byte, at int64, durable bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeLocked(p, at, durable)
}

func (d *Disk) writeLocked(p []byte, at int64, durable bool) error {
	if err := d.check(at, len(p)); err != nil {
		return err
	}
	if durable && !d.cfg.IgnoreFlush {
		return d.writeDurableLocked(p, at)
	}
	p = append([]byte(nil), p...)
	w := &write{first: at / SectorBytes}
	for i := 0; i < len(p); i += SectorBytes {
		sector := p[i : i+SectorBytes : i+SectorBytes]
		w.sectors = append(w.sectors, sector)
		d.latest[w.first+int64(i/SectorBytes)] = sector
	}
	d.cache = append(d.cache, w)
	d.cached += int64(len(p))
	if t := d.armed; t != nil && len(d.cache) >= t.writes {
		d.armed = nil
		t.losses, t.err = d.cutLocked(t.seed)
		close(t.done)
		return nil
	}
	n, left := 0, d.cached
	for ; left > maxCached; n++ {
		left -= d.cache[n].bytes()
	}
	return d.writeBackLocked(n)
}

func (w *write) bytes() int64 { return int64(len(w.sectors)) * SectorBytes }

// writeDurableLocked writes past the cache. Older writes of these sectors must not come over it later.
func (d *Disk) writeDurableLocked(p []byte, at int64) error {
	first, n := at/SectorBytes, int64(len(p)/SectorBytes)
	for _, w := range d.cache {
		for i := range w.sectors {
			if s := w.first + int64(i); s >= first && s < first+n {
				w.sectors[i] = nil
			}
		}
	}
	for s := first; s < first+n; s++ {
		delete(d.latest, s)
	}
	if _, err := d.file.WriteAt(p, at); err != nil {
		return fmt.Errorf("write disk: %w", err)
	}
	return nil
}

// Flush makes durable all that was written before.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushLocked()
}

func (d *Disk) flushLocked() error {
	d.flushes++
	if d.cfg.IgnoreFlush {
		return nil
	}
	return d.writeBackLocked(len(d.cache))
}

// writeBackLocked makes the oldest n writes of the cache durable.
func (d *Disk) writeBackLocked(n int) error {
	for _, w := range d.cache[:n] {
		if err := d.storeLocked(w, func(int) bool { return true }); err != nil {
			return err
		}
		d.cached -= w.bytes()
		for i, b := range w.sectors {
			s := w.first + int64(i)
			// The same memory: no later write of the sector is in the cache.
			if now, ok := d.latest[s]; ok && b != nil && &now[0] == &b[0] {
				delete(d.latest, s)
			}
		}
	}
	if d.cache = d.cache[n:]; len(d.cache) == 0 {
		d.cache = nil
	}
	return nil
}

// storeLocked writes those sectors of a write to the file that keep says, neighbours at once.
func (d *Disk) storeLocked(w *write, keep func(i int) bool) error {
	var run []byte
	at := int64(0)
	put := func() error {
		if len(run) == 0 {
			return nil
		}
		_, err := d.file.WriteAt(run, at)
		run = run[:0]
		if err != nil {
			return fmt.Errorf("write disk: %w", err)
		}
		return nil
	}
	for i, b := range w.sectors {
		if b == nil || !keep(i) {
			if err := put(); err != nil {
				return err
			}
			continue
		}
		if len(run) == 0 {
			at = (w.first + int64(i)) * SectorBytes
		}
		run = append(run, b...)
	}
	return put()
}

// Cut is a power cut. Of the writes in the cache each is kept, dropped, or torn: then each of its sectors is
// kept or not. As a later write may be kept and an earlier one dropped, this is every order in which a disk may have
// written them. Equal cache and seed leave equal bytes. Requests of machines that were connected before get no
// answer any more.
func (d *Disk) Cut(seed uint64) (Losses, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cutLocked(seed)
}

// CutWhen is Cut as soon as that many writes are in the cache: in the middle of work. When ctx ends before that, it
// cuts then.
func (d *Disk) CutWhen(ctx context.Context, seed uint64, writes int) (Losses, error) {
	t := &trigger{writes: writes, seed: seed, done: make(chan struct{})}
	d.mu.Lock()
	if d.armed != nil {
		panic("BUG: two cuts wait for one disk")
	}
	if len(d.cache) >= writes {
		defer d.mu.Unlock()
		return d.cutLocked(seed)
	}
	d.armed = t
	d.mu.Unlock()
	select {
	case <-t.done:
		return t.losses, t.err
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed != t { // meanwhile
		return t.losses, t.err
	}
	d.armed = nil
	return d.cutLocked(seed)
}

func (d *Disk) cutLocked(seed uint64) (Losses, error) {
	d.power++
	r := rand.New(rand.NewPCG(seed, 0))
	share := r.Float64() // of the writes that get to the disk: some cuts lose almost all, some little
	l := Losses{Writes: len(d.cache)}
	for _, w := range d.cache {
		kept, all := 0, 0
		keep := func(int) bool { return true }
		switch tear := r.IntN(4) == 0; {
		case tear:
			keep = func(int) bool { return r.IntN(2) == 0 }
		case r.Float64() >= share:
			keep = func(int) bool { return false }
		}
		counted := func(i int) bool {
			if keep(i) {
				kept++
				return true
			}
			return false
		}
		for _, b := range w.sectors {
			if b != nil {
				all++
			}
		}
		if err := d.storeLocked(w, counted); err != nil {
			return l, err
		}
		switch kept {
		case all:
			l.Kept++
		case 0:
			l.Dropped++
		default:
			l.Torn++
		}
		l.SectorsKept += kept
		l.SectorsN += all
	}
	d.cache, d.cached = nil, 0
	clear(d.latest)
	return l, nil
}
