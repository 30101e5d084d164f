//go:build qemu

package image

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"millrace/board"
	"millrace/image/signature"
)

// cacheDir is where mkimage keeps packages too: they are large.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "millrace", "debs")
}

// TestBoards makes a version of every board out of its real packages, without our programs, and checks its
// parts. Boards that this machine can emulate are booted by tools/qemu.
func TestBoards(t *testing.T) {
	machines := map[string]uint16{"amd64": pe.IMAGE_FILE_MACHINE_AMD64, "arm64": pe.IMAGE_FILE_MACHINE_ARM64}
	for _, b := range board.All() {
		t.Run(b.Name, func(t *testing.T) {
			c := Config{Board: b, Source: "..", CacheDir: cacheDir(t), Version: "1.0", Logger: slog.New(slog.DiscardHandler)}
			packages, lock, err := c.unpack(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			kernel, err := findKernel(packages)
			if err != nil {
				t.Fatal(err)
			}
			files, err := c.files(packages, kernel)
			if err != nil {
				t.Fatal(err)
			}
			checkModules(t, files, path.Join(moduleRootPath, kernel.release))
			for _, p := range b.Programs {
				if len(files[p].data) == 0 {
					t.Errorf("program %s is missing", p)
				}
			}
			p, err := c.assemble(packages, kernel, []byte("initramfs"), debComponents(lock))
			if err != nil {
				t.Fatal(err)
			}
			checkUKI(t, p, machines[b.GOARCH])
			loader, err := packages.read(b.EFI.Loader)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := pe.NewFile(bytes.NewReader(loader)); err != nil || f.Machine != machines[b.GOARCH] {
				t.Errorf("boot loader: %v", err)
			}
		})
	}
}

// checkModules checks that all that modules.dep names is there, dependencies too, and that modules.alias
// names no other.
func checkModules(t *testing.T, files tree, dir string) {
	t.Helper()
	listed := make(map[string]bool)
	deps := string(files[path.Join(dir, "modules.dep")].data)
	for line := range strings.Lines(deps) {
		name, _, _ := strings.Cut(line, ":")
		listed[name] = true
	}
	if len(listed) < 5 {
		t.Errorf("modules.dep lists %d modules", len(listed))
	}
	for line := range strings.Lines(deps) {
		for _, name := range strings.Fields(strings.Replace(line, ":", " ", 1)) {
			if !listed[name] || len(files[path.Join(dir, name)].data) == 0 {
				t.Errorf("modules.dep names %s, which is not there", name)
			}
		}
	}
	names := make(map[string]bool)
	for name := range listed {
		names[canonical(strings.TrimSuffix(path.Base(name), ".ko"))] = true
	}
	for line := range strings.Lines(string(files[path.Join(dir, "modules.alias")].data)) {
		if f := strings.Fields(line); len(f) != 3 || f[0] != "alias" || !names[f[2]] {
			t.Errorf("modules.alias: %q", line)
		}
	}
}

// checkUKI checks that a version is what the firmware and the EFI stub want: sections that overlap neither
// in the file nor in memory, for this machine.
func checkUKI(t *testing.T, p parts, machine uint16) {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(p.uki))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != machine {
		t.Errorf("machine type %#x, want %#x", f.Machine, machine)
	}
	fileEnd, memoryEnd := uint32(0), uint32(0)
	content := make(map[string][]byte)
	for _, s := range f.Sections {
		if s.Size > 0 && s.Offset < fileEnd || s.VirtualAddress < memoryEnd {
			t.Errorf("section %s overlaps the one before", s.Name)
		}
		fileEnd, memoryEnd = max(fileEnd, s.Offset+s.Size), s.VirtualAddress+s.VirtualSize
		if s.Size > 0 {
			content[s.Name] = p.uki[s.Offset:][:min(s.Size, s.VirtualSize)]
		}
	}
	if int(fileEnd) != len(p.uki) {
		t.Errorf("sections end at %d, the file at %d", fileEnd, len(p.uki))
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < memoryEnd {
		t.Errorf("image of %d bytes in memory, sections end at %d", size, memoryEnd)
	}
	for name, want := range map[string][]byte{
		".linux": p.kernel, ".initrd": p.initrd, manifestSection: p.manifest, signature.SectionName: signature.Empty(),
	} {
		if !bytes.Equal(content[name], want) {
			t.Errorf("section %s has %d bytes that differ from the %d wanted", name, len(content[name]), len(want))
		}
	}
	h, err := parsePE(p.uki)
	if err != nil {
		t.Fatal(err)
	}
	sum := binary.LittleEndian.Uint32(p.uki[h.opt+optCheckSum:])
	zeroed := bytes.Clone(p.uki)
	clear(zeroed[h.opt+optCheckSum:][:4])
	if want := peChecksum(zeroed); sum != want {
		t.Errorf("PE checksum %#x, want %#x", sum, want)
	}
}

// TestBuildTwice builds a whole image twice, in two places and with programs compiled twice: not a bit may
// differ.
func TestBuildTwice(t *testing.T) {
	key, err := signature.ParsePrivate("ed25519-private:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := board.ByName("qemu-amd64")
	conf := filepath.Join(t.TempDir(), "n1.conf")
	if err := os.WriteFile(conf, []byte("server_name: n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var sums [2]map[string]string
	for i := range sums {
		c := Config{
			Board: b, Source: "..", CacheDir: cacheDir(t), Version: "1.0", Output: filepath.Join(t.TempDir(), "x.img"),
			ConfigFile: conf, Logger: slog.New(slog.DiscardHandler),
		}
		c.SignKeys = append(c.SignKeys, key)
		res, err := Build(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = make(map[string]string)
		for _, name := range []string{res.Image, res.UKI, res.Kernel, res.Initramfs, res.Manifest} {
			if sums[i][filepath.Base(name)], err = hashFile(name); err != nil {
				t.Fatal(err)
			}
		}
		for name, limit := range map[string]int64{res.Initramfs: 20 << 20, res.UKI: 40 << 20} {
			if st, err := os.Stat(name); err != nil || st.Size() > limit {
				t.Errorf("%s has %d bytes, want at most %d (error %v)", name, st.Size(), limit, err)
			}
		}
	}
	for name, sum := range sums[0] {
		if sums[1][name] != sum {
			t.Errorf("%s differs between two builds", name)
		}
	}
}
