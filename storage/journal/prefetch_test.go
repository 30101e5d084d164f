package journal

import (
	"bytes"
	"testing"

	"millrace/storage/vfs"
)

// asking notes what it was told will be read.
type asking struct {
	vfs.FS
	file      vfs.File
	off       int64
	forgotten [][2]int64
}

func (a *asking) Create(name string) (vfs.File, error) {
	f, err := a.FS.Create(name)
	return askingFile{f, a}, err
}

type askingFile struct {
	vfs.File
	fs *asking
}

func (f askingFile) WillRead(off, _ int64) bool {
	f.fs.file, f.fs.off = f.File, off
	return true
}

func (f askingFile) WontRead(off, n int64) { f.fs.forgotten = append(f.fs.forgotten, [2]int64{off, n}) }

// Prefetch names the place of the data, of entries of the log as of installed ones. What is not on the disk, or not
// there at all, it leaves alone.
func TestPrefetchNamesThePlaceOfAnEntry(t *testing.T) {
	fs := &asking{FS: vfs.NewMem()}
	l, err := Open(Config{FS: fs, Dir: "/j", Catalog: memCatalog{}, SegmentBytes: minSegmentBytes, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	data := func(c byte) []byte { return bytes.Repeat([]byte{c}, 1000) }
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 1, Term: 1, Data: data('a')}, {Index: 2, Term: 1, Data: data('b')}}})
	l.Install(2, 7, 1, 1000, []Range{{0, 1000}}, data('c'), nil)
	l.Append(Write{Group: 2, Snapshot: &Snapshot{Index: 10, Term: 1}, Reset: true, Done: func() {}})
	l.Prefetch(1, 2, 4096)
	if fs.file != nil {
		t.Fatal("what is queued was prefetched")
	}
	for l.Work() {
	}
	l.Prefetch(1, 9, 4096)
	l.Prefetch(9, 1, 4096)
	if fs.file != nil {
		t.Fatal("what is not there was prefetched")
	}
	for _, of := range []struct {
		group, index uint64
		want         byte
	}{{1, 1, 'a'}, {1, 2, 'b'}, {2, 7, 'c'}} {
		forget := l.Prefetch(of.group, of.index, 4096)
		p := make([]byte, 900)
		if _, err := fs.file.ReadAt(p, fs.off); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(p, []byte{of.want}); n < 800 { // between them the ends of sectors
			t.Errorf("group %d entry %d: the place named has %d bytes of it", of.group, of.index, n)
		}
		fs.forgotten = nil
		if forget(); len(fs.forgotten) != 1 || fs.forgotten[0] != [2]int64{fs.off, 4096} {
			t.Errorf("group %d entry %d: %v was forgotten, not what was read at %d", of.group, of.index, fs.forgotten, fs.off)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A batch of what was installed leaves memory when it is durable; others stay.
func TestInstalledDataLeavesMemory(t *testing.T) {
	fs := &asking{FS: vfs.NewMem()}
	l, err := Open(Config{FS: fs, Dir: "/j", Catalog: memCatalog{}, SegmentBytes: minSegmentBytes, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		for l.Work() {
		}
	}
	data := make([]byte, 20_000)
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 1, Term: 1, Data: data}}, Done: func() {}})
	write()
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 2, Term: 1, Data: data}}})
	l.Install(2, 7, 1, 1000, []Range{{0, 1000}}, make([]byte, 1000), func() {})
	write()
	if len(fs.forgotten) > 0 {
		t.Fatalf("%v was forgotten, of batches that are not installed", fs.forgotten)
	}
	l.Install(2, 8, 1, 20_000, []Range{{0, 20_000}}, data, func() {})
	write()
	if len(fs.forgotten) != 1 || fs.forgotten[0][1] != 6*blockBytes {
		t.Errorf("%v was forgotten, want a batch of six blocks", fs.forgotten)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
