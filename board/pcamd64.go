package board

// pcAMD64 is an amd64 server with UEFI: Debian's generic kernel with the drivers of common disk
// controllers and network cards, and of virtual machines.
func pcAMD64() Board {
	return Board{
		Name:       "pc-amd64",
		GOARCH:     "amd64",
		DebArch:    "amd64",
		LibDir:     "lib/x86_64-linux-gnu",
		LockFile:   "board/pcamd64/packages.lock",
		Kernel:     "linux-image-amd64",
		BootLoader: bootLoader,
		Packages:   ext4Packages(),
		Programs:   ext4Programs(),
		Modules: append(append(serverModules(), virtioModules()...),
			"vmw_pvscsi", "vmxnet3", "hv_storvsc", "hv_netvsc", // VMware, Hyper-V
			"iTCO_wdt", "sp5100_tco", "wdat_wdt", "i6300esb", // watchdogs
			"button", "evdev", // the ACPI power button and its key events
			"crc32c_intel", // ext4 metadata checksums
		),
		LoadModules: append(fatModules(), ext4Modules()...),
		// The last console is the one init writes to; screens show what the kernel says, and with
		// appliance { console: "tty1" } what the box says. panic=5: Debian's default is to hang for ever.
		Cmdline: "console=tty0 console=ttyS0,115200 panic=5 quiet loglevel=4",
		EFI:     efiAMD64(),
		QEMU:    q35("nvme", "e1000e"),
	}
}
