package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"millrace/board"
	"millrace/image"
	"millrace/image/layout"
)

// tempFile makes a file in a test's folder.
func tempFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNodeConfig(t *testing.T) {
	const good = "server_name: n1\nappliance { hostname: n1, network { address: \"10.0.0.1/24\" } }\njetstream {}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"", good, ""},
		{"n1", good, ""},
		{"n2", good, `server_name is "n1", --name "n2"`},
		{"n2", "port: 4222", ""},
		{"", "cluster { name: lab, listen: \"0.0.0.0:6222\" }\n", ""}, // a node of a cluster wants a name, and the box has one
		{"a b", "port: 4222", `--name "a b"`},
		{"", "appliance { network { adress: x } }\n", "x.conf: line 1: adress: unknown key"},
		{"", "\njetstream { store_dir: \"/tmp\" }\n", "x.conf: line 2: store_dir: \"/tmp\" is not on the data disk"},
		{"", "\n\nprot: 4222\n", "x.conf:3:"},
		{"", "appliance { update_keys: [\"ed25519:AAAA\"] }\n", "update_keys: "},
		{"", "include \"other.conf\"\n", "cannot include others"},
		{"", "{", "x.conf"},
	} {
		file := tempFile(t, "x.conf", []byte(tt.text))
		got, err := nodeConfig(file, tt.name)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, name %q: got %v, want …%s…", tt.text, tt.name, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q, name %q: %v", tt.text, tt.name, err)
		} else if !strings.HasPrefix(string(got), tt.text) || tt.name != "" && !strings.Contains(string(got), tt.name) {
			t.Errorf("%q, name %q: got %q", tt.text, tt.name, got)
		}
	}
}

func TestFlashRefuses(t *testing.T) {
	dir := t.TempDir()
	notImage := tempFile(t, "x.efi", []byte("MZ"))
	zeros := filepath.Join(dir, "zeros.img")
	if err := errorsOf(os.WriteFile(zeros, nil, 0o600), os.Truncate(zeros, layout.DiskBytes)); err != nil {
		t.Fatal(err)
	}
	whole, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := whole.EncodeAll(make([]byte, 1<<20), nil)
	short := tempFile(t, "short.img.zst", packed[:len(packed)-3])
	out := filepath.Join(dir, "out.img")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{filepath.Join(dir, "none.img"), out}, "none.img: no such file"},
		{[]string{notImage, out}, "ends in .efi and is for millrace node update"},
		{[]string{zeros, out}, "not a Millrace image"},
		{[]string{dir, out}, "is a directory"},
		{[]string{zeros, dir}, "is neither a disk nor a file"},
		{[]string{short, out}, "unexpected EOF"},
		{[]string{zeros, zeros}, `--force "` + zeros},
		{[]string{"--board", "toaster", zeros, out}, `no board "toaster"; boards are qemu-amd64`},
		{[]string{"--name", "x", zeros, out}, "--name wants --config"},
		{[]string{"--config", notImage, zeros, out}, "x.efi"},
		{[]string{zeros, "/dev/no-such-disk"}, "there is no disk /dev/no-such-disk"},
	} {
		code, _, stderr := millrace(t, nil, "", append([]string{"flash"}, tt.args...)...)
		if code != exitFailure || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit %d, %q, want …%s…", tt.args, code, stderr, tt.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%v: %s was written", tt.args, out)
		}
	}
	if code, _, stderr := millrace(t, nil, "", "flash", out); code != exitUsage || !strings.Contains(stderr, "usage: millrace flash IMAGE DISK") {
		t.Errorf("one argument: exit %d, %q", code, stderr)
	}
}

// errorsOf returns the first error.
func errorsOf(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestFlash flashes the same compressed image for two nodes; only the configuration differs.
func TestFlash(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "m.img")
	pc, _ := board.ByName("pc-amd64")
	if err := image.WriteDisk(plain, pc, map[string][]byte{"/EFI/Linux/millrace_1.efi": []byte("MZ")}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := tempFile(t, "m.img.zst", z.EncodeAll(data, nil))
	conf := tempFile(t, "node.conf", []byte("appliance { update_keys: [] }\n"))
	if code, _, stderr := millrace(t, nil, "", "flash", "--config", conf, packed, filepath.Join(dir, "x.img")); code == exitOK {
		t.Errorf("a configuration that the box refuses was taken: %s", stderr)
	}
	conf = tempFile(t, "node.conf", []byte("port: 4222"))
	for _, name := range []string{"n1", "n2"} {
		out := filepath.Join(dir, name+".img")
		code, stdout, stderr := millrace(t, nil, "", "flash", "--board", "pc-amd64", "--config", conf, "--name", name, packed, out)
		if code != exitOK || !strings.Contains(stderr, "verifying: 100 %") || !strings.Contains(stdout, "reads back as written") {
			t.Fatalf("exit %d:\n%s%s", code, stdout, stderr)
		}
		got, err := image.ConfigOf(out)
		if want := "port: 4222\nserver_name: \"" + name + "\"\n"; err != nil || string(got) != want {
			t.Errorf("%s: configuration %q, error %v, want %q", name, got, err, want)
		}
		if fsck, err := exec.LookPath("sgdisk"); err == nil {
			if text, err := exec.Command(fsck, "-v", out).CombinedOutput(); err != nil || !bytes.Contains(text, []byte("No problems found")) {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
		}
		if code, _, stderr := millrace(t, nil, "", "flash", "--board", "qemu-amd64", packed, filepath.Join(dir, "x.img")); code == exitOK || !strings.Contains(stderr, "is for board pc-amd64, not qemu-amd64") {
			t.Errorf("another board: %s", stderr)
		}
	}
}
