package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/storage/vfs"
)

var rewrite = flag.Bool("rewrite", false, "write the files in testdata anew")

// sample is a segment with records of every type, made without a Log: the same bytes every time.
func sample() []byte {
	h := header{id: 1, size: minSegmentBytes, salt: 0x0123456789abcdef, node: 7}
	s := newSegment(h, nil)
	out := make([]byte, h.size)
	h.encode(out)
	b := &builder{}
	b.start(s)
	batch := func(add func()) {
		add()
		raw, last := b.finish(b.last)
		s.end += int64(copy(out[s.end:], raw))
		b.last = last
		b.start(s)
	}
	entry := func(group, index, term uint64, data string) {
		b.add(recordHeader{kind: kindEntry, entryType: 1, group: group, index: index, term: term}, []byte(data))
	}
	small := func(k kind, group, index, term, value uint64) {
		b.add(recordHeader{kind: k, group: group, index: index, term: term}, le.AppendUint64(nil, value))
	}
	batch(func() {
		entry(1, 1, 1, "first")
		entry(1, 2, 1, "")
		entry(1, 3, 1, strings.Repeat("long ", 1000))
		small(kindHardState, 1, 1, 1, 2)
	})
	batch(func() {
		entry(2, 1, 4, "of the second group")
		entry(1, 3, 2, "voids the long one")
		entry(1, 4, 2, "last")
	})
	batch(func() {
		small(kindBounds, 1, 2, 1, 4)
		small(kindHardState, 1, 3, 2, 3)
		b.add(recordHeader{kind: kindGroupDel, group: 2}, nil)
	})
	encodeMark(out[markOffset:], s.seed, 2)
	return out
}

// memCatalog is a Catalog for one segment.
type memCatalog map[uint32][]byte

func (c memCatalog) NodeID() uint64                       { return 7 }
func (c memCatalog) Segments() (map[uint32][]byte, error) { return c, nil }
func (c memCatalog) PutSegment(id uint32, v []byte) error { c[id] = v; return nil }
func (c memCatalog) DeleteSegment(id uint32) error        { delete(c, id); return nil }

// imageConfig configures a log whose only segment has the given bytes.
func imageConfig(image []byte) (Config, error) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("/j"); err != nil {
		return Config{}, err
	}
	f, err := fsys.Create("/j/0000000001.seg")
	if err != nil {
		return Config{}, err
	}
	if _, err := f.WriteAt(image, 0); err != nil {
		return Config{}, err
	}
	m := manifestRecord{state: stateLive, size: int64(len(image)), salt: 0x0123456789abcdef}
	return Config{FS: fsys, Dir: "/j", Catalog: memCatalog{1: m.encode()}, SegmentBytes: minSegmentBytes}, f.Close()
}

func openImage(image []byte) (*Log, error) {
	cfg, err := imageConfig(image)
	if err != nil {
		return nil, err
	}
	return Open(cfg)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what this program makes:\n%.2000s", name, got)
	}
}

// The bytes of version 1 are what they were when it was released, and are read.
func TestFormatVersion1(t *testing.T) {
	golden(t, "v1/0000000001.seg", sample())
	var listing bytes.Buffer
	if err := Inspect(vfs.OS{}, "testdata/v1/0000000001.seg", &listing); err != nil {
		t.Error(err)
	}
	golden(t, "v1/listing.txt", listing.Bytes())

	image, err := os.ReadFile("testdata/v1/0000000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	l, err := openImage(image)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := fmt.Sprint(l.Groups()); got != "[1]" {
		t.Errorf("groups are %s", got)
	}
	if first, last := l.Bounds(1); first != 3 || last != 4 {
		t.Errorf("bounds are %d, %d", first, last)
	}
	entries, err := l.Entries(1, 3, 5, 1<<20)
	if err != nil || len(entries) != 2 || string(entries[0].Data) != "voids the long one" || entries[1].Term != 2 {
		t.Errorf("entries are %v, %v", entries, err)
	}
	if state, _ := l.State(1); state != (HardState{Term: 2, Vote: 3, Commit: 3}) {
		t.Errorf("state is %v", state)
	}
}

func TestInspectReportsDamage(t *testing.T) {
	for _, tc := range []struct {
		off  int64
		want string
	}{
		{3, "offset 0: segment header has a wrong magic"},
		{9, "offset 0: segment header has a wrong checksum"},
		{dataOffset + 1, "offset 8192: no valid batch header, but batch 2 stands after it at offset 16384"},
		{dataOffset + batchBytes + recordBytes + 1, "offset 8224: batch 1: payload of ENTRY record, group 1 index 1"},
	} {
		fsys := vfs.NewMem()
		if err := fsys.MkdirAll("/j"); err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Create("/j/a.seg")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(sample(), 0); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Corrupt("/j/a.seg", tc.off, 0x10); err != nil {
			t.Fatal(err)
		}
		err = Inspect(fsys, "/j/a.seg", &bytes.Buffer{})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("byte %d damaged: Inspect returned %v, want %q", tc.off, err, tc.want)
		}
	}
}

func TestConfigNamesBadField(t *testing.T) {
	good := Config{FS: vfs.NewMem(), Dir: "/j", Catalog: memCatalog{}}
	for want, change := range map[string]func(*Config){
		"FS, Dir and Catalog": func(c *Config) { c.FS = nil },
		"SegmentBytes 4096":   func(c *Config) { c.SegmentBytes = 4096 },
		"FirstSegmentBytes":   func(c *Config) { c.FirstSegmentBytes = 1<<20 + 1 },
		"MaxQueuedBytes":      func(c *Config) { c.MaxQueuedBytes = -1 },
	} {
		c := good
		change(&c)
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open returned %v, want an error with %q", err, want)
		}
	}
}

func TestAppendPanicsOnGap(t *testing.T) {
	l, err := openImage(sample())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, index := range []uint64{2, 6} { // released, and beyond last+1
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.HasPrefix(fmt.Sprint(p), "BUG: journal: group 1") {
					t.Errorf("appending entry %d to 3..4 paniced with %v", index, p)
				}
			}()
			l.Append(Write{Group: 1, Entries: []Entry{{Index: index, Term: 2}}})
		}()
	}
}
