// Package update replaces the version of a box: it takes an image, checks it, puts it beside the
// running one, and after the next start either makes it the good one or leaves it to the boot loader to
// go back. system/box asks for it, system/boot runs it.
//
// A version is one file in the folder EFI/Linux of the EFI system partition. The boot loader starts the
// newest version that has tries left and counts them down in the file's name
// (systemd's "Automatic Boot Assessment"), so that going back needs nothing of ours to run.
//
// Reading order:
//
//	slot.go     file names, and what they say; pure
//	slots.go    Tidy, Install, Bless: changes of the folder, safe at every power cut; pure over Dir
//	image.go    what an image says of itself; pure
//	upload.go   images on their way to the box
//	record.go   what became of the last update
//	dir.go      the folder on a mounted FAT
package update
