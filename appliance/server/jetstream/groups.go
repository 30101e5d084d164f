package jetstream

import (
	"errors"
	"io"

	"millrace/appliance/server/jetstream/stream"
)

// Group is one replicated log. What is proposed comes back through the machine that the group was
// started with, in the order of the proposals, once a quorum has it on disk.
type Group interface {
	// Propose takes ownership of entry. It does not wait for I/O. It refuses when the group does
	// not lead or has too much in flight.
	Propose(entry []byte) error
	// ProposeControl is Propose for entries that give space back or keep things going: a full disk
	// has room for them when it has none for Propose.
	ProposeControl(entry []byte) error
	// Snapshot asks for a state of the machine, if that is a Snapshotter, although the log has not grown
	// enough for one: much of what is in it is not needed any more. It does not wait.
	Snapshot()
	// Stop ends the group; its machine is not called any more when it returns.
	Stop()
}

// Groups starts and removes the groups of this node.
type Groups interface {
	// Start gives the machine what the group has stored and returns when the group leads.
	Start(id uint64, m Machine) (Group, error)
	// List returns the groups that have a log.
	List() []uint64
	// Remove deletes the log of a stopped group, durably.
	Remove(id uint64) error
}

// Machine takes what a group has committed. It is called by one goroutine at a time.
type Machine interface {
	// Apply takes the entry at index and borrows data for the call.
	Apply(index uint64, data []byte)
}

// Snapshotter is a Machine whose group may take its state in place of the entries that led to it. The
// log is then read from the last state on after a restart. Entries before that stay readable as long as
// Live names them.
type Snapshotter interface {
	Machine
	// Snapshot captures the state after all entries applied so far, and returns quickly.
	Snapshot() (State, error)
	// Restore replaces the whole state by one that was written after the entry at index.
	Restore(index uint64, state io.Reader) error
	// Live calls yield with the parts that are needed of each entry of [lo, hi), until it returns
	// false. It is called by any goroutine. With an error it does not know all of them.
	Live(lo, hi uint64, yield func(index uint64, parts []stream.Range) bool) error
	// LiveBytes returns about how many bytes Live would name.
	LiveBytes(lo, hi uint64) int64
}

// State is a captured state of a machine, which is written out while the machine goes on.
type State interface {
	io.WriterTo
	// Objects returns the keys of the stored objects that the state refers to.
	Objects() []uint64
	// Release tells that the state is the stored one, durably, and that no older one is in use: what
	// only older ones refer to may be deleted.
	Release()
	// Abandon ends, in place of Release, a state that will never be that.
	Abandon()
}

// Entries reads back what groups have stored.
type Entries interface {
	// ReadAt fills p from byte off of the entry at index.
	ReadAt(group, index uint64, off int, p []byte) error
	// Place names the file and offset of an entry, for messages to people.
	Place(group, index uint64) string
}

// Log is where groups store their entries, and objects beside them.
type Log interface {
	Entries
	// Stat returns the size of an entry's data, in bytes, and the term it is of.
	Stat(group, index uint64) (term uint64, size uint32, err error)
	// Release tells that entries up to upTo are not needed any more, not even for a replay.
	Release(group, upTo uint64)

	// PutObject stores a blob under a key of the group's own. It is durable with the next entry that
	// is, or when done, if not nil, is called.
	PutObject(group, key uint64, data []byte, done func())
	// Object returns a blob, checked.
	Object(group, key uint64) ([]byte, error)
	// DeleteObjects deletes blobs; keys that hold none are ignored.
	DeleteObjects(group uint64, keys ...uint64)
	// ObjectKeys returns the keys of a group's blobs, sorted.
	ObjectKeys(group uint64) []uint64
}

// Errors of proposals.
var (
	// ErrStopped is returned when a stream or consumer is stopped or deleted.
	ErrStopped = errors.New("jetstream: stopped")
)

// applyFunc is a Machine without snapshots: its log begins, after a while, with an entry that stands for
// all before it.
type applyFunc func(index uint64, data []byte)

// Apply calls the function.
func (f applyFunc) Apply(index uint64, data []byte) { f(index, data) }
