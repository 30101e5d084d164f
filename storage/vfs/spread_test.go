package vfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fewest makes room of a directory's number of files, so that new files go to each in turn.
func fewest(fsys FS) func(dir string) (int64, error) {
	return func(dir string) (int64, error) {
		names, err := fsys.List(dir)
		return 1000 - int64(len(names)), err
	}
}

func newSpread(t *testing.T, fsys FS, dirs ...string) *Spread {
	t.Helper()
	s, err := NewSpread(fsys, fewest(fsys), dirs...)
	must(t, err)
	return s
}

func make1(t *testing.T, fsys FS, name, text string) (path string) {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	write(t, f, 0, text)
	must(t, f.Sync())
	must(t, f.Close())
	return f.Name()
}

func TestSpreadShowsAllDirectoriesAsOne(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c", "deep")
		s := newSpread(t, fsys, a, b, c)
		for i, name := range []string{"0", "1", "2", "3"} {
			if at, want := make1(t, s, filepath.Join(a, name), "text "+name), filepath.Join([]string{a, b, c, a}[i], name); at != want {
				t.Errorf("file %s lies at %s, want %s", name, at, want)
			}
		}
		if _, err := s.Create(filepath.Join(a, "1")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create of what another directory has returned %v", err)
		}
		must(t, s.Rename(filepath.Join(a, "1"), filepath.Join(a, "one")))
		if err := s.Rename(filepath.Join(a, "0"), filepath.Join(a, "one")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Rename onto a file of another directory returned %v", err)
		}
		must(t, s.Rename(filepath.Join(a, "3"), filepath.Join(a, "0"))) // replaces, in one directory
		must(t, s.Remove(filepath.Join(c, "2")))                        // as File.Name says
		must(t, s.SyncDir(a))
		for _, again := range []FS{s, newSpread(t, fsys, a, c, b)} {
			names, err := again.List(a)
			if want := []string{"0", "one"}; err != nil || !slices.Equal(names, want) {
				t.Errorf("List is %q, %v, want %q", names, err, want)
			}
			if got := content(t, again, filepath.Join(a, "one")); got != "text 1" {
				t.Errorf("one holds %q", got)
			}
			if got := content(t, again, filepath.Join(a, "0")); got != "text 3" {
				t.Errorf("0 holds %q", got)
			}
			for _, missing := range []string{"1", "2", "3"} {
				if _, err := again.Open(filepath.Join(a, missing)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Open of %s returned %v", missing, err)
				}
			}
		}
		if _, err := s.Open(filepath.Join(dir, "0")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open outside returned %v", err)
		}
		if _, err := s.Open(filepath.Join(b, "0")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open in the wrong directory returned %v", err)
		}
	})
}

func TestSpreadRefusesTwoFilesOfOneName(t *testing.T) {
	m := NewMem()
	for _, dir := range []string{"/a", "/b"} {
		must(t, m.MkdirAll(dir))
		make1(t, m, dir+"/x", dir)
	}
	_, err := NewSpread(m, fewest(m), "/a", "/b")
	if err == nil || !strings.Contains(err.Error(), `"/a"`) || !strings.Contains(err.Error(), `"/b"`) {
		t.Errorf("two files of one name: %v", err)
	}
	if _, err := NewSpread(m, fewest(m), "/a", "/c", "/a/"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a directory given twice: %v", err)
	}
}

// A disk that cannot say how much room it has, has failed; another one is not taken in its place.
func TestSpreadReportsAFailedDisk(t *testing.T) {
	m := NewMem()
	broken := errors.New("input/output error")
	s, err := NewSpread(m, func(dir string) (int64, error) {
		if dir == "/b" {
			return 0, broken
		}
		return 1, nil
	}, "/a", "/b")
	must(t, err)
	if _, err := s.Create("/a/x"); !errors.Is(err, broken) || !strings.Contains(err.Error(), `"/b"`) {
		t.Errorf("Create returned %v", err)
	}
	if names, err := s.List("/a"); err != nil || len(names) != 0 {
		t.Errorf("files %q, %v", names, err)
	}
}

// What SyncDir promised is there after a crash that loses all else, in whichever directory it lies.
func TestSpreadSyncsWhatChanged(t *testing.T) {
	m := NewMem()
	s := newSpread(t, m, "/a", "/b")
	make1(t, s, "/a/0", "zero")
	make1(t, s, "/a/1", "one")
	must(t, s.SyncDir("/a"))
	must(t, s.Rename("/a/1", "/a/2"))
	make1(t, s, "/a/3", "three") // in /a; /b has been changed by the rename alone
	must(t, s.SyncDir("/a"))
	make1(t, s, "/a/4", "not synced")
	after := m.Crash(LoseUnsynced, 1)
	names, err := newSpread(t, after, "/a", "/b").List("/a")
	if want := []string{"0", "2", "3"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("after the crash there are %q, %v, want %q", names, err, want)
	}
	syncs := 0
	m.SetHook(func(o Op) error {
		if o.Kind == OpSyncDir {
			syncs++
		}
		return nil
	})
	must(t, s.SyncDir("/a"))
	must(t, s.SyncDir("/a"))
	if syncs != 1 {
		t.Errorf("%d directories were synced, of which one had changed", syncs)
	}
}
