package storagetest

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// filled returns a log's disk, catalog and contents: several segments, the last one partly used.
// With clean the log was closed; otherwise the machine is as kill -9 leaves it.
func filled(t *testing.T, clean bool) (*vfs.Mem, *Catalog, *model) {
	t.Helper()
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	cfg := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}.config()
	cfg.Manual = true // nothing is being prepared when the disk is copied
	l, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkload(11)
	w.plain = true
	for range 80 {
		o := w.op()
		for o.lazy() { // nothing is reclaimed
			o = w.op()
		}
		o.call(l, func() {})
		for l.Work() {
		}
	}
	m, err := read(l)
	if err != nil {
		t.Fatal(err)
	}
	if clean {
		closeLog(t, l)
		return mem, manifest, m
	}
	killed, manifest2 := mem.Crash(vfs.KeepUnsynced, 1), manifest.Clone()
	closeLog(t, l)
	return killed, manifest2, m
}

func contents(t *testing.T, mem *vfs.Mem) map[string][]byte {
	t.Helper()
	names, err := mem.List("/journal")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	for _, name := range names {
		f, err := mem.Open("/journal/" + name)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		out["/journal/"+name] = b
	}
	return out
}

// tryDamaged opens a damaged log: either it is refused with file and offset, and nothing is
// changed, or it holds exactly what it should, or reading it reports the damage in the same way. It
// returns whether it was refused or reported.
func tryDamaged(t *testing.T, what, file string, off int64, mem *vfs.Mem, manifest *Catalog, want *model) bool {
	t.Helper()
	before := contents(t, mem)
	l, err := journal.Open(Store{FS: mem, Dir: "/journal", Catalog: manifest}.config())
	if err == nil {
		got, err := read(l)
		closeLog(t, l)
		if err != nil { // of a segment with a footer, Open reads only that
			return reported(t, what, file, off, err)
		}
		if err := got.diff(want); err != nil {
			t.Errorf("%s of %s at %d was accepted, and the log has %v", what, file, off, err)
		}
		return false
	}
	reported(t, what, file, off, err)
	after := contents(t, mem)
	for name, b := range before {
		if !bytes.Equal(b, after[name]) {
			t.Errorf("%s of %s at %d: the refused Open changed %s", what, file, off, name)
		}
	}
	return true
}

// reported checks that an error tells of damage in a file at an offset.
func reported(t *testing.T, what, file string, off int64, err error) bool {
	t.Helper()
	var corrupt *journal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != file || !contains(err, file) || !contains(err, "left as it is") {
		t.Errorf("%s of %s at %d was reported as %v, want a CorruptError naming the file", what, file, off, err)
		return true
	}
	if corrupt.Offset > off+4096 || corrupt.Offset < off-(64<<10) {
		t.Errorf("%s of %s at %d was reported at offset %d", what, file, off, corrupt.Offset)
	}
	return true
}

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }

func TestLogReportsEveryFlippedBit(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		mem, manifest, want := filled(t, clean)
		refused, accepted := 0, 0
		for name, b := range contents(t, mem) {
			end := len(bytes.TrimRight(b, "\x00"))
			const stride = 601
			for off := int64(0); off < int64(len(b)); off += stride {
				if off > int64(end)+4096 && off%(stride*16) != 0 {
					continue
				}
				if tryFlip(t, name, off, mem, manifest, want) {
					refused++
				} else {
					accepted++
				}
			}
		}
		if refused < 100 {
			t.Errorf("%d flipped bits were noticed, %d did no harm", refused, accepted)
		}
	}
}

func tryFlip(t *testing.T, name string, off int64, mem *vfs.Mem, manifest *Catalog, want *model) bool {
	t.Helper()
	damaged := mem.Crash(vfs.KeepUnsynced, 1)
	if err := damaged.Corrupt(name, off, 1<<(off%8)); err != nil {
		t.Fatal(err)
	}
	return tryDamaged(t, "a flipped bit", name, off, damaged, manifest.Clone(), want)
}

