// Package core is one raft group as a state machine without I/O: plain types, and the only file
// that imports etcd's raft. It does not store, send or time anything; package raft drives it.
//
// core_etcd37.go runs on go.etcd.io/raft/v3. core_etcd35.go (build tag etcdraft35) runs on that
// library's former home, go.etcd.io/etcd/raft/v3. The contract tests of this package hold for both.
package core

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// Kinds of entries, as raft stores them in [Entry.Type].
const (
	EntryNormal       uint8 = 0 // a proposal, or the empty entry that opens a leader's term
	EntryConfChange   uint8 = 1 // a membership change of one replica; never written by this package
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

// Membership says who belongs to a group, by replica id, each list sorted (raft dissertation, section
// 4.3). Outgoing and LearnersNext are empty outside of a joint change.
type Membership struct {
	Voters       []uint64
	Learners     []uint64 // receive the log, count in no quorum
	Outgoing     []uint64 // voters of the configuration that a joint change leaves
	LearnersNext []uint64 // voters in Outgoing that become learners
	AutoLeave    bool     // the leader ends the joint change by itself
}

// Change is a membership change: all of it happens at once, through a joint configuration when it is
// more than one step. A replica named in Voters is added as a voter or promoted, one in Learners is
// added as a learner or demoted, one in Remove leaves.
type Change struct {
	Voters, Learners, Remove []uint64
}

// SnapshotMeta says which state a snapshot holds: that after entry Index, of term Term, with the
// membership of then. What the state is and where it lies is the business of package raft.
type SnapshotMeta struct {
	Index, Term uint64
	Members     Membership
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
	// The caller does not change what it gets. ErrDamaged is wrapped when what is stored of one of them is
	// not what was written.
	Entries(group, lo, hi, maxBytes uint64) ([]Entry, error)
	// Snapshot returns what the group's newest stored snapshot holds; false when it has none. Its
	// index is at least that of the entry before the first one, unless that is entry 0.
	Snapshot(group uint64) (SnapshotMeta, bool)
}

// Config describes one replica of one group. All fields but Learners are required.
type Config struct {
	Group   uint64 // names the log
	Replica uint64 // id of this replica, not 0, never used before in this group
	// Voters and Learners are the members with which the group's log began, the same for all its
	// replicas for ever. A stored snapshot's members take their place.
	Voters, Learners []uint64
	Log              Log          // the stored log
	MaxApplyBytes    uint64       // bound of the data in one Ready.Committed
	ElectionTicks    int          // without word of a leader, until an election; at least 3 times HeartbeatTicks
	HeartbeatTicks   int          // between heartbeats of a leader
	Logger           *slog.Logger // the library's messages; its routine ones come at debug level
}

func (c *Config) validate() error {
	switch {
	case !validReplica(c.Replica):
		return fmt.Errorf("replica id %d is not valid", c.Replica)
	case c.Log == nil || c.Logger == nil:
		return errors.New("log and logger are required")
	case c.MaxApplyBytes == 0:
		return errors.New("apply bound of 0 bytes")
	case c.HeartbeatTicks <= 0 || c.ElectionTicks < 3*c.HeartbeatTicks:
		return fmt.Errorf("%d election ticks with a heartbeat each %d ticks", c.ElectionTicks, c.HeartbeatTicks)
	}
	members := c.members()
	return members.check()
}

// members returns the membership with which the group's log began.
func (c *Config) members() Membership {
	return Membership{
		Voters: slices.Sorted(slices.Values(c.Voters)), Learners: slices.Sorted(slices.Values(c.Learners)),
	}
}

// Role is what a replica is in its group.
type Role uint8

// The roles.
const (
	Follower Role = iota
	PreCandidate
	Candidate
	Leader
)

// Ready is work that a Core hands out. The fields are to be handled in their order.
type Ready struct {
	Term uint64 // the current term
	Lead uint64 // replica that leads the group in it, 0: unknown
	Role Role   // of this replica

	// Messages go to their To, now. They rest on nothing that is not durable. The slice and those of
	// their entries are reused by the next Ready, the data is not.
	Messages []Message

	// Append is to be written durably; nothing to write when it is empty. Writes are made in the order
	// in which they were handed out, and each is answered by Persisted.
	Append Append

	// Committed entries are to be applied in order, then Applied is called. A quorum has them on disk;
	// this replica's own disk need not be among it. The slice is reused by the next Ready, the data is
	// not.
	Committed []Entry

	// Reads are the reads that may be served once the entry at their Index is applied.
	Reads []Read

	entries []Entry // room for the entries of Messages
}

// Reset empties a Ready, so that it holds on to nothing, and keeps its room for the next one.
func (rd *Ready) Reset() {
	clear(rd.Messages)
	clear(rd.Committed)
	clear(rd.entries)
	*rd = Ready{
		Messages: rd.Messages[:0], Committed: rd.Committed[:0],
		Reads: rd.Reads[:0], entries: rd.entries[:0],
	}
}

// outstanding reports whether there is work to do.
func (rd *Ready) outstanding() bool {
	return len(rd.Messages) > 0 || !rd.Append.Empty() || len(rd.Committed) > 0 || len(rd.Reads) > 0
}

// told is what a Ready tells without there being work.
type told struct {
	term, lead uint64
	role       Role
}

// Read answers ReadIndex.
type Read struct {
	ID    uint64
	Index uint64
}

// Append is one write to the group's stored log.
type Append struct {
	// Snapshot, when not nil, was received in a MsgSnap: the log is void and goes on after its Index.
	// The state that it names is stored already; the machine is to be restored from it before anything
	// of this or later Readies is applied.
	Snapshot *SnapshotMeta
	Entries  []Entry    // the first index is at most last+1; a smaller one replaces the suffix
	State    *HardState // nil: unchanged; its Commit never covers an entry that is not durable yet
}

// Empty reports whether there is nothing to write.
func (a *Append) Empty() bool { return a.Snapshot == nil && len(a.Entries) == 0 && a.State == nil }

// Progress is what a leader knows of another replica.
type Progress struct {
	Replica  uint64
	Match    uint64 // highest entry that it has on disk
	Commit   uint64 // commit index that it has on disk; it reports it late
	Learner  bool
	Active   bool   // it was heard of lately
	Snapshot uint64 // index of the snapshot that it is being sent, 0: none
}

// Status is a replica's view of its group.
type Status struct {
	Term, Lead   uint64
	Role         Role
	Commit       uint64 // highest entry known to be committed
	Applied      uint64 // highest entry that was applied
	Last         uint64 // highest entry of the log
	Durable      uint64 // highest entry known to be on this replica's disk
	Stored       uint64 // commit index known to be on this replica's disk
	Members      Membership
	Damaged      uint64     // an entry that is needed and cannot be read, 0: none
	Transferring uint64     // replica that leadership is being moved to
	Progress     []Progress // of all other replicas by id, when this replica leads
	// SnapshotWanted tells that a replica needs a snapshot that there is none for: it lacks entries
	// that the log does not have any more, and there is no stored snapshot that knows all members.
	SnapshotWanted bool
}

// sort puts what comes from maps in order.
func (s *Status) sort() {
	slices.SortFunc(s.Progress, func(a, b Progress) int { return cmp.Compare(a.Replica, b.Replica) })
}

// The bounds of what a leader sends to one replica that has not answered yet.
const (
	// maxMessageBytes bounds the data of a MsgApp, except that one entry always fits and that entries
	// just proposed are not counted: a message may have these in addition.
	maxMessageBytes = 1 << 20
	// maxInflightMessages and maxInflightBytes bound the MsgApps. Entries just proposed count 0 bytes.
	maxInflightMessages = 256
	maxInflightBytes    = 16 << 20
)

// Core is one replica of a raft group. It is not safe for concurrent use. A call that breaks an
// invariant of the library panics; the replica is then unusable, others are not touched.
type Core interface {
	// Tick tells that one unit of time has passed. A Core that is not ticked does nothing of itself.
	Tick()
	// Campaign starts an election, by a pre-vote round first. Entries that are known to be committed
	// are to be applied before. ErrDamaged: this replica cannot read what it would have to.
	Campaign() error
	// ForgetLeader makes a follower doubt its leader, so that it grants pre-votes at once.
	ForgetLeader()
	// TransferLeader makes the leader hand over to another voter once that has the whole log.
	TransferLeader(to uint64)
	// Step takes a message from another replica. Messages of earlier terms, from strangers and for
	// others are ignored. A MsgSnap is stepped once its state is stored durably.
	Step(m *Message) error
	// Propose appends one entry for each element of data to the leader's log and takes ownership of
	// data. Ready is called next, before any other method. ErrDropped: this replica does not lead, or
	// is handing over.
	Propose(data [][]byte) error
	// ProposeChange appends a membership change. ErrDropped; ErrChanging when one is under way.
	ProposeChange(c Change) error
	// ReadIndex asks for the index up to which a read with that id, unique for the life of the
	// process, has to be applied to be linearizable (raft dissertation, section 6.4). The answer comes
	// in Ready.Reads, or never when leadership is lost. ErrDropped: this replica does not lead or has
	// not committed an entry of its term.
	ReadIndex(id uint64) error
	// Ready fills rd with the outstanding work and reports whether there is any. rd's slices are
	// reused. When a Core has nothing outstanding, the Ready after Propose commits nothing.
	Ready(rd *Ready) bool
	// Persisted tells that the n oldest unanswered writes are durable.
	Persisted(n int)
	// Applied tells that the Committed entries of the last Ready were applied. Membership changes
	// among them take effect by this call.
	Applied()
	// Unreachable tells that messages to a replica were lost.
	Unreachable(replica uint64)
	// SnapshotSent tells how sending the state of a MsgSnap to a replica ended.
	SnapshotSent(replica uint64, ok bool)
	// Compacted tells that the stored log's first index has moved.
	Compacted()
	// Damage returns an entry of the log that was needed and that the log answered ErrDamaged for, and its
	// error; 0: there is none. It is neither applied nor sent, nor is what comes after it, and the replica
	// calls no election.
	Damage() (index uint64, err error)
	// Repaired tells that Damage may be read by now: it is forgotten until it is needed again.
	Repaired()
	// Settle has the stored commit index written, as far as it is known, up to an entry at least.
	Settle(index uint64)
	// Status returns the present state.
	Status() Status
}

var (
	// ErrDropped is returned when a replica that does not lead its group is asked to.
	ErrDropped = errors.New("core: proposal dropped")
	// ErrDamaged is wrapped by the error of a Log for what is stored and cannot be trusted. Another replica
	// may have it.
	ErrDamaged = errors.New("core: a stored entry is damaged")
	// ErrChanging is returned by ProposeChange while an earlier change is not applied or is joint.
	ErrChanging = errors.New("core: a membership change is under way")
)

func wrapNew(group uint64, err error) error {
	return fmt.Errorf("group %d: %w", group, err)
}
