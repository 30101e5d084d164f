package journal

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"millrace/storage/vfs"
)

// watched is a file system whose reads are noted, and of which nothing is in memory.
type watched struct {
	vfs.FS
	noDirect  bool // there are no direct reads
	mu        sync.Mutex
	direct    int64 // bytes that were read directly
	plain     int64 // and otherwise, of segments
	forgotten [][2]int64
}

func (w *watched) Create(name string) (vfs.File, error) {
	f, err := w.FS.Create(name)
	return watchedFile{f, w}, err
}

type watchedFile struct {
	vfs.File
	fs *watched
}

func (f watchedFile) Cold(int64) bool { return true }

func (f watchedFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	f.fs.plain += int64(len(p))
	f.fs.mu.Unlock()
	return f.File.ReadAt(p, off)
}

func (f watchedFile) ReadDirect(p []byte, off int64) (int, error) {
	if len(p)%vfs.DirectBytes != 0 || off%vfs.DirectBytes != 0 {
		return 0, fmt.Errorf("%d bytes at %d are not whole blocks", len(p), off)
	}
	if f.fs.noDirect {
		return 0, errors.ErrUnsupported
	}
	f.fs.mu.Lock()
	f.fs.direct += int64(len(p))
	f.fs.mu.Unlock()
	return f.File.ReadAt(p, off)
}

func (f watchedFile) WontRead(off, n int64) {
	f.fs.forgotten = append(f.fs.forgotten, [2]int64{off, n})
}

// watchedLog is a log in segments of a size that does its work when it is told to. It is closed when the test ends.
func watchedLog(t *testing.T, fs *watched, segmentBytes int64) *Log {
	t.Helper()
	l, err := Open(Config{FS: fs, Dir: "/j", Catalog: memCatalog{}, SegmentBytes: segmentBytes, FirstSegmentBytes: segmentBytes, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// appendNow appends an entry of group 1 and makes it durable.
func appendNow(l *Log, index uint64, data []byte) {
	l.Append(Write{Group: 1, Entries: []Entry{{Index: index, Term: 1, Data: data}}, Done: func() {}})
	for l.Work() {
	}
}

// What a Bulk reads is what was written: of entries of all sizes, as wholes and in parts, encrypted or not, of segments
// that are sealed and of the one that is not. Of what is not in memory nearly all goes past it, once, where that is
// possible.
func TestBulkReadsWhatWasWritten(t *testing.T) {
	for _, of := range []struct {
		name     string
		key      []byte
		noDirect bool
	}{{"plain", nil, false}, {"encrypted", bytes.Repeat([]byte{7}, KeyBytes), false}, {"no direct reads", nil, true}} {
		t.Run(of.name, func(t *testing.T) {
			fs := &watched{FS: vfs.NewMem(), noDirect: of.noDirect}
			catalog := &lockedCatalog{memCatalog: memCatalog{}}
			l, err := Open(Config{FS: fs, Dir: "/j", Catalog: catalog, SegmentBytes: 8 << 20, FirstSegmentBytes: 8 << 20,
				Manual: true, Key: of.key, Keys: catalog})
			if err != nil {
				t.Fatal(err)
			}
			sizes := []int{1, 300, 70_000, 1 << 20}
			data := func(index uint64) []byte {
				b := make([]byte, sizes[index%4])
				for i := range b {
					b[i] = byte(uint64(i)*7 + uint64(i>>9)*13 + index)
				}
				return b
			}
			const last = 100
			total := int64(0)
			for i := uint64(1); i <= last; i++ {
				appendNow(l, i, data(i))
				total += int64(len(data(i)))
			}
			fs.plain = 0
			bulk := l.Bulk(1)
			for i := uint64(1); i <= last; i++ {
				want := data(i)
				for off := 0; off < len(want); {
					p := make([]byte, min(len(want)-off, 300_000))
					if err := bulk.ReadAt(i, off, p); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(p, want[off:off+len(p)]) {
						t.Fatalf("entry %d is not what was written, in %d bytes from %d on", i, len(p), off)
					}
					off += len(p)
				}
			}
			switch {
			case of.noDirect && fs.plain < total:
				t.Errorf("%d bytes of %d were read", fs.plain, total)
			case !of.noDirect && (fs.direct < total*6/10 || fs.direct > total*11/10 || fs.plain > total*4/10):
				t.Errorf("of %d bytes, a quarter of them in the segment that is not sealed, %d were read directly, %d otherwise",
					total, fs.direct, fs.plain)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Of the segment that is still written nothing is read ahead: it would be what stood there before.
func TestBulkReadsWhatIsStillWritten(t *testing.T) {
	fs := &watched{FS: vfs.NewMem()}
	l := watchedLog(t, fs, 8<<20)
	bulk := l.Bulk(1)
	for i := uint64(1); i <= 20; i++ {
		want := bytes.Repeat([]byte{byte(i)}, 100_000)
		appendNow(l, i, want)
		got := make([]byte, len(want))
		if err := bulk.ReadAt(i, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("entry %d: %v, or not what was written", i, err)
		}
	}
}

// What is needed of few places is not read with all that lies between them.
func TestBulkReadsFewPlacesAlone(t *testing.T) {
	fs := &watched{FS: vfs.NewMem()}
	l := watchedLog(t, fs, 32<<20)
	for i := uint64(1); i <= 18; i++ {
		appendNow(l, i, make([]byte, 5<<20))
	}
	bulk := l.Bulk(1)
	for i := uint64(1); i <= 18; i++ {
		if err := bulk.ReadAt(i, 4<<20, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if fs.direct > bulkAhead+bulkWindow {
		t.Errorf("%d bytes were read directly for 18 times 1000", fs.direct)
	}
}

// A damaged sector is told as ever, by those who read it alone.
func TestBulkTellsDamage(t *testing.T) {
	mem := vfs.NewMem()
	fs := &watched{FS: mem}
	l := watchedLog(t, fs, 8<<20)
	for i := uint64(1); i <= 12; i++ {
		appendNow(l, i, make([]byte, 1<<20))
	}
	s := l.segs[1]
	if err := mem.Corrupt(s.file.Name(), dataOffset+3<<20, 1); err != nil {
		t.Fatal(err)
	}
	bulk := l.Bulk(1)
	damaged := 0
	for i := uint64(1); i <= 12; i++ {
		if err := bulk.ReadAt(i, 0, make([]byte, 1<<20)); errors.As(err, new(*CorruptError)) {
			damaged++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if damaged != 1 {
		t.Errorf("%d entries of 12 are damaged, want one", damaged)
	}
}

// A batch of what was installed leaves memory when it is durable; others stay.
func TestInstalledDataLeavesMemory(t *testing.T) {
	fs := &watched{FS: vfs.NewMem()}
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
