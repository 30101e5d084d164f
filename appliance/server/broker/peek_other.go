//go:build !unix

package broker

import (
	"errors"
	"net"
)

// peekSocket cannot look at bytes without taking them on this system: all connections are routes.
func peekSocket(net.Conn) (byte, error) { return 0, errors.ErrUnsupported }
