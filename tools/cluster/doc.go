// Package cluster runs a cluster of real server processes on this machine and hurts it: kills, pauses,
// wipes, cut and slow links, full disks. Tests, benchmarks and "make dev" use it; it checks no content,
// which package workload does.
//
// The program of a node is millraced or a stock nats-server: both take the same files. Without a Network
// the nodes are on loopback ports; with one each node has a network namespace of its own with an address
// of its own, between which a switch in this process carries packets, and can be told not to.
//
//	process.go   one process: start, kill, pause, stop
//	cluster.go   the nodes of a cluster and their configuration files
//	health.go    when a cluster is whole again
//	network*.go  namespaces and the switch
//	disk*.go     a store that can be full
package cluster
