package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FATDir is the folder of versions on a mounted EFI system partition. It must be mounted so that
// changes of names are written at once (dirsync).
type FATDir struct {
	Path string
}

// List implements Dir.
func (d FATDir) List() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Read implements Dir: what memory remembers of the file is dropped first, so that the disk is read.
func (d FATDir) Read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(d.Path, name))
	if err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, fmt.Errorf("read version %s from the disk: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	if st.Size() > MaxImage {
		return nil, fmt.Errorf("read version: %s has more than %d bytes", name, MaxImage)
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	return data, nil
}

// Create implements Dir. A file that could not be written is removed.
func (d FATDir) Create(name string, data []byte) error {
	path := filepath.Join(d.Path, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write version: %w", err), d.Remove(name))
	}
	return d.sync()
}

// Rename implements Dir.
func (d FATDir) Rename(from, to string) error {
	if _, err := os.Lstat(filepath.Join(d.Path, to)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rename version %s: %s is there already (%w)", from, to, err)
	}
	if err := os.Rename(filepath.Join(d.Path, from), filepath.Join(d.Path, to)); err != nil {
		return fmt.Errorf("rename version: %w", err)
	}
	return d.sync()
}

// Remove implements Dir.
func (d FATDir) Remove(name string) error {
	if err := os.Remove(filepath.Join(d.Path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove version: %w", err)
	}
	return d.sync()
}

// sync writes everything of the file system, the allocation table included.
func (d FATDir) sync() error {
	f, err := os.Open(d.Path)
	if err != nil {
		return fmt.Errorf("sync versions: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync versions: %w", err)
	}
	return nil
}
