// Package disk is a disk for QEMU whose write cache can lose its content, which the power cut of an emulator
// alone cannot: what a guest has handed to a file survives in this machine's page cache, flushed or not.
//
// A Disk keeps what was written and not flushed apart from what is durable. Cut is the power cut: by a seed it
// keeps, drops and tears the writes in the cache. Serve offers the disk by the network block device protocol, which the
// emulator speaks ("-drive file.driver=nbd").
//
// Reading order:
//
//	disk.go    Disk: read, write, flush, and what a cut leaves
//	server.go  Server: a Disk on a unix socket
//	proto.go   numbers of the protocol, the handshake
package disk
