//go:build unix

package broker

import (
	"net"
	"syscall"
)

// rawConn writes to a socket without ever waiting.
type rawConn struct {
	conn syscall.RawConn
	fn   func(fd uintptr) bool // kept, so that a write allocates nothing

	// Arguments and results of fn, owned by the goroutine that flushes.
	bufs [][]byte
	n    int
	err  error
}

// newRawConn returns nil for a connection that has no socket.
func newRawConn(nc net.Conn) *rawConn {
	var sc syscall.Conn
	switch c := nc.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return nil
	}
	conn, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &rawConn{conn: conn}
	r.fn = r.writeFD
	return r
}

// write writes as much of bufs as the socket takes now and returns the number of bytes.
func (r *rawConn) write(bufs [][]byte) (int, error) {
	r.bufs, r.n, r.err = bufs, 0, nil
	err := r.conn.Write(r.fn)
	r.bufs = nil
	if err == nil {
		err = r.err
	}
	return r.n, err
}

func (r *rawConn) writeFD(fd uintptr) bool {
	for _, b := range r.bufs {
		for len(b) > 0 {
			n, err := syscall.Write(int(fd), b)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				if err != syscall.EAGAIN {
					r.err = err
				}
				return true
			}
			r.n += n
			b = b[n:]
		}
	}
	return true
}
