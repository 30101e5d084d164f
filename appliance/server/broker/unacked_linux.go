package broker

import (
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not have.
const tcpUserTimeout = 18

// loseUnacknowledged lets the system end a connection when the other machine has acknowledged nothing of
// what was sent for that long. A process that is slow does not count: its machine acknowledges.
func loseUnacknowledged(nc net.Conn, after time.Duration) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	if conn, err := sc.SyscallConn(); err == nil {
		// Where it is refused, PINGs find out later.
		conn.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(after.Milliseconds()))
		})
	}
}
