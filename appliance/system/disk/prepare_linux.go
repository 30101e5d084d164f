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
	"unsafe"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"

	"millrace/image/layout"
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
	Dir    string // where to mount
	Logger *slog.Logger
}

// Prepare does what was decided: it formats the disk when it is to be, giving the file system the
// UUID, checks the file system, mounts it and lets it grow to the size of its disk. After an error
// nothing is mounted.
func Prepare(ctx context.Context, c Config, d Decision, uuid string) error {
	dev := Device(d.Disk)
	if d.Action == Format {
		what := "formatting empty data disk"
		if d.Erase {
			what = "erasing disk for data, as the owner said"
		}
		c.Logger.Info(what, "disk", d.Disk)
		if err := format(ctx, c.Run, dev, layout.DataLabel, uuid); err != nil {
			return fmt.Errorf("data disk: %w", err)
		}
		// There is nothing to check yet.
		return mountGrown(c, dev, "data disk")
	}
	return mountChecked(ctx, c, dev, "data disk")
}

// PrepareMore does what was decided about a further disk, like Prepare. It is mounted at c.Dir, which is made.
func PrepareMore(ctx context.Context, c Config, m More) error {
	dev, what := Device(m.Disk), fmt.Sprintf("data disk %d", m.Number)
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !m.Format {
		return mountChecked(ctx, c, dev, what)
	}
	c.Logger.Info("formatting empty disk as a further data disk", "disk", m.Disk, "number", m.Number)
	if err := format(ctx, c.Run, dev, furtherLabel(m.Number), m.UUID); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return mountGrown(c, dev, what)
}

// mountChecked checks, mounts and grows one of our file systems; what names it in errors.
func mountChecked(ctx context.Context, c Config, dev, what string) error {
	if err := check(ctx, c, dev, what); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return mountGrown(c, dev, what)
}

// mountGrown mounts and grows one of our file systems.
func mountGrown(c Config, dev, what string) error {
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if _, err := mount.Mount(dev, c.Dir, "ext4", "", flags); err != nil {
		return fmt.Errorf("%s: mount: %w", what, err)
	}
	// A file system that is smaller than it could be serves as well.
	if from, to, err := grow(dev, c.Dir); err != nil {
		c.Logger.Warn(what+" does not grow to the size of its disk", "cause", err)
	} else if to > from {
		c.Logger.Info(what+" has grown", "from", mib(from), "to", mib(to))
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// format makes one of our file systems. The mark goes on first and off last: a power cut in between
// leaves a disk that the next boot formats again, instead of one with unknown data.
func format(ctx context.Context, run Runner, dev, label, uuid string) error {
	// Exclusive: the kernel refuses when the disk or a partition of it is in use.
	f, err := os.OpenFile(dev, os.O_WRONLY|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("get size: %w", err)
	}
	// All of the end: a disk that is erased may have a partition table there.
	end := make([]byte, size-markAt(size))
	copy(end, formatMark)
	if err := writeSynced(f, end, markAt(size)); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	if err := f.Close(); err != nil { // mke2fs wants it exclusively too
		return fmt.Errorf("mark: %w", err)
	}
	// nodiscard: an empty disk has nothing to discard, and discarding would take the mark with it.
	// Tables are zeroed later by the kernel; a disk of terabytes is ready in a second. No blocks are
	// reserved for root, who is the only user.
	out, code, err := run(ctx, mke2fs, "-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-m", "0",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", dev, fmt.Sprintf("%dk", markAt(size)>>10))
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("format: mke2fs ended with %d: %s", code, out)
	}
	if f, err = os.OpenFile(dev, os.O_WRONLY|os.O_EXCL, 0); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer f.Close()
	if err := writeSynced(f, make([]byte, len(formatMark)), markAt(size)); err != nil {
		return fmt.Errorf("unmark: %w", err)
	}
	return nil
}

// grow lets the mounted file system of dev reach to the end of dev, less the place of the mark. The
// kernel does it online and journaled: a power cut leaves the old size or the new one. Sizes are in
// bytes.
func grow(dev, dir string) (from, to int64, err error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	head, err := readUpTo(f, 0, superblockAt+superblockSize, size)
	if err != nil {
		return 0, 0, err
	}
	sb, ok := parseExt4(head)
	if !ok {
		return 0, 0, errors.New("no ext4 superblock")
	}
	blocks := markAt(size) / sb.blockSize
	// Less than this is not worth it, and may not make a block group.
	const least = 64 << 20
	if (blocks-sb.blocks)*sb.blockSize < least {
		return sb.bytes(), sb.bytes(), nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	n := uint64(blocks)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, 0, fmt.Errorf("resize from %d to %d blocks: %w", sb.blocks, blocks, errno)
	}
	return sb.bytes(), blocks * sb.blockSize, nil
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) (Linux fs/ext4/ext4.h), which takes the
// number of blocks.
const ext4ResizeFS = 1<<30 | 8<<16 | 'f'<<8 | 16

// writeSynced writes and waits until it is on the disk.
func writeSynced(f *os.File, b []byte, off int64) error {
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	return f.Sync()
}

// check replays the journal and repairs what is safe to repair.
func check(ctx context.Context, c Config, dev, what string) error {
	out, code, err := c.Run(ctx, e2fsck, "-p", dev)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	// e2fsck(8): 1 and 2 are errors that were corrected, anything above was not.
	const corrected = 1 | 2
	if code&^corrected != 0 {
		return fmt.Errorf("check: e2fsck ended with %d: %s", code, out)
	}
	if code != 0 {
		c.Logger.Warn(what+" was repaired", "e2fsck", out)
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

// GiveUp marks a data disk as one to be formatted, as if formatting it had been cut short. Nothing else
// of it is changed.
func GiveUp(d Disk) error {
	if d.Content != Data && d.Content != Part {
		return fmt.Errorf("give up disk %s: it is no data disk", d)
	}
	f, err := os.OpenFile(Device(d.Name), os.O_WRONLY|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("give up disk %s: %w", d, err)
	}
	if err := errors.Join(writeSynced(f, []byte(formatMark), markAt(d.Bytes)), f.Close()); err != nil {
		return fmt.Errorf("give up disk %s: %w", d, err)
	}
	return nil
}
