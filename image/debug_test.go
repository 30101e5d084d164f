package image

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"millrace/board"
)

// executables lists what can be run in an initramfs: files with an execute bit, and links.
func executables(t *testing.T, initrd []byte) []string {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(initrd, nil)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range records {
		if kind := r.Mode & cpio.S_IFMT; kind == cpio.S_IFLNK || kind == cpio.S_IFREG && r.Mode&0o111 != 0 {
			list = append(list, r.Name)
		}
	}
	slices.Sort(list)
	return list
}

// No door: in a production image our two programs can be run, and nothing else; the debug variant says what it is.
func TestShellInDebugImagesOnly(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	const release = "6.1.0"
	packages := tree{
		busyboxFile: {data: []byte("busybox")},
		"lib/modules/" + release + "/modules.builtin": {data: []byte("kernel/fs/ext4/ext4.ko\n")},
	}
	for _, debug := range []bool{false, true} {
		c := Config{Board: board.Board{Name: "some-board"}, Version: "1.0", Debug: debug}
		files, err := c.files(packages, kernelFiles{release: release})
		if err != nil {
			t.Fatal(err)
		}
		initrd, err := initramfs(files, map[string]string{initPath: program, daemonPath: program}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		got := executables(t, initrd)
		want := []string{daemonPath, initPath}
		if debug {
			want = append(want, busyboxFile, shellFile)
			for _, name := range strings.Fields(debugCommands) {
				want = append(want, "bin/"+name)
			}
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("debug %v: can be run: %q\nwant %q", debug, got, want)
		}
		text := string(files[osReleaseFile].data)
		if !strings.Contains(text, "VARIANT_ID=some-board\n") || strings.Contains(text, "VARIANT=Debug\n") != debug {
			t.Errorf("debug %v: os-release is\n%s", debug, text)
		}
	}
}
