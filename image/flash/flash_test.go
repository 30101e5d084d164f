package flash

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTargetCheck(t *testing.T) {
	stick := Target{Path: "/dev/sdb", Device: true, Name: "sdb", Model: "Acme Stick", Serial: "S1", Bytes: 4e9, SectorBytes: 512, Removable: true}
	builtIn := stick
	builtIn.Removable = false
	nameless := builtIn
	nameless.Serial = ""
	with := func(t Target, change func(*Target)) Target { change(&t); return t }
	for _, tt := range []struct {
		name   string
		target Target
		forced string
		want   string // in the error; empty: none
		is     error
	}{
		{"stick", stick, "", "", nil},
		{"stick, forced", stick, "S1", "", nil},
		{"stick, another forced", stick, "S2", `--force "S1"`, ErrNotSure},
		{"built in", builtIn, "", `/dev/sdb: 4 GB, Acme Stick, serial number S1, built in`, ErrNotSure},
		{"built in, how to", builtIn, "", `--force "S1"`, ErrNotSure},
		{"built in, forced", builtIn, "S1", "", nil},
		{"built in, by name", builtIn, "sdb", `--force says "sdb"`, ErrNotSure},
		{"no serial number", nameless, "", `--force "sdb"`, ErrNotSure},
		{"no serial number, forced", nameless, "sdb", "", nil},
		{"partition", with(stick, func(t *Target) { t.Whole = "sdb"; t.Path = "/dev/sdb1" }), "S1", "takes the whole disk, /dev/sdb", nil},
		{"mounted", with(builtIn, func(t *Target) { t.Busy = "/dev/sdb1 is mounted on /home" }), "S1", "mounted on /home", ErrInUse},
		{"write-protected", with(stick, func(t *Target) { t.ReadOnly = true }), "S1", "write-protected", nil},
		{"too small", with(stick, func(t *Target) { t.Bytes = 999 }), "S1", "has 999 bytes, the image 1000", ErrTooSmall},
		{"large sectors", with(stick, func(t *Target) { t.SectorBytes = 4096 }), "S1", "sectors of 4096", nil},
		{"new file", Target{Path: "x.img"}, "", "", nil},
		{"file", Target{Path: "x.img", Exists: true}, "", `--force "x.img"`, ErrNotSure},
		{"file, forced", Target{Path: "x.img", Exists: true}, "x.img", "", nil},
	} {
		err := tt.target.Check(1000, tt.forced)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want …%s…", tt.name, err, tt.want)
		case tt.is != nil && !errors.Is(err, tt.is):
			t.Errorf("%s: %v is not %v", tt.name, err, tt.is)
		}
	}
}

// fakeDisk is a disk in memory with the faults of real ones.
type fakeDisk struct {
	data  []byte
	drops int64 // writes at this byte are lost; negative: none
	fails int64 // writes at this byte fail; negative: none
	wrote []int64
	syncs []int // number of writes before each sync
	after func(at int64)
}

func newFakeDisk(n int) *fakeDisk {
	return &fakeDisk{data: bytes.Repeat([]byte{0xee}, n), drops: -1, fails: -1}
}

func (d *fakeDisk) WriteAt(b []byte, at int64) (int, error) {
	d.wrote = append(d.wrote, at)
	if d.after != nil {
		defer d.after(at)
	}
	switch at {
	case d.fails:
		return 0, errors.New("medium error")
	case d.drops:
		return len(b), nil
	}
	if at+int64(len(b)) > int64(len(d.data)) {
		return 0, io.ErrShortWrite
	}
	return copy(d.data[at:], b), nil
}

func (d *fakeDisk) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(b, at)
}

func (d *fakeDisk) Sync() error {
	d.syncs = append(d.syncs, len(d.wrote))
	return nil
}

// testImage is an image of 4 MiB, each of them different.
func testImage() []byte {
	var b []byte
	for i := range 4 {
		b = append(b, bytes.Repeat([]byte{byte('a' + i)}, chunkBytes)...)
	}
	return b
}

func (d *fakeDisk) flash(ctx context.Context) (bool, error) {
	image := testImage()
	return Write(ctx, bytes.NewReader(image), int64(len(image)), d, int64(len(d.data)),
		func() (io.ReaderAt, error) { return d, nil }, func(string, int64, int64) {})
}

