package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/storage/vfs"
)

var rewrite = flag.Bool("rewrite", false, "write the files in testdata anew")

// sample is a segment with records of every type.
func sample(version uint32) []byte { return mustImage(imageHeader(version), sampleBatches()...) }

func sampleBatches() []func(*builder) {
	entry := func(b *builder, group, index, term uint64, data string) {
		b.add(recordHeader{kind: kindEntry, entryType: 1, group: group, index: index, term: term}, []byte(data))
	}
	small := func(b *builder, k kind, group, index, term, value uint64) {
		b.add(recordHeader{kind: k, group: group, index: index, term: term}, le.AppendUint64(nil, value))
	}
	return []func(*builder){
		func(b *builder) {
			entry(b, 1, 1, 1, "first")
			entry(b, 1, 2, 1, "")
			entry(b, 1, 3, 1, strings.Repeat("long ", 1000))
			small(b, kindHardState, 1, 1, 1, 2)
		},
		func(b *builder) {
			entry(b, 2, 1, 4, "of the second group")
			entry(b, 1, 3, 2, "voids the long one")
			entry(b, 1, 4, 2, "last")
		},
		func(b *builder) {
			small(b, kindBounds, 1, 2, 1, 4)
			small(b, kindHardState, 1, 3, 2, 3)
			b.add(recordHeader{kind: kindGroupDel, group: 2}, nil)
		},
	}
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

// sampleLog checks that a log holds what sample has, and more that was appended.
func sampleLog(t *testing.T, l *Log, last uint64) {
	t.Helper()
	if got := fmt.Sprint(l.Groups()); got != "[1]" {
		t.Errorf("groups are %s", got)
	}
	if first, got := l.Bounds(1); first != 3 || got != last {
		t.Errorf("bounds are %d, %d", first, got)
	}
	entries, err := l.Entries(1, 3, 5, 1<<20)
	if err != nil || len(entries) != 2 || string(entries[0].Data) != "voids the long one" || entries[1].Term != 2 {
		t.Errorf("entries are %v, %v", entries, err)
	}
	if state, _ := l.State(1); state != (HardState{Term: 2, Vote: 3, Commit: 3}) {
		t.Errorf("state is %v", state)
	}
}

// The bytes of each version are what they were when it was released, and are read. Writing goes on in
// version 3.
func TestFormatOfEachVersion(t *testing.T) {
	for _, version := range []uint32{version1, version2, version3} {
		dir := fmt.Sprintf("v%d/", version)
		golden(t, dir+"0000000001.seg", sample(version))
		var listing bytes.Buffer
		if err := Inspect(vfs.OS{}, "testdata/"+dir+"0000000001.seg", &listing); err != nil {
			t.Error(err)
		}
		golden(t, dir+"listing.txt", listing.Bytes())
		image, err := os.ReadFile("testdata/" + dir + "0000000001.seg")
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := imageConfig(image)
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(4)
		for range 3 {
			l, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			sampleLog(t, l, last)
			last++
			data := bytes.Repeat([]byte{byte(last)}, 9000)
			done := make(chan struct{})
			l.Append(Write{Group: 1, Entries: []Entry{{Index: last, Term: 2, Data: data}}, Done: func() { close(done) }})
			<-done
			if e, err := l.Entries(1, last, last+1, 1); err != nil || !bytes.Equal(e[0].Data, data) {
				t.Errorf("version %d: entry %d is not read back: %v", version, last, err)
			}
			want := map[bool]string{false: "0000000002.seg", true: "0000000001.seg"}[version == version3]
			if place := l.Place(1, last); !strings.Contains(place, want) {
				t.Errorf("version %d: entry %d is at %s, want it in %s", version, last, place, want)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		now := make([]byte, len(image))
		f, err := cfg.FS.Open("/j/0000000001.seg")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(readFull(f, now, 0), f.Close()); err != nil {
			t.Fatal(err)
		}
		if version != version3 && !bytes.Equal(now[dataOffset:], image[dataOffset:]) {
			t.Errorf("batches were written to the segment of version %d", version)
		}
	}
}

func TestInspectReportsDamage(t *testing.T) {
	for _, tc := range []struct {
		off  int64
		want string
	}{
		{3, "offset 0: segment header has a wrong magic"},
		{9, "offset 0: segment header has a wrong checksum"},
		{dataOffset + 1, "offset 8192: the first sector of a batch has a wrong checksum, but a sector of batch 2 " +
			"stands after it at offset 16384"},
		{dataOffset + 3*sectorBytes + 17, "offset 9728: a sector of batch 1 has a wrong checksum"},
		{dataOffset + 3*sectorBytes + contentBytes + 15, "offset 9728: a sector of batch 1 has a wrong checksum"},
	} {
		fsys := vfs.NewMem()
		if err := fsys.MkdirAll("/j"); err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Create("/j/a.seg")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(sample(version3), 0); err != nil {
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

// Without the key Inspect still checks every sector.
func TestInspectOfEncryptedSegment(t *testing.T) {
	k := testKeys(t)
	image, err := buildImage(encrypted(k), k, sampleBatches()...)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(image, []byte("long long long")) {
		t.Error("the image is not encrypted")
	}
	inspectImage := func() (string, error) {
		var listing bytes.Buffer
		err := inspect(sizedFile{bytesFile{ReaderAt: bytes.NewReader(image)}}, &listing)
		return listing.String(), err
	}
	text, err := inspectImage()
	if err != nil || !strings.Contains(text, "8192: batch 1, 16 sectors\n16384: batch 2, 8 sectors\n20480: batch 3, 8 sectors\n24576: free") {
		t.Errorf("Inspect says %v and\n%s", err, text)
	}
	image[17000] ^= 1
	var corrupt *CorruptError
	if _, err := inspectImage(); !errors.As(err, &corrupt) || corrupt.Offset != 16896 {
		t.Errorf("a byte is changed, and Inspect says %v", err)
	}
}

// sizedFile is a bytesFile of the size of an image.
type sizedFile struct{ bytesFile }

func (sizedFile) Size() (int64, error) { return minSegmentBytes, nil }

func TestConfigNamesBadField(t *testing.T) {
	good := Config{FS: vfs.NewMem(), Dir: "/j", Catalog: memCatalog{}}
	for want, change := range map[string]func(*Config){
		"FS, Dir and Catalog": func(c *Config) { c.FS = nil },
		"SegmentBytes 4096":   func(c *Config) { c.SegmentBytes = 4096 },
		"FirstSegmentBytes":   func(c *Config) { c.FirstSegmentBytes = 1<<20 + 1 },
		"MaxQueuedBytes":      func(c *Config) { c.MaxQueuedBytes = -1 },
		"Key has 5 bytes":     func(c *Config) { c.Key = []byte("short") },
		"PrevKey has 0 bytes": func(c *Config) { c.PrevKey = []byte{} },
		"Keys with Key":       func(c *Config) { c.Key = make([]byte, KeyBytes) },
	} {
		c := good
		change(&c)
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open returned %v, want an error with %q", err, want)
		}
	}
}

func TestAppendPanicsOnGap(t *testing.T) {
	l, err := openImage(sample(version3))
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

// The checksum over the headers of a batch is what bodySum says of their number.
func TestBodySum(t *testing.T) {
	seed := imageHeader(version3).seed()
	body := seed
	for n := range uint32(1000) {
		if got := bodySum(seed, n); got != body {
			t.Fatalf("%d records: %08x, want %08x", n, got, body)
		}
		var b [recordBytes]byte
		h := recordHeader{kind: kindEntry, entryType: uint8(n), length: n * 31, group: uint64(n) * 7, index: uint64(n) << 40,
			term: uint64(n), payload: n * 0x9e3779b9}
		h.encode(b[:], seed)
		body = crc32.Update(body, castagnoli, b[:])
	}
}
