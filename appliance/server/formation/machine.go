package formation

import (
	"time"
)

// Config configures a Machine.
type Config struct {
	// Node is the raw id of this node, not 0.
	Node uint64
	// Random returns random numbers, which cluster ids and pauses are made of. They must not repeat
	// themselves after a restart.
	Random func() uint64
	// Patience is how long a node that sees a majority waits for the others. 0: 2 s.
	Patience time.Duration
}

// The times of the protocol. Safety does not depend on any of them.
const (
	defaultPatience = 2 * time.Second
	// helloEvery is how often a node that is not formed says so.
	helloEvery = 500 * time.Millisecond
	// presentFor is for how long a node counts as present after it was heard.
	presentFor = 2 * time.Second
	// gatherFor is how long a proposer that has a majority of promises waits for those of the others
	// that are present, so that these are founders too.
	gatherFor = 500 * time.Millisecond
	// attemptFor is how long an attempt may take.
	attemptFor = 2 * time.Second
	// turn is how long each node leaves the first word to those with lesser ids.
	turn = time.Second
)

// Effects is what a step leads to. Its fields are carried out in their order, completely and before the
// next step: the machine goes on as if that was done. If it cannot be, the process has to end.
type Effects struct {
	// Persist, if not nil, is to be durable before anything below leaves the node.
	Persist *State
	// Send are messages to other nodes. They may be lost, repeated and late.
	Send []Message
	// Decided is set once in the life of a machine: the decision.
	Decided *Value
}

// Machine is a storage node that becomes one of a cluster. Its methods are called by one goroutine; time
// does not go back.
//
// Invariants:
//  1. What Send says was promised or accepted is in the last Persist.
//  2. A decided machine does nothing but tell the decision.
type Machine struct {
	cfg   Config
	state State

	size     int                  // storage nodes that this one knows or expects, itself included
	heard    map[uint64]neighbour // nodes that are not formed, as far as known
	enough   time.Time            // since when a majority is present; zero: it is not
	readyAt  time.Time            // since when an attempt would have been due; zero: it is not
	helloAt  time.Time            // of the next Hello
	notUntil time.Time            // no attempt before
	round    uint64               // the highest that was heard of
	attempt  *attempt             // under way; nil: none

	eff   Effects
	dirty bool // state has changed in this step
}

// neighbour is what a node said last.
type neighbour struct {
	at   time.Time
	size int
}

// New returns the machine of a node that has stored state; size is as for See. It panics on a state
// that breaks its invariants, which DecodeState refuses.
func New(cfg Config, state State, size int) *Machine {
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if err := state.check(); err != nil || cfg.Node == 0 {
		panic("BUG: formation of an invalid state or node 0")
	}
	return &Machine{
		cfg: cfg, state: state, size: max(size, 1), heard: map[uint64]neighbour{}, round: state.Promised.Round,
	}
}

// Decision returns what was decided, nil when nothing was yet.
func (m *Machine) Decision() *Value {
	if !m.state.Decided {
		return nil
	}
	v := m.state.Value.clone()
	return &v
}

// State returns what the machine must not forget.
func (m *Machine) State() State {
	s := m.state
	s.Value = s.Value.clone()
	return s
}

// Status is what an operator wants to know of a node that is not formed.
type Status struct {
	Size    int      // storage nodes that are known or expected, this one included
	Needed  int      // of them to form
	Present int      // that are not formed and were heard of lately, this one included
	Joins   [16]byte // cluster that is waited for; zero: none
}

// Status describes the machine.
func (m *Machine) Status(now time.Time) Status {
	size := m.sizeNow(now)
	return Status{Size: size, Needed: majority(size), Present: len(m.present(now)), Joins: m.state.Joins}
}

// See tells how many storage nodes this node knows or expects, itself included: the distinct ones that
// it has seen, and each configured route of which it is not known where it leads. The number must never
// be below that of the storage nodes that exist.
func (m *Machine) See(now time.Time, size int) Effects {
	m.size = max(size, 1)
	return m.step(now)
}

// Join tells that a cluster exists in the mesh already. From then on this node does not help to found
// another one, and waits for the decision of that.
func (m *Machine) Join(now time.Time, cluster [16]byte) Effects {
	if !m.state.Decided && m.state.Joins == [16]byte{} && cluster != [16]byte{} {
		m.state.Joins, m.dirty = cluster, true
		m.attempt = nil
		m.helloAt = now
	}
	return m.step(now)
}

