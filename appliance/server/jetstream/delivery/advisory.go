package delivery

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"millrace/appliance/server/jetstream/consumer"
)

// advisory is the form of all events of a consumer (ADR-1); each fills what its type has.
type advisory struct {
	Type        string     `json:"type"`
	ID          string     `json:"id"`
	Time        time.Time  `json:"timestamp"`
	Stream      string     `json:"stream"`
	Consumer    string     `json:"consumer"`
	ConsumerSeq uint64     `json:"consumer_seq,omitempty"`
	StreamSeq   uint64     `json:"stream_seq,omitempty"`
	AckTime     *int64     `json:"ack_time,omitempty"` // nanoseconds
	Deliveries  uint64     `json:"deliveries,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Paused      *bool      `json:"paused,omitempty"`
	PauseUntil  *time.Time `json:"pause_until,omitempty"`
	Domain      string     `json:"domain,omitempty"`
}

// advise publishes an event if anyone listens. kind is the part of the subject before the names.
func (c *Consumer) advise(kind string, a advisory) {
	to := "$JS.EVENT." + kind + "." + c.cfg.Stream + "." + c.cfg.Name
	if !c.cfg.Bus.HasInterest(to) {
		return
	}
	a.ID, a.Time = eventID(), c.now.UTC()
	a.Stream, a.Consumer, a.Domain = c.cfg.Stream, c.cfg.Name, c.cfg.Domain
	data, err := json.Marshal(a)
	if err != nil {
		panic("BUG: delivery: advisory: " + err.Error())
	}
	c.cfg.Bus.Publish(to, "", nil, data)
}

// eventID returns 22 random characters, the form that event identifiers have.
func eventID() string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var id [22]byte
	for i := range id {
		id[i] = digits[rand.IntN(len(digits))]
	}
	return string(id[:])
}

func (c *Consumer) adviseNak(a *ack) {
	c.advise("ADVISORY.CONSUMER.MSG_NAKED", advisory{Type: "io.nats.jetstream.advisory.v1.nak",
		ConsumerSeq: a.dseq, StreamSeq: a.seq, Deliveries: a.count})
}

func (c *Consumer) adviseTerm(seq, dseq, count uint64, reason string) {
	c.advise("ADVISORY.CONSUMER.MSG_TERMINATED", advisory{Type: "io.nats.jetstream.advisory.v1.terminated",
		ConsumerSeq: dseq, StreamSeq: seq, Deliveries: count, Reason: reason})
}

func (c *Consumer) adviseDeleted(p consumer.Message) {
	c.adviseTerm(p.Seq, p.Consumer, uint64(p.Deliveries), "Unacknowledged message was deleted")
}

func (c *Consumer) adviseExceeded(p consumer.Message) {
	c.advise("ADVISORY.CONSUMER.MAX_DELIVERIES", advisory{Type: "io.nats.jetstream.advisory.v1.max_deliver",
		StreamSeq: p.Seq, Deliveries: uint64(p.Deliveries)})
}

func (c *Consumer) advisePause(paused bool, until time.Time) {
	c.advise("ADVISORY.CONSUMER.PAUSE", advisory{Type: "io.nats.jetstream.advisory.v1.consumer_pause",
		Paused: &paused, PauseUntil: &until})
}

func (c *Consumer) adviseAck(a *ack, p consumer.Message) {
	took := int64(c.now.Sub(p.Time))
	c.advise("METRIC.CONSUMER.ACK", advisory{Type: "io.nats.jetstream.metric.v1.consumer_ack",
		ConsumerSeq: a.dseq, StreamSeq: a.seq, Deliveries: a.count, AckTime: &took})
}
