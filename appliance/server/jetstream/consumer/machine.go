// Package consumer holds the bookkeeping of one consumer as a pure state machine: what was delivered,
// what is acknowledged, what is due again. It reads no clock, starts nothing and does no I/O; package
// delivery runs it for the leader of a consumer, the stream engine keeps what is committed of it.
//
// Every change is an operation (Op). The leader of a consumer decides operations, applies each with
// Step and collects them in a Batch, whose entry goes through the log; replicas and restarts apply
// the entries with Apply and reach the same state, byte for byte (Snapshot).
package consumer

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// never is the deadline of a message that does not become due by time.
const never = math.MaxInt64

// Position is a pair of sequences: of deliveries, counted by the consumer, and of the stream.
type Position struct {
	Consumer, Stream uint64
}

// Message is a pending message as the machine sees it.
type Message struct {
	Seq        uint64    // stream sequence
	Consumer   uint64    // consumer sequence of its first delivery
	Deliveries uint32    // so far
	Time       time.Time // of the last delivery or progress
	Deadline   time.Time // when it is due again; zero: never
}

// Effects is what an application of operations asks of the caller.
type Effects struct {
	// Settled lists messages that this consumer will never need again. The stream may remove them,
	// but only after the entry that holds the operation is committed.
	Settled []uint64
}

// Machine is the state of one consumer. Its invariants, see check:
//
//  1. The ack floor never exceeds the delivered position, in either sequence.
//  2. Pending messages ascend in both sequences and lie above the floor and not above the delivered
//     position; without any, the floor is the delivered position.
//  3. With ack policy none nothing is pending.
//  4. Every pending message with a deadline is on the timers or on the due queue, once these are kept.
//  5. A message that reached the delivery limit is held, not pending.
//
// A Machine is not safe for concurrent use. The zero Machine is not usable, see New.
type Machine struct {
	cfg       Config
	started   bool
	delivered Position
	floor     Position
	horizon   uint64 // see Horizon

	deliveredAt, ackedAt int64 // unix ns; 0: not yet

	pending  pendingList
	again    int               // pending messages delivered more than once
	exceeded map[uint64]uint32 // messages that reached the delivery limit: deliveries

	// Derived from pending and the clock, not part of the state. They are kept from the first question for
	// a deadline on: a replica that only applies what others decide has no use for them.
	timed   bool
	timers  timerHeap
	due     []timer // due[dueHead:], in the order of deadline and sequence
	dueHead int
	ready   int // pending entries on the due queue
}

// New returns the machine of a consumer that has no history.
func New() *Machine { return &Machine{exceeded: map[uint64]uint32{}} }

// Clone returns a machine in the same state that shares nothing with m.
func (m *Machine) Clone() *Machine {
	c := *m
	c.cfg.BackOff = slices.Clone(m.cfg.BackOff)
	c.pending.list, c.pending.head = slices.Clone(m.pending.list[m.pending.head:]), 0
	c.exceeded = maps.Clone(m.exceeded)
	c.timed, c.timers, c.due, c.dueHead, c.ready = false, nil, nil, 0, 0
	c.forEach(func(p *entry) { p.ready = false })
	return &c
}

// Step applies one operation that is decided at now and appends to e. After an error the machine is
// void.
func (m *Machine) Step(now time.Time, op Op, e *Effects) error {
	t := now.UnixNano()
	n := max(op.N, 1)
	if op.Kind == Reset {
		n = 1
	}
	if op.Kind != SetConfig && (op.Seq > maxSeq || n > maxSeq || op.Seq == 0 && op.Kind != Skip && op.Kind != AckAll) {
		return fmt.Errorf("%w: operation %d on sequences %d+%d", ErrOrder, op.Kind, op.Seq, n)
	}
	switch op.Kind {
	case Deliver:
		return m.deliver(t, op.Seq, n, e)
	case Redeliver:
		for seq := op.Seq; seq < op.Seq+n; seq++ {
			p := m.pending.find(seq)
			if p == nil {
				return fmt.Errorf("%w: redelivery of sequence %d, which is not pending", ErrOrder, seq)
			}
			m.redeliver(t, p)
		}
	case Ack, Term:
		m.settle(t, op.Seq, n, e)
	case AckAll:
		m.ackAll(t, op.Seq, e)
	case Nak:
		for seq := op.Seq; seq < op.Seq+n; seq++ {
			if p := m.pending.find(seq); p != nil {
				p.naked = true
				m.schedule(p, later(t, op.Delay))
			}
		}
	case Progress:
		for seq := op.Seq; seq < op.Seq+n; seq++ {
			if p := m.pending.find(seq); p != nil {
				p.at, p.naked = t, false
				m.schedule(p, m.deadline(p))
			}
		}
	case Exceed:
		for seq := op.Seq; seq < op.Seq+n; seq++ {
			if p := m.pending.find(seq); p != nil {
				m.exceeded[seq] = p.count
				m.drop(p)
				m.raiseFloor()
			}
		}
	case Skip:
		m.advance(op.Seq)
		m.raiseFloor()
	case Reset:
		m.reset(op.Seq, op.N)
	case Remove:
		for seq := op.Seq; seq < op.Seq+n; seq++ {
			delete(m.exceeded, seq)
			if p := m.pending.find(seq); p != nil {
				m.ackedAt = t
				m.drop(p)
				m.raiseFloor()
			}
		}
	case Purge:
		m.purge(t, op.Seq)
	case SetConfig:
		return m.setConfig(op.Config)
	default:
		return fmt.Errorf("%w: operation %d", ErrFormat, op.Kind)
	}
	return nil
}

