package core

import (
	"errors"
	"math"
	"testing"
)

// fixedLog is a Log that returns what it was made of.
type fixedLog struct {
	first   uint64
	entries []Entry
	state   HardState
	err     error
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
func (l *fixedLog) Entries(_, lo, hi, maxBytes uint64) ([]Entry, error) {
	if maxBytes == math.MaxUint64 { // like a store with a bound of its own
		hi = min(hi, lo+2)
	}
	return l.entries[lo-l.first : hi-l.first], l.err
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
	v, err := newView(&Config{Log: l})
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
	if got := v.initial(); got != (HardState{2, 1, 9}) {
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
	if es, err := v.load(1, v.last+1, math.MaxUint64); err != nil || len(es) != len(l.entries) {
		t.Fatalf("%d entries without a bound (%v), want all %d", len(es), err, len(l.entries))
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
	if _, err := newView(&Config{Log: l}); !errors.Is(err, l.err) {
		t.Errorf("unreadable log at start: %v", err)
	}
}
