package broker

import (
	"io"
	"net"
	"time"
)

// Sizes of the read buffer.
const (
	readBufferMin = 512
	readBufferMax = 64 << 10
	// shrinkAfter is the number of successive reads of less than a quarter of the buffer that
	// halve it.
	shrinkAfter = 16
)

// lingerTime bounds the reading of what a client still sends after an error that closes its
// connection. Closing a socket with unread bytes would make the -ERR line vanish.
const lingerTime = closeFlush

// conn is the connection of a client or a route: its socket and the bytes on their way to it.
type conn struct {
	b       *Broker
	nc      net.Conn // the TLS connection once TLS is up
	raw     *rawConn // nil: nc has no socket that can be written without waiting
	out     outbound
	written chan struct{} // closed when the writer has ended
	readErr error         // of readLoop, which owns it
}

func (c *conn) init(b *Broker, nc net.Conn) {
	c.b, c.nc, c.written = b, nc, make(chan struct{})
	c.out.pool = &b.chunks
	c.out.maxPending = b.cfg.MaxPending
	c.out.stallAt = b.cfg.MaxPending / 4 * 3
	c.out.writeDeadline = b.cfg.WriteDeadline
	c.out.wake.L = &c.out.mu
	c.out.lastFlush, c.out.wroteAt = smallChunk, time.Now()
}

// reader handles what a connection reads. Its methods are called by readLoop alone.
type reader interface {
	// handleAll handles all complete operations of buf and returns the bytes they take.
	handleAll(buf []byte) (int, error)
	// endBatch ends what one read brought.
	endBatch()
	// need is the size in bytes that an incomplete operation has at least, or 0.
	need() int
	// failRead ends the connection because of an error of handleAll.
	failRead(err error)
	// input is asked after each batch for what to read from now on, with the bytes that handleAll has
	// left; nil: go on.
	input(rest []byte) io.Reader
}

// readLoop reads and lets r handle operations until the connection ends.
func (c *conn) readLoop(r reader) {
	buf := make([]byte, readBufferMin)
	end, short := 0, 0
	in := io.Reader(c.nc)
	for {
		n, err := in.Read(buf[end:])
		full := n == len(buf)-end
		end += n
		used, perr := r.handleAll(buf[:end])
		r.endBatch()
		if perr != nil {
			r.failRead(perr)
			return
		}
		if next := r.input(buf[used:end]); next != nil {
			in, end = next, 0
			continue
		}
		if err != nil {
			c.readErr = err
			c.closeAfterFlush(closedByPeer, false)
			return
		}
		end = copy(buf, buf[used:end])

		size := len(buf)
		switch need := r.need(); {
		case need > size:
			size = need
		case full && size < readBufferMax:
			size, short = 2*size, 0
		case n < size/4 && need == 0:
			if short++; short >= shrinkAfter && size > readBufferMin && end <= size/2 {
				size, short = max(size/2, readBufferMin), 0
			}
		default:
			short = 0
		}
		if end == size {
			size *= 2 // a line longer than the buffer
		}
		if size != len(buf) {
			next := make([]byte, size)
			copy(next, buf[:end])
			buf = next
		}
	}
}

// send queues b and wakes the writer. It may be called by any goroutine.
func (c *conn) send(b []byte) {
	o := &c.out
	o.mu.Lock()
	if !o.closing {
		o.appendLocked(b)
		o.signalLocked()
	}
	o.mu.Unlock()
}

// flushTouched keeps the promise of touched: it writes as much as the socket takes at once, and
// leaves the rest to the writer.
func (c *conn) flushTouched(inline bool) {
	o := &c.out
	o.mu.Lock()
	o.touched = false
	switch {
	case len(o.chunks) == 0 || o.flushing || o.closing:
		// Nothing left, or the goroutine that writes now goes on until nothing is.
		o.mu.Unlock()
		return
	case !inline || c.raw == nil:
		o.signalLocked()
		o.mu.Unlock()
		return
	}
	bufs := o.takeLocked()
	o.mu.Unlock()

	n, err := c.raw.write(bufs)

	o.mu.Lock()
	o.doneLocked(bufs, n)
	if len(o.chunks) > 0 || o.closing {
		o.signaled = true
		o.wake.Signal()
	}
	o.mu.Unlock()
	if err != nil {
		c.abort(closedWriteError)
	}
}

