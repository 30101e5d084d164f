package raft

import "millrace/raft/core"

// Entry is one entry of a group's log.
type Entry = core.Entry

// HardState is what a replica remembers over a restart beside its log.
type HardState = core.HardState

// SnapshotMeta says which state a snapshot holds.
type SnapshotMeta = core.SnapshotMeta

// Snapshot is a stored state of a group's machine: what it holds, and the objects that make it up.
type Snapshot struct {
	SnapshotMeta
	Objects  uint64 // key of the first of them; the others have the keys after it
	Count    int
	Bytes    int64  // of all of them together
	Checksum uint32 // CRC-32C of their bytes, one after the other
}

// Range is a part of an entry's data, in bytes.
type Range struct{ Off, Len uint32 }

// Write is one write to the log of one group. It has at least one of its parts. What is in one Write
// becomes durable together, unless it is too large for the store: then in the order of the fields.
type Write struct {
	Group uint64

	// Snapshot replaces the group's stored snapshot; its objects were put before. The log stays.
	Snapshot *Snapshot

	// Reset voids all entries: the log goes on after entry Snapshot.Index. What was installed below that stays, and
	// the entries up to Keep do, as after Compact.
	Reset bool
	Keep  uint64

	// Entries continue the log: the first index is at most last+1, and a smaller one voids the
	// stored suffix from there on. The store owns the slice; the data must not change.
	Entries []Entry

	// State replaces the hard state; nil leaves it.
	State *HardState

	// Done is called once, when this write and all before it are durable, never otherwise. Calls
	// for one group come in the order of its writes, one after the other. Done does not block; it
	// may be called from within Append.
	Done func()
}

// LogStore keeps the logs of all groups of a node; the node's journal is one. The methods are
// called by several goroutines at once; those that write are called for one group by one at a time.
// What was handed to a store is visible to the reading methods at once. After a failed write the
// store calls Done no more.
//
// Groups are named by the log of their replica here; see GroupSpec.Log.
//
// What is stored and cannot be trusted is an error that wraps ErrDamaged.
//
// A store that is a SnapshotStore too can serve groups of several replicas and machines that are
// Snapshotters. One that is not serves groups of this node alone, whose machines cut their logs by
// themselves.
type LogStore interface {
	// Log is what reading a group's log takes: State, Bounds, Term, Entries and Snapshot.
	core.Log

	// Append takes over a write. It does not wait for the disk.
	Append(w Write)

	// Drop deletes a group's log, objects and snapshot, and calls done once that is durable. No write
	// to the group follows. It does not wait for the disk.
	Drop(group uint64, done func())
}

// SnapshotStore is a LogStore that keeps snapshots, and the data that outlives its entry, too.
type SnapshotStore interface {
	LogStore

	// Compact moves the first index of a group's log to upTo+1, at most behind its last entry. What
	// the entries before it hold stays readable by ReadAt as long as the group's Retainer names it.
	Compact(group, upTo uint64)

	// ReadAt fills p with an entry's data from byte off on. It serves entries before the log's first
	// index, too.
	ReadAt(group, index uint64, off int, p []byte) error

	// Stat returns the term and the size of the data of an entry that ReadAt serves parts of.
	Stat(group, index uint64) (term uint64, size uint32, err error)

	// Install stores parts of the data of an entry that lies at or before the group's (coming) first
	// index: data holds the bytes of ranges, one after the other; size is that of the whole entry.
	// Install owns data from now on. done, which may be nil, is called as Write.Done is.
	Install(group, index, term uint64, size uint32, ranges []Range, data []byte, done func())

	// Repair stores a committed entry of the log once more, in place of one that is damaged: it is read from there when
	// that is durable. It does nothing unless the log has the entry with that term and the last hard state says that
	// it is committed. done, which may be nil, is called as Write.Done is.
	Repair(group uint64, e Entry, done func())

	// PutObject stores a blob under a key of the group's own, in place of one that is there. It is
	// durable when a later Write of the group is, or when done, if not nil, is called.
	PutObject(group, key uint64, data []byte, done func())

	// Object returns a blob, checked against its checksum.
	Object(group, key uint64) ([]byte, error)

	// DeleteObjects deletes blobs; keys that hold none are ignored.
	DeleteObjects(group uint64, keys ...uint64)

	// ObjectKeys returns the keys of a group's blobs, sorted.
	ObjectKeys(group uint64) []uint64

	// StoredSnapshot returns a group's newest snapshot with its objects; false when it has none.
	StoredSnapshot(group uint64) (Snapshot, bool)

	// Retain tells who knows what is still needed of the entries before a group's first index. Until
	// it is called for a group, all of that is kept; so it is again with nil.
	Retain(group uint64, r Retainer)
}

// BulkStore is a SnapshotStore with a way of its own to read much: the function that Bulk returns is ReadAt for a group, to be
// called for ascending entries, and by one caller at a time.
type BulkStore interface {
	Bulk(group uint64) func(index uint64, off int, p []byte) error
}

// Retainer tells what of the entries before a group's first index is still needed. A Machine may be
// one. It is called at any time, by several goroutines, and does not block for long. What it does not name, of an entry
// that the machine has applied, it must not name later either, at this replica or another one.
type Retainer interface {
	// Live calls yield for each entry of [lo, hi) with needed bytes, ascending, with the parts of its
	// data that are needed, ascending and apart, until yield returns false. With an error it does not
	// know all of them: then all is kept.
	Live(lo, hi uint64, yield func(index uint64, parts []Range) bool) error
	// LiveBytes returns about how many bytes Live would name.
	LiveBytes(lo, hi uint64) int64
}

// MachineObjects is the first object key that is not for machines: those from here on are the host's.
const MachineObjects uint64 = 1 << 62
