package consumer

import (
	"time"

	"millrace/appliance/server/jetstream/api"
)

// Config returns the configuration in force. The caller must not change its BackOff.
func (m *Machine) Config() Config { return m.cfg }

// Started reports whether a Reset gave the consumer its place in the stream.
func (m *Machine) Started() bool { return m.started }

// Delivered returns the position of the last delivery.
func (m *Machine) Delivered() Position { return m.delivered }

// Floor returns the position up to which everything is acknowledged or gone.
func (m *Machine) Floor() Position { return m.floor }

// Horizon returns the stream sequence up to which only the last message of each subject is to be
// delivered, or 0 when deliveries are past it (deliver policy last_per_subject).
func (m *Machine) Horizon() uint64 { return m.horizon }

// LastDelivered returns when the last delivery was made; zero: never.
func (m *Machine) LastDelivered() time.Time { return unix(m.deliveredAt) }

// LastAcked returns when the last acknowledgement arrived; zero: never.
func (m *Machine) LastAcked() time.Time { return unix(m.ackedAt) }

func unix(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(0, t)
}

// NumPending returns how many messages are delivered and not acknowledged.
func (m *Machine) NumPending() int { return m.pending.live }

// NumRedelivered returns how many held messages were delivered more than once.
func (m *Machine) NumRedelivered() int { return m.again + len(m.exceeded) }

// Full reports whether MaxAckPending forbids a delivery of a further message.
func (m *Machine) Full() bool {
	return m.cfg.MaxAckPending > 0 && m.pending.live >= m.cfg.MaxAckPending
}

// Pending returns the pending message seq.
func (m *Machine) Pending(seq uint64) (Message, bool) {
	if p := m.pending.find(seq); p != nil {
		return p.message(), true
	}
	return Message{}, false
}

func (p *entry) message() Message {
	msg := Message{Seq: p.seq, Consumer: p.dseq, Deliveries: p.count, Time: time.Unix(0, p.at)}
	if p.deadline != never {
		msg.Deadline = time.Unix(0, p.deadline)
	}
	return msg
}

// Each calls fn for the pending messages in stream order until it returns false. fn must not change
// the machine.
func (m *Machine) Each(fn func(Message) bool) {
	for i := m.pending.head; i < len(m.pending.list); i++ {
		if p := &m.pending.list[i]; p.count != 0 && !fn(p.message()) {
			return
		}
	}
}

// Holds reports whether seq is pending or was dropped at the delivery limit.
func (m *Machine) Holds(seq uint64) bool {
	if m.pending.find(seq) != nil {
		return true
	}
	_, ok := m.exceeded[seq]
	return ok
}

// EachExceeded calls fn for every message that was dropped at the delivery limit, in no order.
func (m *Machine) EachExceeded(fn func(seq uint64)) {
	for seq := range m.exceeded {
		fn(seq)
	}
}

// Needs reports whether a message of the stream that the filters match may still be delivered or
// awaits its acknowledgement. A message dropped at the delivery limit is needed: it was not processed.
func (m *Machine) Needs(seq uint64) bool {
	if seq > m.delivered.Stream {
		return true
	}
	if m.cfg.AckPolicy == api.AckNone {
		return false
	}
	return m.Holds(seq)
}

// NextDeadline returns when the next message that is not yet on the due queue becomes due.
func (m *Machine) NextDeadline() (time.Time, bool) {
	m.keepTimers()
	for len(m.timers) > 0 {
		if m.valid(m.timers[0]) != nil {
			return time.Unix(0, m.timers[0].deadline), true
		}
		m.timers.pop()
	}
	return time.Time{}, false
}

// Expire moves messages whose deadline has passed to the due queue. Those that were delivered
// MaxDeliver times are appended to exceeded instead; the caller gives each an Exceed operation.
func (m *Machine) Expire(now time.Time, exceeded []Message) []Message {
	t := now.UnixNano()
	m.keepTimers()
	for len(m.timers) > 0 && m.timers[0].deadline <= t {
		top := m.timers[0]
		m.timers.pop()
		p := m.valid(top)
		if p == nil {
			continue
		}
		if m.cfg.MaxDeliver > 0 && int(p.count) >= m.cfg.MaxDeliver {
			exceeded = append(exceeded, p.message())
			continue
		}
		p.ready = true
		m.ready++
		if m.dueHead > 0 && m.dueHead == len(m.due) {
			m.due, m.dueHead = m.due[:0], 0
		}
		m.due = append(m.due, top)
	}
	return exceeded
}

// NumDue returns how many messages are on the due queue.
func (m *Machine) NumDue() int { return m.ready }

// Due returns the message that is to be redelivered next. Redelivery takes precedence over first
// delivery and is not bound by MaxAckPending.
func (m *Machine) Due() (Message, bool) {
	for m.dueHead < len(m.due) {
		t := m.due[m.dueHead]
		if p := m.pending.find(t.seq); p != nil && p.ready && p.deadline == t.deadline {
			return p.message(), true
		}
		m.dueHead++
	}
	m.due, m.dueHead = m.due[:0], 0
	return Message{}, false
}
