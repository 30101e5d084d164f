package delivery

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/subject"
)

// retryLoad is how long deliveries pause after the source could not read a message.
const retryLoad = time.Second

// matches reports whether one of filters matches subj; no filters match everything.
func matches(filters []string, subj string) bool {
	return len(filters) == 0 || slices.ContainsFunc(filters, func(f string) bool { return subject.Match(f, subj) })
}

// candidate is a message that is to be delivered next.
type candidate struct {
	seq   uint64
	count uint32 // which delivery it would be, from 1
}

// outcome tells why no message could be chosen.
type outcome uint8

const (
	chosen outcome = iota
	atEnd          // nothing is left to deliver
	held           // max_ack_pending, rate limit, replay pace or a failed read forbid it for now
)

// taker reports whether anyone waits for messages.
func (c *Consumer) taker() bool {
	if c.conf.IsPush() {
		return c.active && !c.stalled()
	}
	return c.waiting.n > 0
}

// suspended reports whether nothing may be delivered, whoever waits.
func (c *Consumer) suspended() bool {
	return !c.pausedUntil.IsZero() || c.overdue() || !c.resumeAt.IsZero() && c.now.Before(c.resumeAt)
}

// pushBytes is how much is sent together at most.
const pushBytes = 32 << 10

// deliver sends what can be sent, at most a burst, and reports whether there may be more.
func (c *Consumer) deliver() (more bool) {
	if c.suspended() || !c.taker() {
		return false
	}
	if c.out == nil {
		c.out = c.cfg.Bus.Borrow()
		defer c.sendOut()
	}
	for range burst {
		if !c.taker() {
			return false
		}
		next, why := c.choose(&c.msg)
		if why != chosen {
			if why == atEnd && c.waiting.n > 0 {
				c.endOfStream()
			}
			return false
		}
		if !c.send(next) {
			return false
		}
	}
	return true
}

// sendOut ends a burst: all of it is on its way.
func (c *Consumer) sendOut() {
	c.out.Return()
	c.out, c.outBytes = nil, 0
}

// pushOut has what was delivered sent before a disk is read, which may take its time.
func (c *Consumer) pushOut() {
	if c.outBytes > 0 {
		c.out.Push()
		c.outBytes = 0
	}
}

// endOfStream answers requests that do not wait.
func (c *Consumer) endOfStream() {
	for p := c.waiting.head; p != nil; p = p.next {
		if p.noWait {
			c.sweep(true)
			return
		}
	}
}

// choose finds the next message and loads it into msg. Redeliveries come first.
func (c *Consumer) choose(msg *Message) (candidate, outcome) {
	for {
		var next candidate
		if d, ok, behind := c.due(); behind {
			return next, held
		} else if ok {
			next = candidate{d.Seq, d.Deliveries + 1}
		} else if c.m.Full() {
			return next, held
		} else if seq, ok := c.first(); ok {
			next = candidate{seq, 1}
		} else {
			return next, atEnd
		}
		switch err := c.cfg.Source.Load(next.seq, msg, c.loadWaits); {
		case err == nil:
			return next, chosen
		case errors.Is(err, ErrGone):
			c.gone(next)
		default:
			c.fail(err)
			c.resumeAt = c.now.Add(retryLoad)
			return next, held
		}
	}
}

// due returns the message that is to be redelivered next. behind: another node delivered it before
// it arrived in the stream here.
func (c *Consumer) due() (d consumer.Message, ok, behind bool) {
	if d, ok = c.m.Due(); ok {
		_, last := c.cfg.Source.Bounds()
		behind = d.Seq > last
	}
	c.behind = behind
	return d, ok, behind
}

// first returns the next message that was never delivered.
func (c *Consumer) first() (seq uint64, ok bool) {
	if c.unlisted {
		c.listSkips()
		if c.unlisted {
			return 0, false
		}
	}
	if len(c.skip) > 0 {
		return c.skip[0], true
	}
	if h := c.m.Horizon(); h > 0 {
		c.do(consumer.Op{Kind: consumer.Skip, Seq: h})
	}
	from := max(c.cursor, c.m.Delivered().Stream+1)
	_, last := c.cfg.Source.Bounds()
	if from > last {
		return 0, false
	}
	seq, ok = c.cfg.Source.Next(from, c.filters)
	if ok {
		c.cursor = seq
	} else {
		c.cursor = last + 1
		if c.backlog.upTo <= last {
			c.backlog = backlog{valid: true, upTo: last}
		}
	}
	return seq, ok
}

// gone takes note that a message that was to be delivered is not there.
func (c *Consumer) gone(next candidate) {
	switch {
	case next.count > 1:
		c.removeHeld(next.seq)
	case len(c.skip) > 0:
		c.skipListed(0)
	default:
		c.cursor = next.seq + 1
		c.backlog.valid = false
	}
}