// writeLoop writes what others do not, and closes the connection in the end.
func (c *conn) writeLoop() {
	defer close(c.written)
	o := &c.out
	o.mu.Lock()
	for {
		for o.flushing || !(o.signaled || o.closing) {
			o.wake.Wait()
		}
		if o.hard || (o.closing && len(o.chunks) == 0) {
			break
		}
		if len(o.chunks) == 0 {
			o.signaled = false
			continue
		}
		bufs, compressor := o.takeLocked(), o.compressor
		deadline := o.writeDeadline
		if o.closing {
			deadline = min(deadline, closeFlush)
		}
		// Under mu, so that closeAfterFlush cannot set its shorter deadline before this one.
		c.nc.SetWriteDeadline(time.Now().Add(deadline))
		o.mu.Unlock()

		var n int
		var err error
		if compressor == nil {
			n, err = writeAll(c.nc, bufs)
		} else {
			n, err = compressor.write(c.nc, bufs)
		}

		o.mu.Lock()
		if !o.closing {
			c.nc.SetWriteDeadline(time.Time{})
		}
		o.doneLocked(bufs, n)
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() && !o.closing {
				c.slowLocked(closedSlowDeadline)
			} else {
				c.abortLocked(closedWriteError)
			}
			break
		}
		if len(o.chunks) > 0 {
			o.signaled = true
		}
	}
	o.dropLocked()
	linger := o.linger && !o.hard
	o.mu.Unlock()
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && linger {
		half.CloseWrite() // the read loop drains and closes
		return
	}
	c.nc.Close()
}

// writeAll writes bufs and returns the bytes written.
func writeAll(nc net.Conn, bufs [][]byte) (int, error) {
	total := 0
	for len(bufs) > 0 {
		k := min(len(bufs), writevMax)
		// WriteTo consumes the slice of slices it is given: the caller keeps its own.
		v := append(net.Buffers(nil), bufs[:k]...)
		n, err := v.WriteTo(nc)
		total += int(n)
		if err != nil {
			return total, err
		}
		bufs = bufs[k:]
	}
	return total, nil
}

// drain reads until the peer closes or lingerTime is over, and closes the connection.
func (c *conn) drain() {
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	var buf [4096]byte
	for {
		if _, err := c.nc.Read(buf[:]); err != nil {
			break
		}
	}
	c.abort(closedByPeer)
}

// address is the peer's address for the log.
func (c *conn) address() string { return c.nc.RemoteAddr().String() }

// closeAfterFlush ends the connection once what is queued has been written, or closeFlush is over.
// With linger the read loop drains the connection before it is closed.
func (c *conn) closeAfterFlush(reason closeReason, linger bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return
	}
	o.closing, o.reason, o.linger = true, reason, linger
	c.nc.SetWriteDeadline(time.Now().Add(closeFlush))
	o.wake.Signal()
}

// abort ends the connection without writing anything more.
func (c *conn) abort(reason closeReason) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.abortLocked(reason)
}

// abortLocked needs out.mu. The writer closes the connection; the deadline ends what it and the read
// loop wait for.
func (c *conn) abortLocked(reason closeReason) {
	o := &c.out
	if o.hard {
		return
	}
	if !o.closing {
		o.reason = reason
	}
	o.closing, o.hard, o.linger = true, true, false
	c.nc.SetDeadline(time.Unix(1, 0))
	o.wake.Signal()
}

// slowLocked ends a connection that does not take its messages; it needs out.mu.
func (c *conn) slowLocked(reason closeReason) {
	if c.out.closing {
		return
	}
	c.b.slowConsumers.Add(1)
	c.abortLocked(reason)
}
