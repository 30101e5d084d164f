package broker

import (
	"net"
	"sync"
	"time"
)

// Sizes of the chunks that outbound bytes are gathered in.
const (
	smallChunk  = 1 << 10
	mediumChunk = 8 << 10
	largeChunk  = 64 << 10
)

// writevMax is the number of chunks handed to one write.
const writevMax = 64

// closeFlush bounds the last write of a connection that is being closed.
const closeFlush = 500 * time.Millisecond

// chunkPool recycles chunks by size.
type chunkPool struct{ small, medium, large sync.Pool }

// get returns an empty chunk of at least want bytes, or of the largest size.
func (p *chunkPool) get(want int) []byte {
	switch {
	case want <= smallChunk:
		if c, ok := p.small.Get().(*[smallChunk]byte); ok {
			return c[:0]
		}
		return new([smallChunk]byte)[:0]
	case want <= mediumChunk:
		if c, ok := p.medium.Get().(*[mediumChunk]byte); ok {
			return c[:0]
		}
		return new([mediumChunk]byte)[:0]
	}
	if c, ok := p.large.Get().(*[largeChunk]byte); ok {
		return c[:0]
	}
	return new([largeChunk]byte)[:0]
}

// put takes back a chunk from get.
func (p *chunkPool) put(b []byte) {
	switch b = b[:0]; cap(b) {
	case smallChunk:
		p.small.Put((*[smallChunk]byte)(b[:smallChunk]))
	case mediumChunk:
		p.medium.Put((*[mediumChunk]byte)(b[:mediumChunk]))
	case largeChunk:
		p.large.Put((*[largeChunk]byte)(b[:largeChunk]))
	}
}

// outbound is the queue of bytes to one client. Any goroutine appends under mu; at any time at most
// one goroutine, the one that set flushing, writes to the connection, without mu.
//
// Invariants:
//  1. pending is the number of bytes in chunks and in the write under way.
//  2. When chunks is not empty, then flushing, signaled or touched is set: someone will write them.
//  3. After closing is set nothing is appended.
type outbound struct {
	pool       *chunkPool
	maxPending int64

	mu        sync.Mutex
	wake      sync.Cond // signaled, closing or the end of a flush, for the writer
	chunks    [][]byte
	spare     [][]byte // chunk list of the last flush, for reuse
	pending   int64
	lastFlush int  // bytes of the last flush: the size of the next first chunk
	flushing  bool // a goroutine writes to the connection
	signaled  bool // the writer has been told to flush
	touched   bool // a flushList has promised to flush
	closing   bool
	hard      bool          // closing without a last flush
	linger    bool          // closing leaves the connection to the read loop
	reason    closeReason   // why it is closing
	stall     chan struct{} // closed when fast producers may go on; nil: no one waits
	headers   bool          // the client takes message headers
	outMsgs   int64
	outBytes  int64
	replies   *replyTracker // reply subjects the client may publish to; nil: not tracked
}

// tailLocked returns the last chunk, with room for n bytes if a chunk can have it.
func (o *outbound) tailLocked(n int) *[]byte {
	if last := len(o.chunks) - 1; last >= 0 {
		if t := &o.chunks[last]; cap(*t)-len(*t) >= n {
			return t
		}
		o.chunks = append(o.chunks, o.pool.get(max(n, 8*cap(o.chunks[last]))))
	} else {
		o.chunks = append(o.chunks, o.pool.get(max(n, o.lastFlush)))
	}
	return &o.chunks[len(o.chunks)-1]
}

// appendLocked queues a copy of b.
func (o *outbound) appendLocked(b []byte) {
	o.pending += int64(len(b))
	for len(b) > 0 {
		t := o.tailLocked(1)
		n := copy((*t)[len(*t):cap(*t)], b)
		*t = (*t)[:len(*t)+n]
		b = b[n:]
	}
}

// signalLocked makes the writer flush.
func (o *outbound) signalLocked() {
	if !o.signaled {
		o.signaled = true
		o.wake.Signal()
	}
}

// takeLocked starts a flush: it takes all chunks.
func (o *outbound) takeLocked() [][]byte {
	o.flushing, o.signaled = true, false
	bufs := o.chunks
	o.chunks, o.spare = o.spare[:0], nil
	return bufs
}

// doneLocked ends a flush that wrote n bytes of bufs; what is left of them goes back to the front of
// the queue.
func (o *outbound) doneLocked(bufs [][]byte, n int) {
	o.flushing = false
	o.pending -= int64(n)
	o.lastFlush = n
	i := 0
	for i < len(bufs) && n >= len(bufs[i]) {
		n -= len(bufs[i])
		o.pool.put(bufs[i])
		i++
	}
	rest := bufs[i:]
	if len(rest) > 0 {
		if n > 0 {
			// Keeps the start of the chunk so that it returns to its pool.
			b := rest[0]
			rest[0] = b[:copy(b, b[n:])]
		}
		o.chunks = append(rest, o.chunks...)
	} else {
		clear(bufs)
		o.spare = bufs[:0]
	}
	if o.stall != nil && (len(rest) == 0 || o.pending < o.maxPending/4*3) {
		close(o.stall)
		o.stall = nil
	}
}

// dropLocked gives up everything queued.
func (o *outbound) dropLocked() {
	for _, b := range o.chunks {
		o.pending -= int64(len(b))
		o.pool.put(b)
	}
	o.chunks = nil
	if o.stall != nil {
		close(o.stall)
		o.stall = nil
	}
}

// send queues b and wakes the writer. It may be called by any goroutine.
func (c *client) send(b []byte) {
	o := &c.out
	o.mu.Lock()
	if !o.closing {
		o.appendLocked(b)
		o.signalLocked()
	}
	o.mu.Unlock()
}

// reply queues b; the read loop flushes it at the end of its batch.
func (c *client) reply(b []byte) {
	o := &c.out
	o.mu.Lock()
	if !o.closing {
		o.appendLocked(b)
		c.touched.addLocked(c)
	}
	o.mu.Unlock()
}

// flushList is the clients that one goroutine appended to and will flush when its batch ends.
type flushList struct{ clients []*client }

// addLocked notes c, whose out.mu is held.
func (f *flushList) addLocked(c *client) {
	if !c.out.touched {
		c.out.touched = true
		f.clients = append(f.clients, c)
	}
}

// inlineFlushes is the number of clients that a goroutine writes to itself at the end of a batch;
// more than that are left to their writers, which run in parallel.
const inlineFlushes = 2

// flush has everything written that was appended to the noted clients.
func (f *flushList) flush() {
	inline := len(f.clients) <= inlineFlushes
	for i, c := range f.clients {
		c.flushTouched(inline)
		f.clients[i] = nil
	}
	f.clients = f.clients[:0]
}

// flushTouched keeps the promise of touched: it writes as much as the socket takes at once, and
// leaves the rest to the writer.
func (c *client) flushTouched(inline bool) {
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
func (c *client) writeLoop() {
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
		bufs := o.takeLocked()
		deadline := c.b.cfg.WriteDeadline
		if o.closing {
			deadline = min(deadline, closeFlush)
		}
		// Under mu, so that closeAfterFlush cannot set its shorter deadline before this one.
		c.nc.SetWriteDeadline(time.Now().Add(deadline))
		o.mu.Unlock()

		n, err := writeAll(c.nc, bufs)

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
