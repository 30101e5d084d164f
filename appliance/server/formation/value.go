package formation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Value is the decision: the identity of the cluster and who founds it.
type Value struct {
	Cluster  [16]byte // random; not zero
	Founders []uint64 // raw node ids, ascending; the first voters of the meta group, for ever
}

// maxFounders bounds a decoded value. A cluster is founded by a handful of nodes; others join it.
const maxFounders = 256

// Equal reports whether two values are the same.
func (v Value) Equal(w Value) bool {
	return v.Cluster == w.Cluster && slices.Equal(v.Founders, w.Founders)
}

func (v Value) none() bool { return v.Cluster == [16]byte{} && len(v.Founders) == 0 }

func (v Value) clone() Value { return Value{v.Cluster, slices.Clone(v.Founders)} }

// check reports what is wrong with a value that somebody proposes.
func (v Value) check() error {
	switch {
	case v.Cluster == [16]byte{}:
		return errors.New("the cluster id is zero")
	case len(v.Founders) == 0 || len(v.Founders) > maxFounders:
		return fmt.Errorf("%d founders are not within 1 and %d", len(v.Founders), maxFounders)
	}
	for i, f := range v.Founders {
		if f == 0 || i > 0 && f <= v.Founders[i-1] {
			return fmt.Errorf("founders %x do not ascend", v.Founders)
		}
	}
	return nil
}

// Ballot orders the attempts to decide. The zero Ballot is before all.
type Ballot struct {
	Round uint64
	Node  uint64 // whose attempt it is
}

// Less reports whether b is before c.
func (b Ballot) Less(c Ballot) bool {
	return b.Round < c.Round || b.Round == c.Round && b.Node < c.Node
}

// append appends a value: the cluster id, the number of founders as 2 bytes, and 8 bytes for each.
func (v Value) append(b []byte) []byte {
	b = append(b, v.Cluster[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(v.Founders)))
	for _, f := range v.Founders {
		b = binary.LittleEndian.AppendUint64(b, f)
	}
	return b
}

func (b Ballot) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, b.Round)
	return binary.LittleEndian.AppendUint64(dst, b.Node)
}

// decoder takes fields from the front of b. After the first that is not there all are zero.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if d.short || len(d.b) < n {
		d.short = true
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte         { return d.take(1)[0] }
func (d *decoder) uint64() uint64     { return binary.LittleEndian.Uint64(d.take(8)) }
func (d *decoder) id() [16]byte       { return [16]byte(d.take(16)) }
func (d *decoder) ballot() Ballot     { return Ballot{d.uint64(), d.uint64()} }
func (d *decoder) count() (n int)     { return int(binary.LittleEndian.Uint16(d.take(2))) }
func (d *decoder) uint32() (n uint32) { return binary.LittleEndian.Uint32(d.take(4)) }

func (d *decoder) value() Value {
	v := Value{Cluster: d.id()}
	n := d.count()
	if n > maxFounders {
		d.short = true
		return Value{}
	}
	for range n {
		v.Founders = append(v.Founders, d.uint64())
	}
	return v
}

// end returns why not all bytes were fields.
func (d *decoder) end() error {
	switch {
	case d.short:
		return errors.New("cut short")
	case len(d.b) > 0:
		return fmt.Errorf("%d bytes too many", len(d.b))
	}
	return nil
}
