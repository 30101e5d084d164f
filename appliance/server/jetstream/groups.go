package jetstream

import (
	"context"
	"errors"
	"io"

	"millrace/appliance/server/jetstream/stream"
)

// Group is this node's replica of a replicated log. What its leader proposes comes back through the
// machines of all replicas, in the order of the proposals, once a quorum has it on disk.
type Group interface {
	// Propose takes ownership of entry. It does not wait for I/O. It refuses when this replica does not
	// lead in that term, which Machine.Lead has told, or has too much in flight.
	Propose(term uint64, entry []byte) error
	// ProposeControl is Propose for entries that give space back or keep things going: a full disk
	// has room for them when it has none for Propose.
	ProposeControl(term uint64, entry []byte) error
	// LeaseRead calls done when the machine has everything in it that was applied anywhere in the group
	// before the call, mostly before it returns; with an error when it may not.
	LeaseRead(done func(error))
	// Leader returns the replica that leads as far as this one knows, 0 for none, and the term.
	Leader() (replica, term uint64)
	// Status returns this replica's view of the group.
	Status(ctx context.Context) (GroupStatus, error)
	// Campaign lets this replica call an election now.
	Campaign()
	// TransferLeader hands leadership to another voter.
	TransferLeader(replica uint64)
	// ChangeMembers changes who belongs to the group; the leader does it. done is called when the change is
	// complete or refused.
	ChangeMembers(c Change, done func(error))
	// Snapshot asks for a state of the machine, if that is a Snapshotter, although the log has not grown
	// enough for one: much of what is in it is not needed any more. It does not wait.
	Snapshot()
	// Stop ends the replica; its machine is not called any more when it returns.
	Stop()
}

// GroupSpec says which group to run and which replica of it.
type GroupSpec struct {
	ID      uint64   // of the group, on all nodes
	Log     uint64   // of this node's replica: names its log and objects
	Replica uint64   // of this node
	Began   []uint64 // voters with which the group's log began
}

// Change is a change of members, all of it at once: new voters or learners that become voters, new
// learners, and those who leave.
type Change struct{ Voters, Learners, Remove []uint64 }

// GroupStatus is a replica's view of its group.
type GroupStatus struct {
	Term, Lead       uint64
	Commit, Applied  uint64 // indexes
	Damaged          uint64 // an entry that is needed and cannot be read here, 0: none
	Voters, Learners []uint64
	Outgoing         []uint64          // voters that a change under way leaves
	Transferring     uint64            // who is to lead
	Progress         []ReplicaProgress // of all other replicas, at the leader
}

// ReplicaProgress is what a leader knows of another replica.
type ReplicaProgress struct {
	Replica uint64
	Match   uint64 // highest entry that it has on disk
	Active  bool   // it was heard of lately
}

// Groups starts and removes the replicas of this node.
type Groups interface {
	// Start begins to give the machine what the log has stored and what the group commits. It does not wait.
	Start(spec GroupSpec, m Machine) (Group, error)
	// Await waits until done is closed, and gives up when the log has failed or has no room.
	Await(done <-chan struct{}) error
	// Logs returns the replicas that have a log, by GroupSpec.Log.
	Logs() []uint64
	// Remove stops a replica and deletes its log, whose number is not used again. It does not wait for the disk: when
	// the process ends before, Logs has it after the restart.
	Remove(spec GroupSpec) error
}

// Errors of groups.
var (
	// ErrNotLeader is wrapped by the refusal of a proposal, or read, because this replica does not lead (in
	// that term): nothing was proposed.
	ErrNotLeader = errors.New("jetstream: not the leader of the group")
	// ErrFull is wrapped by the refusal of a proposal because the disk of this node is full.
	ErrFull = errors.New("jetstream: the disk is full")
	// ErrStopped is returned when a stream or consumer is stopped or deleted.
	ErrStopped = errors.New("jetstream: stopped")
)

// Machine takes what a group has committed. It is called by one goroutine at a time, which must not wait.
type Machine interface {
	// Apply takes the entry at index and borrows data for the call.
	Apply(index uint64, data []byte)
	// Lead tells that this replica leads in a term, has applied everything of earlier ones and may propose,
	// or, with false, that it leads in that term no more: what was proposed and not applied may yet be
	// applied, or never.
	Lead(term uint64, ready bool)
	// Failed tells that the replica has stopped because its log cannot be read or its entries are lost.
	Failed(err error)
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
