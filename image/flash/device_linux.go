package flash

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inspect finds out what a path is.
func Inspect(path string) (Target, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if dir := filepath.Clean(filepath.Dir(path)); dir == "/dev" || strings.HasPrefix(dir, "/dev/") {
			return Target{}, fmt.Errorf("there is no disk %s", path)
		}
		return Target{Path: path}, nil
	}
	if err != nil {
		return Target{}, fmt.Errorf("look at %s: %w", path, err)
	}
	switch {
	case st.Mode().IsRegular():
		return Target{Path: path, Exists: true}, nil
	case st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice:
		return Target{}, fmt.Errorf("%s is neither a disk nor a file", path)
	}
	rdev := st.Sys().(*syscall.Stat_t).Rdev
	link := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
	t, err := describe(path, link)
	if err != nil {
		return Target{}, err
	}
	if t.Whole == "" && !t.ReadOnly {
		t.Busy, err = busy(path, t.Name, link)
	}
	return t, err
}

// describe reads what the kernel tells of a block device in its folder of sysfs.
func describe(path, sys string) (Target, error) {
	dir, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return Target{}, fmt.Errorf("look at disk %s: %w", path, err)
	}
	t := Target{Path: path, Device: true, Name: filepath.Base(dir)}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		t.Whole = filepath.Base(filepath.Dir(dir))
	}
	sectors, err := strconv.ParseInt(attribute(dir, "size"), 10, 64)
	if err != nil {
		return Target{}, fmt.Errorf("look at disk %s: size: %w", path, err)
	}
	t.Bytes = sectors * 512 // sysfs counts in these, whatever sectors the disk has
	if t.SectorBytes, err = strconv.Atoi(attribute(dir, "queue/logical_block_size")); err != nil && t.Whole == "" {
		return Target{}, fmt.Errorf("look at disk %s: size of sectors: %w", path, err)
	}
	t.ReadOnly = attribute(dir, "ro") == "1"
	// Sticks say it themselves; disks in a USB case do not, but hang on a USB bus.
	t.Removable = attribute(dir, "removable") == "1" || strings.Contains(dir, "/usb")
	t.Model = attribute(dir, "device/model")
	if vendor := attribute(dir, "device/vendor"); !strings.HasPrefix(vendor, "0x") { // a number with virtio
		t.Model = strings.TrimSpace(vendor + " " + t.Model)
	}
	for _, name := range []string{"serial", "device/serial"} {
		if t.Serial == "" {
			t.Serial = attribute(dir, name)
		}
	}
	if page, err := os.ReadFile(filepath.Join(dir, "device", "vpd_pg80")); err == nil && len(page) > 4 && t.Serial == "" {
		t.Serial = strings.TrimSpace(strings.Trim(string(page[4:]), "\x00")) // SCSI: unit serial number
	}
	return t, nil
}

// attribute reads a file of sysfs; empty when it is not there.
func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// busy says why a disk is in use; empty: it is not. The kernel gives a disk exclusively only when neither it
// nor a partition of it is mounted, swapped to, or part of another device. Under some hypervisors it gives
// a mounted one all the same, so the list of mounts is looked at too.
func busy(path, name, dir string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find out how %s is used: %w", path, err)
	}
	if at, ok := mounted(name, numbers(dir), string(mounts)); ok {
		return at, nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return path + " is claimed by the system (swap, RAID, LVM, or another program)", nil
	}
	if err != nil {
		return "", fmt.Errorf("open disk %s: %w", path, err)
	}
	return "", unix.Close(fd)
}

// numbers returns the device numbers, such as "8:1", of a disk and its partitions.
func numbers(dir string) map[string]bool {
	set := map[string]bool{attribute(dir, "dev"): true}
	parts, _ := filepath.Glob(filepath.Join(dir, "*", "partition")) // the pattern is well-formed
	for _, p := range parts {
		set[attribute(filepath.Dir(p), "dev")] = true
	}
	delete(set, "")
	return set
}

// mounted names a mounted part of a disk, by the names and the numbers in mountinfo (proc_pid_mountinfo(5)).
func mounted(name string, numbers map[string]bool, mountinfo string) (string, bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 2 {
			continue
		}
		part, ok := strings.CutPrefix(g[1], "/dev/"+name)
		if ok && strings.Trim(part, "p0123456789") == "" || numbers[f[2]] {
			return fmt.Sprintf("%s is mounted on %s", g[1], f[4]), true
		}
	}
	return "", false
}

// openDevice opens a disk so that nothing else can claim it meanwhile.
func openDevice(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	return f, nil
}

// rereadFile returns a reader of f that passes by the system's memory; it is closed when nothing refers to
// it. Where that cannot be (some file systems), what is remembered of the file is dropped instead.
func rereadFile(path string, f *os.File) (io.ReaderAt, error) {
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, fmt.Errorf("drop what is remembered of %s: %w", path, err)
	}
	direct, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return f, nil
	}
	if _, err := direct.ReadAt(alignedBuffer(chunkBytes), 0); err != nil {
		return f, direct.Close()
	}
	return direct, nil
}

// alignedBuffer is memory that direct reads may go to.
func alignedBuffer(n int) []byte {
	const align = 4096
	b := make([]byte, n+align)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (align - 1)
	return b[skip:][:n:n]
}

// announce tells the kernel that the disk has other partitions now.
func announce(f *os.File) error {
	if _, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART); err != nil {
		return fmt.Errorf("the image is written, but the system does not see its partitions (unplug the disk and plug it in again): %w", err)
	}
	return nil
}
