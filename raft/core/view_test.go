package core

import (
	"errors"
	"strings"
	"testing"
)

// fixedLog is a Log that returns what it was made of.
type fixedLog struct {
	first   uint64
	entries []Entry
	state   HardState
	err     error

	snapshot *SnapshotMeta
}

func (l *fixedLog) State(uint64) (HardState, bool) { return l.state, l.state != HardState{} }
func (l *fixedLog) Bounds(uint64) (first, last uint64) {
	return l.first, l.first + uint64(len(l.entries)) - 1
}
func (l *fixedLog) Term(_, index uint64) (uint64, error) {
	if index == l.first-1 {
		return 1, l.err
	}
	return l.entries[index-l.first].Term, l.err
}
func (l *fixedLog) Entries(_, lo, hi, _ uint64) ([]Entry, error) {
	return l.entries[lo-l.first : hi-l.first], l.err
}

func (l *fixedLog) Snapshot(uint64) (SnapshotMeta, bool) {
	if l.snapshot == nil {
		return SnapshotMeta{}, false
	}
	return *l.snapshot, true
}

func entries(first uint64, terms ...uint64) []Entry {
	var es []Entry
	for i, term := range terms {
		es = append(es, Entry{Index: first + uint64(i), Term: term})
	}
	return es
}

