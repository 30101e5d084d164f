// Package board describes the machines Millrace images are built for. It holds data only: package
// image builds from a Board and tools/qemu runs one.
//
// Reading order:
//
//	board.go       the Board struct and All
//	debian.go      what all boards take from Debian, and what differs by architecture only
//	qemuamd64.go   QEMU's q35 machine on amd64, and every amd64 cloud with virtio devices
//	pcamd64.go     amd64 servers with UEFI
//	qemuarm64.go   QEMU's virt machine on arm64, and arm64 clouds with virtio devices
//	sbsaarm64.go   arm64 servers with UEFI
//
// The folder of each board holds its packages.lock: the pinned Debian packages. A new board is one file
// like those, a line in All, and a lock file that `mkimage -refresh-lock` writes.
package board
