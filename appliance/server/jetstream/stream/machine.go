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
	"millrace/storage/index"
)

// Machine is the state of one stream. Apply, Snapshot and Restore are for one goroutine and exclude
// everything else; queries may run at once.
//
// Invariants, checked by check():
//  1. first <= last+1; every live sequence lies in [first, last], and first is live unless the
//     stream is empty, when first == last+1.
//  2. bytes is the sum over live messages, which the index counts.
type Machine struct {
	storage     Storage
	cfg         api.StreamConfig
	configured  bool
	begin       uint64 // index of the first entry applied
	released    bool   // the log begins after the configuration: what is missing comes with a checkpoint
	first, last uint64
	lastTime    int64
	bytes       uint64
	lastMsgID   string
	dedupe      dedupe
	ix          *index.Index
	// listDead tells Apply to find the entries without live messages. Only for memory storage, whose
	// entries are dropped one by one.
	listDead bool
}

// New returns the state of a stream before its log, with everything in the heap. A log begins with the
// configuration or, once what came before a checkpoint was released, with the entry of a message or
// with the checkpoint.
func New() *Machine { return NewOn(Storage{}) }

// NewOn returns the state of a stream before its log, or before Restore, that keeps its blocks in s.
func NewOn(s Storage) *Machine { return &Machine{storage: s, first: 1, ix: newIndex(s)} }

// Close forgets what the cache holds of the stream. The machine must not be used any more.
func (m *Machine) Close() { m.ix.Close() }

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
// not decode or does not follow; the state is then unchanged up to the offending record. It returns a
// [*index.BlockError] when a block that it needs cannot be read: then the entry is half applied and the
// machine must not be asked or changed any more, but restored or replayed.
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
			err = m.applyConfig(cfg, &fx)
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
			err = m.applyPurge(p, &fx)
		}
	case KindRemove:
		var r Remove
		if err = json.Unmarshal(entry[entryHeader:], &r); err == nil && (m.configured || !m.released) {
			err = m.applyRemove(r, &fx)
		}
	default:
		err = fmt.Errorf("%w: kind %d", ErrEntry, h.kind)
	}
	fx.Head, fx.HeadMoved = m.first, m.first != before
	if m.listDead && err == nil {
		err = m.onlyDead(index, &fx)
	}
	return fx, err
}

// onlyDead leaves in fx.Dead, which lists entries that have lost a message, those that have no more, with
// the one just applied if it has none.
func (m *Machine) onlyDead(index uint64, fx *Effects) (err error) {
	fx.Dead = append(fx.Dead, index)
	slices.Sort(fx.Dead)
	fx.Dead = slices.DeleteFunc(slices.Compact(fx.Dead), func(i uint64) bool {
		live, e := m.ix.HasEntry(i)
		if e != nil {
			err = e
		}
		return live || e != nil
	})
	return err
}

// setConfig puts a configuration into force.
func (m *Machine) setConfig(cfg api.StreamConfig) {
	m.cfg, m.configured, m.dedupe.window = cfg, true, cfg.Duplicates
	m.listDead = cfg.Storage == api.MemoryStorage
}

func (m *Machine) applyConfig(cfg api.StreamConfig, fx *Effects) error {
	if !m.configured && cfg.FirstSeq > 1 {
		m.first, m.last = cfg.FirstSeq, cfg.FirstSeq-1
	}
	m.setConfig(cfg)
	if n := cfg.MaxMsgsPer; n > 0 {
		for _, id := range m.ix.Crowded(uint64(n)) {
			if err := m.trimSubject(id, uint64(n), fx); err != nil {
				return err
			}
		}
	}
	return m.trim(fx)
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
		if err := m.store(index, uint32(off), &r, fx); err != nil {
			return err
		}
		off += int(r.size)
	}
	if h.count > 0 {
		fx.First, fx.Last = h.base, m.last
	}
	return nil
}

func (m *Machine) store(entry uint64, off uint32, r *record, fx *Effects) error {
	var id index.Subject
	if r.flags&flagNoInterest == 0 {
		var err error
		if id, err = m.ix.Append(index.Message{
			Seq: r.seq, Index: entry, Off: off, Len: r.size, Headers: len(r.header) > 0, Time: r.time,
		}, r.subject); err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
	}
	m.last, m.lastTime = r.seq, r.time
	m.lastMsgID = ""
	if r.flags&flagMsgID != 0 {
		m.lastMsgID = string(wire.Header(r.header, HeaderMsgID))
		m.dedupe.expire(r.time)
		m.dedupe.add(m.lastMsgID, r.seq, r.time, entry)
	}
	if r.flags&flagNoInterest != 0 {
		if m.ix.Count() == 0 {
			m.first = m.last + 1
		}
		return nil
	}
	if m.ix.Count() == 1 {
		m.first = r.seq
	}
	m.bytes += accounted(m.cfg.Storage, int(r.size)-recordHeader, len(r.header) > 0)

	var err error
	switch {
	case r.flags&flagRollupAll != 0:
		err = m.removeUpto(r.seq-1, fx)
	case r.flags&flagRollupSub != 0:
		err = m.trimSubject(id, 1, fx)
	case m.cfg.MaxMsgsPer > 0:
		err = m.trimSubject(id, uint64(m.cfg.MaxMsgsPer), fx)
	}
	if err != nil {
		return err
	}
	return m.trim(fx)
}

