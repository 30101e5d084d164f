package stream

import (
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/storage/index"
)

// Queries only read: several goroutines may ask at once while none applies. Their errors are those of the
// index, [*index.BlockError]: a block cannot be read, and the answer is not known.

// Filter is a set of subject filters with a memory of which of a machine's subjects match. It
// belongs to one reader of one machine and is not safe for concurrent use.
type Filter = index.Filter

// NewFilter returns the filter that matches what any of subjects does; without subjects, or with
// ">" among them, it matches everything.
func NewFilter(subjects ...string) *Filter { return index.NewFilter(subjects...) }

// Bounds returns the first and last sequence; an empty stream has first == last+1.
func (m *Machine) Bounds() (first, last uint64) { return m.first, m.last }

// Usage returns the number of messages and their accounted bytes.
func (m *Machine) Usage() (messages, bytes uint64) { return m.ix.Count(), m.bytes }

// LastTime returns when the newest message came, live or not; zero if there never was one.
func (m *Machine) LastTime() time.Time { return timeOf(m.lastTime) }

// Oldest returns when the oldest live message was stored; false if there is none.
func (m *Machine) Oldest() (time.Time, bool, error) {
	x, ok, err := m.ix.First()
	if err != nil || !ok {
		return time.Time{}, false, err
	}
	return timeOf(x.Time), true, nil
}

// OlderThan returns the last live message such that it and every live message before it was stored
// before t; 0 if there is none.
func (m *Machine) OlderThan(t time.Time) (uint64, error) {
	first, ok, err := m.ix.AtTime(t.UnixNano())
	if err != nil {
		return 0, err
	}
	upTo := m.last
	if ok {
		upTo = first.Seq - 1
	}
	x, _, err := m.ix.Previous(upTo)
	return x.Seq, err
}

// Place returns where the live message seq lies in the group's log.
func (m *Machine) Place(seq uint64) (Place, bool, error) {
	x, ok, err := m.ix.Get(seq)
	return place(x), ok, err
}

// Next returns the first live message at or after from that f matches.
func (m *Machine) Next(from uint64, f *Filter) (uint64, bool, error) {
	x, ok, err := m.ix.NextMatching(from, f)
	return x.Seq, ok, err
}

// Pending returns the number of live messages at or after from that f matches.
func (m *Machine) Pending(from uint64, f *Filter) (uint64, error) { return m.ix.CountMatching(from, f) }

// LastOf returns the newest live message of a literal subject.
func (m *Machine) LastOf(s string) (uint64, bool) {
	_, _, last, ok := m.ix.Find([]byte(s))
	return last, ok
}

// LastMatching returns the newest live message that filter matches.
func (m *Machine) LastMatching(filter string) (seq uint64, ok bool) {
	m.ix.Each(NewFilter(filter), func(_ []byte, _, last uint64) bool {
		seq, ok = max(seq, last), true
		return true
	})
	return seq, ok
}

// LastPerSubject returns, ascending, the newest live message at or before upTo of every subject
// that f matches.
func (m *Machine) LastPerSubject(f *Filter, upTo uint64) ([]uint64, error) {
	return m.ix.LastPerSubject(f, upTo)
}

// SubjectOf returns the subject of the live message seq.
func (m *Machine) SubjectOf(seq uint64) (string, bool, error) {
	x, ok, err := m.ix.Get(seq)
	if err != nil || !ok {
		return "", false, err
	}
	return m.ix.Name(x.Subject), true, nil
}

// TimeToSeq returns the first live message stored at or after t, or last+1.
func (m *Machine) TimeToSeq(t time.Time) (uint64, error) {
	x, ok, err := m.ix.AtTime(t.UnixNano())
	if err != nil || !ok {
		return m.last + 1, err
	}
	return x.Seq, nil
}

// State returns the counters as the API shows them. Deleted sequences are listed if details is set.
func (m *Machine) State(details bool) (api.StreamState, error) {
	s := api.StreamState{
		Msgs: m.ix.Count(), Bytes: m.bytes, FirstSeq: m.first, LastSeq: m.last,
		LastTime: timeOf(m.lastTime), NumSubjects: m.ix.Subjects(),
	}
	if m.last == 0 {
		s.FirstSeq = 0 // nothing was ever stored
	}
	var err error
	if s.FirstTime, _, err = m.Oldest(); err != nil {
		return s, err
	}
	if s.Msgs > 0 {
		s.NumDeleted = int(m.last - m.first + 1 - s.Msgs)
	}
	if details && s.NumDeleted > 0 {
		err = m.ix.Gaps(m.first, m.last, func(seq, n uint64) bool {
			for range n {
				s.Deleted = append(s.Deleted, seq)
				seq++
			}
			return true
		})
	}
	return s, err
}

// Subjects calls fn with every subject that filter matches and the number of its messages.
func (m *Machine) Subjects(filter string, fn func(name string, messages uint64)) {
	m.ix.Each(NewFilter(filter), func(name []byte, count, _ uint64) bool {
		fn(string(name), count)
		return true
	})
}

// Run returns the bytes of the live message seq and of those that follow it without a gap in the
// same entry, together at most limit bytes unless seq alone is larger.
func (m *Machine) Run(seq uint64, limit int) (Place, bool, error) {
	x, n, ok, err := m.ix.Run(seq, limit)
	return Place{Index: x.Index, Off: x.Off, Len: n}, ok, err
}

// Range is a part of an entry's data, in bytes.
type Range = index.Range

// Live calls yield for each entry of [lo, hi) that holds live messages, ascending, with where their
// records lie in its data, ascending and apart, until yield returns false. Nothing else of an entry that
// a stored state covers is needed. After an error all of the rest has to be kept.
//
// It is a query: a store that asks while the log goes on has to be kept from the machine meanwhile, and
// should ask for a small range at a time. A state that was just restored may still name
// messages that its log is going to remove again, whose bytes are gone.
func (m *Machine) Live(lo, hi uint64, yield func(index uint64, parts []Range) bool) error {
	return m.ix.Live(lo, hi, yield)
}

// LiveBytes returns about how many bytes Live would name, without reading anything.
func (m *Machine) LiveBytes(lo, hi uint64) int64 { return int64(m.ix.LiveBytes(lo, hi)) }
