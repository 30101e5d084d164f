package consumer

import (
	"encoding/binary"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// Kind tells what an operation does.
type Kind uint8

// Operations. Values are part of the entry format. Seq and N name the N consecutive stream sequences
// from Seq on unless the comment says otherwise; N 0 counts as 1.
const (
	_         Kind = iota
	Deliver        // first deliveries; Seq is above all delivered ones
	Redeliver      // another delivery of pending messages
	Ack            // acknowledgements; messages that are not held are ignored
	AckAll         // acknowledges everything up to Seq
	Nak            // messages become due after Delay
	Term           // as Ack, by a wish never to see the message again
	Progress       // restarts the ack wait
	Exceed         // drops messages that were delivered MaxDeliver times; they stay held
	Skip           // nothing up to Seq is delivered (again) for the first time
	Reset          // forgets everything; Seq is delivered next; N is the last-per-subject horizon or 0
	Remove         // messages left the stream
	Purge          // everything below Seq left the stream
	SetConfig      // replaces the configuration

	opTime  Kind = 0x30 // varint: nanoseconds since the entry's last opTime, the first since 1970
	opState Kind = 0x31 // uvarint length, snapshot: replaces the whole state; not written any more
	runFlag Kind = 0x40 // a uvarint N follows the sequence
)

// maxRun bounds N of one encoded operation and so the work that a few bytes can ask for.
const maxRun = 1 << 16

// maxBackOff bounds the back-off list of an encoded configuration.
const maxBackOff = 1 << 12

// Op is one decision about a consumer, see Kind.
type Op struct {
	Kind   Kind
	Seq, N uint64
	Delay  time.Duration // Nak
	Config *Config       // SetConfig
}

// Batch collects operations into one log entry. The zero Batch is empty and ready.
//
// Entry format, version 1: a version byte, then operations. An operation is a kind byte, then
// varint(Seq - previous), where previous starts at 0 and is the last sequence of the operation
// before; uvarint(N) if the kind byte has runFlag; for Nak uvarint(Delay); for SetConfig the
// configuration in place of sequence and run. Adjacent equal operations on consecutive sequences are
// written as one run, so a batch of deliveries and acknowledgements costs a few bytes.
type Batch struct {
	buf  []byte
	cur  Op // not encoded yet; Kind 0: none
	prev uint64
	now  int64
}

// entryVersion is the format that Batch writes; see there.
const entryVersion = 1

// Add appends op, decided at now.
func (b *Batch) Add(now time.Time, op Op) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, entryVersion)
	}
	if t := now.UnixNano(); t != b.now {
		b.encode()
		b.buf = append(b.buf, byte(opTime))
		b.buf = binary.AppendVarint(b.buf, t-b.now)
		b.now = t
	}
	if op.Kind != Reset {
		op.N = max(op.N, 1)
	}
	if c := &b.cur; c.Kind == op.Kind && op.Seq == c.Seq+c.N && op.Delay == c.Delay && mergeable(op.Kind) && c.N+op.N <= maxRun {
		c.N += op.N
		return
	}
	b.encode()
	b.cur = op
}

func mergeable(k Kind) bool {
	switch k {
	case Deliver, Redeliver, Ack, Nak, Term, Progress, Exceed, Remove:
		return true
	}
	return false
}

func (b *Batch) encode() {
	op := &b.cur
	if op.Kind == 0 {
		return
	}
	switch {
	case op.Kind == SetConfig:
		b.buf = appendConfig(append(b.buf, byte(SetConfig)), op.Config)
	case op.Kind == Reset:
		b.seq(op.Kind|runFlag, op.Seq)
		b.buf = binary.AppendUvarint(b.buf, op.N)
	default:
		for seq, n := op.Seq, op.N; n > 0; {
			run := min(n, maxRun)
			if run == 1 {
				b.seq(op.Kind, seq)
			} else {
				b.seq(op.Kind|runFlag, seq)
				b.buf = binary.AppendUvarint(b.buf, run)
			}
			if op.Kind == Nak {
				b.buf = binary.AppendUvarint(b.buf, uint64(op.Delay))
			}
			b.prev = seq + run - 1
			seq, n = seq+run, n-run
		}
	}
	op.Kind = 0
}

