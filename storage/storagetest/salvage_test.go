package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// hurtLog is a log of three groups in one segment that is not full, with everything committed.
type hurtLog struct {
	mem      *vfs.Mem
	manifest *Catalog
	entries  map[uint64][]journal.Entry
	states   map[uint64]journal.HardState
	last     error // of an entry that is damaged
}

func newHurtLog(t *testing.T, size func(group, index uint64) int) *hurtLog {
	t.Helper()
	h := &hurtLog{mem: vfs.NewMem(), manifest: NewCatalog(7), entries: make(map[uint64][]journal.Entry), states: make(map[uint64]journal.HardState)}
	l := h.open(t, h.mem, h.manifest)
	for round := range uint64(12) {
		for group := uint64(1); group <= 3; group++ {
			n := uint64(len(h.entries[group]))
			var list []journal.Entry
			for i := range uint64(3) {
				index := n + i + 1
				list = append(list, journal.Entry{Index: index, Term: 1 + round/6, Data: bytes.Repeat([]byte{byte(group*31 + index)}, size(group, index))})
			}
			h.entries[group] = append(h.entries[group], list...)
			w := journal.Write{Group: group, Entries: list, Done: func() {}}
			if round%4 == 0 || round == 11 {
				h.states[group] = journal.HardState{Term: 1 + round/6, Vote: group, Commit: n + 3}
				state := h.states[group]
				w.State = &state
			}
			l.Append(w)
		}
		for l.Work() {
		}
	}
	closeLog(t, l)
	return h
}

func (h *hurtLog) open(t *testing.T, mem *vfs.Mem, manifest *Catalog) *journal.Log {
	t.Helper()
	l, err := journal.Open(h.config(mem, manifest))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (h *hurtLog) config(mem *vfs.Mem, manifest *Catalog) journal.Config {
	cfg := Store{FS: mem, Dir: "/journal", Catalog: manifest}.config()
	cfg.Manual = true
	return cfg
}

// check compares a log with what was written, repairs what is damaged if repair is set, and returns how many entries were.
func (h *hurtLog) check(l *journal.Log, repair bool) (damaged int, err error) {
	for group := uint64(1); group <= 3; group++ {
		want := h.entries[group]
		if first, last := l.Bounds(group); first != 1 || last != uint64(len(want)) {
			return 0, fmt.Errorf("group %d has entries %d to %d, want 1 to %d", group, first, last, len(want))
		}
		if state, ok := l.State(group); !ok || state != h.states[group] {
			return 0, fmt.Errorf("group %d has state %+v, want %+v", group, state, h.states[group])
		}
		for _, e := range want {
			if term, err := l.Term(group, e.Index); err != nil || term != e.Term {
				return 0, fmt.Errorf("group %d entry %d has term %d, %v, want %d", group, e.Index, term, err, e.Term)
			}
			got, err := l.Entries(group, e.Index, e.Index+1, 1<<20)
			part := make([]byte, len(e.Data))
			partErr := l.ReadAt(group, e.Index, 0, part)
			switch {
			case partErr != nil && !errors.As(partErr, new(*journal.CorruptError)):
				return 0, partErr
			case partErr == nil && !bytes.Equal(part, e.Data):
				return 0, fmt.Errorf("ReadAt of group %d entry %d has other bytes", group, e.Index)
			case err == nil && bytes.Equal(got[0].Data, e.Data):
			case err == nil:
				return 0, fmt.Errorf("group %d entry %d has other bytes", group, e.Index)
			case !errors.As(err, new(*journal.CorruptError)):
				return 0, err
			default:
				damaged++
				h.last = fmt.Errorf("group %d entry %d: %w (%v)", group, e.Index, err, partErr)
				if repair {
					l.Repair(group, e, func() {})
				}
			}
		}
	}
	return damaged, nil
}

// A batch in the middle of the log of which a sector is damaged is not the end of the node: what is known of it is
// used, the rest is found damaged when it is read, and can be repaired. Where nobody can tell what is lost,
// Open refuses and changes nothing.
func TestLogOpensBesideDamage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		size func(group, index uint64) int
		most int // in percent, of the sectors for which Open may refuse
	}{
		"large": {func(group, index uint64) int { return 900 + int(index)*7 }, 20},
		"small": {func(group, index uint64) int { return 150 + int(group*index)%90 }, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHurtLog(t, tt.size)
			refused, opened, repaired := 0, 0, 0
			for file, b := range contents(t, h.mem) {
				for off := 8192; off+vfs.SectorBytes <= len(b); off += vfs.SectorBytes {
					if len(bytes.Trim(b[off:off+vfs.SectorBytes], "\x00")) == 0 {
						continue
					}
					mem, manifest := h.mem.Crash(vfs.KeepUnsynced, 1), h.manifest.Clone()
					if err := mem.Corrupt(file, int64(off)+17, 0x40); err != nil {
						t.Fatal(err)
					}
					before := contents(t, mem)
					l, err := journal.Open(h.config(mem, manifest))
					if err != nil {
						refused++
						reported(t, "a damaged sector", file, int64(off), err)
						for name, b := range before {
							if !bytes.Equal(b, contents(t, mem)[name]) {
								t.Fatalf("sector at %d: the refused Open changed %s", off, name)
							}
						}
						continue
					}
					opened++
					n, err := h.check(l, true)
					if err != nil {
						t.Fatalf("sector at %d: %v", off, err)
					}
					repaired += n
					for l.Work() {
					}
					if n, err := h.check(l, false); err != nil || n > 0 {
						t.Fatalf("sector at %d: after the repair %d entries are damaged, %v (%v)", off, n, err, h.last)
					}
					closeLog(t, l)
					l = h.open(t, mem, manifest)
					if n, err := h.check(l, false); err != nil || n > 0 {
						t.Fatalf("sector at %d: after the repair and a restart %d entries are damaged, %v (%v)", off, n, err, h.last)
					}
					closeLog(t, l)
				}
			}
			t.Logf("%d sectors: refused %d, opened %d, %d entries repaired", refused+opened, refused, opened, repaired)
			if repaired == 0 || 100*refused > tt.most*(refused+opened) {
				t.Errorf("Open refused for %d of %d sectors", refused, refused+opened)
			}
		})
	}
}

