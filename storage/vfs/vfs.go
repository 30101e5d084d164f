// Package vfs is the file system below every durable part of Millrace. It knows no format: the
// journal decides what to write and when to sync, vfs only does it, on the real disk (OS) or on a
// simulated one that loses, keeps and tears unsynced sectors (Mem).
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
)

// SectorBytes is the unit that a disk writes whole or not at all when power fails.
const SectorBytes = 512

// DirectBytes is what a direct read is a multiple of: no disk asks for more.
const DirectBytes = 4096

// FS is a file system. Names are slash-separated paths. All methods may be called concurrently.
// A change of a directory (Create, Rename, Remove) survives a power loss only after SyncDir.
type FS interface {
	// Create makes a new empty file open for reading and writing; fs.ErrExist when the name is
	// taken.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing; fs.ErrNotExist when there is none.
	Open(name string) (File, error)
	// Remove unlinks a file. Open handles stay usable.
	Remove(name string) error
	// Rename gives a file a new name and replaces what had it.
	Rename(oldName, newName string) error
	// List returns the names (not paths) in dir, sorted.
	List(dir string) ([]string, error)
	// MkdirAll makes dir and its parents, durably.
	MkdirAll(dir string) error
	// SyncDir makes the entries of dir durable.
	SyncDir(dir string) error
}

// File is an open file. All methods may be called concurrently; none keeps a byte slice.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name is the path the file was opened with.
	Name() string
	// Size is the present size in bytes.
	Size() (int64, error)
	// Allocate reserves the blocks of the first size bytes and extends the file to at least size
	// bytes, new bytes read as zero. errors.ErrUnsupported: the file system cannot reserve.
	Allocate(size int64) error
	// StartWrite lets the disk begin with n bytes at off that were written, and waits for nothing. It promises
	// nothing: that is for Sync.
	StartWrite(off, n int64) error
	// Cold reports whether the byte at off is not in memory but has to come from the disk; false where that is not known.
	Cold(off int64) bool
	// ReadDirect is ReadAt past the page cache. off, len(p) and the place of p in memory are multiples of DirectBytes; a new
	// slice of that many bytes and more stands right. errors.ErrUnsupported: the file system has no such reads.
	ReadDirect(p []byte, off int64) (int, error)
	// WontRead says that n bytes at off, which are durable, will not be read soon: memory need not hold them.
	WontRead(off, n int64)
	// Sync makes contents and size durable (fsync).
	Sync() error
	// SyncData makes contents durable, and of the metadata what is needed to read them (fdatasync).
	SyncData() error
}

// RenameDurable renames a file inside one directory and syncs the directory, so that the new name
// survives a power loss.
func RenameDurable(fsys FS, oldName, newName string) error {
	if filepath.Dir(oldName) != filepath.Dir(newName) {
		return fmt.Errorf("rename %q to %q: directories differ", oldName, newName)
	}
	if err := fsys.Rename(oldName, newName); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(newName))
}

// Replace makes data the contents of a file, whether there is one or not: after a power loss it has the old contents or
// the new ones, and the new ones when Replace has returned. It writes a file name + ".tmp" in between, which may stay behind.
func Replace(fsys FS, name string, data []byte) error {
	tmp := name + ".tmp"
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return RenameDurable(fsys, tmp, name)
}

// ErrNoSpace is what writing answers when the disk has no room left.
var ErrNoSpace error = syscall.ENOSPC

// ErrUnreadable is what reading answers when the disk cannot read what it has.
var ErrUnreadable error = syscall.EIO

// IsUnreadable reports whether err says that the disk cannot read what it has; other places in the file may be read.
func IsUnreadable(err error) bool {
	return errors.Is(err, ErrUnreadable) || errors.Is(err, syscall.EBADMSG)
}

// IsNoSpace reports whether err says that the disk or the quota is exhausted.
func IsNoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.EDQUOT)
}
