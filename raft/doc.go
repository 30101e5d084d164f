// Package raft runs any number of raft groups of one node on a few goroutines. It stores nothing
// and knows neither files nor connections: a LogStore keeps the logs, a Transport reaches the other nodes,
// a Machine applies the entries.
//
// In reading order:
//
//	raft/core      one group as a state machine; the only importer of etcd's raft
//	raft           Host, Group, Config; workers, proposals, messages, sleep, leases, snapshots
//	raft/rafttest  a LogStore in memory that completes writes when told, and can crash; networks
package raft
