//go:build etcdraft35

package core_test

// leaderDiskCounts says that a commit waits for the leader's own disk, see etcd35.
const leaderDiskCounts = true