func TestWrite(t *testing.T) {
	const odd = 12<<20 + 512
	d := newFakeDisk(odd)
	if _, err := d.flash(t.Context()); err != nil {
		t.Fatal(err)
	}
	image := testImage()
	if !bytes.Equal(d.data[:len(image)], image) {
		t.Error("the image is not on the disk")
	}
	for i, b := range d.data[len(image):] {
		at := i + len(image)
		if cleared := at < len(image)+clearBytes || at >= 11<<20; cleared != (b == 0) {
			t.Fatalf("byte %d behind the image is %#x", at, b)
		}
	}
	// The start is written when all else is on the medium.
	last := len(d.wrote) - 1
	if d.wrote[last] != 0 || d.wrote[0] != 0 || d.syncs[len(d.syncs)-2] != last || d.syncs[len(d.syncs)-1] != last+1 {
		t.Errorf("writes at %d, syncs after %d writes", d.wrote, d.syncs)
	}
}

// TestWriteCutShort stops after each write: until the last, the disk must not look like one that boots, and
// the next flashing must know.
func TestWriteCutShort(t *testing.T) {
	whole := newFakeDisk(8 << 20)
	if _, err := whole.flash(t.Context()); err != nil {
		t.Fatal(err)
	}
	for stop := range len(whole.wrote) - 1 {
		d := newFakeDisk(8 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		d.after = func(int64) {
			if len(d.wrote) == stop+1 {
				cancel()
			}
		}
		if _, err := d.flash(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped after write %d: %v", stop, err)
		}
		if !bytes.HasPrefix(d.data, []byte(incomplete)) {
			t.Errorf("stopped after write %d: the disk starts with %q", stop, d.data[:32])
		}
		d.after = nil
		if cutShort, err := d.flash(t.Context()); err != nil || !cutShort {
			t.Errorf("flashed again: cut short before %v, error %v", cutShort, err)
		}
	}
}

func TestWriteFaults(t *testing.T) {
	for at := int64(0); at < 8<<20; at += chunkBytes {
		d := newFakeDisk(8 << 20)
		d.drops = at
		if _, err := d.flash(t.Context()); !errors.Is(err, ErrDiffers) {
			t.Errorf("writes at %d lost: %v", at, err)
		}
		d = newFakeDisk(8 << 20)
		d.fails = at
		if _, err := d.flash(t.Context()); err == nil || !strings.Contains(err.Error(), "medium error") {
			t.Errorf("writes at %d fail: %v", at, err)
		}
	}
	d := newFakeDisk(3 << 20)
	if _, err := d.flash(t.Context()); err == nil || len(d.wrote) > 0 {
		t.Errorf("disk smaller than the image: %d writes, error %v", len(d.wrote), err)
	}
}

func TestRunFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")
	if err := os.WriteFile(from, testImage(), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	steps := make(map[string]int64)
	run := func(path, forced string) error {
		return Run(t.Context(), image, path, forced, func(string) {}, func(step string, done, _ int64) { steps[step] = done })
	}
	for _, forced := range []string{"", to} {
		if err := run(to, forced); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, testImage()) {
			t.Fatalf("file of %d bytes differs from the image, error %v", len(got), err)
		}
	}
	if steps["writing"] != 4<<20 || steps["verifying"] != 4<<20 {
		t.Errorf("progress %v", steps)
	}
	if err := run(to, ""); !errors.Is(err, ErrNotSure) {
		t.Errorf("existing file: %v", err)
	}
	for path, want := range map[string]string{"/dev/no-such-disk": "there is no disk", "/dev/null": "neither a disk nor a file", dir: "neither a disk nor a file"} {
		if err := run(path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, err := filepath.Glob(to + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// A disk that holds the state of a box is known by its partition table.
func TestHoldsState(t *testing.T) {
	disk := make([]byte, 1<<20)
	if holdsState(bytes.NewReader(disk)) || holdsState(bytes.NewReader(nil)) {
		t.Error("an empty disk, or none, holds a state")
	}
	const entry = 2*sectorBytes + 128 + 56 // the name of the second partition
	for i, c := range []byte("MILLRACE-STATE") {
		disk[entry+2*i] = c
	}
	if !holdsState(bytes.NewReader(disk)) {
		t.Error("the state partition is not seen")
	}
}
