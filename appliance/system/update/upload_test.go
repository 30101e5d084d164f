package update

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"millrace/image/layout"
)

func sumOf(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func TestUploads(t *testing.T) {
	dir := t.TempDir()
	image := bytes.Repeat([]byte("0123456789"), 1000)
	sum := sumOf(image)
	u := OpenUploads(dir)
	step := func(u *Uploads, what string, got int64, err error, want int64, fault string) {
		t.Helper()
		if fault == "" && (err != nil || got != want) || fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%s: %d, %v; want %d, %q", what, got, err, want, fault)
		}
	}
	n, err := u.Write(sum, 0, image[:10])
	step(u, "before it began", n, err, 0, "has begun")
	n, err = u.Begin("xy", 10)
	step(u, "no hash", n, err, 0, "is not one")
	n, err = u.Begin(sum, MaxImage+1)
	step(u, "too large", n, err, 0, "bytes, want")
	n, err = u.Begin(sum, int64(len(image)))
	step(u, "begin", n, err, 0, "")
	n, err = u.Write(sum, 0, image[:4000])
	step(u, "first chunk", n, err, 4000, "")
	n, err = u.Write(sum, 0, image[:4000])
	step(u, "first chunk again", n, err, 4000, "")
	n, err = u.Write(sum, 3999, image[3999:5000])
	step(u, "half there", n, err, 0, "at byte 4000, the chunk goes from 3999 to 5000")
	n, err = u.Write(sum, 4000, append(bytes.Clone(image[4000:]), 1))
	step(u, "too long", n, err, 0, "from 4000 to 10001")
	n, err = u.Write(sum, -1, image[:1])
	step(u, "before the start", n, err, 0, "from -1 to 0")
	_, err = u.Take(sum)
	step(u, "taken early", 0, err, 0, "byte 4000 of 10000")

	u = OpenUploads(dir) // the box started anew
	n, err = u.Begin(sum, int64(len(image)))
	step(u, "go on", n, err, 4000, "")
	n, err = u.Write(sum, 4000, image[4000:])
	step(u, "the rest", n, err, 10000, "")
	got, err := u.Take(sum)
	if err != nil || !bytes.Equal(got, image) {
		t.Errorf("taken: %d bytes, %v", len(got), err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}

	n, err = u.Begin(sum, int64(len(image)))
	step(u, "again", n, err, 0, "")
	n, err = u.Write(sum, 0, bytes.Repeat([]byte("x"), 10000))
	step(u, "other bytes", n, err, 10000, "")
	_, err = u.Take(sum)
	step(u, "other bytes taken", 0, err, 0, "upload it again")
	n, err = u.Begin(sum, int64(len(image)))
	step(u, "damaged ones are not gone on with", n, err, 0, "")
	n, err = u.Begin(sumOf(nil), 5)
	step(u, "another image", n, err, 0, "")
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left of the first image: %v", left)
	}
}

// Chunks that are on their way at the same time arrive in any order; what came early is bounded.
func TestUploadsInAnyOrder(t *testing.T) {
	const chunk = 256 << 10
	image := make([]byte, 3*Window+1000)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range image {
		image[i] = byte(r.Uint32())
	}
	sum, size := sumOf(image), int64(len(image))
	u := OpenUploads(t.TempDir())
	have, err := u.Begin(sum, size)
	if err != nil {
		t.Fatal(err)
	}
	for have < size {
		var offsets []int64
		for off := have; off < min(size, have+Window); off += chunk {
			offsets = append(offsets, off)
		}
		r.Shuffle(len(offsets), func(i, j int) { offsets[i], offsets[j] = offsets[j], offsets[i] })
		for _, off := range offsets {
			if have, err = u.Write(sum, off, bytes.Clone(image[off:min(size, off+chunk)])); err != nil {
				t.Fatal(err)
			}
		}
		if want := min(size, offsets[0]/Window*Window+Window); have != want {
			t.Fatalf("at byte %d after a window, want %d", have, want)
		}
	}
	if got, err := u.Take(sum); err != nil || !bytes.Equal(got, image) {
		t.Errorf("taken: %d bytes, %v", len(got), err)
	}

	if _, err := u.Begin(sum, size); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(sum, Window, image[Window:Window+1]); err == nil || !strings.Contains(err.Error(), "at byte 0") {
		t.Errorf("behind the window: %v", err)
	}
	for i := range int64(3) { // they lie over one another, so that the window has room for all, and memory for two
		_, err = u.Write(sum, 1+i, image[1+i:Window/2+1+i])
	}
	if err == nil || !strings.Contains(err.Error(), "wait already") {
		t.Errorf("more than a window waits: %v", err)
	}
	if have, err := u.Write(sum, 0, image[:1]); err != nil || have != Window/2+1 {
		t.Errorf("what was missing: at byte %d, %v", have, err)
	}
}

