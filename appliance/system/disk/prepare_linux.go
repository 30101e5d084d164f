package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"
)

// Programs in the image (Debian package e2fsprogs).
const (
	mke2fs = "/sbin/mke2fs"
	e2fsck = "/sbin/e2fsck"
)

// Runner runs a program to its end and returns what it printed and its exit code. PID 1 collects
// all processes in one place, so it does the running.
type Runner func(ctx context.Context, path string, args ...string) (output string, code int, err error)

// Config says how Prepare works.
type Config struct {
	Run    Runner
	Dir    string // where to mount the data disk
	Logger *slog.Logger
}

// Prepare does what was decided: it formats the disk when it is empty, checks the file system and
// mounts it. After an error nothing is mounted.
func Prepare(ctx context.Context, c Config, d Decision) error {
	dev := Device(d.Disk)
	if d.Action == Format {
		c.Logger.Info("formatting empty data disk", "disk", d.Disk)
		if err := format(ctx, c.Run, dev); err != nil {
			return err
		}
	}
	if err := check(ctx, c, dev); err != nil {
		return err
	}
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if _, err := mount.Mount(dev, c.Dir, "ext4", "", flags); err != nil {
		return fmt.Errorf("mount data disk: %w", err)
	}
	return nil
}

// format makes the data file system. The mark goes on first and off last: a power cut in between
// leaves a disk that the next boot formats again, instead of one with unknown data.
func format(ctx context.Context, run Runner, dev string) error {
	// Exclusive: the kernel refuses when the disk or a partition of it is in use.
	f, err := os.OpenFile(dev, os.O_WRONLY|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open data disk: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("get size of data disk: %w", err)
	}
	if err := writeSynced(f, []byte(formatMark), markAt(size)); err != nil {
		return fmt.Errorf("mark data disk: %w", err)
	}
	if err := f.Close(); err != nil { // mke2fs wants it exclusively too
		return fmt.Errorf("mark data disk: %w", err)
	}
	// nodiscard: the disk was found empty, and discarding would take the mark with it. Tables are
	// zeroed later by the kernel; a disk of terabytes is ready in a second. No blocks are reserved
	// for root, who is the only user.
	out, code, err := run(ctx, mke2fs, "-q", "-F", "-t", "ext4", "-L", Label, "-m", "0",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", dev, fmt.Sprintf("%dk", markAt(size)>>10))
	if err != nil {
		return fmt.Errorf("format data disk: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("format data disk: mke2fs ended with %d: %s", code, out)
	}
	if f, err = os.OpenFile(dev, os.O_WRONLY|os.O_EXCL, 0); err != nil {
		return fmt.Errorf("open data disk: %w", err)
	}
	defer f.Close()
	if err := writeSynced(f, make([]byte, len(formatMark)), markAt(size)); err != nil {
		return fmt.Errorf("unmark data disk: %w", err)
	}
	return nil
}

// writeSynced writes and waits until it is on the disk.
func writeSynced(f *os.File, b []byte, off int64) error {
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	return f.Sync()
}

// check replays the journal and repairs what is safe to repair.
func check(ctx context.Context, c Config, dev string) error {
	out, code, err := c.Run(ctx, e2fsck, "-p", dev)
	if err != nil {
		return fmt.Errorf("check data disk: %w", err)
	}
	// e2fsck(8): 1 and 2 are errors that were corrected, anything above was not.
	const corrected = 1 | 2
	if code&^corrected != 0 {
		return fmt.Errorf("check data disk: e2fsck ended with %d: %s", code, out)
	}
	if code != 0 {
		c.Logger.Warn("data disk was repaired", "e2fsck", out)
	}
	return nil
}

// Usage returns the size of the mounted file system and what is free of it, in bytes.
func Usage(dir string) (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// ReadESP reads a file from the EFI system partition of the disk this box starts from, mounting it
// read-only at dir meanwhile; found is false when the partition has no such file.
func ReadESP(d Disk, dir, name string) (data []byte, found bool, err error) {
	mp, err := mount.Mount(Partition(d.Name, d.ESP), dir, "vfat", "", mount.ReadOnly)
	if err != nil {
		return nil, false, fmt.Errorf("mount EFI system partition: %w", err)
	}
	data, err = os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, mp.Unmount(0)
	}
	return data, true, errors.Join(err, mp.Unmount(0))
}
