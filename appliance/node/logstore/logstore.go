// Package logstore shows the node's journal to the raft host: the two know the same facts by types of
// their own.
package logstore

import (
	"errors"
	"fmt"

	"millrace/raft"
	"millrace/raft/core"
	"millrace/storage/journal"
)

// Store is a journal as a raft.SnapshotStore. What the two call alike goes straight to the journal.
type Store struct{ *journal.Log }

var (
	_ raft.SnapshotStore = Store{}
	_ raft.BulkStore     = Store{}
)

// Append hands a write of the host to the journal; payloads are not copied.
func (s Store) Append(w raft.Write) {
	out := journal.Write{
		Group: w.Group, Reset: w.Reset, Keep: w.Keep, State: (*journal.HardState)(w.State), Done: w.Done,
	}
	if w.Snapshot != nil {
		out.Snapshot = &journal.Snapshot{
			Index: w.Snapshot.Index, Term: w.Snapshot.Term, Members: w.Snapshot.Members.Append(nil),
			Objects: w.Snapshot.Objects, Count: w.Snapshot.Count,
			Bytes: w.Snapshot.Bytes, Checksum: w.Snapshot.Checksum,
		}
	}
	if len(w.Entries) > 0 {
		out.Entries = make([]journal.Entry, len(w.Entries))
		for i, e := range w.Entries {
			out.Entries[i] = journal.Entry(e)
		}
	}
	s.Log.Append(out)
}

// State returns the last hard state of a group.
func (s Store) State(group uint64) (raft.HardState, bool) {
	state, ok := s.Log.State(group)
	return raft.HardState(state), ok
}

// Entries returns entries of [lo, hi).
func (s Store) Entries(group, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	in, err := s.Log.Entries(group, lo, hi, maxBytes)
	if err != nil {
		return nil, damaged(err)
	}
	out := make([]raft.Entry, len(in))
	for i, e := range in {
		out[i] = raft.Entry(e)
	}
	return out, nil
}

// ReadAt fills p with a part of an entry.
func (s Store) ReadAt(group, index uint64, off int, p []byte) error {
	return damaged(s.Log.ReadAt(group, index, off, p))
}

// Bulk returns what reads the entries of a group one after the other.
func (s Store) Bulk(group uint64) func(index uint64, off int, p []byte) error {
	bulk := s.Log.Bulk(group)
	return func(index uint64, off int, p []byte) error { return damaged(bulk.ReadAt(index, off, p)) }
}

// Stat returns the term and size of an entry.
func (s Store) Stat(group, index uint64) (term uint64, size uint32, err error) {
	term, size, err = s.Log.Stat(group, index)
	return term, size, damaged(err)
}

// Object returns a blob.
func (s Store) Object(group, key uint64) ([]byte, error) {
	data, err := s.Log.Object(group, key)
	return data, damaged(err)
}

// Repair stores a committed entry once more.
func (s Store) Repair(group uint64, e raft.Entry, done func()) {
	s.Log.Repair(group, journal.Entry(e), done)
}

// damaged gives the error for what was not written so the name that the host knows.
func damaged(err error) error {
	if errors.As(err, new(*journal.CorruptError)) {
		return fmt.Errorf("%w: %w", raft.ErrDamaged, err)
	}
	return err
}

// Snapshot returns what the newest snapshot of a group holds.
func (s Store) Snapshot(group uint64) (raft.SnapshotMeta, bool) {
	snapshot, ok := s.StoredSnapshot(group)
	return snapshot.SnapshotMeta, ok
}

// StoredSnapshot returns the newest snapshot of a group. The journal has checked its bytes: members
// that cannot be decoded were not encoded by Append.
func (s Store) StoredSnapshot(group uint64) (raft.Snapshot, bool) {
	in, ok := s.Log.StoredSnapshot(group)
	if !ok {
		return raft.Snapshot{}, false
	}
	members, rest, err := core.DecodeMembership(in.Members)
	if err != nil || len(rest) > 0 {
		panic(fmt.Sprintf("BUG: group %d: members of the snapshot at %d: %v, %d bytes too many",
			group, in.Index, err, len(rest)))
	}
	return raft.Snapshot{
		SnapshotMeta: raft.SnapshotMeta{Index: in.Index, Term: in.Term, Members: members},
		Objects:      in.Objects, Count: in.Count, Bytes: in.Bytes, Checksum: in.Checksum,
	}, true
}

// Install stores parts of an entry below the log's first index.
func (s Store) Install(group, index, term uint64, size uint32, ranges []raft.Range, data []byte, done func()) {
	s.Log.Install(group, index, term, size, journalRanges(nil, ranges), data, done)
}

// Retain tells the journal who knows what of a group's compacted entries is needed.
func (s Store) Retain(group uint64, r raft.Retainer) {
	if r == nil {
		s.Log.Retain(group, nil)
		return
	}
	s.Log.Retain(group, retainer{r})
}

// retainer is a raft.Retainer as the journal sees it.
type retainer struct{ raft.Retainer }

// Live calls yield for each entry with needed bytes.
func (r retainer) Live(lo, hi uint64, yield func(index uint64, parts []journal.Range) bool) error {
	var buf []journal.Range
	return r.Retainer.Live(lo, hi, func(index uint64, parts []raft.Range) bool {
		buf = journalRanges(buf[:0], parts)
		return yield(index, buf)
	})
}

func journalRanges(to []journal.Range, from []raft.Range) []journal.Range {
	for _, r := range from {
		to = append(to, journal.Range(r))
	}
	return to
}
