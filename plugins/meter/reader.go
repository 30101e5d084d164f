package meter

import "fmt"

// reader decodes the primitives of the binary format. The first error sticks, and every later call
// returns zero values.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at offset 0x%x: %s", ErrModule, r.off, fmt.Sprintf(format, args...))
		r.off = len(r.b)
	}
}

func (r *reader) more() bool { return r.err == nil && r.off < len(r.b) }

func (r *reader) byte() byte {
	if r.off >= len(r.b) {
		r.fail("unexpected end")
		return 0
	}
	c := r.b[r.off]
	r.off++
	return c
}

func (r *reader) skip(n uint64) {
	if n > uint64(len(r.b)-r.off) {
		r.fail("%d bytes wanted, %d left", n, len(r.b)-r.off)
		return
	}
	r.off += int(n)
}

func (r *reader) take(n uint32) []byte {
	start := r.off
	r.skip(uint64(n))
	if r.err != nil {
		return nil
	}
	return r.b[start:r.off:r.off]
}

func (r *reader) u32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			if v > 0xffffffff {
				r.fail("integer over 32 bits")
				return 0
			}
			return uint32(v)
		}
	}
	r.fail("integer over 32 bits")
	return 0
}

// leb skips a signed or unsigned integer of at most max bytes.
func (r *reader) leb(max int) {
	for range max {
		if r.byte()&0x80 == 0 {
			return
		}
	}
	r.fail("integer over %d bytes", max)
}

// s33 reads a block type: a negative value is a value type or the empty type, others a type index.
func (r *reader) s33() int64 {
	var v int64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			if c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	r.fail("integer over 33 bits")
	return 0
}

// count reads the length of a vector whose elements take at least one byte each, so that a short
// input cannot ask for a long vector.
func (r *reader) count(what string) uint32 {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)-r.off) {
		r.fail("%d %s in %d bytes", n, what, len(r.b)-r.off)
		return 0
	}
	return n
}

func (r *reader) name() string { return string(r.take(r.u32())) }

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendS64(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func appendName(b []byte, s string) []byte { return append(appendU32(b, uint32(len(s))), s...) }
