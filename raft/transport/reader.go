package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// readBuffer is the size of a connection's read buffer, in bytes. What is left of a larger frame is
// read without it.
const readBuffer = 32 << 10

// read delivers frames until the connection ends, and returns why it did.
func (l *lane) read(c *conn) error {
	in := bufio.NewReaderSize(&aliveReader{c.nc, l.config.DeadAfter}, readBuffer)
	for opened := false; ; opened = true {
		b, err := in.Peek(headerSize)
		if err != nil {
			return l.readError(err)
		}
		h, err := decodeHeader(b)
		if err != nil {
			return err
		}
		if err := l.check(&h, c, opened); err != nil {
			return err
		}
		in.Discard(headerSize) // was peeked
		if h.kind == kindPing {
			continue
		}
		frame := make([]byte, h.size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return l.readError(err)
		}
		if got := checksum(frame); got != h.sum {
			return fmt.Errorf("%w: checksum %08x of frame %d is not %08x", ErrCorrupt, got, h.seq, h.sum)
		}
		if !c.alive() {
			return c.cause // replaced or removed: what is left of it is lost
		}
		l.received = h.seq
		l.stats.frames.Add(1)
		l.stats.bytes.Add(uint64(h.size))
		l.deliver(frame)
	}
}

// check holds that a frame belongs here and is the next one. The ping that opens a connection tells
// where the numbers go on, and so how many frames were lost with the last connection.
func (l *lane) check(h *header, c *conn, opened bool) error {
	switch {
	case h.lane != l.id:
		return fmt.Errorf("%w: frame of lane %d", ErrProtocol, h.lane)
	case int64(h.size) > int64(l.identity.maxFrame):
		return fmt.Errorf("%w: frame of %d bytes, at most %d are taken", ErrProtocol, h.size, l.identity.maxFrame)
	case !opened && h.kind != kindPing:
		return fmt.Errorf("%w: no ping at the begin", ErrProtocol)
	case !opened && l.receivedFrom != c.peer.incarnation:
		l.receivedFrom, l.received = c.peer.incarnation, h.seq
	case !opened && h.seq >= l.received:
		l.stats.lost.Add(h.seq - l.received)
		l.received = h.seq
	case h.kind == kindPing && h.seq != l.received, h.kind == kindData && h.seq != l.received+1:
		return fmt.Errorf("%w: number %d after %d", ErrCorrupt, h.seq, l.received)
	}
	return nil
}

func (l *lane) readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("nothing received for %v", l.config.DeadAfter)
	}
	return fmt.Errorf("read: %w", hungUp(err))
}

// aliveReader reads from a connection that has to bring something within timeout.
type aliveReader struct {
	nc      net.Conn
	timeout time.Duration
}

// Read reads what there is.
func (r *aliveReader) Read(b []byte) (int, error) {
	if err := r.nc.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
		return 0, err
	}
	return r.nc.Read(b)
}