// Found makes this node a cluster of its own. It is for a node that has data already, which only the
// cluster of that data may hold. It does nothing on a node that is formed.
func (m *Machine) Found(now time.Time) Effects {
	if !m.state.Decided {
		m.decide(Value{m.newID(), []uint64{m.cfg.Node}})
	}
	return m.step(now)
}

// Tick lets time pass; it is called every 100 ms or so.
func (m *Machine) Tick(now time.Time) Effects { return m.step(now) }

// Receive takes a message from another node.
func (m *Machine) Receive(now time.Time, msg Message) Effects {
	if msg.From == m.cfg.Node || msg.To != 0 && msg.To != m.cfg.Node || msg.check() != nil {
		return m.step(now)
	}
	if m.state.Decided {
		if msg.Kind != Decision {
			m.send(Message{Kind: Decision, To: msg.From, Value: m.state.Value.clone()})
		}
		return m.step(now)
	}
	m.round = max(m.round, msg.Ballot.Round, msg.Promised.Round)
	if msg.Kind == Decision {
		delete(m.heard, msg.From)
		if m.state.Joins == [16]byte{} || m.state.Joins == msg.Value.Cluster {
			m.decide(msg.Value.clone())
		}
		return m.step(now)
	}
	if _, known := m.heard[msg.From]; !known {
		m.helloAt = now // it shall know this node as soon as this one knows it
	}
	m.heard[msg.From] = neighbour{now, msg.Size}
	if m.state.Joins != [16]byte{} {
		return m.step(now)
	}
	switch msg.Kind {
	case Prepare:
		m.prepare(msg)
	case Accept:
		m.accept(msg)
	case Promise:
		m.promised(msg)
	case Accepted:
		m.accepted(msg)
	case Refuse:
		m.refused(now, msg)
	}
	return m.step(now)
}

// step does what is due and returns what this and the caller have led to.
func (m *Machine) step(now time.Time) Effects {
	if !m.state.Decided {
		m.propose(now)
	}
	if !m.state.Decided && !now.Before(m.helloAt) {
		m.helloAt = now.Add(helloEvery)
		m.send(Message{Kind: Hello})
	}
	eff := m.eff
	m.eff = Effects{}
	if m.dirty {
		m.dirty = false
		s := m.State()
		eff.Persist = &s
	}
	for i := range eff.Send {
		eff.Send[i].From, eff.Send[i].Size = m.cfg.Node, m.size
	}
	return eff
}

func (m *Machine) send(msg Message) { m.eff.Send = append(m.eff.Send, msg) }

// prepare promises to help no attempt before that of msg.
func (m *Machine) prepare(msg Message) {
	if msg.Ballot.Less(m.state.Promised) {
		m.refuse(msg)
		return
	}
	if msg.Ballot != m.state.Promised {
		m.state.Promised, m.dirty = msg.Ballot, true
	}
	m.send(Message{
		Kind: Promise, To: msg.From, Ballot: msg.Ballot, Promised: m.state.Accepted, Value: m.state.Value.clone(),
	})
}

// accept accepts a value.
func (m *Machine) accept(msg Message) {
	if msg.Ballot.Less(m.state.Promised) {
		m.refuse(msg)
		return
	}
	m.take(msg.Ballot, msg.Value.clone())
	m.send(Message{Kind: Accepted, To: msg.From, Ballot: msg.Ballot})
}

func (m *Machine) take(b Ballot, v Value) {
	if m.state.Accepted != b {
		m.state.Promised, m.state.Accepted, m.state.Value, m.dirty = b, b, v, true
	}
}

func (m *Machine) refuse(msg Message) {
	m.send(Message{Kind: Refuse, To: msg.From, Ballot: msg.Ballot, Promised: m.state.Promised})
}

// decide ends the machine's work.
func (m *Machine) decide(v Value) {
	m.state.Value, m.state.Decided, m.dirty = v, true, true
	m.attempt = nil
	m.send(Message{Kind: Decision, Value: v.clone()})
	decided := v.clone()
	m.eff.Decided = &decided
}
