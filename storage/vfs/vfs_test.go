package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// both runs a test on the real and on the simulated file system.
func both(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem()
		must(t, m.MkdirAll("/dir"))
		test(t, m, "/dir")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f File, off int64, text string) {
	t.Helper()
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, fsys FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	return string(b)
}

func TestFSContract(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "sub", "deep", "a")
		if _, err := fsys.Create(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Create in a missing directory returned %v", err)
		}
		must(t, fsys.MkdirAll(filepath.Dir(name)))
		must(t, fsys.MkdirAll(filepath.Dir(name)))
		f, err := fsys.Create(name)
		must(t, err)
		if _, err := fsys.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second Create returned %v", err)
		}
		write(t, f, 0, "hello")
		write(t, f, 3, "p me")
		must(t, f.SyncData())
		if err := f.Allocate(100); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		} else if size, serr := f.Size(); err == nil && (serr != nil || size != 100) {
			t.Errorf("size after Allocate is %d, %v", size, serr)
		}
		if n, err := f.ReadAt(make([]byte, 10), 1000); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end returned %d, %v", n, err)
		}
		if n, err := f.ReadAt(make([]byte, 10), 95); n != 5 || err != io.EOF {
			t.Errorf("ReadAt over the end returned %d, %v", n, err)
		}
		if f.Name() != name {
			t.Errorf("Name is %q", f.Name())
		}
		must(t, f.Sync())
		moved := filepath.Join(filepath.Dir(name), "b")
		must(t, RenameDurable(fsys, name, moved))
		if err := RenameDurable(fsys, moved, filepath.Join(dir, "b")); err == nil {
			t.Error("RenameDurable moved a file to another directory")
		}
		if got := content(t, fsys, moved); got[:7] != "help me" {
			t.Errorf("content is %q", got)
		}
		names, err := fsys.List(filepath.Dir(name))
		if err != nil || fmt.Sprint(names) != "[b]" {
			t.Errorf("List returned %v, %v", names, err)
		}
		must(t, fsys.Remove(moved))
		if _, err := fsys.Open(moved); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of a removed file returned %v", err)
		}
		if err := fsys.Remove(moved); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("second Remove returned %v", err)
		}
		write(t, f, 0, "still open")
		must(t, f.Close())
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("ReadAt of a closed file returned %v", err)
		}
	})
}

func TestMemCrashLosesWhatWasNotSynced(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f, err := m.Create("/d/a")
	must(t, err)
	old, newer := bytes.Repeat([]byte("o"), 2048), bytes.Repeat([]byte("n"), 2048)
	write(t, f, 0, string(old))
	must(t, f.Sync())
	if names, err := m.Crash(LoseUnsynced, 1).List("/d"); err != nil || len(names) != 0 {
		t.Errorf("a file in an unsynced directory survived: %v, %v", names, err)
	}
	must(t, m.SyncDir("/d"))
	write(t, f, 0, string(newer))
	if got := content(t, m.Crash(LoseUnsynced, 1), "/d/a"); got != string(old) {
		t.Errorf("an unsynced write survived: %q", got)
	}
	if got := content(t, m.Crash(KeepUnsynced, 1), "/d/a"); got != string(newer) {
		t.Errorf("a write was lost: %q", got)
	}
	// Torn: each sector is old or new, and over many seeds each sector is both.
	seen := make(map[string]bool)
	for seed := range uint64(50) {
		got := content(t, m.Crash(TearUnsynced, seed), "/d/a")
		for s := 0; s < 2048; s += SectorBytes {
			sector := got[s : s+SectorBytes]
			if sector != string(old[:SectorBytes]) && sector != string(newer[:SectorBytes]) {
				t.Fatalf("seed %d: sector at %d is %q", seed, s, sector)
			}
			seen[fmt.Sprint(s, sector[0])] = true
		}
		if again := content(t, m.Crash(TearUnsynced, seed), "/d/a"); again != got {
			t.Fatalf("seed %d gives two results", seed)
		}
	}
	if len(seen) != 8 {
		t.Errorf("of 4 sectors with 2 contents, %d combinations were seen", len(seen))
	}
	// After a restart of the process alone the write is still not durable.
	restarted := m.Crash(KeepUnsynced, 1)
	if got := content(t, restarted.Crash(LoseUnsynced, 1), "/d/a"); got != string(old) {
		t.Errorf("a restart made an unsynced write durable: %q", got)
	}
	must(t, f.SyncData())
	if got := content(t, m.Crash(LoseUnsynced, 1), "/d/a"); got != string(newer) {
		t.Errorf("a synced write was lost: %q", got)
	}
}

