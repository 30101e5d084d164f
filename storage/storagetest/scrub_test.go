package storagetest

import (
	"testing"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// The whole log is read in Config.ScrubInterval, what is needed of what is damaged is reported, and what is not is not.
func TestLogScrubs(t *testing.T) {
	h := newHurtLog(t, func(_, index uint64) int { return 700 + int(index)*7 })
	now := time.Unix(1000, 0)
	var found []journal.Damaged
	open := func() *journal.Log {
		cfg := h.config(h.mem, h.manifest)
		cfg.Clock = func() time.Time { return now }
		cfg.ScrubInterval = time.Hour
		cfg.OnDamage = func(d journal.Damaged) { found = append(found, d) }
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	pass := func(l *journal.Log) {
		for range 150 {
			now = now.Add(time.Minute)
			for l.Work() {
			}
		}
	}
	l := open()
	pass(l)
	if len(found) > 0 {
		t.Fatalf("an undamaged log: %v", found)
	}
	damage := func(group, index uint64) {
		t.Helper()
		name, off := placeOf(t, l, group, index)
		if err := h.mem.Corrupt(name, off+200, 4); err != nil {
			t.Fatal(err)
		}
	}
	damage(1, 3)
	damage(3, 30)
	pass(l)
	seen := map[journal.Damaged]bool{}
	for _, d := range found {
		d.Err = nil
		seen[d] = true
	}
	if !seen[journal.Damaged{Group: 1, At: 3}] || !seen[journal.Damaged{Group: 3, At: 30}] {
		t.Fatalf("found %v", seen)
	}
	for d := range seen {
		l.Repair(d.Group, h.entries[d.Group][d.At-1], func() {})
	}
	pass(l)
	found = nil
	pass(l)
	if len(found) > 0 {
		t.Errorf("what is repaired is reported again: %v", found)
	}
	if n, err := h.check(l, false); n > 0 || err != nil {
		t.Errorf("after the repair %d entries are damaged, %v", n, err)
	}
	closeLog(t, l)

	// Less than a round a round's time: a byte is not read over and over.
	counted := &readFS{FS: h.mem}
	cfg := h.config(h.mem, h.manifest)
	cfg.FS, cfg.Clock, cfg.ScrubInterval = counted, func() time.Time { return now }, time.Hour
	again, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := counted.read
	pass(again)
	held := again.Stats().Bytes
	if got := counted.read - before; got > 4*held {
		t.Errorf("%d bytes were read in two and a half rounds of a log of %d bytes", got, held)
	}
	closeLog(t, again)
}

// readFS counts the bytes that are read.
type readFS struct {
	vfs.FS
	read int64
}

type readFile struct {
	vfs.File
	fs *readFS
}

func (r *readFS) Open(name string) (vfs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return readFile{f, r}, nil
}

func (f readFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.fs.read += int64(n)
	return n, err
}
