package vfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// OS is the file system of the machine. Files are made with mode 0600, directories with 0700.
type OS struct{}

// Create makes a new file.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open opens an existing file.
func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove unlinks a file.
func (OS) Remove(name string) error { return os.Remove(name) }

// Rename renames a file.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// List returns the sorted names in dir.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// MkdirAll makes dir and its missing parents and syncs the parent of each directory it made.
func (fsys OS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range made {
		if err := fsys.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the entries of dir durable.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %q: %w", dir, err)
	}
	return nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Allocate(size int64) error {
	if err := allocate(f.File, size); err != nil {
		return fmt.Errorf("allocate %d bytes for %q: %w", size, f.Name(), err)
	}
	return nil
}

func (f osFile) StartWrite(off, n int64) error {
	if err := startWrite(f.File, off, n); err != nil {
		return fmt.Errorf("start to write %d bytes at %d of %q: %w", n, off, f.Name(), err)
	}
	return nil
}

func (f osFile) Cold(off int64) bool { return cold(f.File, off) }

func (f osFile) ReadDirect(p []byte, off int64) (int, error) {
	n, err := readDirect(f.File, p, off)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("direct read of %d bytes at %d of %q: %w", len(p), off, f.Name(), err)
	}
	return n, err
}

func (f osFile) WontRead(off, n int64) { wontRead(f.File, off, n) }

func (f osFile) SyncData() error {
	if err := syncData(f.File); err != nil {
		return fmt.Errorf("sync data of %q: %w", f.Name(), err)
	}
	return nil
}