// TestReplace has the power fail before every step: the file has one contents or the other, and the new ones at the end.
func TestReplace(t *testing.T) {
	for _, old := range []string{"", "old contents"} {
		newer := strings.Repeat("new contents ", 100)
		for step := 0; ; step++ {
			m := NewMem()
			must(t, m.MkdirAll("/d"))
			if old != "" {
				must(t, Replace(m, "/d/a", []byte(old)))
			}
			var crashed []*Mem
			n := 0
			m.SetHook(func(Op) error {
				if n++; n == step+1 {
					crashed = []*Mem{m.Crash(LoseUnsynced, 1), m.Crash(KeepUnsynced, 1), m.Crash(TearUnsynced, uint64(step))}
				}
				return nil
			})
			must(t, Replace(m, "/d/a", []byte(newer)))
			m.SetHook(nil)
			if step >= n {
				if got := content(t, m.Crash(LoseUnsynced, 1), "/d/a"); got != newer {
					t.Errorf("after a power loss the file reads %.20q", got)
				}
				break
			}
			for i, c := range crashed {
				names, err := c.List("/d")
				must(t, err)
				got := ""
				if slices.Contains(names, "a") {
					got = content(t, c, "/d/a")
				}
				if got != old && got != newer {
					t.Errorf("crash %d before step %d: the file reads %.20q", i, step, got)
				}
				must(t, Replace(c, "/d/a", []byte(newer))) // whatever was left behind
			}
		}
	}
}

func TestMemFailedSyncLies(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f, err := m.Create("/d/a")
	must(t, err)
	must(t, m.SyncDir("/d"))
	write(t, f, 0, "lost")
	broken := errors.New("broken")
	m.SetHook(func(o Op) error {
		if o.Kind == OpSync {
			return broken
		}
		return nil
	})
	if err := f.SyncData(); !errors.Is(err, broken) {
		t.Errorf("SyncData returned %v", err)
	}
	m.SetHook(nil)
	must(t, f.SyncData()) // finds nothing to do
	if got := content(t, m, "/d/a"); got != "lost" {
		t.Errorf("after a failed sync the file reads %q", got)
	}
	if got := content(t, m.Crash(LoseUnsynced, 1), "/d/a"); got != "\x00\x00\x00\x00" {
		t.Errorf("after a failed sync and a crash the file reads %q", got)
	}
	m.SetHook(func(Op) error { return broken })
	if n, err := f.WriteAt(make([]byte, 2048), 0); n != 1024 || !errors.Is(err, broken) {
		t.Errorf("a failing write returned %d, %v, want its first half", n, err)
	}
}

func TestMemCapacity(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	m.SetCapacity(1000)
	f, err := m.Create("/d/a")
	must(t, err)
	must(t, f.Allocate(900))
	write(t, f, 0, "fits")
	if _, err := f.WriteAt(make([]byte, 200), 900); !IsNoSpace(err) {
		t.Errorf("a write over the capacity returned %v", err)
	}
	if err := f.Allocate(1001); !IsNoSpace(err) {
		t.Errorf("Allocate over the capacity returned %v", err)
	}
	must(t, m.Remove("/d/a"))
	g, err := m.Create("/d/b")
	must(t, err)
	must(t, g.Allocate(1000))
}

func TestMemDamage(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f, err := m.Create("/d/a")
	must(t, err)
	write(t, f, 0, "abc")
	must(t, f.Sync())
	must(t, m.SyncDir("/d"))
	must(t, m.Corrupt("/d/a", 1, 1))
	must(t, m.Truncate("/d/a", 2))
	for _, fsys := range []FS{m, m.Crash(LoseUnsynced, 1)} {
		if got := content(t, fsys, "/d/a"); got != "ac" {
			t.Errorf("the damaged file reads %q", got)
		}
	}
	if err := m.Corrupt("/d/a", 2, 1); err == nil {
		t.Error("a byte behind the end was damaged")
	}
	if err := m.Corrupt("/d/b", 0, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaging a missing file returned %v", err)
	}
}

