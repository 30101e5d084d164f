package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is a small file system in memory, for a store that can be full. It outlives the processes that
// use it.
type Disk struct{ dir string }

// NewDisk mounts a file system of size bytes over dir, which is created. It needs root.
func NewDisk(dir string, size int64) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("disk", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		return nil, fmt.Errorf("mount a file system in memory (as root): %w", err)
	}
	return &Disk{dir}, nil
}

func (d *Disk) filler() string { return filepath.Join(d.dir, "filler") }

// Fill takes all that is free.
func (d *Disk) Fill() error {
	f, err := os.Create(d.filler())
	if err != nil {
		return err
	}
	// Others take of what is free meanwhile: what does not fit as a whole is tried in halves.
	var size int64
	for step := int64(1 << 30); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return errors.Join(fmt.Errorf("fill disk: %w", err), f.Close())
		}
	}
	return f.Close()
}

// Free gives back what Fill took.
func (d *Disk) Free() error { return os.Remove(d.filler()) }

// Close unmounts the file system: what was in it is gone.
func (d *Disk) Close() error { return unix.Unmount(d.dir, unix.MNT_DETACH) }

// Image is a file system in a file, whose power can be cut: what was not synced is gone then, which no
// signal to a process does.
type Image struct{ dir, file string }

// imageOptions keep the kernel from writing what nobody asked it to: the journal is committed every
// 300 s by itself, not every 5.
const imageOptions = "loop,noatime,commit=300"

// NewImage makes a file system of size bytes in file and mounts it over dir. It needs root, loop devices
// and the programs mkfs.ext4 and mount.
func NewImage(dir, file string, size int64) (*Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	if err := run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", file); err != nil {
		return nil, err
	}
	i := &Image{dir, file}
	return i, i.mount()
}

func (i *Image) mount() error { return run("mount", "-t", "ext4", "-o", imageOptions, i.file, i.dir) }

// CutPower makes the file system what a disk has after a power cut at this moment. Processes that use it
// have been killed.
func (i *Image) CutPower() error {
	// The file has what the file system has written to its disk. Unmounting would write the rest.
	after := i.file + ".cut"
	if err := run("cp", "--sparse=always", i.file, after); err != nil {
		return err
	}
	if err := i.Close(); err != nil {
		return err
	}
	if err := os.Rename(after, i.file); err != nil {
		return err
	}
	return i.mount()
}

// Close unmounts the file system, which is kept in its file.
func (i *Image) Close() error { return run("umount", i.dir) }

func run(program string, args ...string) error {
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}
