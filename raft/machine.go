package raft

import "io"

// Machine is what a group's log is for. Its methods are called by one goroutine at a time, the
// group's worker or who stands in for it, without locks of this package held. They may call Propose. They
// must not wait for the disk, nor call Remove, Close, or Stop of their own group.
type Machine interface {
	// Apply applies a committed entry: one that was proposed, here or by another leader, and is
	// durable on a quorum. It is called for each such entry in the order of the log, first for those in
	// the stored log after the snapshot that Restore was given, then as entries commit. Indexes grow,
	// with gaps where raft has its own entries. The data must not be changed, and is valid during the
	// call only.
	Apply(index uint64, data []byte)

	// Lead tells about leadership of this replica. When ready is true, every entry of earlier terms
	// was applied, and Propose takes proposals for this term. When ready is false, leadership
	// of that term, which was announced as ready, is lost: what was proposed and not applied may
	// yet be applied or never.
	//
	// A machine that proposes with Group.ProposeIn, in the term it was told last, never has a proposal in
	// the log that was made for an earlier term.
	Lead(term uint64, ready bool)
}

// Snapshotter is a Machine whose log can be cut: its state can be taken and given back. A group of
// several replicas needs one, or its log is kept whole.
type Snapshotter interface {
	Machine

	// Snapshot captures the state after all entries applied so far, and returns quickly. The returned
	// State is written out later, by another goroutine, while Apply goes on.
	Snapshot() (State, error)

	// Restore replaces the whole state by one that was written out after entry index. It is called
	// before the first Apply, and again when this replica has fallen so far behind that the leader
	// sends a state in place of entries. It may read from the disk while other groups go on. The
	// objects that the state refers to stay in use until the first State that was captured after it is
	// released.
	Restore(index uint64, state io.Reader) error
}

// State is a captured state of a machine.
type State interface {
	// WriteTo writes the state; equal states give equal bytes on every replica.
	io.WriterTo
	// Objects returns the keys of the store's objects that the state refers to, below MachineObjects.
	// They must not be deleted or replaced before a later state is released. They are sent to other replicas together
	// with the state, so a key names the same bytes on every replica for ever: it is best taken from
	// the index of an entry. A replica that has an object under a key does not ask for it again.
	Objects() []uint64
	// Release is called once when the state is the stored one, durably, and no older one is in use any
	// more: what only older ones refer to may be deleted. It is not called when the group stops.
	Release()
	// Abandon is called in place of Release when the state will never be the only one: it has not
	// become the stored one, or a later one has while an older one was still in use.
	Abandon()
}