// A sector of zeros is also what a torn write leaves; after an idle moment or a clean stop it must
// be told from that, because the data was acknowledged.
func TestLogReportsEveryLostSector(t *testing.T) {
	t.Parallel()
	mem, manifest, want := filled(t, true)
	refused := 0
	for name, b := range contents(t, mem) {
		for off := 0; off < len(b); off += vfs.SectorBytes {
			sector := b[off : off+vfs.SectorBytes]
			if len(bytes.Trim(sector, "\x00")) == 0 {
				continue
			}
			damaged := mem.Crash(vfs.KeepUnsynced, 1)
			for i, c := range sector {
				if err := damaged.Corrupt(name, int64(off+i), c); err != nil {
					t.Fatal(err)
				}
			}
			if tryDamaged(t, "a lost sector", name, int64(off), damaged, manifest.Clone(), want) {
				refused++
			}
		}
	}
	if refused < 60 {
		t.Errorf("only %d lost sectors were noticed", refused)
	}
}

func TestLogReportsShortAndMissingFiles(t *testing.T) {
	mem, manifest, want := filled(t, false)
	for name, b := range contents(t, mem) {
		for _, size := range []int{0, 100, 4096, len(b) / 2, len(b) - 1} {
			damaged := mem.Crash(vfs.KeepUnsynced, 1)
			if err := damaged.Truncate(name, int64(size)); err != nil {
				t.Fatal(err)
			}
			if !tryDamaged(t, "truncation", name, int64(size), damaged, manifest.Clone(), want) {
				t.Errorf("%s cut to %d bytes was accepted", name, size)
			}
		}
		damaged := mem.Crash(vfs.KeepUnsynced, 1)
		if err := damaged.Remove(name); err != nil {
			t.Fatal(err)
		}
		_, err := journal.Open(Store{FS: damaged, Dir: "/journal", Catalog: manifest.Clone()}.config())
		var corrupt *journal.CorruptError
		if !errors.As(err, &corrupt) || corrupt.File != name {
			t.Errorf("Open without %s returned %v, want a CorruptError naming it", name, err)
		}
	}
}

// placeOf returns the file and the offset in it of an entry's data.
func placeOf(t *testing.T, l *journal.Log, group, index uint64) (name string, off int64) {
	t.Helper()
	name, number, ok := strings.Cut(l.Place(group, index), ":")
	off, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		t.Fatalf("entry %d is at %q", index, l.Place(group, index))
	}
	return name, off
}

// What is damaged is reported, by whatever way it is read, and what stands beside it is read.
func TestLogReportsDamageOnRead(t *testing.T) {
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	mem.KeepHistory()
	l := Store{FS: mem, Dir: "/journal", Catalog: manifest}.open(t)
	defer closeLog(t, l)
	w := newWorkload(1)
	write := w.append(1, 1, 3)
	for i := range write.Entries {
		write.Entries[i].Data = bytes.Repeat([]byte{byte(i + 1)}, 3000)
	}
	l.Append(*write)
	wait(t, l)
	name, off := placeOf(t, l, 1, 2)
	sector := (off + 1500) / vfs.SectorBytes
	for what, damage := range map[string]func(*vfs.Mem) error{
		"a flipped bit":       func(m *vfs.Mem) error { return m.Corrupt(name, off+1500, 1) },
		"a flipped LSN":       func(m *vfs.Mem) error { return m.Corrupt(name, sector*512+496, 1) },
		"a zeroed sector":     func(m *vfs.Mem) error { return m.ZeroSector(name, sector) },
		"a scrambled sector":  func(m *vfs.Mem) error { return m.ScrambleSector(name, sector, 1) },
		"a lost write":        func(m *vfs.Mem) error { return m.RevertSector(name, sector) },
		"a misdirected write": func(m *vfs.Mem) error { return m.CopySector(name, sector-2, sector) },
	} {
		// The same handle goes on reading: the bytes change below it.
		if err := damage(mem); err != nil {
			t.Fatal(err)
		}
		var corrupt *journal.CorruptError
		if _, err := l.Entries(1, 2, 3, 1<<20); !errors.As(err, &corrupt) || corrupt.File != name ||
			corrupt.Offset != sector*vfs.SectorBytes {
			t.Errorf("%s: Entries returned %v, want a CorruptError at offset %d", what, err, sector*vfs.SectorBytes)
		}
		if _, err := l.Entries(1, 1, 4, 1<<20); !errors.As(err, &corrupt) {
			t.Errorf("%s: Entries of all returned %v, want a CorruptError", what, err)
		}
		part := make([]byte, 10)
		if err := l.ReadAt(1, 2, 1500, part); !errors.As(err, &corrupt) || corrupt.Offset != sector*vfs.SectorBytes {
			t.Errorf("%s: ReadAt returned %v, want a CorruptError at offset %d", what, err, sector*vfs.SectorBytes)
		}
		if err := l.ReadAt(1, 2, 2900, part); err != nil {
			t.Errorf("%s: ReadAt of another part of the entry returned %v", what, err)
		}
		for _, index := range []uint64{1, 3} {
			if got, err := l.Entries(1, index, index+1, 1<<20); err != nil || !bytes.Equal(got[0].Data, write.Entries[index-1].Data) {
				t.Errorf("%s: entry %d beside the damage is not read: %v", what, index, err)
			}
		}
		if err := mem.RestoreSector(name, sector); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Entries(1, 2, 3, 1<<20); err != nil || !bytes.Equal(got[0].Data, write.Entries[1].Data) {
			t.Fatalf("%s was undone, and the entry is not read: %v", what, err)
		}
	}
}

