package delivery

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"
	"unsafe"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// ackKind is the verb of an acknowledgement.
type ackKind uint8

const (
	ackAck      ackKind = iota // "", +ACK, +OK
	ackNext                    // +NXT: acknowledges and pulls
	ackNak                     // -NAK: deliver again
	ackProgress                // +WPI: still working
	ackTerm                    // +TERM: never again
	ackBarrier                 // not on the wire: the end of a worker's settlements
)

// ack is a parsed acknowledgement.
type ack struct {
	kind             ackKind
	seq, dseq, count uint64 // from the subject: stream sequence, consumer sequence, deliveries
	delay            time.Duration
	worker           bool     // of Settle: dseq and count are not known
	more             *ackMore // nil: none of it
}

// ackMore is what most acknowledgements do not carry.
type ackMore struct {
	reply  string // gets an empty message when the acknowledgement is committed, or the pulled messages
	reason string // +TERM
	pull   []byte // +NXT
	done   func(error)
}

// onAck runs on the publisher's goroutine.
func (c *Consumer) onAck(r Request) {
	a, ok := parseAck(r.Subject[min(len(c.prefix), len(r.Subject)):], r.Data)
	if !ok {
		return
	}
	if len(r.Reply) > 0 {
		if a.more == nil {
			a.more = &ackMore{}
		}
		a.more.reply = string(r.Reply)
	}
	if c.inbox.ack(a) {
		c.wake()
	}
}

// parseAck reads an acknowledgement. tail is what follows the consumer's name in the subject of a
// delivery, "<deliveries>.<seq>.<dseq>.<time>.<pending>"; verb is the payload. Only the rare forms
// allocate. A delay that does not parse is ignored, as if there were none.
func parseAck(tail, verb []byte) (a ack, ok bool) {
	for _, number := range [...]*uint64{&a.count, &a.seq, &a.dseq} {
		n, rest, ok := parseNumber(tail)
		if !ok || len(rest) == 0 || rest[0] != '.' {
			return ack{}, false
		}
		*number, tail = n, rest[1:]
	}
	if bytes.Count(tail, []byte(".")) != 1 {
		return ack{}, false
	}
	if a.seq == 0 {
		return ack{}, false
	}
	switch {
	case len(verb) == 0, string(verb) == "+ACK", string(verb) == "+OK":
		a.kind = ackAck
	case bytes.HasPrefix(verb, []byte("+NXT")):
		a.kind = ackNext
		a.more = &ackMore{pull: bytes.Clone(verb[len("+NXT"):])}
	case bytes.HasPrefix(verb, []byte("-NAK")):
		a.kind = ackNak
		a.delay = parseDelay(bytes.TrimSpace(verb[len("-NAK"):]))
	case string(verb) == "+WPI":
		a.kind = ackProgress
	case bytes.HasPrefix(verb, []byte("+TERM")):
		a.kind = ackTerm
		if reason := bytes.TrimSpace(verb[len("+TERM"):]); len(reason) > 0 {
			a.more = &ackMore{reason: string(reason)}
		}
	default:
		return ack{}, false
	}
	return a, true
}

// parseNumber reads decimal digits.
func parseNumber(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n > (1<<63)/10 {
			return 0, nil, false
		}
		n = n*10 + uint64(b[i]-'0')
	}
	return n, b[i:], i > 0
}

// maxNakDelay bounds a delay that a client asks for.
const maxNakDelay = 100 * 365 * 24 * time.Hour

// parseDelay reads {"delay": nanoseconds} or a Go duration.
func parseDelay(arg []byte) time.Duration {
	var d time.Duration
	switch {
	case len(arg) == 0:
	case arg[0] == '{':
		var options struct {
			Delay time.Duration `json:"delay"`
		}
		if json.Unmarshal(arg, &options) == nil {
			d = options.Delay
		}
	default:
		if v, err := time.ParseDuration(string(arg)); err == nil {
			d = v
		}
	}
	return min(max(d, 0), maxNakDelay)
}

// appendAckSubject appends the reply subject of a delivery (version 1 of the format).
func appendAckSubject(buf []byte, prefix string, count, seq, dseq uint64, at time.Time, pending uint64) []byte {
	buf = append(buf, prefix...)
	buf = strconv.AppendUint(buf, count, 10)
	buf = strconv.AppendUint(append(buf, '.'), seq, 10)
	buf = strconv.AppendUint(append(buf, '.'), dseq, 10)
	buf = strconv.AppendInt(append(buf, '.'), at.UnixNano(), 10)
	return strconv.AppendUint(append(buf, '.'), pending, 10)
}

// borrow views b as a string for a call that copies it before it returns (Bus).
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// acknowledge handles one acknowledgement. One that names a message above the last delivery is from
// another life of the consumer and gets no answer.
func (c *Consumer) acknowledge(a *ack) {
	more := a.more
	if more == nil {
		more = &noMore
	}
	if a.kind == ackBarrier {
		c.await(waiter{done: more.done})
		return
	}
	if c.overdue() && !a.worker {
		return // the log does not keep up: the message comes again
	}
	if a.seq > c.m.Delivered().Stream {
		if a.kind == ackNext {
			c.addPull(more.reply, more.pull)
		}
		return
	}
	p, pending := c.m.Pending(a.seq)
	if a.worker {
		a.dseq, a.count = p.Consumer, uint64(p.Deliveries)
	}
	switch a.kind {
	case ackAck, ackNext:
		if pending && c.sampling > 0 && (c.sampling >= 100 || rand.IntN(100) < c.sampling) {
			c.adviseAck(a, p)
		}
		c.settle(consumer.Ack, a.seq)
	case ackTerm:
		c.settle(consumer.Term, a.seq)
		c.adviseTerm(a.seq, a.dseq, a.count, more.reason)
	case ackNak:
		if pending {
			c.adviseNak(a)
			c.do(consumer.Op{Kind: consumer.Nak, Seq: a.seq, Delay: a.delay})
		}
	case ackProgress:
		if pending {
			c.do(consumer.Op{Kind: consumer.Progress, Seq: a.seq})
		}
	}
	if a.kind == ackNext {
		c.addPull(more.reply, more.pull)
	} else if more.reply != "" {
		if c.cfg.Log != nil && c.batch.Len() == 0 && len(c.flights) == 0 && c.unsent == nil {
			// It changes nothing here. Who was deposed and does not know it must not confirm it: it may do elsewhere.
			c.do(consumer.Op{Kind: consumer.Skip})
		}
		c.await(waiter{reply: more.reply})
	}
}

var noMore ackMore // never written

func (c *Consumer) settle(kind consumer.Kind, seq uint64) {
	if c.conf.AckPolicy == api.AckAll {
		if seq > c.m.Floor().Stream || c.m.Holds(seq) {
			c.do(consumer.Op{Kind: consumer.AckAll, Seq: seq})
		}
	} else if c.m.Holds(seq) {
		c.do(consumer.Op{Kind: kind, Seq: seq})
	}
}
