// Package stream is the state machine of one stream: which messages it holds, by subject and by
// sequence, and what limits, retention and deduplication do to them. It is pure: its group feeds it
// committed entries through [Machine.Apply], and equal entries give equal state on every replica.
// Payloads stay in the journal; the machine keeps where they lie.
//
// The leader decides with an [Admission] what becomes an entry. Times are those in the entries.
package stream

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// Machine is the state of one stream.
//
// Invariants, checked by check():
//  1. first <= last+1; every live sequence lies in [first, last], and first is live unless the
//     stream is empty, when first == last+1.
//  2. count and bytes are the sums over live messages.
//  3. For every subject: count live messages, the oldest at first, the newest at last.
type Machine struct {
	cfg         api.StreamConfig
	configured  bool
	begin       uint64 // index of the first entry applied
	released    bool   // the log begins after the configuration: what is missing comes with a checkpoint
	first, last uint64
	lastTime    int64
	count       uint64
	bytes       uint64
	lastMsgID   string
	refs        refTable
	subjects    subjectTable
	dedupe      dedupe
	// alive counts the live messages of each entry. Only for memory storage, whose entries are
	// dropped one by one; nil otherwise.
	alive map[uint64]int
}

// New returns the state of a stream before its log. A log begins with the configuration or, once what
// came before a checkpoint was released, with the entry of a message or with the checkpoint.
func New() *Machine {
	return &Machine{first: 1, subjects: newSubjectTable()}
}

// Effects is what one entry did.
type Effects struct {
	// First and Last are the sequences of the messages the entry stored; Last is 0 if none.
	First, Last uint64
	// Removed lists messages that were removed but were not the head of the stream, in any order.
	// Valid until the next Apply.
	Removed []uint64
	// Purged is the number of messages the entry removed, those of Removed included.
	Purged uint64
	// ByPurge tells that the entry was a purge.
	ByPurge bool
	// Head is the stream's first sequence after the entry; HeadMoved tells that it changed.
	Head      uint64
	HeadMoved bool
	// Dead lists entries, of memory storage only, none of whose messages is live any more.
	Dead []uint64
}

// Config returns the configuration in force.
func (m *Machine) Config() api.StreamConfig { return m.cfg }

// Apply takes the committed entry at raft index index. It returns an error for an entry that does
// not decode or does not follow; the state is then unchanged up to the offending record.
func (m *Machine) Apply(index uint64, entry []byte) (Effects, error) {
	h, err := decodeHead(entry)
	if err != nil {
		return Effects{}, err
	}
	before := m.first
	var fx Effects
	if m.begin == 0 {
		m.begin, m.released = index, h.kind != KindConfig
		if m.released {
			m.dedupe.window = math.MaxInt64 // until the checkpoint tells
		}
		if h.kind != KindConfig && h.kind != KindMessages && h.kind != KindCheckpoint {
			return fx, fmt.Errorf("%w: kind %d before the configuration", ErrEntry, h.kind)
		}
		if h.kind == KindMessages {
			m.first, m.last = h.base, h.base-1
		}
	}
	switch h.kind {
	case KindMessages:
		err = m.applyMessages(index, h, entry, &fx)
	case KindConfig:
		var cfg api.StreamConfig
		if err = json.Unmarshal(entry[entryHeader:], &cfg); err == nil && (m.configured || !m.released) {
			m.applyConfig(cfg, &fx)
		}
	case KindCheckpoint:
		var c checkpoint
		if err = json.Unmarshal(entry[entryHeader:], &c); err == nil {
			err = m.applyCheckpoint(h.time, &c, &fx)
		}
	case KindPurge:
		fx.ByPurge = true
		var p Purge
		if err = json.Unmarshal(entry[entryHeader:], &p); err == nil && (m.configured || !m.released) {
			m.applyPurge(p, &fx)
		}
	case KindRemove:
		var r Remove
		if err = json.Unmarshal(entry[entryHeader:], &r); err == nil && (m.configured || !m.released) {
			m.applyRemove(r, &fx)
		}
	default:
		err = fmt.Errorf("%w: kind %d", ErrEntry, h.kind)
	}
	fx.Head, fx.HeadMoved = m.first, m.first != before
	if m.alive != nil {
		if m.alive[index] == 0 {
			fx.Dead = append(fx.Dead, index)
		}
		fx.Dead = slices.DeleteFunc(fx.Dead, func(i uint64) bool { return m.alive[i] > 0 })
	}
	return fx, err
}

