package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"millrace/image/layout"
)

// ErrNoState is returned when a box has no place for its state: it did not start from a disk of its
// own, or that disk is read-only or full. Nothing of its state can be elsewhere then.
var ErrNoState = errors.New("disk: no place for the state of the box")

// MountState finds or makes the state partition on the disk this box starts from, checks it and
// mounts it. An error other than ErrNoState means that there may be a state that could not be read.
//
// Order: the partition table is whole before anything is formatted, the kernel knows the partition
// before it is looked at, and it grows last.
func MountState(ctx context.Context, c Config, system Disk) error {
	if system.ReadOnly {
		return fmt.Errorf("%w: disk %s is read-only", ErrNoState, system.Name)
	}
	p, err := statePartition(ctx, c, system)
	if err != nil {
		return err
	}
	dev := Partition(system.Name, p.number)
	f, err := os.Open(dev)
	if err != nil {
		return fmt.Errorf("state partition: %w", err)
	}
	content, err := lookState(f, (p.last-p.first+1)*sectorOf(system.Name))
	f.Close()
	if err != nil {
		return fmt.Errorf("state partition %s: %w", dev, err)
	}
	if content == Empty {
		c.Logger.Info("making the state partition", "partition", dev)
		if err := format(ctx, c.Run, dev, layout.StateLabel, NewUUID()); err != nil {
			return fmt.Errorf("state partition %s: %w", dev, err)
		}
		return mountGrown(c, dev, "state partition")
	}
	return mountChecked(ctx, c, dev, "state partition")
}

// statePartition makes the partition table what it is to be and returns the state partition.
func statePartition(ctx context.Context, c Config, system Disk) (partition, error) {
	f, err := os.OpenFile(Device(system.Name), os.O_RDWR, 0)
	if err != nil {
		return partition{}, fmt.Errorf("open system disk: %w", err)
	}
	defer f.Close()
	t, ok := findGPT(f, system.Bytes)
	if !ok {
		return partition{}, fmt.Errorf("system disk %s has no partition table any more", system.Name)
	}
	want, state, changed, err := t.withState(system.Bytes, newGUID())
	if errors.Is(err, errNoRoom) {
		return state, fmt.Errorf("%w: system disk %s: %w", ErrNoState, system.Name, err)
	}
	if err != nil {
		return state, fmt.Errorf("system disk %s: %w", system.Name, err)
	}
	if !changed {
		return state, nil
	}
	c.Logger.Info("writing the partition table of the system disk", "disk", system.Name, "state partition", state.number)
	if err := want.write(f); err != nil {
		return state, fmt.Errorf("system disk %s: %w", system.Name, err)
	}
	return state, reread(ctx, f, system.Name, state)
}

// reread makes the kernel read the partition table, and waits until it has the partition.
func reread(ctx context.Context, f *os.File, disk string, p partition) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		// EBUSY while somebody still looks at a partition, as the kernel itself does.
		err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		if err == nil {
			err = hasSize(Partition(disk, p.number), (p.last-p.first+1)*sectorOf(disk))
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("have the partition table of %s read again: %w", disk, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hasSize checks the size of a partition.
func hasSize(dev string, want int64) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := f.Seek(0, io.SeekEnd)
	if err == nil && got != want {
		err = fmt.Errorf("%s has %d bytes, want %d", dev, got, want)
	}
	return err
}

// sectorOf is the size of a disk's sectors, in which its partition table counts.
func sectorOf(disk string) int64 {
	if n := attr(disk, "queue/logical_block_size"); n > 0 {
		return n
	}
	return 512
}

// NewUUID makes a random UUID (RFC 9562 version 4).
func NewUUID() string {
	b := newUUID()
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newGUID makes a random UUID as partition tables store it.
func newGUID() (g [16]byte) {
	copy(g[:], guidBytes(NewUUID()))
	return g
}

func newUUID() (b [16]byte) {
	_, _ = rand.Read(b[:]) // never returns an error
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return b
}

// ESP runs fn on the EFI system partition of the disk this box starts from, mounted at dir for
// writing. Directory changes are written at once: a FAT has no journal, and in this order a rename
// that is cut short leaves the old name beside the new one, never neither.
func ESP(d Disk, dir string, fn func() error) error {
	dev := Partition(d.Name, d.ESP)
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_DIRSYNC
	if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mount EFI system partition: %w", err)
	}
	if err := unix.Mount(dev, dir, "vfat", flags, "iocharset=ascii,codepage=437,umask=0077"); err != nil {
		return fmt.Errorf("mount EFI system partition %s: %w", dev, err)
	}
	err := fn()
	if e := unix.Unmount(dir, 0); e != nil {
		err = errors.Join(err, fmt.Errorf("unmount EFI system partition: %w", e))
	}
	return err
}
