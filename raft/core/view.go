package core

import (
	"fmt"
	"math"
)

const (
	// commitLag is how many entries the stored commit index may stay behind. A stale one costs
	// nothing but the order of things at a restart (the rest is applied after the election instead
	// of before it), a fresh one costs a record for every batch.
	commitLag = 256

	// maxLoadEntries bounds one read from the log by number, as bytes do not bound tiny entries.
	maxLoadEntries = 4096
)

// view is a core's knowledge of its group's stored log. As the core makes every write, it knows the
// bounds and which part is durable without asking.
type view struct {
	log   Log
	group uint64

	first    uint64    // index of the first stored entry
	last     uint64    // index of the last entry handed to storage
	lastTerm uint64    // its term
	stable   uint64    // every entry up to here is known to be durable
	inflight []uint64  // for each write that is not durable, oldest first: stable once it is
	written  HardState // the last state handed to storage
}

func newView(cfg *Config) (view, error) {
	v := view{log: cfg.Log, group: cfg.Group}
	v.first, v.last = cfg.Log.Bounds(cfg.Group)
	v.first = max(v.first, 1)
	if v.last+1 < v.first {
		v.last = v.first - 1
	}
	var err error
	if v.lastTerm, err = v.term(v.last); err != nil {
		return view{}, err
	}
	v.written, _ = cfg.Log.State(cfg.Group)
	v.stable = v.written.Commit // the rest may be on its way to the disk since before a Stop
	if v.written.Commit > v.last {
		return view{}, fmt.Errorf("stored commit index %d is beyond the log's last index %d",
			v.written.Commit, v.last)
	}
	return v, nil
}

// initial returns the hard state to start from.
func (v *view) initial() HardState {
	hs := v.written
	if hs.Term < v.lastTerm {
		// A torn write kept entries of a new term and lost the state. Had this replica voted in
		// that term, an earlier write would say so.
		hs.Term, hs.Vote = v.lastTerm, 0
	}
	if hs.Term > 0 {
		hs.Commit = max(hs.Commit, v.first-1) // what was compacted away is committed
	}
	return hs
}

// term returns the term of an index between first-1 and last.
func (v *view) term(index uint64) (uint64, error) {
	switch {
	case index == 0:
		return 0, nil
	case index == v.last && v.lastTerm != 0:
		return v.lastTerm, nil
	}
	term, err := v.log.Term(v.group, index)
	if err != nil {
		return 0, fmt.Errorf("term of entry %d: %w", index, err)
	}
	return term, nil
}

// load reads entries of [lo, hi), at least one. Without a byte bound it reads them all: the caller
// (the library, looking for membership changes) needs that.
func (v *view) load(lo, hi, maxBytes uint64) ([]Entry, error) {
	if maxBytes < math.MaxUint64 {
		hi = min(hi, lo+maxLoadEntries)
		return v.read(lo, hi, maxBytes)
	}
	var all []Entry
	for lo < hi {
		entries, err := v.read(lo, hi, maxBytes)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
		lo += uint64(len(entries))
	}
	return all, nil
}

func (v *view) read(lo, hi, maxBytes uint64) ([]Entry, error) {
	entries, err := v.log.Entries(v.group, lo, hi, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("read entries [%d, %d): %w", lo, hi, err)
	}
	if len(entries) == 0 || uint64(len(entries)) > hi-lo {
		return nil, fmt.Errorf("read entries [%d, %d): the log returned %d", lo, hi, len(entries))
	}
	for i := range entries {
		if entries[i].Index != lo+uint64(i) {
			return nil, fmt.Errorf("read entries [%d, %d): the log returned index %d in place of %d",
				lo, hi, entries[i].Index, lo+uint64(i))
		}
	}
	return entries, nil
}

// state returns the hard state to write together with that many entries, nil for none.
func (v *view) state(hs HardState, entries int) *HardState {
	// A write that is torn may keep the state and lose the entries, so the commit index of a write
	// covers only what earlier ones made durable. What it covers then exists at a restart.
	hs.Commit = max(min(hs.Commit, v.stable), v.written.Commit)
	if hs.Term == v.written.Term && hs.Vote == v.written.Vote &&
		(entries == 0 || hs.Commit < v.written.Commit+commitLag) {
		return nil
	}
	v.written = hs
	return &hs
}

// wrote notes that a write with these entries was handed to storage.
func (v *view) wrote(entries []Entry) {
	if len(entries) > 0 {
		if from := entries[0].Index; from <= v.last {
			// The suffix is replaced: earlier writes make durable what they keep only.
			v.stable = min(v.stable, from-1)
			for i := range v.inflight {
				v.inflight[i] = min(v.inflight[i], from-1)
			}
		}
		v.last, v.lastTerm = entries[len(entries)-1].Index, entries[len(entries)-1].Term
	}
	v.inflight = append(v.inflight, v.last)
}

// persisted notes that the n oldest writes are durable.
func (v *view) persisted(n int) {
	if n > len(v.inflight) {
		panic(fmt.Sprintf("BUG: %d writes are durable, %d were handed out", n, len(v.inflight)))
	}
	for _, last := range v.inflight[:n] {
		v.stable = max(v.stable, last)
	}
	v.inflight = v.inflight[:copy(v.inflight, v.inflight[n:])]
}
