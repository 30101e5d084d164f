package delivery

import (
	"time"

	"millrace/appliance/server/jetstream/consumer"
)

// Delivery is a message that Fetch took for a worker in this process. Its bytes belong to the worker.
type Delivery struct {
	Message
	ConsumerSeq uint64 // of this delivery
	Deliveries  uint32 // which delivery of the message this is, from 1
	Pending     uint64 // messages that wait for their first delivery
}

// SettleKind tells what a worker did with a message.
type SettleKind uint8

// Settlements.
const (
	SettleAck      SettleKind = iota // done
	SettleNak                        // deliver again, after Delay
	SettleTerm                       // never again, for Reason
	SettleProgress                   // still at work: the ack wait begins again
)

// Settlement is a worker's answer to one delivery.
type Settlement struct {
	Seq    uint64 // of the stream
	Kind   SettleKind
	Delay  time.Duration // SettleNak
	Reason string        // SettleTerm
}

// Fetch takes up to limit messages of up to maxBytes in all (0: no bound; the first message comes
// whatever its size) for a worker in this process, with the bookkeeping of a pull request. It does not
// wait for messages: after less than limit, Ready tells when to try again. Only for pull consumers.
func (c *Consumer) Fetch(limit, maxBytes int) []Delivery {
	got := make(chan []Delivery, 1)
	c.post(func() { got <- c.fetch(limit, maxBytes) }, func(error) { got <- nil })
	return <-got
}

// Ready returns a channel that gets a value when a Fetch may find messages after one that found less
// than it asked for. It is closed with the consumer.
func (c *Consumer) Ready() <-chan struct{} { return c.ready }

// Settle answers deliveries of Fetch. done is called when all answers are committed; it does not block.
func (c *Consumer) Settle(list []Settlement, done func(error)) {
	kinds := [...]ackKind{SettleAck: ackAck, SettleNak: ackNak, SettleTerm: ackTerm, SettleProgress: ackProgress}
	acks := make([]ack, 0, len(list)+1)
	for _, s := range list {
		a := ack{kind: kinds[s.Kind], seq: s.Seq, delay: min(max(s.Delay, 0), maxNakDelay), worker: true}
		if s.Reason != "" {
			a.more = &ackMore{reason: s.Reason}
		}
		acks = append(acks, a)
	}
	acks = append(acks, ack{kind: ackBarrier, more: &ackMore{done: done}})
	if !c.inbox.settle(acks) {
		done(c.how.err())
		return
	}
	c.wake()
}

// Ended returns a channel that is closed when the consumer ends here.
func (c *Consumer) Ended() <-chan struct{} { return c.quit }

// Reclaim has all that is pending delivered again at once, in the order of the stream and before anything
// new. It is for a worker that begins and knows that those before it have ended; theirs is what is pending. It
// returns when that is in order.
func (c *Consumer) Reclaim() {
	done := make(chan struct{})
	c.post(func() {
		defer close(done)
		var pending []uint64
		c.m.Each(func(m consumer.Message) bool {
			pending = append(pending, m.Seq)
			return true
		})
		for _, seq := range pending {
			c.do(consumer.Op{Kind: consumer.Nak, Seq: seq})
		}
	}, func(error) { close(done) })
	<-done
}

func (c *Consumer) fetch(limit, maxBytes int) []Delivery {
	c.lastActive = c.now
	if c.conf.IsPush() {
		return nil
	}
	c.expire()
	var list []Delivery
	total := 0
	for len(list) < limit {
		var d Delivery
		if c.suspended() {
			break
		}
		next, why := c.choose(&d.Message)
		if why != chosen {
			break
		}
		size := len(d.Subject) + len(d.Header) + len(d.Data)
		if maxBytes > 0 && len(list) > 0 && total+size > maxBytes {
			return list
		}
		total += size
		d.Deliveries, d.Pending = next.count, c.leftAfter(next)
		c.record(next)
		d.ConsumerSeq = c.m.Delivered().Consumer
		list = append(list, d)
	}
	c.workers = len(list) < limit
	return list
}

// signalWorkers tells workers that there is something to fetch.
func (c *Consumer) signalWorkers() {
	if !c.workers || c.suspended() {
		return
	}
	if _, ok, behind := c.due(); behind {
		return
	} else if !ok {
		if c.m.Full() {
			return
		}
		if _, ok := c.first(); !ok {
			return
		}
	}
	c.workers = false
	select {
	case c.ready <- struct{}{}:
	default:
	}
}
