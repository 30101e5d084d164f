package vfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func allocate(f *os.File, size int64) error {
	err := retry(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return errors.ErrUnsupported
	}
	return err
}

func syncData(f *os.File) error { return retry(f, unix.Fdatasync) }

// startWrite begins to write the dirty pages of a range. Errors of the disk come out of the sync that follows.
func startWrite(f *os.File, off, n int64) error {
	err := retry(f, func(fd int) error { return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE) })
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

// cold asks by a read that may not wait.
func cold(f *os.File, off int64) bool {
	var one [1]byte
	err := retry(f, func(fd int) error {
		_, err := unix.Preadv2(fd, [][]byte{one[:]}, off, unix.RWF_NOWAIT)
		return err
	})
	return err == unix.EAGAIN
}

// readDirect opens the file once more, whatever its name is now: a descriptor reads directly or not.
func readDirect(f *os.File, p []byte, off int64) (n int, err error) {
	var direct *os.File
	err = retry(f, func(fd int) (err error) {
		direct, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_DIRECT, 0)
		return err
	})
	if err != nil {
		return 0, errors.Join(errors.ErrUnsupported, err)
	}
	defer func() { _ = direct.Close() }() // it was only read
	return direct.ReadAt(p, off)
}

// wontRead takes a range out of the page cache, but for pages that are not written yet. That it cannot costs memory alone.
func wontRead(f *os.File, off, n int64) {
	_ = retry(f, func(fd int) error { return unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) })
}

// FreeBytes returns how much may still be written in a directory of the machine.
func FreeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if err != unix.EINTR {
			return 0, fmt.Errorf("free space of %q: %w", dir, err)
		}
	}
}

// retry repeats a call that a signal interrupted; the runtime's preemption sends signals.
func retry(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); callErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return callErr
}