func TestMemDamagesSectors(t *testing.T) {
	m := NewMem()
	m.KeepHistory()
	must(t, m.MkdirAll("/dir"))
	f, err := m.Create("/dir/a")
	must(t, err)
	one, two := strings.Repeat("1", SectorBytes), strings.Repeat("2", SectorBytes)
	write(t, f, 0, one+one)
	must(t, f.Sync())
	must(t, m.SyncDir("/dir"))
	write(t, f, 0, two)
	must(t, f.Sync())
	zero := strings.Repeat("\x00", SectorBytes)
	for _, tc := range []struct {
		name   string
		damage func() error
		want   string // of the first sector; empty: anything else
	}{
		{"zero", func() error { return m.ZeroSector("/dir/a", 0) }, zero},
		{"revert", func() error { return m.RevertSector("/dir/a", 0) }, one},
		{"copy", func() error { return m.CopySector("/dir/a", 1, 0) }, one},
		{"scramble", func() error { return m.ScrambleSector("/dir/a", 0, 7) }, ""},
		{"corrupt", func() error { return m.Corrupt("/dir/a", 5, 1) }, two[:5] + "3" + two[6:]},
	} {
		must(t, tc.damage())
		got := content(t, m, "/dir/a")
		if durable := content(t, m.Crash(LoseUnsynced, 1), "/dir/a"); durable != got {
			t.Errorf("%s is not durable", tc.name)
		}
		if tc.want != "" && got != tc.want+one || got == two+one {
			t.Errorf("%s left %.20q", tc.name, got)
		}
		must(t, m.RestoreSector("/dir/a", 0))
		if got := content(t, m, "/dir/a"); got != two+one {
			t.Errorf("%s was restored as %.20q", tc.name, got)
		}
	}
	for _, err := range []error{m.ZeroSector("/dir/a", 2), m.RevertSector("/dir/a", 9), m.CopySector("/dir/a", 5, 0),
		m.ZeroSector("/dir/b", 0), NewMem().RevertSector("/dir/a", 0)} {
		if err == nil {
			t.Error("a sector that is not there was damaged")
		}
	}
}

func TestMemLosesWrites(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/dir"))
	f, err := m.Create("/dir/a")
	must(t, err)
	write(t, f, 0, strings.Repeat("1", 3*SectorBytes))
	must(t, f.Sync())
	must(t, m.SyncDir("/dir"))
	m.LoseWrites(func(name string, sector int64) bool { return name == "/dir/a" && sector == 1 })
	write(t, f, 100, strings.Repeat("2", 2*SectorBytes))
	must(t, f.Sync())
	b := []byte(strings.Repeat("1", 3*SectorBytes))
	copy(b[100:], strings.Repeat("2", 2*SectorBytes))
	copy(b[SectorBytes:2*SectorBytes], strings.Repeat("1", SectorBytes))
	if got := content(t, m.Crash(LoseUnsynced, 1), "/dir/a"); got != string(b) {
		t.Error("the lost write and no other should be missing")
	}
}

func TestStats(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/dir"))
	c := NewCounter(m)
	f, err := c.Create("/dir/a")
	must(t, err)
	write(t, f, 0, "hello")
	must(t, f.Sync())
	must(t, f.Close())
	f, err = c.Open("/dir/a")
	must(t, err)
	write(t, f, 3, "you")
	must(t, f.SyncData())
	must(t, f.Close())
	want := Stats{Writes: 2, Bytes: 8, Syncs: 2}
	if c.Stats() != want || m.Stats() != want {
		t.Errorf("counted %+v and %+v, want %+v", c.Stats(), m.Stats(), want)
	}
	if _, err := c.Open("/dir/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a missing file returned %v", err)
	}
}

// A direct read gives what was written and synced, whatever the file is called by then.
func TestReadDirect(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name, renamed := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		f, err := fsys.Create(name)
		must(t, err)
		want := make([]byte, 64<<10)
		for i := range want {
			want[i] = byte(i>>9 + i*7)
		}
		_, err = f.WriteAt(want, 0)
		must(t, errors.Join(err, f.Sync(), fsys.Rename(name, renamed)))
		got := make([]byte, 40<<10)
		n, err := f.ReadDirect(got, 2*DirectBytes)
		if runtime.GOOS != "linux" && errors.Is(err, errors.ErrUnsupported) {
			return
		}
		if err != nil || n != len(got) || !bytes.Equal(got, want[2*DirectBytes:][:len(got)]) {
			t.Errorf("%d bytes, %v: not what was written", n, err)
		}
		if n, err := f.ReadDirect(got, 6*DirectBytes+24<<10); n != 16<<10 || err != io.EOF {
			t.Errorf("at the end of the file: %d bytes, %v; want %d and %v", n, err, 16<<10, io.EOF)
		}
		must(t, f.Close())
		if _, err := f.ReadDirect(got, 0); err == nil {
			t.Error("a closed file was read")
		}
	})
}
