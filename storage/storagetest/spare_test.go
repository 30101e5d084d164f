package storagetest

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// files counts the segment files and the spares.
func (s Store) files(t testing.TB) (segments, spares int) {
	t.Helper()
	names, err := s.FS.List(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".seg"):
			segments++
		case strings.HasSuffix(name, ".spare"):
			spares++
		default:
			t.Errorf("there is a file %s", name)
		}
	}
	return segments, spares
}

// A log whose data is released soon lives on the files that it has.
func TestLogUsesFilesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1), small: true}
		l := s.open(t)
		f := &filler{log: l}
		created := 0
		mem.SetHook(func(o vfs.Op) error {
			if o.Kind == vfs.OpCreate {
				created++
			}
			return nil
		})
		step := func() {
			f.index++
			l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: f.index, Term: 1, Data: make([]byte, 9000)}},
				Done: func() { f.acked.Add(1) }})
			synctest.Wait()
			rest(100 * time.Millisecond)
			l.Release(1, f.index-1)
		}
		for range 100 {
			step()
		}
		before, bytes := created, mem.Stats().Bytes
		for range 300 {
			step()
			if segments, spares := s.files(t); segments+spares > 8 || spares > 4 {
				t.Fatalf("there are %d segments and %d spares", segments, spares)
			}
		}
		// Whether the dead segment or the need for one comes first is open; one file more is always enough.
		if created > before+1 || f.acked.Load() != f.index {
			t.Errorf("%d files were made by %d entries, %d acknowledged", created-before, f.index, f.acked.Load())
		}
		// Three blocks, a mark, and of each segment's four entries the share in header, footer and carried
		// records.
		if wrote := mem.Stats().Bytes - bytes; wrote > 300*(3*4096+512+5*4096/4)+smallSegmentBytes {
			t.Errorf("%d bytes were written for 300 entries of 9000", wrote)
		}
		l.Release(1, f.index)
		rest(5 * time.Second)
		closeLog(t, l)
		segments, spares := s.files(t)
		l = s.open(t)
		if segments2, spares2 := s.files(t); segments2 != segments || spares2 != spares || segments+spares < 2 {
			t.Errorf("%d segments and %d spares before a restart, %d and %d after it", segments, spares, segments2, spares2)
		}
		before = created
		for range 30 {
			step()
		}
		if created > before+1 {
			t.Errorf("%d files were made after a restart", created-before)
		}
		closeLog(t, l)
	})
}

// When very much is released at once, the disk gets back what is not needed soon.
func TestLogBoundsSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1), small: true}
		l := s.open(t)
		f := &filler{log: l}
		for range 150 {
			f.append(5000) // in two seconds each
		}
		if segments, _ := s.files(t); segments < 15 {
			t.Fatalf("only %d segments", segments)
		}
		l.Release(1, f.index)
		rest(5 * time.Minute)
		if segments, spares := s.files(t); segments > 3 || spares < 1 || spares > 4 {
			t.Errorf("%d segments and %d spares are left", segments, spares)
		}
		closeLog(t, l)
		cfg := s.config()
		cfg.SegmentBytes = segmentBytes // of another size: the spares are of no use
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, spares := s.files(t); spares != 0 {
			t.Errorf("%d spares of another size are kept", spares)
		}
		closeLog(t, l)
	})
}

// A spare is what a full disk still has.
func TestLogUsesSparesOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1), small: true}
		l := s.open(t)
		f := &filler{log: l}
		for range 60 {
			f.append(5000)
		}
		l.Release(1, f.index)
		rest(5 * time.Minute)
		segments, spares := s.files(t)
		if spares == 0 {
			t.Fatal("no spare")
		}
		mem.SetCapacity(1) // nothing more can be made
		count, err := f.fill(t, 5000, l.Admit)
		if !errors.Is(err, journal.ErrFull) || count < 6*spares {
			t.Errorf("with %d segments and %d spares, %d entries were admitted, then %v", segments, spares, count, err)
		}
		if _, left := s.files(t); left != 0 {
			t.Errorf("%d spares are left", left)
		}
		for round := range 5 { // what is released is used again
			l.Release(1, f.index)
			rest(5 * time.Second)
			if count, err := f.fill(t, 5000, l.Admit); !errors.Is(err, journal.ErrFull) || count < 7 {
				t.Fatalf("round %d: %d entries were admitted, then %v", round, count, err)
			}
		}
		closeLog(t, l)
	})
}

// A spare that cannot be trusted to be one is not used, and nothing else suffers.
func TestLogDropsDamagedSpare(t *testing.T) {
	for what, damage := range map[string]func(*vfs.Mem, string) error{
		"a flipped bit":  func(m *vfs.Mem, name string) error { return m.Corrupt(name, 20, 1) },
		"a short file":   func(m *vfs.Mem, name string) error { return m.Truncate(name, 40000) },
		"a missing file": func(m *vfs.Mem, name string) error { return m.Remove(name) },
	} {
		synctest.Test(t, func(t *testing.T) {
			mem := vfs.NewMem()
			s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1), small: true}
			l := s.open(t)
			f := &filler{log: l}
			for range 20 {
				f.append(5000)
			}
			l.Release(1, f.index)
			rest(time.Minute)
			closeLog(t, l)
			for name := range contents(t, mem) {
				if strings.HasSuffix(name, ".spare") {
					if err := damage(mem, name); err != nil {
						t.Fatal(err)
					}
				}
			}
			l = s.open(t)
			f.log = l
			if _, spares := s.files(t); spares != 0 {
				t.Errorf("%s: %d damaged spares are kept", what, spares)
			}
			for range 20 {
				f.append(5000)
			}
			if first, last := l.Bounds(1); first != f.index-19 || last != f.index || f.acked.Load() != f.index {
				t.Errorf("%s: entries %d to %d, %d acknowledged of %d", what, first, last, f.acked.Load(), f.index)
			}
			closeLog(t, l)
			closeLog(t, s.open(t))
		})
	}
}