// rottenFS has a sector that the disk cannot read.
type rottenFS struct {
	vfs.FS
	name string
	off  int64
}

type rottenFile struct {
	vfs.File
	fs *rottenFS
}

func (r *rottenFS) Open(name string) (vfs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return rottenFile{f, r}, nil
}

func (f rottenFile) ReadAt(p []byte, off int64) (int, error) {
	if bad := f.fs.off; f.Name() == f.fs.name && off < bad+vfs.SectorBytes && off+int64(len(p)) > bad {
		return 0, fmt.Errorf("read %s: %w", f.Name(), vfs.ErrUnreadable)
	}
	return f.File.ReadAt(p, off)
}

// A sector that the disk cannot read is damage as any other.
func TestLogOpensBesideUnreadableSector(t *testing.T) {
	h := newHurtLog(t, func(_, index uint64) int { return 900 + int(index)*7 })
	l := h.open(t, h.mem, h.manifest)
	name, off := placeOf(t, l, 2, 20)
	closeLog(t, l)
	fs := &rottenFS{FS: h.mem, name: name, off: (off/vfs.SectorBytes + 1) * vfs.SectorBytes}
	cfg := h.config(h.mem, h.manifest)
	cfg.FS = fs
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := h.check(l, true); err != nil || n == 0 {
		t.Errorf("%d entries are damaged, %v", n, err)
	}
	for l.Work() {
	}
	if n, err := h.check(l, false); err != nil || n != 0 {
		t.Errorf("after the repair %d entries are damaged, %v", n, err)
	}
	closeLog(t, l)
}
