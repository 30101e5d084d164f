// Package storage is the durable half of Millrace. It holds no code of its own. Read its packages
// in this order:
//
//	vfs          the file system below: the real one, and a simulated one that loses what was not synced
//	journal      the node's one append-only log of all raft groups: segments, group commit, recovery
//	index        where a stream's messages lie in its group's log, by sequence, subject and time
//	catalog      bbolt: the node's identity and the manifest of segment files
//	storagetest  conformance and crash tests that every store has to pass
//
// The reasons are in DESIGN.md.
package storage
