package core_test

import (
	"fmt"
	"log/slog"
	"slices"

	"millrace/raft/core"
)

var quiet = slog.New(slog.DiscardHandler)

// memLog is the stored log of one replica, in memory. Writes are visible at once and become durable
// when the test says so; a crash leaves what was durable.
type memLog struct {
	now, durable image
	pending      []write // not durable, oldest first
	unreadable   error   // what Entries returns
	reads        int     // calls of Entries
}

// write is what a core handed out, or the storing of a snapshot or a compaction.
type write struct {
	core.Append
	stored  *core.SnapshotMeta // a snapshot of the replica's own
	compact uint64             // entries up to here go
	of      core.Core          // which waits to hear of it
}

// image is the state of a log after some writes.
type image struct {
	base     uint64 // index of the entry before the first
	baseTerm uint64
	entries  []core.Entry
	state    *core.HardState
	snapshot *core.SnapshotMeta
}

func (m *image) last() uint64 { return m.base + uint64(len(m.entries)) }

func (m *image) apply(w *write) {
	if w.Snapshot != nil {
		meta := *w.Snapshot
		*m = image{base: meta.Index, baseTerm: meta.Term, state: m.state, snapshot: &meta}
	}
	if w.stored != nil {
		meta := *w.stored
		m.snapshot = &meta
	}
	if w.compact > m.base {
		if w.compact > m.last() {
			panic(fmt.Sprintf("BUG: compaction to %d of a log that ends at %d", w.compact, m.last()))
		}
		n := w.compact - m.base
		m.base, m.baseTerm = w.compact, m.entries[n-1].Term
		m.entries = slices.Clone(m.entries[n:])
	}
	if len(w.Entries) > 0 {
		from := w.Entries[0].Index
		if from <= m.base || from > m.last()+1 {
			panic(fmt.Sprintf("BUG: write at index %d to a log of [%d, %d]", from, m.base+1, m.last()))
		}
		m.entries = append(slices.Clone(m.entries[:from-m.base-1]), w.Entries...)
	}
	if w.State != nil {
		state := *w.State
		m.state = &state
	}
}

func (m *image) entry(index uint64) (core.Entry, bool) {
	if index <= m.base || index > m.last() {
		return core.Entry{}, false
	}
	return m.entries[index-m.base-1], true
}

func newLog() *memLog { return &memLog{} }

func (l *memLog) add(w write) {
	l.now.apply(&w)
	l.pending = append(l.pending, w)
}

// sync makes up to n of the oldest writes durable, and tells those of a core to it.
func (l *memLog) sync(n int, c core.Core) {
	n = min(n, len(l.pending))
	told := 0
	for i := range l.pending[:n] {
		l.durable.apply(&l.pending[i])
		if c != nil && l.pending[i].of == c {
			told++
		}
	}
	l.pending = slices.Clone(l.pending[n:])
	if told > 0 {
		c.Persisted(told)
	}
}

// crash returns what a restart finds: the durable writes, and keep of the oldest others, which reached
// the disk and were not answered. Of the write after these, torn keeps the entries without the state.
func (l *memLog) crash(keep int, torn bool) *memLog {
	m := l.durable
	keep = min(keep, len(l.pending))
	for i := range l.pending[:keep] {
		m.apply(&l.pending[i])
	}
	if torn && keep < len(l.pending) {
		w := l.pending[keep]
		w.State = nil
		m.apply(&w)
	}
	return &memLog{now: m, durable: m}
}

func (l *memLog) State(uint64) (core.HardState, bool) {
	if l.now.state == nil {
		return core.HardState{}, false
	}
	return *l.now.state, true
}

func (l *memLog) Bounds(uint64) (first, last uint64) { return l.now.base + 1, l.now.last() }

func (l *memLog) Term(_, index uint64) (uint64, error) {
	if index == l.now.base && index > 0 {
		return l.now.baseTerm, nil
	}
	e, ok := l.now.entry(index)
	if !ok {
		return 0, fmt.Errorf("no entry %d in [%d, %d]", index, l.now.base+1, l.now.last())
	}
	return e.Term, nil
}

func (l *memLog) Entries(_, lo, hi, maxBytes uint64) ([]core.Entry, error) {
	l.reads++
	if l.unreadable != nil {
		return nil, l.unreadable
	}
	if lo <= l.now.base || lo >= hi || hi > l.now.last()+1 {
		return nil, fmt.Errorf("no entries [%d, %d) in [%d, %d]", lo, hi, l.now.base+1, l.now.last())
	}
	size := uint64(0)
	for i := lo; i < hi; i++ {
		e, _ := l.now.entry(i)
		if size += uint64(len(e.Data)); size > maxBytes && i > lo {
			hi = i
			break
		}
	}
	return slices.Clone(l.now.entries[lo-l.now.base-1 : hi-l.now.base-1]), nil
}

func (l *memLog) Snapshot(uint64) (core.SnapshotMeta, bool) {
	if l.now.snapshot == nil {
		return core.SnapshotMeta{}, false
	}
	return *l.now.snapshot, true
}
