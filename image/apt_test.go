package image

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/board"
)

// fakeApt puts shell scripts in place of apt-get and apt-cache: what is offered is version 2, and
// only that can be downloaded.
func fakeApt(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"apt-get": `case "$*" in *=2) printf content > got.deb ;; *) echo "E: Version was not found" >&2; exit 100 ;; esac`,
		"apt-cache": `for name; do :; done; name=${name%:*}
			printf 'Package: %s\nVersion: 2\nArchitecture: amd64\nSHA256: ` + contentSum + `\nDepends: linux-image-6.1.0-57-x (= 2)\n' "$name"`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// contentSum is the SHA-256 of "content".
const contentSum = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"

var testBoard = board.Board{Name: "test", DebArch: "amd64", LockFile: "test.lock", Kernel: "linux-image-x", BootLoader: "loader"}

func TestStoreGet(t *testing.T) {
	fakeApt(t)
	s := &store{dir: filepath.Join(t.TempDir(), "cache"), logger: slog.New(slog.DiscardHandler)}
	good := Package{Asked: "loader", Name: "loader", Version: "2", Arch: "amd64", SHA256: contentSum}
	file, err := s.get(t.Context(), testBoard, good)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "content" {
		t.Errorf("cached %q, error %v", b, err)
	}

	// A damaged file in the cache is fetched anew; a good one needs no apt.
	if err := os.WriteFile(file, []byte("contEnt"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get(t.Context(), testBoard, good); err != nil {
		t.Errorf("damaged cache: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := s.get(t.Context(), testBoard, good); err != nil {
		t.Errorf("cached, without apt: %v", err)
	}
}

func TestStoreGetRefuses(t *testing.T) {
	fakeApt(t)
	s := &store{dir: t.TempDir(), logger: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct {
		name string
		p    Package
		want []string
	}{
		{"gone", Package{Asked: "loader", Name: "loader", Version: "1", Arch: "amd64", SHA256: contentSum},
			[]string{"loader 1, pinned in test.lock, is gone", "offers loader 2", "-board test -refresh-lock"}},
		{"kernel gone", Package{Asked: "linux-image-x", Name: "linux-image-6.1.0-56-x", Version: "1", Arch: "amd64", SHA256: contentSum},
			[]string{"linux-image-6.1.0-56-x 1, pinned", "offers linux-image-6.1.0-57-x 2", "-refresh-lock"}},
		{"other hash", Package{Asked: "loader", Name: "loader", Version: "2", Arch: "amd64", SHA256: testSum},
			[]string{"loader 2 has sha256 " + contentSum, "test.lock pins " + testSum}},
	} {
		_, err := s.get(t.Context(), testBoard, tt.p)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", tt.name, err, w)
			}
		}
	}
}

func TestRefreshLock(t *testing.T) {
	fakeApt(t)
	lock, err := RefreshLock(t.Context(), testBoard, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"linux-image-x linux-image-6.1.0-57-x 2 amd64 " + contentSum + "\n",
		"loader loader 2 amd64 " + contentSum + "\n",
	} {
		if !strings.Contains(string(lock), line) {
			t.Errorf("lock lacks %q:\n%s", line, lock)
		}
	}
}

// Every board's lock file must pin what the board asks for.
func TestBoardLocks(t *testing.T) {
	for _, b := range board.All() {
		name := filepath.Join("..", b.LockFile)
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		list, err := ParseLock(name, f)
		if err != nil {
			t.Fatal(err)
		}
		pinned := make(map[string]bool)
		for _, p := range list {
			pinned[p.Asked] = true
		}
		for _, asked := range askedPackages(b) {
			if !pinned[asked] {
				t.Errorf("%s does not pin %s", name, asked)
			}
		}
		if len(list) != len(askedPackages(b)) {
			t.Errorf("%s pins %d packages, board %s asks for %d", name, len(list), b.Name, len(askedPackages(b)))
		}
	}
}
