// Package layout names what is where on the disk of a box: partitions, folders and files that the image
// builder, the flasher and the box itself must agree on. It holds names and the rules of names only; it
// reads and writes nothing.
//
// Reading order:
//
//	layout.go   partitions, and paths on the EFI system partition
//	slot.go     file names of versions, and the tries that the boot loader counts in them
package layout

// Partition type GUIDs, lower case.
const (
	// ESPType is that of an EFI system partition (UEFI specification 5.3.3).
	ESPType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

	// StateType is that of the state partition: Linux file system data, so that other systems know that
	// it is in use.
	StateType = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

// Names of partitions in the partition table, and labels of the file systems in them. A box knows its own
// disk by the names.
const (
	ESPName    = "MILLRACE-ESP"
	ESPLabel   = "MILLRACE" // FAT: at most 11 upper case letters
	StateName  = "MILLRACE-STATE"
	StateLabel = "MILLRACE-STATE" // ext4: at most 16 bytes
	DataLabel  = "MILLRACE"       // of the ext4 file system that holds streams
)

// Sizes in bytes.
const (
	// AlignBytes is what partitions are aligned to. As much stays free at either end of the disk for the
	// partition tables.
	AlignBytes = 1 << 20

	// ESPBytes is the size of the EFI system partition.
	ESPBytes = 512 << 20

	// DiskBytes is the size of an image, and of the smallest disk that takes it.
	DiskBytes = ESPBytes + 2*AlignBytes

	// MaxUKI is the size of the largest version that fits: two must, and one that is being written.
	MaxUKI = 150 << 20
)

// Paths on the EFI system partition, from its root.
const (
	BootDir      = "/EFI/BOOT"             // the boot loader, under the name the firmware looks for
	SlotDir      = "/EFI/Linux"            // one file a version, see Slot
	LoaderConfig = "/loader/loader.conf"   // the boot loader's settings
	ConfigDir    = "/config"               // what flashing hands to the first boot
	ConfigFile   = "/config/millrace.conf" // the node's configuration, nats-server syntax
)