func (m *Machine) applyConfig(cfg api.StreamConfig, fx *Effects) {
	m.cfg = cfg
	m.dedupe.window = cfg.Duplicates
	if !m.configured {
		m.configured = true
		if cfg.Storage == api.MemoryStorage {
			m.alive = map[uint64]int{}
		}
		if cfg.FirstSeq > 1 {
			m.first, m.last = cfg.FirstSeq, cfg.FirstSeq-1
		}
	}
	if n := cfg.MaxMsgsPer; n > 0 {
		for id := range m.subjects.states {
			m.trimSubject(uint32(id), uint64(n), fx)
		}
	}
	m.trim(fx)
}

func (m *Machine) applyMessages(index uint64, h entryHead, entry []byte, fx *Effects) error {
	if !m.configured && h.base > m.last {
		m.last = h.base - 1 // a purge moved the sequences on
	}
	if h.base != m.last+1 {
		return fmt.Errorf("%w: messages from sequence %d after %d", ErrEntry, h.base, m.last)
	}
	var r record
	off := entryHeader
	for i := range h.count {
		if err := decodeRecord(entry[off:], &r); err != nil {
			return err
		}
		if r.seq != h.base+uint64(i) {
			return fmt.Errorf("%w: record holds sequence %d, not %d", ErrEntry, r.seq, h.base+uint64(i))
		}
		if !validSubject(r.subject) {
			return fmt.Errorf("%w: subject %.100q", ErrEntry, r.subject)
		}
		m.store(index, uint32(off), &r, fx)
		off += int(r.size)
	}
	if h.count > 0 {
		fx.First, fx.Last = h.base, m.last
	}
	return nil
}

func (m *Machine) store(index uint64, off uint32, r *record, fx *Effects) {
	m.last, m.lastTime = r.seq, r.time
	m.lastMsgID = ""
	if r.flags&flagMsgID != 0 {
		m.lastMsgID = string(wire.Header(r.header, HeaderMsgID))
		m.dedupe.expire(r.time)
		m.dedupe.add(m.lastMsgID, r.seq, r.time, index)
	}
	if r.flags&flagNoInterest != 0 {
		if m.count == 0 {
			m.first = m.last + 1
		}
		return
	}
	id := m.subjects.id(r.subject)
	st := &m.subjects.states[id]
	size := r.size
	if len(r.header) > 0 {
		size |= refHeader
	}
	m.refs.add(r.seq, index, ref{off: off, size: size, subj: id, time: r.time})
	if m.alive != nil {
		m.alive[index]++
	}
	if st.count == 0 {
		st.first = r.seq
	} else if prev := m.refs.get(st.last); prev != nil {
		prev.next = uint32(min(r.seq-st.last, refFar))
	}
	st.last = r.seq
	st.count++
	if m.count == 0 {
		m.first = r.seq
	}
	m.count++
	m.bytes += m.accounted(size, len(r.subject))

	switch {
	case r.flags&flagRollupAll != 0:
		m.removeUpto(r.seq-1, fx)
	case r.flags&flagRollupSub != 0:
		m.trimSubject(id, 1, fx)
	case m.cfg.MaxMsgsPer > 0:
		m.trimSubject(id, uint64(m.cfg.MaxMsgsPer), fx)
	}
	m.trim(fx)
}

// accounted is the size of a message as the stream's bytes count it: that of nats-server's stores,
// so that max_bytes means the same here.
func (m *Machine) accounted(size uint32, subject int) uint64 {
	return accounted(m.cfg.Storage, int(size&^refHeader)-recordHeader, size&refHeader != 0)
}

// accounted returns what a message of payload bytes (subject, header and data) counts.
func accounted(storage api.Storage, payload int, header bool) uint64 {
	n := uint64(payload)
	switch {
	case storage == api.MemoryStorage:
		return n + 16
	case header:
		return n + 34
	default:
		return n + 30
	}
}

// trim enforces the limits of the whole stream by removing its oldest messages.
func (m *Machine) trim(fx *Effects) {
	if n := m.cfg.MaxMsgs; n > 0 {
		for m.count > uint64(n) {
			m.remove(m.first, fx)
		}
	}
	if n := m.cfg.MaxBytes; n > 0 {
		for m.bytes > uint64(n) && m.count > 0 {
			m.remove(m.first, fx)
		}
	}
}

func (m *Machine) trimSubject(id uint32, keep uint64, fx *Effects) {
	for st := &m.subjects.states[id]; st.count > keep; {
		m.remove(st.first, fx)
	}
}

