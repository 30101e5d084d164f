package broker

import (
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

// outbound is the queue of bytes to one client or route. Any goroutine appends under mu; at any time at most
// one goroutine, the one that set flushing, writes to the connection, without mu.
//
// Invariants:
//  1. pending is the number of bytes in chunks and in the write under way.
//  2. When chunks is not empty, then flushing, signaled, touched or delayed is set: someone will write them.
//  3. After closing is set nothing is appended.
type outbound struct {
	pool          *chunkPool
	maxPending    int64         // more cuts the peer off
	writeDeadline time.Duration // for one blocked write
	stallAt       int64         // more makes fast producers wait a moment
	fair          bool          // no one waits for a peer that has taken nothing for stuckAfter

	mu         sync.Mutex
	wake       sync.Cond // signaled, closing or the end of a flush, for the writer
	chunks     [][]byte
	spare      [][]byte // chunk list of the last flush, for reuse
	pending    int64
	lastFlush  int       // bytes of the last flush: the size of the next first chunk
	wroteAt    time.Time // of the last bytes that went out
	flushing   bool      // a goroutine writes to the connection
	signaled   bool      // the writer has been told to flush
	touched    bool      // a flushList has promised to flush
	delayed    bool      // a timer has
	closing    bool
	hard       bool          // closing without a last flush
	linger     bool          // closing leaves the connection to the read loop
	reason     closeReason   // why it is closing
	stall      chan struct{} // closed when fast producers may go on; nil: no one waits
	empty      chan struct{} // closed when nothing is pending any more; nil: no one waits
	compressor *compressor   // nil: bytes leave as they are
	headers    bool          // the client takes message headers
	outMsgs    int64
	outBytes   int64
	replies    *replyTracker // reply subjects the client may publish to; nil: not tracked
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
	if n > 0 {
		o.wroteAt = time.Now()
	}
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
	if o.empty != nil && o.pending == 0 {
		close(o.empty)
		o.empty = nil
	}
	if o.stall != nil && (len(rest) == 0 || o.pending < o.stallAt) {
		close(o.stall)
		o.stall = nil
	}
}

// stuckAfter is for how long a peer has taken nothing when those who must not be held up no longer wait
// for it.
const stuckAfter = time.Second

// stuckLocked reports whether the peer has taken nothing for too long to be waited for.
func (o *outbound) stuckLocked() bool { return time.Since(o.wroteAt) > stuckAfter }

// dropLocked gives up everything queued.
func (o *outbound) dropLocked() {
	for _, b := range o.chunks {
		o.pending -= int64(len(b))
		o.pool.put(b)
	}
	o.chunks = nil
	if o.empty != nil {
		close(o.empty)
		o.empty = nil
	}
	if o.stall != nil {
		close(o.stall)
		o.stall = nil
	}
}

// flushList is the connections that one goroutine appended to and will flush when its batch ends.
type flushList struct{ conns []*conn }

// addLocked notes c, whose out.mu is held.
func (f *flushList) addLocked(c *conn) {
	if !c.out.touched {
		c.out.touched = true
		f.conns = append(f.conns, c)
	}
}

// inlineFlushes is the number of connections that a goroutine writes to itself at the end of a batch;
// more than that are left to their writers, which run in parallel.
const inlineFlushes = 2

// flush has everything written that was appended to the noted connections.
func (f *flushList) flush() {
	inline := len(f.conns) <= inlineFlushes
	for i, c := range f.conns {
		c.flushTouched(inline)
		f.conns[i] = nil
	}
	f.conns = f.conns[:0]
}

// push leaves what was appended to the writers of the noted connections.
func (f *flushList) push() {
	for i, c := range f.conns {
		c.flushTouched(false)
		f.conns[i] = nil
	}
	f.conns = f.conns[:0]
}