// accounted returns what a message of payload bytes (subject, header and data) counts in the stream's
// bytes: as in nats-server's stores, so that max_bytes means the same here.
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
func (m *Machine) trim(fx *Effects) error {
	if n := m.cfg.MaxMsgs; n > 0 {
		for m.ix.Count() > uint64(n) {
			if err := m.remove(m.first, fx); err != nil {
				return err
			}
		}
	}
	if n := m.cfg.MaxBytes; n > 0 {
		for m.bytes > uint64(n) && m.ix.Count() > 0 {
			if err := m.remove(m.first, fx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Machine) trimSubject(id index.Subject, keep uint64, fx *Effects) error {
	for m.ix.Of(id) > keep {
		x, err := m.ix.RemoveOldest(id)
		if err != nil {
			return err
		}
		if err := m.removed(x, fx); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) removeUpto(seq uint64, fx *Effects) error {
	for m.ix.Count() > 0 && m.first <= seq {
		if err := m.remove(m.first, fx); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the message seq out of the stream, if it is stored.
func (m *Machine) remove(seq uint64, fx *Effects) error {
	x, ok, err := m.ix.Remove(seq)
	if err != nil || !ok {
		return err
	}
	return m.removed(x, fx)
}

// removed accounts for a message that the index has lost.
func (m *Machine) removed(x index.Message, fx *Effects) error {
	m.bytes -= accounted(m.cfg.Storage, int(x.Len)-recordHeader, x.Headers)
	fx.Purged++
	if n := len(fx.Dead); m.listDead && (n == 0 || fx.Dead[n-1] != x.Index) {
		fx.Dead = append(fx.Dead, x.Index)
	}
	switch {
	case m.ix.Count() == 0:
		m.first = m.last + 1
	case x.Seq == m.first:
		next, _, err := m.ix.Next(x.Seq + 1)
		if err != nil {
			return err
		}
		m.first = next.Seq
	default:
		fx.Removed = append(fx.Removed, x.Seq)
	}
	return nil
}

// clear takes all messages out of the stream, however many, in one go.
func (m *Machine) clear(fx *Effects) {
	fx.Purged += m.ix.Count()
	m.ix.Clear()
	m.bytes = 0
	m.first = m.last + 1
}

func (m *Machine) applyPurge(p Purge, fx *Effects) error {
	switch {
	case p.Filter == "" || p.Filter == ">":
		upto := m.last
		if p.Seq > 0 {
			upto = min(upto, p.Seq-1)
		}
		if p.Keep > 0 {
			for m.ix.Count() > p.Keep {
				if err := m.remove(m.first, fx); err != nil {
					return err
				}
			}
			return nil
		}
		if upto == m.last && !m.listDead {
			m.clear(fx)
		} else if err := m.removeUpto(upto, fx); err != nil {
			return err
		}
		if p.Seq > m.last+1 && m.ix.Count() == 0 { // ahead of the stream: its sequences move on
			m.last = p.Seq - 1
			m.first = p.Seq
		}
		return nil
	default:
		seqs, err := m.matching(p.Filter, p.Seq)
		if err != nil {
			return err
		}
		if p.Keep > 0 {
			seqs = seqs[:max(0, len(seqs)-int(min(p.Keep, uint64(len(seqs)))))]
		}
		return m.removeAll(seqs, fx)
	}
}

// matching returns the live sequences whose subject filter matches, ascending, those before limit
// if limit is not 0.
func (m *Machine) matching(filter string, limit uint64) ([]uint64, error) {
	f := NewFilter(filter)
	var seqs []uint64
	for seq := uint64(0); ; seq++ {
		x, ok, err := m.ix.NextMatching(seq, f)
		if err != nil || !ok || limit > 0 && x.Seq >= limit {
			return seqs, err
		}
		seqs = append(seqs, x.Seq)
		seq = x.Seq
	}
}

func (m *Machine) applyRemove(r Remove, fx *Effects) error {
	if r.Upto > 0 {
		if err := m.removeUpto(r.Upto, fx); err != nil {
			return err
		}
	}
	return m.removeAll(r.Seqs, fx)
}

// removeAll takes those of seqs that are stored out of the stream.
func (m *Machine) removeAll(seqs []uint64, fx *Effects) error {
	for _, seq := range seqs {
		if err := m.remove(seq, fx); err != nil {
			return err
		}
	}
	return nil
}

func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
