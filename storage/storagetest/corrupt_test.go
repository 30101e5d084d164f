package storagetest

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
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
	l := Store{FS: mem, Dir: "/journal", Catalog: manifest, small: true}.open(t)
	w := newWorkload(11)
	for range 80 {
		o := w.op()
		for o.release != 0 { // nothing is reclaimed
			o = w.op()
		}
		o.call(l, nil)
		wait(t, l)
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
// changed, or it holds exactly what it should. It returns whether it was refused.
func tryDamaged(t *testing.T, what, file string, off int64, mem *vfs.Mem, manifest *Catalog, want *model) bool {
	t.Helper()
	before := contents(t, mem)
	l, err := journal.Open(Store{FS: mem, Dir: "/journal", Catalog: manifest}.config())
	if err == nil {
		got, err := read(l)
		if err == nil {
			err = got.diff(want)
		}
		if err != nil {
			t.Errorf("%s of %s at %d was accepted, and the log has %v", what, file, off, err)
		}
		closeLog(t, l)
		return false
	}
	var corrupt *journal.CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != file || !contains(err, file) || !contains(err, "left as it is") {
		t.Errorf("%s of %s at %d: Open returned %v, want a CorruptError naming the file", what, file, off, err)
		return true
	}
	if corrupt.Offset > off+4096 || corrupt.Offset < off-(64<<10) {
		t.Errorf("%s of %s at %d was reported at offset %d", what, file, off, corrupt.Offset)
	}
	after := contents(t, mem)
	for name, b := range before {
		if !bytes.Equal(b, after[name]) {
			t.Errorf("%s of %s at %d: the refused Open changed %s", what, file, off, name)
		}
	}
	return true
}

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }

func TestLogReportsEveryFlippedBit(t *testing.T) {
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

func TestLogReportsDamageOnRead(t *testing.T) {
	mem, manifest := vfs.NewMem(), NewCatalog(7)
	l := Store{FS: mem, Dir: "/journal", Catalog: manifest}.open(t)
	defer closeLog(t, l)
	w := newWorkload(1)
	write := w.append(1, 1, 3)
	for i := range write.Entries {
		write.Entries[i].Data = bytes.Repeat([]byte{byte(i + 1)}, 300)
	}
	l.Append(*write)
	wait(t, l)
	name := "/journal/0000000001.seg"
	off := int64(bytes.Index(contents(t, mem)[name], write.Entries[1].Data))
	if err := mem.Corrupt(name, off+7, 1); err != nil {
		t.Fatal(err)
	}
	var corrupt *journal.CorruptError
	if _, err := l.Entries(1, 2, 3, 1<<20); !errors.As(err, &corrupt) || corrupt.File != name || corrupt.Offset != off-40 {
		t.Errorf("reading a damaged entry returned %v, want a CorruptError at offset %d", err, off-40)
	}
	for _, index := range []uint64{1, 3} {
		if got, err := l.Entries(1, index, index+1, 1<<20); err != nil || !bytes.Equal(got[0].Data, write.Entries[index-1].Data) {
			t.Errorf("entry %d beside a damaged one is not read: %v", index, err)
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