func TestLogKeepsUnknownFiles(t *testing.T) {
	put := func(mem *vfs.Mem, name string, b []byte) {
		f, err := mem.Create(name)
		if err == nil {
			_, err = f.WriteAt(b, 0)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	mem, manifest, want := filled(t, true)
	put(mem, "/journal/0000000077.seg", []byte("not a segment"))
	put(mem, "/journal/0000000078.seg", nil)
	put(mem, "/journal/0000000078.seg.unknown", []byte("older"))
	put(mem, "/journal/notes.txt", []byte("keep me"))
	l := Store{FS: mem, Dir: "/journal", Catalog: manifest}.open(t)
	got, err := read(l)
	if err == nil {
		err = got.diff(want)
	}
	if err != nil {
		t.Errorf("beside unknown files the log has %v", err)
	}
	closeLog(t, l)
	all := contents(t, mem)
	for name, text := range map[string]string{
		"0000000077.seg.unknown":   "not a segment",
		"0000000078.seg.unknown-2": "",
		"0000000078.seg.unknown":   "older",
		"notes.txt":                "keep me",
	} {
		if b, ok := all[filepath.Join("/journal", name)]; !ok || string(b) != text {
			t.Errorf("%s has %q, %t, want %q", name, b, ok, text)
		}
	}
}

// A catalog that is older than the log, or was lost, must not make a node forget its log.
func TestLogRefusesForeignCatalog(t *testing.T) {
	mem, manifest, want := filled(t, true)
	old := manifest.Clone()
	segments, err := old.Segments()
	if err != nil {
		t.Fatal(err)
	}
	newest := uint32(0)
	for id := range segments {
		newest = max(newest, id)
	}
	if err := old.DeleteSegment(newest); err != nil {
		t.Fatal(err)
	}
	other := NewCatalog(8)
	for id, v := range segments {
		if err := other.PutSegment(id, v); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]*Catalog{"an old": old, "a new": NewCatalog(7), "a lost": NewCatalog(9), "another node's": other} {
		before := contents(t, mem)
		_, err := journal.Open(Store{FS: mem, Dir: "/journal", Catalog: c}.config())
		if err == nil || !contains(err, ".seg") {
			t.Errorf("Open with %s catalog returned %v, want an error naming a segment file", name, err)
		}
		after := contents(t, mem)
		for file, b := range before {
			if !bytes.Equal(b, after[file]) {
				t.Errorf("Open with %s catalog changed %s", name, file)
			}
		}
	}
	if tryDamaged(t, "nothing", "", 0, mem, manifest, want) {
		t.Error("the log is refused with its own catalog")
	}
}
