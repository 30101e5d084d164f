//go:build !etcdraft35

package raft_test

const commitsWithoutOwnDisk = true
