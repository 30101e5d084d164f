// Package disk finds, formats, checks and mounts the disks of a box. It decides by what is on a
// disk, never by guess, and never writes to a disk that holds anything it does not know;
// system/boot calls it.
//
// Reading order:
//
//	decide.go    Decide: which disk becomes the data disk; pure
//	content.go   Classify: what is on a disk; pure
//	state.go     what is in the state partition; pure
//	ext4.go      the ext4 superblock; pure
//	gpt.go       the GUID partition table; pure
//	gptwrite.go  the table with a state partition, and writing it; pure
//	scan.go      the disks of this machine, from /sys
//	state_linux  the state partition: made, checked, grown, mounted; the EFI system partition
//	prepare.go   format, check, mount and grow the chosen disk
package disk