// uki makes the headers of an EFI program with the sections.
func uki(machine uint16, sections map[string]string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x200)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	le.PutUint16(b[0x84:], machine)
	names := []string{".osrel", ".cmdline", ".linux", ".initrd"}
	at := 0x98
	n := 0
	for _, name := range names {
		text, ok := sections[name]
		if !ok {
			continue
		}
		n++
		copy(b[at:], name)
		le.PutUint32(b[at+8:], uint32(len(text)))
		le.PutUint32(b[at+16:], 0x100)
		le.PutUint32(b[at+20:], uint32(len(b)))
		b = append(b, make([]byte, 0x100)...)
		copy(b[len(b)-0x100:], text)
		at += 40
	}
	le.PutUint16(b[0x86:], uint16(n))
	return b
}

func TestInspect(t *testing.T) {
	m := machines[runtime.GOARCH]
	whole := func() map[string]string {
		return map[string]string{".osrel": "ID=millrace\nVERSION_ID=1.2~rc1\nVARIANT_ID=pc\n", ".cmdline": "quiet", ".linux": "k", ".initrd": "i"}
	}
	with := func(name, text string) map[string]string { s := whole(); s[name] = text; return s }
	good := uki(m, whole())
	if v, err := Inspect(good); v != (Image{"1.2~rc1", "pc"}) || err != nil {
		t.Fatalf("got %+v, %v", v, err)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "not an EFI program"},
		"cut short":       {good[:len(good)-1], "cut short: section .initrd"},
		"random":          {bytes.Repeat([]byte{7}, 1000), "not an EFI program"},
		"other machine":   {uki(0x1c4, whole()), "machine 0x1c4"},
		"no kernel":       {uki(m, with(".linux", "")), ".linux is missing or empty"},
		"other system":    {uki(m, with(".osrel", "ID=debian\nVERSION_ID=1\n")), `image of "debian"`},
		"no version":      {uki(m, with(".osrel", "ID=millrace\n")), `version ""`},
		"version counted": {uki(m, with(".osrel", "ID=millrace\nVERSION_ID=1+3\n")), `version "1+3"`},
	} {
		if _, err := Inspect(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(uki(machines[runtime.GOARCH], map[string]string{".osrel": "ID=millrace\nVERSION_ID=1\n", ".cmdline": "q", ".linux": "k", ".initrd": "i"}))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := Inspect(b); err == nil && !layout.ValidVersion(v.Version) {
			t.Fatalf("version %q", v.Version)
		}
	})
}

func TestRecordResult(t *testing.T) {
	r := Record{From: "1.0", To: "1.1", Begun: time.Unix(0, 0)}
	good := r
	good.Good = true
	for _, tt := range []struct {
		r       Record
		running string
		trial   bool
		want    string
	}{
		{Record{}, "1.0", false, ""},
		{r, "1.1", true, "is on trial"},
		{r, "1.0", false, "did not prove itself: back on 1.0"},
		{good, "1.1", false, "has proven itself"},
		{r, "1.3", false, "was overtaken: 1.3 runs"},
	} {
		if got := tt.r.Result(tt.running, tt.trial); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%+v running %s: %q, want %q", tt.r, tt.running, got, tt.want)
		}
	}
}

// The folder on a real file system does what the model does.
func TestFATDir(t *testing.T) {
	d := FATDir{t.TempDir()}
	if err := os.Mkdir(filepath.Join(d.Path, "millrace_9.efi"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Create("millrace_1.0.efi", testImage("1.0")); err != nil {
		t.Fatal(err)
	}
	if err := d.Create("millrace_1.0.efi", nil); err == nil {
		t.Error("a file is overwritten")
	}
	if _, err := (Folder{d, "1.0", checkImage}).Install(testImage("1.1")); err != nil {
		t.Fatal(err)
	}
	names, err := d.List()
	if err != nil || strings.Join(names, " ") != "millrace_1.0.efi millrace_1.1+3-0.efi" {
		t.Errorf("installed: %v, %v", names, err)
	}
	if err := d.Rename("millrace_1.0.efi", "millrace_1.1+3-0.efi"); err == nil {
		t.Error("a rename replaces a file")
	}
	if b, err := d.Read("millrace_1.1+3-0.efi"); err != nil || !bytes.Equal(b, testImage("1.1")) {
		t.Errorf("read %q, %v", b, err)
	}
	if err := d.Remove("not there"); err != nil {
		t.Error(err)
	}
}
