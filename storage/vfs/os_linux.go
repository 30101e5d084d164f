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

// willRead begins to read a range into the page cache, of which the kernel takes what the disk takes in one request
// (max_sectors_kb). That it cannot is told by the read. A read that may not wait says whether it is there.
func willRead(f *os.File, off, n int64) (cold bool) {
	var one [1]byte
	err := retry(f, func(fd int) error {
		_, err := unix.Preadv2(fd, [][]byte{one[:]}, off+n/2, unix.RWF_NOWAIT)
		return err
	})
	_ = retry(f, func(fd int) error { return unix.Fadvise(fd, off, n, unix.FADV_WILLNEED) })
	return err == unix.EAGAIN
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
