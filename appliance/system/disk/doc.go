// Package disk finds, formats, checks and mounts the disks of a box. It decides by what is on a
// disk, never by guess, and never writes to a disk that holds anything it does not know;
// system/boot calls it.
//
// Reading order:
//
//	decide.go    Decide: which disk becomes the data disk; pure
//	content.go   Classify: what is on a disk; pure
//	ext4.go      the ext4 superblock; pure
//	gpt.go       the GUID partition table; pure
//	scan.go      the disks of this machine, from /sys
//	prepare.go   format, check and mount the chosen disk
package disk
