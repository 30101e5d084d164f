package formation

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// attempt is one ballot of this node.
type attempt struct {
	ballot    Ballot
	begun     time.Time
	size      int // the largest that anybody who took part has told
	promises  map[uint64]bool
	best      Ballot // in which value was accepted by somebody who promised
	value     Value
	proposing bool // value was sent
	accepts   map[uint64]bool
}

// majority is half and one.
func majority(size int) int { return size/2 + 1 }

// sizeNow is the number of storage nodes that majorities are of: the largest that this node or one that is
// present knows of.
func (m *Machine) sizeNow(now time.Time) int {
	m.forget(now)
	size := max(m.size, len(m.heard)+1)
	for _, n := range m.heard {
		size = max(size, n.size)
	}
	return size
}

// present returns the nodes that are not formed and were heard of lately, this one included, by id.
func (m *Machine) present(now time.Time) []uint64 {
	m.forget(now)
	list := append(slices.Collect(maps.Keys(m.heard)), m.cfg.Node)
	slices.Sort(list)
	return list
}

// forget forgets nodes that were not heard of lately.
func (m *Machine) forget(now time.Time) {
	maps.DeleteFunc(m.heard, func(_ uint64, n neighbour) bool { return now.Sub(n.at) >= presentFor })
}

// propose begins an attempt when it is due, drives the one under way and gives up one that takes too long.
func (m *Machine) propose(now time.Time) {
	if m.state.Joins != [16]byte{} {
		return
	}
	present, size := m.present(now), m.sizeNow(now)
	if a := m.attempt; a != nil {
		if now.Sub(a.begun) < attemptFor {
			m.drive(now, present)
			return
		}
		m.giveUp(now)
	}
	if len(present) < majority(size) {
		m.enough, m.readyAt = time.Time{}, time.Time{}
		return
	}
	if m.enough.IsZero() {
		m.enough = now
	}
	if len(present) < size && now.Sub(m.enough) < m.cfg.Patience {
		m.readyAt = time.Time{}
		return
	}
	if m.readyAt.IsZero() {
		m.readyAt = now
	}
	before := slices.Index(present, m.cfg.Node)
	if now.Before(m.notUntil) || now.Sub(m.readyAt) < time.Duration(before)*turn {
		return
	}
	m.begin(now)
	m.drive(now, present)
}

// begin begins an attempt with this node's own promise.
func (m *Machine) begin(now time.Time) {
	m.round = max(m.round, m.state.Promised.Round) + 1
	b := Ballot{m.round, m.cfg.Node}
	m.state.Promised, m.dirty = b, true
	m.attempt = &attempt{
		ballot: b, begun: now, promises: map[uint64]bool{m.cfg.Node: true}, accepts: map[uint64]bool{},
		best: m.state.Accepted, value: m.state.Value.clone(),
	}
	m.send(Message{Kind: Prepare, Ballot: b})
}

// drive goes on with the attempt as far as the answers allow.
func (m *Machine) drive(now time.Time, present []uint64) {
	a := m.attempt
	a.size = max(a.size, m.sizeNow(now))
	if !a.proposing {
		if len(a.promises) < majority(a.size) {
			return
		}
		missing := slices.ContainsFunc(present, func(id uint64) bool { return !a.promises[id] })
		if a.best == (Ballot{}) {
			if missing && now.Sub(a.begun) < gatherFor {
				return
			}
			a.value = Value{m.newID(), slices.Sorted(maps.Keys(a.promises))}
		}
		if m.state.Promised != a.ballot {
			m.giveUp(now) // another attempt got this node's promise meanwhile
			return
		}
		a.proposing = true
		a.accepts[m.cfg.Node] = true
		m.take(a.ballot, a.value.clone())
		m.send(Message{Kind: Accept, Ballot: a.ballot, Value: a.value.clone()})
	}
	if len(a.accepts) >= majority(a.size) {
		m.decide(a.value)
	}
}

// promised counts the promise of another node.
func (m *Machine) promised(msg Message) {
	a := m.attempt
	if a == nil || a.proposing || msg.Ballot != a.ballot {
		return
	}
	a.size = max(a.size, msg.Size)
	a.promises[msg.From] = true
	if a.best.Less(msg.Promised) {
		a.best, a.value = msg.Promised, msg.Value.clone()
	}
}

// accepted counts that another node has accepted the value.
func (m *Machine) accepted(msg Message) {
	if a := m.attempt; a != nil && a.proposing && msg.Ballot == a.ballot {
		a.size = max(a.size, msg.Size)
		a.accepts[msg.From] = true
	}
}

// refused ends the attempt that somebody refuses to help.
func (m *Machine) refused(now time.Time, msg Message) {
	if a := m.attempt; a != nil && msg.Ballot == a.ballot && a.ballot.Less(msg.Promised) {
		m.giveUp(now)
	}
}

// giveUp ends the attempt; the next one is made after a pause of random length, in which that of another
// node may succeed.
func (m *Machine) giveUp(now time.Time) {
	m.attempt = nil
	m.notUntil = now.Add(turn/2 + time.Duration(m.cfg.Random()%uint64(2*turn)))
}

// newID returns a random cluster id.
func (m *Machine) newID() [16]byte {
	var id [16]byte
	for id == [16]byte{} {
		binary.LittleEndian.PutUint64(id[:], m.cfg.Random())
		binary.LittleEndian.PutUint64(id[8:], m.cfg.Random())
	}
	return id
}
