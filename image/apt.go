package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"millrace/board"
)

// store takes packages with apt-get and keeps them in a cache directory.
type store struct {
	dir    string
	logger *slog.Logger

	foreign map[string][]string // apt's options by architecture, once there are any; see options
}

// get returns the path of the package's .deb, from the cache or from apt. A file whose hash is not
// the pinned one is never used.
func (s *store) get(ctx context.Context, b board.Board, p Package) (string, error) {
	file := filepath.Join(s.dir, p.fileName())
	sum, err := hashFile(file)
	if err == nil && sum == p.SHA256 {
		return file, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read cached package: %w", err)
	}
	s.logger.Info("downloading package", "name", p.Name, "version", p.Version)
	if err := s.download(ctx, b.DebArch, p, file); err != nil {
		return "", s.explain(ctx, b, p, err)
	}
	if sum, err = hashFile(file); err != nil {
		return "", fmt.Errorf("read downloaded package: %w", err)
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("package %s %s has sha256 %s, but %s pins %s", p.Name, p.Version, sum, b.LockFile, p.SHA256)
	}
	return file, nil
}

// download fetches one package of a board of that architecture into file, replacing what is there.
func (s *store) download(ctx context.Context, arch string, p Package, file string) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make package cache: %w", err)
	}
	tmp, err := os.MkdirTemp(s.dir, "download-")
	if err != nil {
		return fmt.Errorf("make package cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	// apt drops its privileges to user _apt for downloads, who cannot write here: tell it not to.
	options, err := s.options(ctx, arch)
	if err != nil {
		return err
	}
	if _, err := command(ctx, tmp, "apt-get", append(options, "-q", "-o", "APT::Sandbox::User=root", "download",
		p.Name+":"+archOf(p)+"="+p.Version)...); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("apt-get download %s left %d .deb files, want 1", p.Name, len(found))
	}
	if err := os.Rename(found[0], file); err != nil {
		return fmt.Errorf("keep package in cache: %w", err)
	}
	return nil
}

// archOf is the architecture apt is asked for: packages for all architectures are found under the
// native one.
func archOf(p Package) string {
	if p.Arch == "all" {
		return "native"
	}
	return p.Arch
}

// explain turns a failed download into an error that says which version apt offers instead.
func (s *store) explain(ctx context.Context, b board.Board, p Package, cause error) error {
	now, err := s.resolve(ctx, b, p.Asked)
	if err != nil {
		return fmt.Errorf("take package %s %s (pinned in %s): %w; apt knows no replacement either (run apt-get update?): %w",
			p.Name, p.Version, b.LockFile, cause, err)
	}
	if now.Name == p.Name && now.Version == p.Version {
		return fmt.Errorf("take package %s %s (pinned in %s): %w (run apt-get update?)", p.Name, p.Version, b.LockFile, cause)
	}
	return fmt.Errorf("package %s %s, pinned in %s, is gone: apt now offers %s %s; "+
		"to move to it run: go run ./tools/mkimage -board %s -refresh-lock\n%w",
		p.Name, p.Version, b.LockFile, now.Name, now.Version, b.Name, cause)
}

// resolve asks apt for the newest version of what a board asks for.
func (s *store) resolve(ctx context.Context, b board.Board, asked string) (Package, error) {
	st, err := s.show(ctx, asked, b.DebArch)
	if err != nil {
		return Package{}, err
	}
	if asked == b.Kernel {
		name, err := kernelOf(st)
		if err != nil {
			return Package{}, err
		}
		if st, err = s.show(ctx, name, b.DebArch); err != nil {
			return Package{}, err
		}
	}
	p := Package{Asked: asked, Name: st["Package"], Version: st["Version"], Arch: st["Architecture"], SHA256: st["SHA256"]}
	if p.Name == "" || p.Version == "" || p.Arch == "" || p.SHA256 == "" {
		return Package{}, fmt.Errorf("apt's record of %s lacks name, version, architecture or sha256 (installed from outside the mirrors?)", asked)
	}
	return p, nil
}

// show returns apt's record of the newest version of a package.
func (s *store) show(ctx context.Context, name, arch string) (stanza, error) {
	options, err := s.options(ctx, arch)
	if err != nil {
		return nil, err
	}
	out, err := command(ctx, "", "apt-cache", append(options, "show", "--no-all-versions", name+":"+arch)...)
	if err != nil {
		return nil, err
	}
	return parseStanza(out), nil
}

// options returns what apt must be told to find packages of an architecture: nothing for that of this
// machine. For another one apt gets lists of its own, kept in the cache, and the architecture is not made
// known to this machine. The mirrors are those of this machine.
func (s *store) options(ctx context.Context, arch string) ([]string, error) {
	if options, ok := s.foreign[arch]; ok {
		return options, nil
	}
	native, err := command(ctx, "", "dpkg", "--print-architecture")
	if err != nil {
		return nil, err
	}
	var options []string
	if strings.TrimSpace(native) != arch {
		if options, err = s.foreignRoot(ctx, arch); err != nil {
			return nil, fmt.Errorf("ask the mirrors for packages of %s: %w", arch, err)
		}
	}
	if s.foreign == nil {
		s.foreign = make(map[string][]string)
	}
	s.foreign[arch] = options
	return options, nil
}

// foreignRoot makes apt's state for another architecture and fetches the lists of packages.
func (s *store) foreignRoot(ctx context.Context, arch string) ([]string, error) {
	root, err := filepath.Abs(filepath.Join(s.dir, "apt-"+arch))
	if err != nil {
		return nil, err
	}
	state, cache := filepath.Join(root, "state"), filepath.Join(root, "cache")
	for _, dir := range []string{filepath.Join(state, "lists", "partial"), filepath.Join(cache, "archives", "partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	status := filepath.Join(state, "status") // of what is installed: nothing
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	options := []string{
		"-o", "Dir::State=" + state, "-o", "Dir::State::status=" + status, "-o", "Dir::Cache=" + cache,
		"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures::=" + arch,
	}
	s.logger.Info("fetching lists of packages", "architecture", arch)
	_, err = command(ctx, "", "apt-get", append(options, "-q", "-o", "APT::Sandbox::User=root", "update")...)
	return options, err
}

// RefreshLock pins, for every package the board asks for, the version apt offers now: it downloads
// each into the cache and returns the new lock file.
func RefreshLock(ctx context.Context, b board.Board, cacheDir string, logger *slog.Logger) ([]byte, error) {
	s := &store{dir: cacheDir, logger: logger}
	var list []Package
	for _, asked := range askedPackages(b) {
		p, err := s.resolve(ctx, b, asked)
		if err != nil {
			return nil, fmt.Errorf("resolve package %s: %w", asked, err)
		}
		if _, err := s.get(ctx, b, p); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return FormatLock(b.Name, list), nil
}

// askedPackages lists what a board takes from Debian, kernel first, and last what only its debug variant does.
func askedPackages(b board.Board) []string {
	return append(append([]string{b.Kernel, b.BootLoader}, b.Packages...), debugPackage)
}

// command runs a program in dir ("" is the current one) and returns its output; the error carries
// what it said.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// hashFile returns the SHA-256 of a file in lower-case hexadecimal.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