func (m *Machine) deliver(t int64, seq, n uint64, e *Effects) error {
	if seq <= m.delivered.Stream {
		return fmt.Errorf("%w: delivery of sequence %d after %d", ErrOrder, seq, m.delivered.Stream)
	}
	m.deliveredAt = t
	if m.cfg.AckPolicy == api.AckNone {
		m.delivered.Consumer += n
		m.advance(seq + n - 1)
		m.floor = m.delivered
		for ; n > 0; n-- {
			e.Settled = append(e.Settled, seq)
			seq++
		}
		return nil
	}
	for end := seq + n; seq < end; seq++ {
		m.delivered.Consumer++
		p := m.pending.push(entry{seq: seq, dseq: m.delivered.Consumer, at: t, count: 1})
		m.schedule(p, m.deadline(p))
	}
	m.advance(seq - 1)
	return nil
}

func (m *Machine) redeliver(t int64, p *entry) {
	m.delivered.Consumer++
	m.deliveredAt = t
	if p.count == 1 {
		m.again++
	}
	if p.count < math.MaxUint32 {
		p.count++
	}
	p.at, p.naked = t, false
	m.schedule(p, m.deadline(p))
}

// settle acknowledges those of n messages from seq on that the consumer holds.
func (m *Machine) settle(t int64, seq, n uint64, e *Effects) {
	first := len(e.Settled)
	dropped := false
	for end := seq + n; seq < end; seq++ {
		if p := m.pending.find(seq); p != nil {
			m.drop(p)
			dropped = true
		} else if _, ok := m.exceeded[seq]; ok {
			delete(m.exceeded, seq)
		} else {
			continue
		}
		e.Settled = append(e.Settled, seq)
	}
	if dropped {
		m.raiseFloor()
	}
	if len(e.Settled) > first {
		m.ackedAt = t
	}
}

func (m *Machine) ackAll(t int64, seq uint64, e *Effects) {
	first := len(e.Settled)
	for _, held := range slices.Sorted(maps.Keys(m.exceeded)) {
		if held <= seq {
			delete(m.exceeded, held)
			e.Settled = append(e.Settled, held)
		}
	}
	for p := m.pending.first(); p != nil && p.seq <= seq; p = m.pending.first() {
		e.Settled = append(e.Settled, p.seq)
		m.drop(p)
	}
	if len(e.Settled) == first {
		return
	}
	m.ackedAt = t
	m.raiseFloor()
	if m.pending.live > 0 {
		m.floor.Stream = max(m.floor.Stream, seq)
	}
}

// purge forgets everything below first, which is the stream's new first sequence.
func (m *Machine) purge(t int64, first uint64) {
	maps.DeleteFunc(m.exceeded, func(seq uint64, _ uint32) bool { return seq < first })
	for p := m.pending.first(); p != nil && p.seq < first; p = m.pending.first() {
		m.ackedAt = t
		m.drop(p)
	}
	m.advance(first - 1)
	m.raiseFloor()
	m.floor.Stream = max(m.floor.Stream, first-1)
}

func (m *Machine) reset(next, horizon uint64) {
	m.started = true
	m.delivered = Position{Stream: next - 1}
	m.floor = m.delivered
	m.horizon = 0
	if horizon >= next {
		m.horizon = horizon
	}
	m.deliveredAt, m.ackedAt = 0, 0
	m.pending.clear()
	clear(m.exceeded)
	m.again = 0
	m.unready()
}

func (m *Machine) setConfig(c *Config) error {
	if c == nil {
		return fmt.Errorf("%w: empty configuration", ErrFormat)
	}
	if c.AckPolicy != m.cfg.AckPolicy && m.pending.live > 0 {
		return fmt.Errorf("%w: ack policy changes from %s to %s with %d messages pending",
			ErrOrder, m.cfg.AckPolicy, c.AckPolicy, m.pending.live)
	}
	m.cfg = *c
	m.cfg.BackOff = slices.Clone(c.BackOff)
	m.forEach(func(p *entry) {
		if !p.naked {
			p.deadline = m.deadline(p)
		}
	})
	m.unready()
	return nil
}

// advance raises the delivered stream sequence and ends the last-per-subject start beyond its horizon.
func (m *Machine) advance(seq uint64) {
	m.delivered.Stream = max(m.delivered.Stream, seq)
	if m.delivered.Stream >= m.horizon {
		m.horizon = 0
	}
}

// drop removes p from the pending messages; p is void afterwards.
func (m *Machine) drop(p *entry) {
	if p.count > 1 {
		m.again--
	}
	if p.ready {
		m.ready--
	}
	m.pending.remove(p)
	if m.pending.live == 0 {
		m.timers, m.due, m.dueHead = m.timers[:0], m.due[:0], 0
	}
}

// raiseFloor moves the ack floor up to just below the first pending message.
func (m *Machine) raiseFloor() {
	p := m.pending.first()
	if p == nil {
		m.floor = m.delivered
	} else if p.dseq-1 > m.floor.Consumer {
		m.floor = Position{Consumer: p.dseq - 1, Stream: max(m.floor.Stream, p.seq-1)}
	}
}

func (m *Machine) deadline(p *entry) int64 {
	if d := m.cfg.Wait(p.count); d > 0 {
		return later(p.at, d)
	}
	return never
}

// later adds without wrapping.
func later(t int64, d time.Duration) int64 {
	if t > 0 && int64(d) > never-t {
		return never
	}
	return t + int64(d)
}
