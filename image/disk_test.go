package image

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"millrace/image/layout"
)

func TestWriteDisk(t *testing.T) {
	dir := t.TempDir()
	files := []espFile{
		{"/EFI/BOOT/BOOTX64.EFI", bytes.Repeat([]byte("loader"), 10000)},
		{"/EFI/Linux/millrace_1.0.0.efi", bytes.Repeat([]byte("uki"), 1<<20)},
		{"/loader/loader.conf", []byte(loaderConf)},
	}
	conf := []byte("port: 4222\n")
	a, b := filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")
	for _, out := range []string{a, b} {
		if err := writeDisk(out, "seed", files); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TZ", "Asia/Tokyo")
		if err := SetConfig(out, conf); err != nil {
			t.Fatal(err)
		}
	}
	if err := SetConfig(a, conf); err == nil {
		t.Error("a second configuration was put over the first")
	}
	files = append(files, espFile{layout.ConfigFile, conf})
	sumA, errA := hashFile(a)
	sumB, errB := hashFile(b)
	if errA != nil || errB != nil || sumA != sumB {
		t.Errorf("two builds differ: %s %v, %s %v", sumA, errA, sumB, errB)
	}

	d, err := diskfs.Open(a, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	table, ok := d.Table.(*gpt.Table)
	if !ok {
		t.Fatalf("partition table is %T", d.Table)
	}
	if err := table.Verify(d.Backend, uint64(d.Size)); err != nil {
		t.Errorf("partition table: %v", err)
	}
	p := table.Partitions[0]
	if p.Type != gpt.EFISystemPartition || p.Name != layout.ESPName || p.Start*sectorSize != layout.AlignBytes || p.GUID != guid("seed/esp") {
		t.Errorf("partition 1 is %+v", p)
	}
	esp, err := d.GetFilesystem(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		r, err := esp.OpenFile(f.path, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, f.data) {
			t.Errorf("%s: %d bytes, error %v; want %d", f.path, len(got), err, len(f.data))
		}
	}
	fsck(t, a, dir)
}

// fsck checks the EFI system partition with the real fsck.vfat, where there is one (package
// dosfstools).
func fsck(t *testing.T, img, dir string) {
	t.Helper()
	tool, err := exec.LookPath("/sbin/fsck.vfat")
	if err != nil {
		t.Logf("not checked with fsck.vfat: %v", err)
		return
	}
	src, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(dir, "esp"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, io.NewSectionReader(src, layout.AlignBytes, layout.ESPBytes)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-n", dst.Name()).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
}

func TestFixDotDotRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := fixDotDot(f, 0); err == nil {
		t.Error("an empty file was taken for a FAT file system")
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!init"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := tree{
		"etc/modules":                  {data: []byte("vfat\n")},
		"sbin/mke2fs":                  {data: []byte("elf")},
		"lib/x86_64-linux-gnu/libc.so": {data: []byte("lib")},
	}
	logger := slog.New(slog.DiscardHandler)
	a, err := initramfs(files, map[string]string{"init": program, "bin/millraced": program}, logger)
	if err != nil {
		t.Fatal(err)
	}
	b, err := initramfs(files, map[string]string{"bin/millraced": program, "init": program}, logger)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two builds differ")
	}

	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(a, nil)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(raw))})
	if err != nil {
		t.Fatal(err)
	}
	mode := make(map[string]uint64)
	for i, r := range records {
		mode[r.Name] = r.Mode
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s belongs to %d:%d, changed %d", r.Name, r.UID, r.GID, r.MTime)
		}
		// The kernel makes no directories by itself: a file before its directory is lost.
		if parent := filepath.Dir(r.Name); parent != "." && mode[parent] == 0 {
			t.Errorf("record %d, %s, comes before its directory", i, r.Name)
		}
	}
	for name, want := range map[string]uint64{
		"init": cpio.S_IFREG | 0o755, "bin/millraced": cpio.S_IFREG | 0o755, "sbin/mke2fs": cpio.S_IFREG | 0o755,
		"etc/modules": cpio.S_IFREG | 0o644, "lib/x86_64-linux-gnu/libc.so": cpio.S_IFREG | 0o755,
		"dev/console": cpio.S_IFCHR | 0o600, "data": cpio.S_IFDIR | 0o755, "tmp": cpio.S_IFDIR | 0o1777,
	} {
		if mode[name] != want {
			t.Errorf("%s has mode %o, want %o", name, mode[name], want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{Source: "s", Output: "o", CacheDir: "c", Version: "1.2.3-rc1~2", Logger: slog.New(slog.DiscardHandler)}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	for _, version := range []string{"", "1.0+3", "../x", "-1", "a b", strings.Repeat("/", 3)} {
		c := good
		c.Version = version
		if c.validate() == nil {
			t.Errorf("version %q was taken", version)
		}
	}
}
