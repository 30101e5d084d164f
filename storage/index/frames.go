package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A snapshot is values one after the other, cut into frames that are checked before they are looked at:
//
//	0  u32  length of the bytes, 1 to 32768; 0: the end
//	4  u32  CRC-32C of all bytes of the snapshot up to the end of this frame
//	8  bytes
//
// A value is a uvarint, a varint, or a uvarint length and so many bytes.
const (
	frameLen  = 32 << 10
	frameHead = 8
)

// Writer writes a snapshot. The first error of the writer below stays.
type Writer struct {
	w   io.Writer
	buf []byte // a frame, its head first
	crc uint32
	n   int64
	err error
}

// NewWriter returns a writer of one snapshot to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, buf: make([]byte, frameHead, frameHead+frameLen)}
}

// Uvarint writes a number.
func (w *Writer) Uvarint(v uint64) {
	w.room(binary.MaxVarintLen64)
	w.buf = binary.AppendUvarint(w.buf, v)
}

// Varint writes a number that may be negative.
func (w *Writer) Varint(v int64) {
	w.room(binary.MaxVarintLen64)
	w.buf = binary.AppendVarint(w.buf, v)
}

// Bytes writes bytes and their number.
func (w *Writer) Bytes(b []byte) {
	w.Uvarint(uint64(len(b)))
	for len(b) > 0 {
		w.room(1)
		n := min(len(b), frameHead+frameLen-len(w.buf))
		w.buf = append(w.buf, b[:n]...)
		b = b[n:]
	}
}

// room ends the frame if it has no room for n more bytes.
func (w *Writer) room(n int) {
	if len(w.buf)+n > frameHead+frameLen {
		w.flush()
	}
}

func (w *Writer) flush() {
	b := w.buf[frameHead:]
	w.crc = crc32.Update(w.crc, castagnoli, b)
	le.PutUint32(w.buf, uint32(len(b)))
	le.PutUint32(w.buf[4:], w.crc)
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(w.buf)
		w.n += int64(n)
	}
	w.buf = w.buf[:frameHead]
}

// Close ends the snapshot and returns the number of bytes written and the first error.
func (w *Writer) Close() (int64, error) {
	if len(w.buf) > frameHead {
		w.flush()
	}
	w.flush()
	return w.n, w.err
}

// Reader reads a snapshot. After an error, which stays, all values are zero.
type Reader struct {
	r     io.Reader
	frame []byte
	rest  []byte // of frame
	crc   uint32
	ended bool
	err   error
}

// NewReader returns a reader of one snapshot.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, frame: make([]byte, frameLen)} }

// Err returns the first error: that of the reader below, or [ErrSnapshot].
func (r *Reader) Err() error { return r.err }

// Failf records that what was read makes no sense.
func (r *Reader) Failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrSnapshot, fmt.Sprintf(format, args...))
	}
	r.rest = nil
}

// ReadByte returns the next byte.
func (r *Reader) ReadByte() (byte, error) {
	if len(r.rest) == 0 && !r.next() {
		return 0, r.err
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b, nil
}

// next reads a frame.
func (r *Reader) next() bool {
	if r.err != nil {
		return false
	}
	if r.ended {
		r.Failf("values are missing at the end")
		return false
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		r.err = fmt.Errorf("read snapshot: %w", err)
		return false
	}
	n := le.Uint32(head[:])
	if n > frameLen {
		r.Failf("frame of %d bytes", n)
		return false
	}
	if _, err := io.ReadFull(r.r, r.frame[:n]); err != nil {
		r.err = fmt.Errorf("read snapshot: %w", err)
		return false
	}
	r.rest = r.frame[:n]
	if r.crc = crc32.Update(r.crc, castagnoli, r.rest); r.crc != le.Uint32(head[4:]) {
		r.Failf("checksum mismatch")
		return false
	}
	if n == 0 {
		r.ended = true
		r.Failf("values are missing at the end")
		return false
	}
	return true
}

// Uvarint returns the next number.
func (r *Reader) Uvarint() uint64 {
	v, err := binary.ReadUvarint(r)
	if err != nil {
		r.Failf("number: %v", err)
		return 0
	}
	return v
}

// Upto returns the next number, which is not above most; what names it in an error.
func (r *Reader) Upto(most uint64, what string) uint64 {
	v := r.Uvarint()
	if v > most {
		r.Failf("%s %d above %d", what, v, most)
		return 0
	}
	return v
}

// Varint returns the next number, which may be negative.
func (r *Reader) Varint() int64 {
	v, err := binary.ReadVarint(r)
	if err != nil {
		r.Failf("number: %v", err)
		return 0
	}
	return v
}

// Bytes appends the next bytes, at most most, to b.
func (r *Reader) Bytes(b []byte, most int) []byte {
	for n := r.Upto(uint64(most), "length"); n > 0; {
		if len(r.rest) == 0 && !r.next() {
			return b
		}
		k := min(n, uint64(len(r.rest)))
		b = append(b, r.rest[:k]...)
		r.rest = r.rest[k:]
		n -= k
	}
	return b
}

// Close checks that the snapshot ends here and returns the first error.
func (r *Reader) Close() error {
	if r.err != nil {
		return r.err
	}
	if len(r.rest) > 0 {
		r.Failf("%d bytes too many", len(r.rest))
		return r.err
	}
	if !r.ended && r.next() {
		r.Failf("bytes behind the end")
	} else if r.ended {
		r.err = nil // next has met the end, where it should be
	}
	return r.err
}
