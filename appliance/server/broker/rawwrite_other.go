//go:build !unix

package broker

import "net"

// rawConn is not available on this system: writers write.
type rawConn struct{}

func newRawConn(net.Conn) *rawConn { return nil }

func (r *rawConn) write([][]byte) (int, error) { panic("BUG: no raw connection") }
