package transport

import (
	"fmt"
	"hash/crc32"
	"net"
	"time"
)

// batchBuffers is the number of buffers that go into one write: what writev takes.
const batchBuffers = 1024

// smallPart is the size up to which a part is copied next to its header, in bytes: that costs less
// than one more buffer. smallBuffer is the room for these in a batch.
const (
	smallPart   = 256
	smallBuffer = 32 << 10
)

// copyBuffer is the size of the buffer that frames are copied to for connections without writev, in
// bytes. Four records of TLS fit.
const copyBuffer = 64 << 10

// writer writes the frames of a lane to one connection, all that wait in one write.
type writer struct {
	*lane
	c *conn

	frames []frame // taken from the queue and not begun

	// The batch.
	buffers  net.Buffers // of the write under way
	list     [][]byte    // memory of buffers: pieces of small, and parts that are not copied
	small    []byte      // headers and small parts; never grows
	piece    int         // where in small the last of list begins; -1: that is a part
	copied   []byte      // in place of list, for connections without writev; never grows
	vectored bool
	header   [headerSize]byte
	size     int // bytes, headers too
	used     int // room of the queue that is free when it is written
	begun    int // frames
	payload  int // bytes

	wrote bool // since the last tick
}

func newWriter(l *lane, c *conn) *writer {
	w := &writer{lane: l, c: c, piece: -1}
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		w.vectored = true
		w.small = make([]byte, 0, smallBuffer)
	default:
		w.copied = make([]byte, 0, copyBuffer)
	}
	return w
}

// run writes until the connection ends. It opens with a ping, which tells the other end the number of
// the last frame, so that it notices what was lost.
func (w *writer) run() error {
	tick := time.NewTicker(w.config.PingInterval)
	defer tick.Stop()
	if err := w.ping(); err != nil {
		return err
	}
	var parts [][]byte
	var frames []frame
	for {
		if w.queue.take(&parts, &frames) {
			if err := w.batches(parts, frames); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.queue.wake:
		case <-tick.C:
			if !w.wrote {
				if err := w.ping(); err != nil {
					return err
				}
			}
			w.wrote = false
		case <-w.c.done:
			return w.c.cause
		}
	}
}

// ping writes a ping.
func (w *writer) ping() error {
	h := header{kind: kindPing, lane: w.id, seq: w.sent}
	w.copy(h.append(w.header[:0])) // fits: there is no batch
	return w.flush()
}

// batches writes frames, of which parts are the bytes, in as few writes as the bounds allow.
func (w *writer) batches(parts [][]byte, frames []frame) error {
	w.frames = frames
	for len(w.frames) > 0 {
		if err := w.fit(headerSize); err != nil {
			return err // before the next frame has a number
		}
		f := w.frames[0]
		w.frames = w.frames[1:]
		h := header{size: uint32(f.size), kind: kindData, lane: w.id}
		for _, p := range parts[:f.parts] {
			h.sum = crc32.Update(h.sum, castagnoli, p)
		}
		w.sent++
		h.seq = w.sent
		w.copy(h.append(w.header[:0]))
		w.begun++
		w.used += FrameOverhead
		for i, p := range parts[:f.parts] {
			if err := w.add(p); err != nil {
				return err
			}
			parts[i] = nil
		}
		parts = parts[f.parts:]
	}
	return w.flush()
}

// add adds payload to the batch, and writes what is full.
func (w *writer) add(p []byte) error {
	if len(p) <= smallPart {
		if err := w.fit(len(p)); err != nil {
			return err
		}
		w.copy(p)
		w.count(len(p))
		return nil
	}
	for len(p) > 0 {
		if err := w.fit(1); err != nil {
			return err
		}
		n := min(len(p), w.bound()-w.size)
		if w.vectored {
			w.list = append(w.list, p[:n])
			w.piece = -1
			w.size += n
		} else {
			w.copy(p[:n])
		}
		w.count(n)
		p = p[n:]
	}
	return nil
}

// count notes that payload is in the batch.
func (w *writer) count(n int) {
	w.used += n
	w.payload += n
}

// fit writes the batch if n more bytes do not fit.
func (w *writer) fit(n int) error {
	full := w.size+n > w.bound() ||
		w.vectored && (len(w.list) == batchBuffers || len(w.small)+n > cap(w.small))
	if full && w.size > 0 {
		return w.flush()
	}
	return nil
}

// copy adds bytes that fit, and are copied.
func (w *writer) copy(b []byte) {
	w.size += len(b)
	if !w.vectored {
		w.copied = append(w.copied, b...)
		return
	}
	if w.piece < 0 {
		w.piece = len(w.small)
		w.list = append(w.list, nil)
	}
	w.small = append(w.small, b...)
	w.list[len(w.list)-1] = w.small[w.piece:]
}

// bound returns the bytes of a full batch.
func (w *writer) bound() int {
	if w.vectored {
		return w.config.Lanes[w.id].BatchBytes
	}
	return cap(w.copied)
}

// flush writes the batch. Each write has a deadline of its own, so that a slow connection is told
// from a dead one.
func (w *writer) flush() error {
	if w.size == 0 {
		return nil
	}
	if err := w.c.nc.SetWriteDeadline(time.Now().Add(w.config.WriteTimeout)); err != nil {
		return err
	}
	var err error
	if w.vectored {
		w.buffers = w.list // writing takes the written ones out of it
		_, err = w.buffers.WriteTo(w.c.nc)
	} else {
		_, err = w.c.nc.Write(w.copied)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	drained := w.queue.wrote(w.used, w.begun, w.payload)
	w.list, w.small, w.copied, w.piece = w.list[:0], w.small[:0], w.copied[:0], -1
	w.size, w.used, w.begun, w.payload = 0, 0, 0, 0
	w.wrote = true
	if drained {
		w.drained()
	}
	return nil
}
