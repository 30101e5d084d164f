package raft

// Machine is what a group's log is for. Its methods are called by one goroutine at a time, the
// group's worker, without locks of this package held. They may call Propose. They must not wait for
// the disk, nor call Remove, Close, or Stop of their own group.
type Machine interface {
	// Apply applies a committed entry: one that was proposed, here or by an earlier leader, and is
	// durable. It is called for each such entry in the order of the log, first for those in the
	// stored log from its first index on, then as entries commit. Indexes grow, with gaps where
	// raft has its own entries. The data must not be changed, and is valid during the call only.
	Apply(index uint64, data []byte)

	// Lead tells about leadership of this replica. When ready is true, every entry of earlier terms
	// was applied, and Propose takes proposals for this term. When ready is false, leadership
	// of that term, which was announced as ready, is lost: what was proposed and not applied may
	// yet be applied or never.
	//
	// A machine that encodes and proposes under one lock, and takes the lock here, never has a
	// proposal in the log that was made for an earlier term.
	Lead(term uint64, ready bool)
}
