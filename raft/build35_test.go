//go:build etcdraft35

package raft_test

const (
	commitsWithoutOwnDisk = false
	waitsForRepair        = false
)
