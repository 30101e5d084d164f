package core

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

const (
	// commitLag and commitLagBytes are how many entries, and about how many bytes of them, the stored
	// commit index may stay behind. A stale one costs little: a restart reads what is after it twice
	// (see settled), and applies it after the election instead of before it. A fresh one costs a
	// record for every batch.
	commitLag      = 256
	commitLagBytes = 256 << 10

	// maxLoadEntries bounds one read from the log by number, as bytes do not bound tiny entries.
	maxLoadEntries = 4096

	// scanBytes bounds one read of the log when it is searched for membership changes.
	scanBytes = 1 << 20

	// againBytes is how much of what is sent again and again is kept in memory, for so many ticks without use.
	againBytes = 64 << 10
	againTicks = 32
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
	inflight []pending // the writes that are not durable, oldest first
	synced   bool      // a write of this core is durable, and with it what the log held at the start
	written  HardState // the last state handed to storage
	commit   uint64    // the commit index that is known to be durable
	change   uint64    // index of the newest membership change that was applied
	bytes    uint64    // of the entries handed to storage since written
	wanted   bool      // a snapshot was asked for and there was none
	settle   uint64    // the stored commit index is to be at least this, as soon as it can

	// A replica that is slow to answer is sent the same again with each heartbeat, and there is one with each read that no
	// lease covers. So what was asked for twice in a row is kept.
	asked uint64 // the first entry that was read last for another replica
	again []Entry
	idle  int // ticks since again was used

	damaged uint64 // an entry that was needed and could not be read, 0: none
	damage  error  // why
	// blind is the last of the entries among which there may be a membership change that was not read,
	// because of damage: until all are applied this replica calls no election.
	blind uint64
}

// pending is what becomes true when a write is durable.
type pending struct {
	last   uint64 // entries up to here are
	commit uint64 // the stored commit index
}

// start is what a core starts from beside the view.
type start struct {
	state   HardState
	members Membership // in effect after the entry applied
	applied uint64     // what the stored snapshot covers, or what was before the log's first entry
	// void, if not nil, is the stored snapshot, which the stored entries do not lead to: they are to
	// be voided before anything is written.
	void *SnapshotMeta
}

// newView reads what a group's log says at the start of a core.
func newView(cfg *Config) (view, start, error) {
	v := view{log: cfg.Log, group: cfg.Group}
	v.first, v.last = cfg.Log.Bounds(cfg.Group)
	v.first = max(v.first, 1)
	if v.last+1 < v.first {
		v.last = v.first - 1
	}
	v.written, _ = cfg.Log.State(cfg.Group)
	s := start{
		members: cfg.members(),
		applied: v.first - 1,
	}
	if meta, ok := cfg.Log.Snapshot(cfg.Group); ok {
		void, err := v.voidBy(meta)
		if err != nil {
			return view{}, start{}, err
		}
		s.members, s.applied = meta.Members, meta.Index
		if void {
			s.void = &meta
			v.first, v.last, v.lastTerm = meta.Index+1, meta.Index, meta.Term
		}
	}
	if v.written.Commit > v.last {
		return view{}, start{}, fmt.Errorf("stored commit index %d is beyond the log's last index %d",
			v.written.Commit, v.last)
	}
	var err error
	if v.lastTerm, err = v.term(v.last); err != nil {
		return view{}, start{}, err
	}
	v.stable = v.written.Commit // the rest may be on its way to the disk since before a Stop
	s.state = v.initial(s.applied)
	if s.state.Commit, err = v.settled(s.state.Commit); err != nil {
		return view{}, start{}, err
	}
	if v.blind > 0 && len(s.members.Voters) <= 1 && len(s.members.Outgoing) == 0 {
		return view{}, start{}, v.damage // nobody else can say what stood there
	}
	v.repaired()
	return v, s, nil
}

// voidBy reports whether the stored entries do not lead to a stored snapshot. It was received from a
// leader then, and a torn write kept it and lost the end of the entries that it replaces.
func (v *view) voidBy(meta SnapshotMeta) (bool, error) {
	switch {
	case meta.Index == 0 || meta.Term == 0:
		return false, fmt.Errorf("stored snapshot of entry %d of term %d", meta.Index, meta.Term)
	case meta.Index+1 < v.first:
		return false, fmt.Errorf("stored snapshot of entry %d, the log begins at %d", meta.Index, v.first)
	}
	if err := meta.Members.check(); err != nil {
		return false, fmt.Errorf("stored snapshot of entry %d: %w", meta.Index, err)
	}
	if meta.Index > v.last {
		return true, nil
	}
	term, err := v.term(meta.Index)
	return term != meta.Term, err
}

