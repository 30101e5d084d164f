package board

// sbsaARM64 is an arm64 server with UEFI and ACPI (Arm's Server Base System Architecture): Debian's
// generic kernel with the drivers of common disk controllers and network cards.
func sbsaARM64() Board {
	return Board{
		Name:       "sbsa-arm64",
		GOARCH:     "arm64",
		DebArch:    "arm64",
		LibDir:     "lib/aarch64-linux-gnu",
		LockFile:   "board/sbsaarm64/packages.lock",
		Kernel:     "linux-image-arm64",
		BootLoader: bootLoader,
		Packages:   ext4Packages(),
		Programs:   ext4Programs(),
		Modules: append(append(serverModules(), virtioModules()...),
			"sbsa_gwdt", "i6300esb", // watchdogs
			"button", "evdev", // the ACPI power button and its key events
		),
		LoadModules: append(fatModules(), ext4Modules()...),
		Cmdline:     "console=tty0 console=ttyAMA0 panic=5 quiet loglevel=4",
		EFI:         efiARM64(),
		QEMU:        virt("nvme", "e1000e"),
	}
}
