//go:build !etcdraft35

package raft_test

const (
	commitsWithoutOwnDisk = true
	waitsForRepair        = true // with what it has to apply; else the replica fails
)
