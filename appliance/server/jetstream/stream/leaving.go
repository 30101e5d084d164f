package stream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// Leaving is what an entry on its way will take out of the stream, of what has a sequence before it.
type Leaving struct {
	Purge  *Purge
	Remove *Remove
	// Any tells that it may take anything, as a configuration with lower limits may.
	Any bool

	last uint64 // given out before it
}

// takes reports whether the newest message of subj, which may be a filter, may be taken. When in doubt it is.
func (l *Leaving) takes(subj []byte, seq uint64) bool {
	switch {
	case seq > l.last:
		return false
	case l.Any:
		return true
	case l.Purge != nil:
		p := l.Purge
		if p.Seq > 0 && seq >= p.Seq {
			return false
		}
		return p.Filter == "" || !subject.IsLiteral(string(subj)) || NewFilter(p.Filter).Matches(string(subj))
	case l.Remove != nil:
		return seq <= l.Remove.Upto || slices.Contains(l.Remove.Seqs, seq)
	}
	return false
}

// Leave tells of an entry that goes to the group behind all batches that were taken; the open one comes after it.
func (a *Admission) Leave(l Leaving) {
	l.last = a.lastSeq
	a.leaving = append(a.leaving, l)
}

// Left tells that the machine has applied the oldest entry of Leave.
func (a *Admission) Left() {
	a.leaving[0] = Leaving{}
	a.leaving = a.leaving[1:]
}

// Stay tells that the group has refused the newest entry of Leave.
func (a *Admission) Stay() { a.leaving = a.leaving[:len(a.leaving)-1] }

// undecided reports whether seq, the newest message of subj, may be gone when a message that is given the next
// sequence is applied: because an entry takes it that is on its way, or the limits make room for messages that are.
func (a *Admission) undecided(subj []byte, seq uint64) bool {
	if seq == 0 {
		return false
	}
	if slices.ContainsFunc(a.leaving, func(l Leaving) bool { return l.takes(subj, seq) }) {
		return true
	}
	n := a.crowdedOut()
	if n == 0 {
		return false
	}
	if seq > a.m.last {
		return a.m.ix.Count()+(seq-a.m.last-1) < n
	}
	from, err := a.m.ix.CountFrom(seq)
	return err != nil || a.m.ix.Count()-from < n
}

// crowdedOut returns how many of the oldest messages the limits may take for those that are in flight, at most.
func (a *Admission) crowdedOut() (n uint64) {
	cfg := &a.m.cfg
	if cfg.Discard == api.DiscardNew || a.messages == 0 {
		return 0
	}
	if most := cfg.MaxMsgs; most > 0 {
		if have := a.m.ix.Count() + a.messages; have > uint64(most) {
			n = have - uint64(most)
		}
	}
	if most := cfg.MaxBytes; most > 0 {
		if have := a.m.bytes + a.bytes; have > uint64(most) {
			least := accounted(cfg.Storage, 1, false)
			n = max(n, (have-uint64(most)+least-1)/least)
		}
	}
	return n
}

// rolledUp returns the newest message in flight that removes all before it; 0 if there is none.
func (a *Admission) rolledUp() uint64 {
	seq := a.open.rollup
	for i := range a.inflight {
		seq = max(seq, a.inflight[i].rollup)
	}
	return seq
}
