package storagetest

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

func TestLogInMemory(t *testing.T) {
	Suite(t, func(*testing.T) Store {
		return Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1)}
	})
}

func TestLogOnSeveralDisks(t *testing.T) {
	Suite(t, func(t *testing.T) Store {
		return Store{FS: spread(t, vfs.NewMem(), 3), Dir: "/journal", Catalog: NewCatalog(1)}
	})
}

// A log of which a disk is missing is refused, by the name of what is missing, and nothing is changed: with the disk
// it is whole again. A disk that is added later is used.
func TestLogWithAMissingDisk(t *testing.T) {
	mem, manifest := vfs.NewMem(), NewCatalog(1)
	on := func(dirs int) Store {
		return Store{FS: spread(t, mem, dirs), Dir: "/journal", Catalog: manifest, small: true}
	}
	entries := func(first, n uint64) (list []journal.Entry) {
		for i := first; i < first+n; i++ {
			list = append(list, journal.Entry{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, 8<<10)})
		}
		return list
	}
	fill := func(s Store, first, n uint64) {
		t.Helper()
		l := s.open(t)
		for _, e := range entries(first, n) {
			l.Append(journal.Write{Group: 1, Entries: []journal.Entry{e}})
			wait(t, l)
		}
		closeLog(t, l)
	}
	fill(on(2), 1, 40)
	fill(on(3), 41, 40) // one more disk
	for _, dir := range []string{"/journal", "/disk2/journal", "/disk3/journal"} {
		if names, err := mem.List(dir); err != nil || len(names) < 2 {
			t.Errorf("%s has files %q, %v", dir, names, err)
		}
	}
	before := contents(t, mem)
	_, err := journal.Open(on(2).config())
	var corrupt *journal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Reason != "the file is missing" {
		t.Fatalf("without its third disk the log was opened: %v", err)
	}
	if !maps.EqualFunc(before, contents(t, mem), bytes.Equal) {
		t.Error("refusing changed files")
	}
	l := on(3).open(t)
	defer closeLog(t, l)
	got, err := l.Entries(1, 1, 81, 1<<30)
	if err != nil || len(got) != 80 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i, e := range entries(1, 80) {
		if !bytes.Equal(got[i].Data, e.Data) {
			t.Errorf("entry %d is another", e.Index)
		}
	}
}

// A disk that fails ends the log, whichever it is.
func TestLogStopsWhenOneOfSeveralDisksFails(t *testing.T) {
	for _, bad := range []string{"/journal", "/disk2/journal"} {
		mem := vfs.NewMem()
		s := Store{FS: spread(t, mem, 2), Dir: "/journal", Catalog: NewCatalog(1), small: true}
		fatal := make(chan error, 1)
		cfg := s.config()
		cfg.OnFatal = func(err error) { fatal <- err }
		l, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("input/output error")
		mem.SetHook(func(o vfs.Op) error {
			if strings.HasPrefix(o.Name, bad+"/") && o.Kind == vfs.OpWrite {
				return broken
			}
			return nil
		})
		for i := range uint64(40) {
			l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: i + 1, Term: 1, Data: make([]byte, 8<<10)}}, Done: func() {}})
		}
		if err := <-fatal; !errors.Is(err, broken) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s failed, the log ended with %v", bad, err)
		}
		mem.SetHook(nil)
		_ = l.Close() // the error again
	}
}

func TestLogOnDisk(t *testing.T) {
	t.Parallel()
	Suite(t, func(t *testing.T) Store {
		dir := t.TempDir()
		c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return Store{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c}
	})
}

// With the default sizes an entry of 16 MiB fits, although the first segment is smaller.
func TestLogHoldsSixteenMiB(t *testing.T) {
	s := Store{FS: vfs.OS{}, Dir: t.TempDir(), Catalog: NewCatalog(1)}
	for round := range uint64(2) {
		l, err := journal.Open(journal.Config{FS: s.FS, Dir: s.Dir, Catalog: s.Catalog})
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{1, 2, 3, byte(round)}, 4<<20)
		if err := l.Admit(len(data)); err != nil {
			t.Fatal(err)
		}
		l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: round + 1, Term: 1, Data: data}}})
		wait(t, l)
		got, err := l.Entries(1, round+1, round+2, 0)
		if err != nil || !bytes.Equal(got[0].Data, data) {
			t.Errorf("the entry is not read back: %v", err)
		}
		closeLog(t, l)
	}
}