func mustView(t *testing.T, l *fixedLog) view {
	t.Helper()
	v, _, err := newView(&Config{Log: l})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestViewKnowsWhatIsDurable(t *testing.T) {
	v := mustView(t, &fixedLog{first: 1})
	check := func(last, stable uint64) {
		t.Helper()
		if v.last != last || v.stable != stable {
			t.Fatalf("last %d, stable %d; want %d, %d", v.last, v.stable, last, stable)
		}
	}
	v.wrote(entries(1, 1, 1, 1, 1, 1)) // 1..5
	v.wrote(nil)
	check(5, 0)
	v.wrote(entries(3, 2, 2)) // replaces 3..5 by 3..4
	check(4, 0)
	v.persisted(1)
	check(4, 2) // 3 and 4 of the first write are gone, the new ones are not durable
	v.persisted(1)
	check(4, 2)
	v.persisted(1)
	check(4, 4)
	v.wrote(entries(2, 3)) // replaces what is durable
	check(2, 1)
	v.persisted(1)
	check(2, 2)
}

func TestViewWritesStateWhenNeeded(t *testing.T) {
	v := mustView(t, &fixedLog{first: 1})
	v.wrote(entries(1, make([]uint64, 2*commitLag)...))
	if got := v.state(HardState{Term: 1, Vote: 2, Commit: 9}, 1); got == nil ||
		*got != (HardState{Term: 1, Vote: 2}) {
		t.Fatalf("new term: %v, want it, with no commit index before anything is durable", got)
	}
	v.persisted(1)
	if got := v.state(HardState{Term: 1, Vote: 2, Commit: 2 * commitLag}, 0); got != nil {
		t.Fatalf("commit index alone: %v, want no write", got)
	}
	if got := v.state(HardState{Term: 1, Vote: 2, Commit: commitLag - 1}, 1); got != nil {
		t.Fatalf("commit index a little ahead: %v, want none", got)
	}
	if got := v.state(HardState{Term: 1, Vote: 2, Commit: commitLag}, 1); got == nil ||
		got.Commit != commitLag {
		t.Fatalf("commit index far ahead: %v, want commit %d", got, commitLag)
	}
	if got := v.state(HardState{Term: 2, Commit: commitLag}, 0); got == nil {
		t.Fatal("new term without entries: want a write")
	}
}

func TestViewStartsAfterCompaction(t *testing.T) {
	v := mustView(t, &fixedLog{first: 10, entries: entries(10, 2, 2), state: HardState{2, 1, 4}})
	if got := v.initial(9); got != (HardState{2, 1, 9}) {
		t.Fatalf("initial state %v, want what was compacted to be committed", got)
	}
	v = mustView(t, &fixedLog{first: 10})
	if v.last != 9 || v.lastTerm != 1 {
		t.Fatalf("last %d of term %d, want 9 of term 1", v.last, v.lastTerm)
	}
}

func TestViewLoads(t *testing.T) {
	l := &fixedLog{first: 1, entries: entries(1, make([]uint64, 3*maxLoadEntries)...)}
	v := mustView(t, l)
	if es, err := v.load(1, v.last+1, 1<<40); err != nil || len(es) != maxLoadEntries {
		t.Fatalf("%d entries (%v), want %d", len(es), err, maxLoadEntries)
	}
	l.entries[5].Index = 77
	if _, err := v.load(1, 10, 100); err == nil ||
		err.Error() != "read entries [1, 10): the log returned index 77 in place of 6" {
		t.Errorf("entry of another index: %v", err)
	}
	l.err = errors.New("bad sector")
	if _, err := v.load(1, 10, 100); !errors.Is(err, l.err) {
		t.Errorf("unreadable log: %v", err)
	}
	if _, _, err := newView(&Config{Log: l}); !errors.Is(err, l.err) {
		t.Errorf("unreadable log at start: %v", err)
	}
}

// The commit index is stored with other writes, when it has moved far or the data is much, and by
// itself once a membership change was applied.
func TestViewStoresCommitOfBytesAndChanges(t *testing.T) {
	v := mustView(t, &fixedLog{first: 1})
	v.state(HardState{Term: 1}, 0)
	es := entries(1, 1, 1, 1, 1)
	v.wrote(es)
	v.persisted(1)
	if got := v.state(HardState{Term: 1, Commit: 3}, 1); got != nil {
		t.Fatalf("a little data: %v, want no write", got)
	}
	more := entries(5, 1)
	more[0].Data = make([]byte, commitLagBytes)
	v.wrote(more)
	if got := v.state(HardState{Term: 1, Commit: 3}, 0); got != nil {
		t.Fatalf("nothing else to write: %v, want no write", got)
	}
	if got := v.state(HardState{Term: 1, Commit: 3}, 1); got == nil || got.Commit != 3 {
		t.Fatalf("much data: %v, want commit 3", got)
	}
	v.change = 5
	if got := v.state(HardState{Term: 1, Commit: 5}, 0); got != nil || v.owes() {
		t.Fatalf("a change that is not durable: %v, want no write", got)
	}
	v.persisted(1)
	if !v.owes() {
		t.Fatal("a durable change is applied, and its commit index not stored")
	}
	if got := v.state(HardState{Term: 1, Commit: 5}, 0); got == nil || got.Commit != 5 || v.owes() {
		t.Fatalf("a durable change: %v, want commit 5", got)
	}
	if v.commit != 0 {
		t.Fatalf("commit %d is said to be durable before it is", v.commit)
	}
	v.wrote(nil)
	v.persisted(1)
	if v.commit != 5 {
		t.Fatalf("commit %d is said to be durable, want 5", v.commit)
	}
}

func TestViewKnowsWhichChangesAreCommitted(t *testing.T) {
	for _, test := range []struct {
		changes []uint64
		want    uint64
	}{
		{nil, 3}, {[]uint64{9}, 3}, {[]uint64{5, 9}, 5}, {[]uint64{1, 9}, 3}, {[]uint64{4, 5, 12}, 5},
	} {
		l := &fixedLog{first: 1, entries: entries(1, make([]uint64, 12)...), state: HardState{Term: 1, Commit: 3}}
		for i := range l.entries {
			l.entries[i].Term = 1
		}
		for _, index := range test.changes {
			l.entries[index-1].Type = EntryConfChangeV2
		}
		_, s, err := newView(&Config{Log: l})
		if err != nil || s.state.Commit != test.want {
			t.Errorf("changes %v: committed up to %d (%v), want %d", test.changes, s.state.Commit, err, test.want)
		}
	}
}

func TestViewStartsFromSnapshot(t *testing.T) {
	members := Membership{Voters: []uint64{1, 2}, Learners: []uint64{5}}
	log := func(meta SnapshotMeta) *fixedLog {
		return &fixedLog{first: 10, entries: entries(10, 2, 2, 3), state: HardState{3, 1, 9}, snapshot: &meta}
	}
	v, s, err := newView(&Config{Log: log(SnapshotMeta{Index: 11, Term: 2, Members: members})})
	if err != nil || s.void != nil || s.applied != 11 || s.state.Commit != 11 || v.last != 12 ||
		len(s.members.Learners) != 1 {
		t.Errorf("snapshot within the log: %+v (%v)", s, err)
	}
	v, s, err = newView(&Config{Log: log(SnapshotMeta{Index: 11, Term: 3, Members: members})})
	if err != nil || s.void == nil || s.applied != 11 || s.state.Commit != 11 || v.first != 12 || v.last != 11 {
		t.Errorf("snapshot of another term: %+v (%v), first %d, last %d", s, err, v.first, v.last)
	}
	v, s, err = newView(&Config{Log: log(SnapshotMeta{Index: 40, Term: 3, Members: members})})
	if err != nil || s.void == nil || v.first != 41 || v.last != 40 || v.lastTerm != 3 {
		t.Errorf("snapshot behind the log: %+v (%v), first %d, last %d", s, err, v.first, v.last)
	}
	for want, meta := range map[string]SnapshotMeta{
		"stored snapshot of entry 0 of term 3":                 {Term: 3, Members: members},
		"stored snapshot of entry 8, the log begins at 10":     {Index: 8, Term: 1, Members: members},
		"stored snapshot of entry 11: no voters":               {Index: 11, Term: 2},
		"stored snapshot of entry 40: voters [2 1] are not so": {Index: 40, Term: 3, Members: Membership{Voters: []uint64{2, 1}}},
	} {
		if _, _, err := newView(&Config{Log: log(meta)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("snapshot %+v: %v, want %q", meta, err, want)
		}
	}
}

// What is kept to be sent again is bounded, is not memory of what is not kept, and goes when it is not needed any more.
func TestViewKeepsWhatIsSentAgain(t *testing.T) {
	log := &fixedLog{first: 1, entries: entries(1, 1, 1, 1, 1, 1, 1)}
	for i := range log.entries {
		log.entries[i].Data = make([]byte, againBytes/3)
	}
	v := mustView(t, log)
	read := func(lo, hi, maxBytes uint64, want int) []Entry {
		t.Helper()
		got, err := v.resend(lo, hi, maxBytes)
		if err != nil || len(got) != want || got[0].Index != lo || got[want-1].Index != lo+uint64(want)-1 {
			t.Fatalf("resend of [%d, %d) returned %d entries, %v; want %d", lo, hi, len(got), err, want)
		}
		return got
	}
	read(2, 7, 1<<20, 5)
	read(3, 7, 1<<20, 4)
	if v.again != nil {
		t.Fatal("what was read once is kept")
	}
	read(3, 7, 1<<20, 4)
	got := read(3, 7, 1<<20, 3) // it is kept now, as far as there is room
	if &got[0].Data[0] == &log.entries[2].Data[0] {
		t.Error("what is kept shares memory with what is not")
	}
	read(4, 5, 1<<20, 1)
	read(3, 7, 0, 1)
	read(2, 7, 1<<20, 5)
	v.heard(&Message{Type: MsgAppResp, Index: 4})
	v.heard(&Message{Type: MsgAppResp, Index: 5, Reject: true})
	v.heard(&Message{Type: MsgHeartbeatResp, Index: 5})
	for range againTicks {
		v.tick()
	}
	if len(v.again) != 3 {
		t.Fatalf("%d entries are kept, want 3", len(v.again))
	}
	gone := func(why string) {
		t.Helper()
		if v.again != nil {
			t.Errorf("%s: %d entries are kept", why, len(v.again))
		}
		v.asked = 0
		read(3, 7, 1<<20, 4)
		read(3, 7, 1<<20, 4)
		read(3, 7, 1<<20, 3)
	}
	v.tick()
	gone("it was not used for long")
	v.heard(&Message{Type: MsgAppResp, Index: 5})
	gone("it arrived")
	v.wrote(entries(6, 2))
	v.persisted(1)
	gone("the log is another one behind it")
	v.reset(&SnapshotMeta{Index: 1, Term: 1})
	gone("the log is void")
	log.entries[2].Data = make([]byte, againBytes+1)
	v.again = nil
	read(3, 7, 1<<20, 4)
	read(3, 7, 1<<20, 4)
	if v.again != nil {
		t.Error("an entry is kept that is too large")
	}
}
