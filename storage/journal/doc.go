// Package journal is the node's one append-only log: the entries and hard states of all raft
// groups, in fixed-size segments whose files are used again, with one write and one fdatasync for
// everything that queued while the last batch was synced. It does not know what an entry holds; package raft drives
// it through node.
//
// Start with Log in log.go, the bytes are in format.go, recovery is in recover.go, and the reasons
// are in storage/DESIGN.md.
package journal