func (m *Machine) removeUpto(seq uint64, fx *Effects) {
	for m.count > 0 && m.first <= seq {
		m.remove(m.first, fx)
	}
}

// remove takes the live message seq out of the stream.
func (m *Machine) remove(seq uint64, fx *Effects) {
	r := m.refs.get(seq)
	id := r.subj
	st := &m.subjects.states[id]
	m.count--
	m.bytes -= m.accounted(r.size, len(st.name))
	fx.Purged++
	next, far := uint64(r.next), r.next == refFar
	if m.alive != nil {
		m.died(seq, fx)
	}
	m.refs.kill(seq)
	switch st.count--; {
	case st.count == 0:
		m.subjects.drop(id)
	case seq == st.first:
		st.first = m.follow(seq, next, far, id, st.last)
	case seq == st.last:
		st.last = m.precede(seq, id, st.first)
	}
	switch {
	case m.count == 0:
		m.first = m.last + 1
	case seq == m.first:
		m.first, _ = m.refs.next(seq+1, m.last)
	default:
		fx.Removed = append(fx.Removed, seq)
	}
}

// died counts the message seq out of its entry.
func (m *Machine) died(seq uint64, fx *Effects) {
	p, _ := m.refs.place(seq)
	if m.alive[p.Index]--; m.alive[p.Index] == 0 {
		delete(m.alive, p.Index)
		fx.Dead = append(fx.Dead, p.Index)
	}
}

// follow returns the first live message of subject id after seq along the chain of the subject,
// or by search where the chain is broken. There is one, at last or before.
func (m *Machine) follow(seq, next uint64, far bool, id uint32, last uint64) uint64 {
	for !far && next != 0 {
		seq += next
		r := m.refs.get(seq)
		if r == nil {
			break
		}
		if r.live() {
			return seq
		}
		next, far = uint64(r.next), r.next == refFar
	}
	for {
		s, ok := m.refs.next(seq+1, last)
		if !ok {
			panic(fmt.Sprintf("BUG: stream %s: no message of subject %d up to %d", m.cfg.Name, id, last))
		}
		if seq = s; m.refs.get(seq).subj == id {
			return seq
		}
	}
}

// precede returns the last live message of subject id before seq. There is one, at first or after.
func (m *Machine) precede(seq uint64, id uint32, first uint64) uint64 {
	for {
		s, ok := m.refs.prev(seq-1, first)
		if !ok {
			panic(fmt.Sprintf("BUG: stream %s: no message of subject %d from %d", m.cfg.Name, id, first))
		}
		if seq = s; m.refs.get(seq).subj == id {
			m.refs.get(seq).next = 0
			return seq
		}
	}
}

func (m *Machine) applyPurge(p Purge, fx *Effects) {
	switch {
	case p.Filter == "" || p.Filter == ">":
		upto := m.last
		if p.Seq > 0 {
			upto = min(upto, p.Seq-1)
		}
		if p.Keep > 0 {
			for m.count > p.Keep {
				m.remove(m.first, fx)
			}
			return
		}
		m.removeUpto(upto, fx)
		if p.Seq > m.last+1 && m.count == 0 { // ahead of the stream: its sequences move on
			m.last = p.Seq - 1
			m.first = p.Seq
		}
	case p.Keep > 0 || p.Seq > 0:
		seqs := m.matching(p.Filter, p.Seq)
		if p.Keep > 0 {
			seqs = seqs[:max(0, len(seqs)-int(min(p.Keep, uint64(len(seqs)))))]
		}
		for _, seq := range seqs {
			m.remove(seq, fx)
		}
	default:
		for _, seq := range m.matching(p.Filter, 0) {
			m.remove(seq, fx)
		}
	}
}

// matching returns the live sequences whose subject filter matches, ascending, those before limit
// if limit is not 0.
func (m *Machine) matching(filter string, limit uint64) []uint64 {
	f := NewFilter(filter)
	last := m.last
	if limit > 0 {
		last = min(last, limit-1)
	}
	var seqs []uint64
	for seq := m.first; ; seq++ {
		s, ok := m.next(seq, last, f)
		if !ok {
			return seqs
		}
		seqs = append(seqs, s)
		seq = s
	}
}

func (m *Machine) applyRemove(r Remove, fx *Effects) {
	if r.Upto > 0 {
		m.removeUpto(r.Upto, fx)
	}
	for _, seq := range r.Seqs {
		if m.refs.get(seq).live() {
			m.remove(seq, fx)
		}
	}
}

func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
