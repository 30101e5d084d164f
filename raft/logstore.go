package raft

import "millrace/raft/core"

// Entry is one entry of a group's log.
type Entry = core.Entry

// HardState is what a replica remembers over a restart beside its log.
type HardState = core.HardState

// Write is one write to the log of one group. It has entries, a state or both.
type Write struct {
	Group uint64

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
// called by several goroutines at once, for one group by one at a time. What was handed to Append
// is visible to the reading methods at once. After a failed write the store calls Done no more.
type LogStore interface {
	// Log is what reading a group's log takes: State, Bounds, Term and Entries.
	core.Log

	// Append takes over a write. It does not wait for the disk.
	Append(w Write)

	// Drop deletes a group's log and calls done once the deletion is durable. No write to the group
	// follows. It does not wait for the disk.
	Drop(group uint64, done func())
}