// The disk loses writes into a file that is used again: what stood there before is valid, and is not
// taken for what was lost.
func TestLogReportsWritesLostInRecycledFile(t *testing.T) {
	for _, lost := range []string{"first", "middle"} {
		synctest.Test(t, func(t *testing.T) {
			mem := vfs.NewMem()
			s := Store{FS: mem, Dir: "/journal", Catalog: NewCatalog(1), small: true}
			l := s.open(t)
			f := &filler{log: l}
			for range 40 {
				f.append(5000)
				l.Release(1, f.index-1)
			}
			armed, target := true, int64(-1)
			mem.LoseWrites(func(name string, sector int64) bool {
				switch {
				case !armed || sector < 16:
					return false
				case lost == "middle" && target < 0:
					target = sector + 2
					return false
				case lost == "first" || sector == target:
					armed = false
					return true
				}
				return false
			})
			f.append(5000)
			var corrupt *journal.CorruptError
			if err := l.ReadAt(1, f.index, 0, make([]byte, 5000)); !errors.As(err, &corrupt) || !contains(err, "lost") {
				t.Errorf("%s sector lost: ReadAt returned %v", lost, err)
			}
			f.append(5000)
			closeLog(t, l)
			l, err := journal.Open(s.config())
			if lost == "first" {
				if !errors.As(err, &corrupt) {
					t.Errorf("%s sector lost: Open returned %v", lost, err)
				}
				return
			}
			// The batch was synced, as the one behind it shows: the rest of it counts.
			if err != nil {
				t.Fatalf("%s sector lost: Open returned %v", lost, err)
			}
			if err := l.ReadAt(1, f.index-1, 0, make([]byte, 5000)); !errors.As(err, &corrupt) || !contains(err, "lost") {
				t.Errorf("%s sector lost: ReadAt after Open returned %v", lost, err)
			}
			closeLog(t, l)
		})
	}
}

// slowFS holds reads of segment contents back while hold is set.
type slowFS struct {
	vfs.FS
	hold    chan struct{} // set and closed by the test
	reading chan struct{}
}

type slowFile struct {
	vfs.File
	fs *slowFS
}

func (s *slowFS) Create(name string) (vfs.File, error) { return s.wrap(s.FS.Create(name)) }
func (s *slowFS) Open(name string) (vfs.File, error)   { return s.wrap(s.FS.Open(name)) }

func (s *slowFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return slowFile{f, s}, nil
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	if hold := f.fs.hold; hold != nil {
		f.fs.reading <- struct{}{}
		<-hold
	}
	return f.File.ReadAt(p, off)
}

// Who reads an entry while its segment is reclaimed gets what it asked for, not what is written into
// the file after that.
func TestLogLeavesFilesToTheirReaders(t *testing.T) {
	fs := &slowFS{FS: vfs.NewMem(), reading: make(chan struct{})}
	cfg := Store{FS: fs, Dir: "/journal", Catalog: NewCatalog(1), small: true}.config()
	cfg.Manual = true
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	appendOne := func() {
		index++
		l.Append(journal.Write{Group: 1, Done: func() {},
			Entries: []journal.Entry{{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, 5000)}}})
		for l.Work() {
		}
	}
	appendOne()
	got := make([]byte, 5000)
	read := make(chan error)
	fs.hold = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { read <- l.ReadAt(1, 1, 0, got) })
	<-fs.reading
	for range 60 {
		appendOne()
		l.Release(1, index-1)
	}
	close(fs.hold)
	if err := <-read; err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, 5000)) {
		t.Errorf("the entry is not what it was, or %v", err)
	}
	wg.Wait()
	fs.hold = nil
	for range 60 { // now its file is used
		appendOne()
		l.Release(1, index-1)
	}
	if segments, spares := (Store{FS: fs, Dir: "/journal"}).files(t); segments+spares > 8 {
		t.Errorf("%d segments and %d spares", segments, spares)
	}
	closeLog(t, l)
}

// A mark of the segment that was in the file before is no mark of this one.
func TestLogClearsMarkOfRecycledFile(t *testing.T) {
	m := newManualLog(t, 1, nil)
	reused := ""
	for index := uint64(1); reused == ""; index++ {
		m.log.Append(journal.Write{Group: 1, Done: func() {},
			Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 5000)}}})
		m.log.Release(1, index-1)
		m.work()
		m.now = m.now.Add(time.Second)
		m.work() // the mark is written
		for i, o := range m.ops {
			if strings.HasPrefix(o, "rename") && strings.Contains(o, ".spare") {
				reused = m.ops[i]
			}
		}
	}
	logged := messages{slog.DiscardHandler, map[string]int{}}
	cfg := Store{FS: m.mem.Crash(vfs.LoseUnsynced, 1), Dir: "/journal", Catalog: m.manifest.Clone(), small: true,
		key: testKey(9)}.config()
	cfg.Logger, cfg.Manual = slog.New(logged), true
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(logged.count) != 0 {
		t.Errorf("after %s, opening says %v", reused, logged.count)
	}
	closeLog(t, l)
}
