package board

// qemuAMD64 is QEMU's q35 machine with virtio devices. Debian's cloud kernel has what it needs and
// nothing for real hardware: no AHCI, no server network cards.
func qemuAMD64() Board {
	return Board{
		Name:       "qemu-amd64",
		GOARCH:     "amd64",
		DebArch:    "amd64",
		LibDir:     "lib/x86_64-linux-gnu",
		LockFile:   "board/qemuamd64/packages.lock",
		Kernel:     "linux-image-cloud-amd64",
		BootLoader: bootLoader,
		Packages:   ext4Packages(),
		Programs:   ext4Programs(),
		Modules: append(append(networkModules(), virtioModules()...),
			"button", "evdev", // the ACPI power button and its key events
			"crc32c_intel", // ext4 metadata checksums
		),
		// softdog: this kernel has no driver for a hardware watchdog. It resets a box whose init stands
		// still, but not one whose kernel does.
		LoadModules: append(fatModules(), "softdog"),
		// panic=5: Debian's default is to hang for ever. no_timer_check: under load the emulated timer is late for
		// the check, and the kernel takes it for broken.
		Cmdline: "console=ttyS0 panic=5 quiet loglevel=4 no_timer_check",
		EFI:     efiAMD64(),
		QEMU:    q35("virtio-blk-pci", "virtio-net-pci"),
	}
}
