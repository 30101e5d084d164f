// Package core is one raft group as a state machine without I/O: plain types, and the only file
// that imports etcd's raft. It does not store, send or time anything; package raft drives it.
//
// core_etcd37.go runs on go.etcd.io/raft/v3. core_etcd35.go (build tag etcdraft35) runs on that
// library's former home, go.etcd.io/etcd/raft/v3. The contract tests of this package hold for both.
package core

import (
	"errors"
	"fmt"
	"log/slog"
)

// Kinds of entries, as raft stores them in [Entry.Type].
const (
	EntryNormal       uint8 = 0 // a proposal, or the empty entry that opens a leader's term
	EntryConfChange   uint8 = 1 // a membership change of one replica
	EntryConfChangeV2 uint8 = 2 // a membership change through joint consensus
)

// Entry is one entry of a group's log. Data is never changed after it was handed on.
type Entry struct {
	Index uint64
	Term  uint64
	Type  uint8
	Data  []byte
}

// HardState is what a replica must remember over a restart. Commit may be stale: it is only a hint
// how much of the log can be applied before an election.
type HardState struct {
	Term   uint64
	Vote   uint64
	Commit uint64
}

// Log is the stored log of all groups as a Core reads it. It is called by whoever runs the Core,
// for several groups at once. Everything that was handed to storage is visible, durable or not.
type Log interface {
	// State returns the last stored hard state; false when the group has none.
	State(group uint64) (HardState, bool)
	// Bounds returns the first and last index of the log; last is below first when it is empty.
	Bounds(group uint64) (first, last uint64)
	// Term returns the term of an entry within the bounds or just before the first one.
	Term(group, index uint64) (uint64, error)
	// Entries returns entries of [lo, hi), at least one, and no more than fit in maxBytes of data.
	// The caller does not change what it gets.
	Entries(group, lo, hi, maxBytes uint64) ([]Entry, error)
}

// Config describes one replica of one group. All fields are required.
type Config struct {
	Group         uint64       // group id, names the log
	Replica       uint64       // id of this replica, not 0
	Voters        []uint64     // ids of the group's voters when its log begins
	Log           Log          // the stored log
	MaxApplyBytes uint64       // bound of the data in one Ready.Committed
	Logger        *slog.Logger // the library's messages; its routine ones come at debug level
}

func (c *Config) validate() error {
	switch {
	case c.Replica == 0:
		return errors.New("replica id 0 is not valid")
	case len(c.Voters) == 0:
		return errors.New("no voters")
	case c.Log == nil || c.Logger == nil:
		return errors.New("log and logger are required")
	case c.MaxApplyBytes == 0:
		return errors.New("apply bound of 0 bytes")
	}
	return nil
}

// Ready is work that a Core hands out. The fields are to be handled in their order.
type Ready struct {
	// Term is the current term; Leads tells whether this replica leads the group in it.
	Term  uint64
	Leads bool

	// Append is to be written durably; nothing to write when both its fields are empty. Writes are
	// made in the order in which they were handed out, and each is answered by Persisted.
	Append Append

	// Committed entries are to be applied in order, then Applied is called. They are durable on a
	// quorum, this replica included. The slice is reused by the next Ready, the data is not.
	Committed []Entry
}

// Append is one write to the group's stored log.
type Append struct {
	Entries []Entry    // the first index is at most last+1; a smaller one replaces the suffix
	State   *HardState // nil: unchanged; its Commit never covers an entry that is not durable yet
}

// Empty reports whether there is nothing to write.
func (a *Append) Empty() bool { return len(a.Entries) == 0 && a.State == nil }

// Core is one replica of a raft group. It is not safe for concurrent use. A call that breaks an
// invariant of the library panics; the replica is then unusable, others are not touched.
type Core interface {
	// Campaign starts an election. Committed entries are to be applied first.
	Campaign() error
	// Propose appends one entry for each element of data to the leader's log and takes ownership of
	// data. Ready is called next, before any other method.
	Propose(data [][]byte) error
	// Ready fills rd with the outstanding work and reports whether there is any. rd.Committed is
	// reused. When a Core has nothing outstanding, the Ready after Propose commits nothing.
	Ready(rd *Ready) bool
	// Persisted tells that the n oldest unanswered writes are durable.
	Persisted(n int)
	// Applied tells that the Committed entries of the last Ready were applied.
	Applied()
}

// ErrDropped is returned by Propose when the replica does not lead its group.
var ErrDropped = errors.New("core: proposal dropped")

func wrapNew(group uint64, err error) error {
	return fmt.Errorf("group %d: %w", group, err)
}
