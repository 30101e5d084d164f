package stream

import (
	"slices"
	"sort"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// Filter is a set of subject filters with a memory of which of a machine's subjects match. It
// belongs to one reader of one machine and is not safe for concurrent use.
type Filter struct {
	subjects []string // none: everything
	epoch    uint64
	known    []uint8 // by subject id: 0 unknown, 1 matches, 2 does not
}

// NewFilter returns the filter that matches what any of subjects does; without subjects, or with
// ">" among them, it matches everything.
func NewFilter(subjects ...string) *Filter {
	f := &Filter{}
	for _, s := range subjects {
		if s == subject.Full || s == "" {
			return &Filter{}
		}
		f.subjects = append(f.subjects, s)
	}
	return f
}

// Matches reports whether the literal subject s passes.
func (f *Filter) Matches(s string) bool {
	return len(f.subjects) == 0 ||
		slices.ContainsFunc(f.subjects, func(filter string) bool { return subject.Match(filter, s) })
}

func (f *Filter) matchesID(t *subjectTable, id uint32) bool {
	if len(f.subjects) == 0 {
		return true
	}
	if f.epoch != t.epoch {
		f.epoch, f.known = t.epoch, f.known[:0]
	}
	if int(id) >= len(f.known) {
		f.known = append(f.known, make([]uint8, len(t.states)-len(f.known))...)
	}
	if f.known[id] == 0 {
		f.known[id] = 2
		if f.Matches(t.states[id].name) {
			f.known[id] = 1
		}
	}
	return f.known[id] == 1
}

// each calls fn once for every subject that f matches.
func (f *Filter) each(t *subjectTable, fn func(id uint32, st *subjectState)) {
	switch len(f.subjects) {
	case 0:
		t.match(subject.Full, fn)
	case 1:
		t.match(f.subjects[0], fn)
	default:
		for i, s := range f.subjects {
			t.match(s, func(id uint32, st *subjectState) {
				earlier := func(o string) bool { return subject.Match(o, st.name) }
				if !slices.ContainsFunc(f.subjects[:i], earlier) {
					fn(id, st)
				}
			})
		}
	}
}

// Bounds returns the first and last sequence; an empty stream has first == last+1.
func (m *Machine) Bounds() (first, last uint64) { return m.first, m.last }

// Usage returns the number of messages and their accounted bytes.
func (m *Machine) Usage() (messages, bytes uint64) { return m.count, m.bytes }

// LastTime returns when the newest message came, live or not; zero if there never was one.
func (m *Machine) LastTime() time.Time { return timeOf(m.lastTime) }

// Oldest returns when the oldest live message was stored.
func (m *Machine) Oldest() (time.Time, bool) {
	if m.count == 0 {
		return time.Time{}, false
	}
	return timeOf(m.refs.get(m.first).time), true
}

// OlderThan returns the last sequence such that every live message up to it was stored before t;
// 0 if there is none.
func (m *Machine) OlderThan(t time.Time) uint64 {
	limit, upto := t.UnixNano(), uint64(0)
	for seq := m.first; ; seq++ {
		s, ok := m.refs.next(seq, m.last)
		if !ok || m.refs.get(s).time >= limit {
			return upto
		}
		seq, upto = s, s
	}
}

// Place returns where the live message seq lies in the group's log.
func (m *Machine) Place(seq uint64) (Place, bool) { return m.refs.place(seq) }

// Next returns the first live message at or after from that f matches.
func (m *Machine) Next(from uint64, f *Filter) (uint64, bool) {
	return m.next(max(from, m.first), m.last, f)
}

func (m *Machine) next(from, last uint64, f *Filter) (uint64, bool) {
	if len(f.subjects) == 0 {
		return m.refs.next(from, last)
	}
	if len(f.subjects) == 1 && subject.IsLiteral(f.subjects[0]) {
		st := m.subjects.get(f.subjects[0])
		if st == nil || st.last < from {
			return 0, false
		}
		if from <= st.first {
			return st.first, st.first <= last
		}
		last = min(last, st.last)
	}
	for {
		seq, ok := m.refs.next(from, last)
		if !ok || f.matchesID(&m.subjects, m.refs.get(seq).subj) {
			return seq, ok
		}
		from = seq + 1
	}
}

// Pending returns the number of live messages at or after from that f matches.
func (m *Machine) Pending(from uint64, f *Filter) uint64 {
	if from > m.last {
		return 0
	}
	if len(f.subjects) == 0 {
		if from <= m.first {
			return m.count
		}
		return m.refs.count(from, m.last)
	}
	var whole uint64
	partial := false
	f.each(&m.subjects, func(_ uint32, st *subjectState) {
		switch {
		case from <= st.first:
			whole += st.count
		case from <= st.last:
			partial = true
		}
	})
	if !partial {
		return whole
	}
	var n uint64
	for seq, ok := m.next(from, m.last, f); ok; seq, ok = m.next(seq+1, m.last, f) {
		n++
	}
	return n
}

// LastOf returns the newest live message of a literal subject.
func (m *Machine) LastOf(s string) (uint64, bool) {
	st := m.subjects.get(s)
	if st == nil {
		return 0, false
	}
	return st.last, true
}

// LastMatching returns the newest live message that filter matches.
func (m *Machine) LastMatching(filter string) (seq uint64, ok bool) {
	m.subjects.match(filter, func(_ uint32, st *subjectState) { seq, ok = max(seq, st.last), true })
	return seq, ok
}

// LastPerSubject returns, ascending, the newest live message at or before upTo of every subject
// that f matches.
func (m *Machine) LastPerSubject(f *Filter, upTo uint64) []uint64 {
	var seqs []uint64
	f.each(&m.subjects, func(id uint32, st *subjectState) {
		if st.last <= upTo {
			seqs = append(seqs, st.last)
			return
		}
		for seq := upTo; seq >= st.first; seq-- {
			s, ok := m.refs.prev(seq, st.first)
			if !ok {
				return
			}
			if seq = s; m.refs.get(seq).subj == id {
				seqs = append(seqs, seq)
				return
			}
		}
	})
	slices.Sort(seqs)
	return seqs
}

// SubjectOf returns the subject of the live message seq.
func (m *Machine) SubjectOf(seq uint64) (string, bool) {
	r := m.refs.get(seq)
	if !r.live() {
		return "", false
	}
	return m.subjects.states[r.subj].name, true
}

// TimeToSeq returns the first live message stored at or after t, or last+1.
func (m *Machine) TimeToSeq(t time.Time) uint64 {
	ns := t.UnixNano()
	chunks := m.refs.chunks
	newest := func(c *chunk) int64 { // of a chunk's messages, live or removed
		if c == nil || len(c.refs) == 0 {
			return 0
		}
		return c.refs[len(c.refs)-1].time
	}
	// Times never fall with the sequence, but nil chunks know none: search among the others.
	kept := make([]int, 0, len(chunks))
	for i, c := range chunks {
		if newest(c) != 0 {
			kept = append(kept, i)
		}
	}
	i := sort.Search(len(kept), func(i int) bool { return newest(chunks[kept[i]]) >= ns })
	if i == len(kept) {
		return m.last + 1
	}
	for seq := max(m.first, (m.refs.base+uint64(kept[i]))*chunkLen); ; seq++ {
		s, ok := m.refs.next(seq, m.last)
		if !ok {
			return m.last + 1
		}
		if seq = s; m.refs.get(seq).time >= ns {
			return seq
		}
	}
}

// State returns the counters as the API shows them. Deleted sequences are listed if details is set.
func (m *Machine) State(details bool) api.StreamState {
	s := api.StreamState{
		Msgs: m.count, Bytes: m.bytes, FirstSeq: m.first, LastSeq: m.last,
		LastTime: timeOf(m.lastTime), NumSubjects: len(m.subjects.ids),
	}
	if m.last == 0 {
		s.FirstSeq = 0 // nothing was ever stored
	}
	s.FirstTime, _ = m.Oldest()
	if m.count > 0 {
		s.NumDeleted = int(m.last - m.first + 1 - m.count)
	}
	if details && s.NumDeleted > 0 {
		for seq := m.first; seq <= m.last; seq++ {
			next, ok := m.refs.next(seq, m.last)
			if !ok {
				next = m.last + 1
			}
			for ; seq < next; seq++ {
				s.Deleted = append(s.Deleted, seq)
			}
		}
	}
	return s
}

// Subjects calls fn with every subject that filter matches and the number of its messages.
func (m *Machine) Subjects(filter string, fn func(name string, messages uint64)) {
	m.subjects.match(filter, func(_ uint32, st *subjectState) { fn(st.name, st.count) })
}

// Run returns the bytes of the live message seq and of those that follow it without a gap in the
// same entry, together at most limit bytes unless seq alone is larger.
func (m *Machine) Run(seq uint64, limit int) (Place, bool) {
	p, ok := m.refs.place(seq)
	if !ok {
		return p, false
	}
	for next := seq + 1; next <= m.last; next++ {
		r := m.refs.get(next)
		if !r.live() || r.off != p.Off+p.Len {
			break
		}
		size := r.size &^ refHeader
		if int(p.Len+size) > limit {
			break
		}
		if q, _ := m.refs.place(next); q.Index != p.Index {
			break
		}
		p.Len += size
	}
	return p, true
}
