//go:build unix

package broker

import (
	"fmt"
	"io"
	"net"
	"syscall"
)

// peekSocket waits for the first byte, which stays to be read. The connection stays the one that it is:
// whoever takes it over can use all that a socket can do.
func peekSocket(nc net.Conn) (byte, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("peek at %T", nc)
	}
	conn, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var first [1]byte
	var n int
	var got error
	err = conn.Read(func(fd uintptr) bool {
		for {
			n, _, got = syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK)
			if got != syscall.EINTR {
				return got != syscall.EAGAIN
			}
		}
	})
	if err == nil {
		err = got
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return first[0], err
}
