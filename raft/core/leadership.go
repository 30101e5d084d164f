package core

import "fmt"

// leadership is what a core notes of the term that it leads.
type leadership struct {
	term       uint64 // 0: it never led
	opens      uint64 // index of the entry that opened the term
	lastChange uint64 // no membership change may be proposed before this entry is applied

	commits map[uint64]uint64 // by replica: the commit index on its disk, in whatever term it said so
}

// appended notes what a leader of a term appends.
func (l *leadership) appended(entries []Entry, term uint64) {
	for i := range entries {
		e := &entries[i]
		if e.Term != term {
			continue
		}
		if l.term != term {
			// There may be a change among the entries of earlier terms.
			l.term, l.opens, l.lastChange = term, e.Index, e.Index-1
		}
		if e.Type != EntryNormal {
			l.lastChange = e.Index
		}
	}
}

// heard notes what another replica says of itself.
func (l *leadership) heard(m *Message) {
	if m.Commit <= l.commits[m.From] || m.Term != l.term {
		return
	}
	if l.commits == nil {
		l.commits = make(map[uint64]uint64)
	}
	l.commits[m.From] = m.Commit
}

// open reports whether an entry of the term is committed, which is then the present one.
func (l *leadership) open(term, commit uint64) bool { return l.term == term && commit >= l.opens }

// free reports whether a membership change may be proposed.
func (l *leadership) free(term, applied uint64) bool {
	return l.term == term && applied >= l.lastChange
}

// check returns an error for an answer to a leader that no replica gives.
func (l *leadership) check(m *Message, last uint64) error {
	if m.Type == MsgAppResp && !m.Reject && m.Term == l.term && m.Index > last {
		return fmt.Errorf("%s from replica %d: it has entry %d, the last one is %d",
			m.Type, m.From, m.Index, last)
	}
	return nil
}