// skipListed takes element i off the last-per-subject list.
func (c *Consumer) skipListed(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i == 0 {
		c.skip = c.skip[1:]
	} else {
		c.skip = slices.Delete(c.skip, i, i+1)
	}
	if len(c.skip) == 0 {
		c.skip = nil
	}
}

// record books a delivery that was made.
func (c *Consumer) record(next candidate) {
	if next.count > 1 {
		c.do(consumer.Op{Kind: consumer.Redeliver, Seq: next.seq})
		return
	}
	listed := len(c.skip) > 0
	c.do(consumer.Op{Kind: consumer.Deliver, Seq: next.seq})
	if listed {
		c.skipListed(0)
	} else {
		c.cursor = next.seq + 1
		c.backlog.taken()
	}
}

// send delivers the loaded message and books it; false when it must wait or nobody took it.
func (c *Consumer) send(next candidate) bool {
	c.replyBuf = c.ackSubject(c.replyBuf[:0], next, &c.msg)
	reply := borrow(c.replyBuf)
	header, data := c.msg.Header, c.msg.Data
	if c.conf.HeadersOnly {
		c.headerBuf = appendSizeHeader(c.headerBuf[:0], header, len(data))
		header, data = c.headerBuf, nil
	}
	size := len(c.msg.Subject) + len(reply) + len(header) + len(data)
	if at := c.pace(next, size); c.now.Before(at) {
		c.resumeAt = at
		return false
	}
	sent := false
	if c.conf.IsPush() {
		sent = c.offerPush(reply, header, data, size)
	} else {
		sent = c.offerPull(reply, header, data, size)
	}
	if !sent {
		return false
	}
	c.paced(next, size)
	c.record(next)
	if c.outBytes += size; c.outBytes > pushBytes {
		c.out.Push()
		c.outBytes = 0
	}
	return true
}

// ackSubject appends the reply subject of the delivery next of msg.
func (c *Consumer) ackSubject(buf []byte, next candidate, msg *Message) []byte {
	pending := c.leftAfter(next)
	return appendAckSubject(buf, c.prefix, uint64(next.count), next.seq, c.m.Delivered().Consumer+1, msg.Time, pending)
}

// appendSizeHeader appends header with Nats-Msg-Size added.
func appendSizeHeader(buf, header []byte, size int) []byte {
	if len(header) < 2 {
		buf = append(buf, "NATS/1.0\r\n"...)
	} else {
		buf = append(buf, header[:len(header)-2]...)
	}
	buf = append(buf, "Nats-Msg-Size: "...)
	buf = strconv.AppendInt(buf, int64(size), 10)
	return append(buf, "\r\n\r\n"...)
}

// removeHeld books that a pending message left the stream.
func (c *Consumer) removeHeld(seq uint64) {
	if p, ok := c.m.Pending(seq); ok && c.conf.AckPolicy != api.AckNone {
		c.adviseDeleted(p)
	}
	c.do(consumer.Op{Kind: consumer.Remove, Seq: seq})
}

// removals books what left the stream since the last step.
func (c *Consumer) removals(in *inbox) {
	for _, seq := range in.removed {
		if i, ok := slices.BinarySearch(c.skip, seq); ok {
			c.skipListed(i)
		}
		if c.m.Holds(seq) {
			c.removeHeld(seq)
		}
	}
	if !in.purged {
		return
	}
	if in.first > c.m.Floor().Stream+1 {
		if !in.silent && c.conf.AckPolicy != api.AckNone {
			c.m.Each(func(p consumer.Message) bool {
				if p.Seq < in.first {
					c.adviseDeleted(p)
				}
				return p.Seq < in.first
			})
		}
		c.do(consumer.Op{Kind: consumer.Purge, Seq: in.first})
	}
	c.recheck()
}

// recheck forgets held messages that the stream does not hold (any more).
func (c *Consumer) recheck() {
	var missing []uint64
	_, last := c.cfg.Source.Bounds()
	check := func(seq uint64) {
		if seq > last {
			return
		}
		if s, ok := c.cfg.Source.Next(seq, nil); !ok || s != seq {
			missing = append(missing, seq)
		}
	}
	c.m.Each(func(p consumer.Message) bool {
		check(p.Seq)
		return true
	})
	c.m.EachExceeded(check)
	for _, seq := range missing {
		c.do(consumer.Op{Kind: consumer.Remove, Seq: seq})
	}
	listed := slices.DeleteFunc(slices.Clone(c.skip), func(seq uint64) bool {
		s, ok := c.cfg.Source.Next(seq, nil)
		return !ok || s != seq
	})
	c.mu.Lock()
	c.skip = listed
	c.mu.Unlock()
}
