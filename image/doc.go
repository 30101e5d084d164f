// Package image builds the bootable disk image of a board. It runs on the developer's machine
// without privileges: no root, no loop devices; tools/mkimage calls it.
//
// Reading order:
//
//	build.go      Build: the steps from packages and Go programs to the image
//	lock.go       the lock file that pins Debian packages
//	apt.go        taking the pinned packages with apt-get into a cache
//	deb.go        reading files out of a .deb
//	modules.go    which kernel modules go in; modules.dep and modules.alias
//	libs.go       which shared libraries the carried programs need
//	initramfs.go  the initramfs, with u-root's builder
//	uki.go        kernel, initramfs and command line as one EFI program
//	sign.go       signing it; package signature below has the format
//	manifest.go   the list of all that went in, an SPDX document
//	disk.go       the partition table and the EFI system partition
//	fat.go        a repair of what go-diskfs writes to FAT
//
// Package layout below names what is where on the disk.
package image