// initial returns the hard state to start from, where everything up to applied is committed.
func (v *view) initial(applied uint64) HardState {
	hs := v.written
	if hs.Term < v.lastTerm {
		// A torn write kept entries of a new term and lost the state. Had this replica voted in
		// that term, an earlier write would say so.
		hs.Term, hs.Vote = v.lastTerm, 0
	}
	if hs.Term > 0 {
		hs.Commit = max(hs.Commit, applied)
	}
	return hs
}

// settled returns up to where the log is committed, given that it is up to commit. A membership
// change is proposed by a leader that applied all earlier ones, so every change in the log but the last
// is committed. A replica must know that before it campaigns: with a membership that is two changes old
// its quorum would not overlap with that of the present one. See DESIGN.md.
func (v *view) settled(commit uint64) (uint64, error) {
	newest := uint64(0)
	for lo := commit + 1; lo <= v.last; {
		entries, err := v.load(lo, v.last+1, scanBytes)
		if errors.Is(err, ErrDamaged) {
			v.blind = v.last
			lo++
			continue
		}
		if err != nil {
			return 0, err
		}
		for i := range entries {
			if entries[i].Type == EntryNormal {
				continue
			}
			if newest != 0 {
				commit = newest
			}
			newest = entries[i].Index
		}
		lo += uint64(len(entries))
	}
	return commit, nil
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

// load reads entries of [lo, hi), at least one, and no more than fit in maxBytes of data. When one of them is
// damaged it reads the first alone, and notes the damage if that is the one.
func (v *view) load(lo, hi, maxBytes uint64) ([]Entry, error) {
	hi = min(hi, lo+maxLoadEntries)
	entries, err := v.log.Entries(v.group, lo, hi, maxBytes)
	if errors.Is(err, ErrDamaged) && hi > lo+1 {
		hi = lo + 1
		entries, err = v.log.Entries(v.group, lo, hi, maxBytes)
	}
	if errors.Is(err, ErrDamaged) {
		v.damaged, v.damage = lo, err
	}
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

// resend reads entries for another replica, as load does.
func (v *view) resend(lo, hi, maxBytes uint64) ([]Entry, error) {
	if n := uint64(len(v.again)); n > 0 && lo-v.again[0].Index < n {
		v.idle = 0
		entries := v.again[lo-v.again[0].Index:]
		return fitting(entries[:min(hi-lo, uint64(len(entries)))], maxBytes, dataOf), nil
	}
	entries, err := v.load(lo, hi, maxBytes)
	if err == nil && lo == v.asked {
		v.keep(entries)
	}
	v.asked = lo
	return entries, err
}

// fitting returns the first of some entries, at least one, with up to so many bytes of data together.
func fitting[E any](entries []E, maxBytes uint64, data func(e *E) []byte) []E {
	size := uint64(0)
	for i := range entries {
		if size += uint64(len(data(&entries[i]))); size > maxBytes && i > 0 {
			return entries[:i]
		}
	}
	return entries
}

func dataOf(e *Entry) []byte { return e.Data }

// keep keeps the first of some entries for resend.
func (v *view) keep(entries []Entry) {
	v.idle = 0
	v.again = slices.Clone(fitting(entries, againBytes, dataOf))
	if len(v.again[0].Data) > againBytes {
		v.again = nil
	} else if len(v.again) < len(entries) { // they may share memory with the others
		for i := range v.again {
			v.again[i].Data = bytes.Clone(v.again[i].Data)
		}
	}
}

// tick passes one unit of a leader's time.
func (v *view) tick() {
	if v.idle++; v.idle > againTicks {
		v.again = nil
	}
}

// heard takes an answer of another replica.
func (v *view) heard(m *Message) {
	if n := len(v.again); n > 0 && m.Type == MsgAppResp && !m.Reject && m.Index >= v.again[n-1].Index {
		v.again = nil
	}
}

// state returns the hard state to write together with that many entries, nil for none.
func (v *view) state(hs HardState, entries int) *HardState {
	hs.Commit = v.storable(hs.Commit)
	late := hs.Commit >= v.written.Commit+commitLag ||
		hs.Commit > v.written.Commit && v.bytes >= commitLagBytes
	if hs.Term == v.written.Term && hs.Vote == v.written.Vote && (entries == 0 || !late) && !v.owes() {
		return nil
	}
	return v.rewrite(hs)
}

// owes reports whether the commit index is to be written because of a membership change. When the
// replicas that left are gone, those that stay must still know that the change is committed: they might
// not win an election without knowing.
func (v *view) owes() bool {
	if v.settle > v.written.Commit && (v.settle <= v.stable || !v.synced && len(v.inflight) == 0) {
		return true // without a write it is not known what is durable
	}
	return v.change > v.written.Commit && v.change <= v.stable
}

// repaired forgets the damage.
func (v *view) repaired() { v.damaged, v.damage = 0, nil }

// sees reports whether a replica that has applied everything up to an entry may call an election.
func (v *view) sees(applied uint64) bool { return v.damaged == 0 && applied >= v.blind }

// storable returns how much of a commit index may be written. A write that is torn may keep the state
// and lose the entries, so the commit index of a write covers only what earlier ones made durable.
// What it covers then exists at a restart.
func (v *view) storable(commit uint64) uint64 {
	return max(min(commit, v.stable), v.written.Commit)
}

// rewrite returns the hard state to write, whether it changed or not.
func (v *view) rewrite(hs HardState) *HardState {
	hs.Commit = v.storable(hs.Commit)
	v.written, v.bytes = hs, 0
	if v.synced {
		v.settle = 0 // more is not known to be committed
	}
	return &hs
}

// wrote notes that a write with these entries was handed to storage.
func (v *view) wrote(entries []Entry) {
	if len(entries) > 0 {
		if from := entries[0].Index; from <= v.last {
			// The suffix is replaced: earlier writes make durable what they keep only.
			v.stable = min(v.stable, from-1)
			v.again = nil
			v.blind = min(v.blind, from-1)
			if v.damaged >= from {
				v.repaired()
			}
			for i := range v.inflight {
				v.inflight[i].last = min(v.inflight[i].last, from-1)
			}
		}
		v.last, v.lastTerm = entries[len(entries)-1].Index, entries[len(entries)-1].Term
		for i := range entries {
			v.bytes += uint64(len(entries[i].Data))
		}
	}
	v.inflight = append(v.inflight, pending{v.last, v.written.Commit})
}

// reset notes that the log is void and goes on after a snapshot, by the write that wrote is told of
// next.
func (v *view) reset(meta *SnapshotMeta) {
	v.first, v.last, v.lastTerm = meta.Index+1, meta.Index, meta.Term
	v.blind = 0
	v.again = nil
	v.repaired()
	v.stable = v.written.Commit // what is known to be committed is in the snapshot, too
	for i := range v.inflight {
		v.inflight[i].last = 0
	}
}

// persisted notes that the n oldest writes are durable.
func (v *view) persisted(n int) {
	if n > len(v.inflight) {
		panic(fmt.Sprintf("BUG: %d writes are durable, %d were handed out", n, len(v.inflight)))
	}
	for _, p := range v.inflight[:n] {
		v.stable, v.commit = max(v.stable, p.last), p.commit
	}
	v.inflight = v.inflight[:copy(v.inflight, v.inflight[n:])]
	v.synced = v.synced || n > 0
}

// compacted notes that the log's first index has moved, and reports whether it has.
func (v *view) compacted() bool {
	first, _ := v.log.Bounds(v.group)
	if first <= v.first {
		return false
	}
	v.first = first
	if v.damaged < first {
		v.repaired()
	}
	return true
}

// snapshot returns the newest stored snapshot for a replica that lacks entries before the first one. It
// has to know all present members: one that it does not know would refuse it.
func (v *view) snapshot(members *Membership) (SnapshotMeta, bool) {
	meta, ok := v.log.Snapshot(v.group)
	for _, ids := range members.sets() {
		for _, id := range ids {
			ok = ok && (meta.Members.votes(id) || slices.Contains(meta.Members.Learners, id))
		}
	}
	v.wanted = !ok
	return meta, ok
}