func (b *Batch) seq(k Kind, seq uint64) {
	b.buf = append(b.buf, byte(k))
	b.buf = binary.AppendVarint(b.buf, int64(seq-b.prev))
	b.prev = seq
}

// Len returns the size of the entry in bytes, without the operation that may still grow; 0 when the
// batch is empty.
func (b *Batch) Len() int { return len(b.buf) }

// Take returns the entry and empties the batch. The caller owns the bytes.
func (b *Batch) Take() []byte {
	b.encode()
	entry := b.buf
	*b = Batch{buf: make([]byte, 0, min(cap(entry), 4096))}
	return entry
}

func appendConfig(buf []byte, c *Config) []byte {
	buf = append(buf, byte(c.AckPolicy))
	buf = binary.AppendUvarint(buf, uint64(c.AckWait))
	buf = binary.AppendUvarint(buf, uint64(c.MaxDeliver))
	buf = binary.AppendUvarint(buf, uint64(c.MaxAckPending))
	buf = binary.AppendUvarint(buf, uint64(len(c.BackOff)))
	for _, d := range c.BackOff {
		buf = binary.AppendUvarint(buf, uint64(d))
	}
	return buf
}

// reader takes numbers off a buffer; after the first that is missing it stays failed.
type reader struct {
	buf []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s with %d bytes left", ErrFormat, what, len(r.buf))
	}
	r.buf = nil
}

func (r *reader) byte() byte {
	if len(r.buf) == 0 {
		r.fail("missing byte")
		return 0
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.fail("bad number")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		r.fail("bad number")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// positive reads a number of at most limit; a greater one fails.
func (r *reader) positive(limit uint64, what string) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail(what + " out of range")
		return 0
	}
	return v
}

// Numbers of entries and snapshots stay below these, so that sums of them do not wrap.
const (
	maxSeq   = 1 << 62
	maxTime  = 1 << 62 // unix ns
	maxDelay = 1 << 61
)

func (r *reader) config() Config {
	c := Config{
		AckPolicy:     api.AckPolicy(r.byte()),
		AckWait:       time.Duration(r.positive(maxDelay, "ack wait")),
		MaxDeliver:    int(r.positive(1<<31, "max deliver")),
		MaxAckPending: int(r.positive(1<<31, "max ack pending")),
	}
	if c.AckPolicy > api.AckExplicit {
		r.fail("unknown ack policy")
	}
	for range r.positive(maxBackOff, "back-off length") {
		c.BackOff = append(c.BackOff, time.Duration(r.positive(maxDelay, "back-off")))
		if r.err != nil {
			break
		}
	}
	return c
}

// Apply applies one entry that a Batch made, in the order of the log, and appends to e.
// The time of every decision is in the entry, so that a replay at any later moment gives the same
// state. After an error the machine is void.
func (m *Machine) Apply(data []byte, e *Effects) error {
	r := reader{buf: data}
	if v := r.byte(); r.err == nil && v != entryVersion {
		return fmt.Errorf("%w: version %d", ErrFormat, v)
	}
	var now int64
	var prev uint64
	for len(r.buf) > 0 {
		kind := Kind(r.byte())
		op := Op{Kind: kind &^ runFlag, N: 1}
		switch op.Kind {
		case opTime:
			if now += r.varint(); now < 0 || now > maxTime {
				r.fail("time out of range")
			}
			continue
		case opState:
			n := r.uvarint()
			if n > uint64(len(r.buf)) {
				r.fail("state length out of range")
			}
			if r.err != nil {
				return r.err
			}
			if err := m.Restore(r.buf[:n]); err != nil {
				return err
			}
			r.buf = r.buf[n:]
			continue
		case SetConfig:
			c := r.config()
			op.Config = &c
		default:
			op.Seq = prev + uint64(r.varint())
			if kind&runFlag != 0 {
				limit := uint64(maxRun)
				if op.Kind == Reset {
					limit = maxSeq
				}
				op.N = r.positive(limit, "run")
			}
			if op.Kind == Nak {
				op.Delay = time.Duration(r.positive(maxDelay, "delay"))
			}
			prev = op.Seq
			if op.Kind != Reset {
				prev += max(op.N, 1) - 1
			}
		}
		if r.err != nil {
			return r.err
		}
		if err := m.Step(time.Unix(0, now), op, e); err != nil {
			return err
		}
	}
	return r.err
}
