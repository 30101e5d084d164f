// Package board describes the machines Millrace images are built for. It holds data only: package
// image builds from a Board and tools/qemu runs one.
//
// Reading order:
//
//	board.go       the Board struct and All
//	qemuamd64.go   QEMU's q35 machine on amd64, and every amd64 cloud with virtio devices
//	qemuamd64/     its packages.lock: the pinned Debian packages
package board
