package board

// qemuARM64 is QEMU's virt machine with virtio devices, with Debian's cloud kernel as on amd64.
func qemuARM64() Board {
	return Board{
		Name:        "qemu-arm64",
		GOARCH:      "arm64",
		DebArch:     "arm64",
		LibDir:      "lib/aarch64-linux-gnu",
		LockFile:    "board/qemuarm64/packages.lock",
		Kernel:      "linux-image-cloud-arm64",
		BootLoader:  bootLoader,
		Packages:    ext4Packages(),
		Programs:    ext4Programs(),
		Modules:     append(append(networkModules(), virtioModules()...), "button", "evdev"), // the ACPI power button
		LoadModules: append(fatModules(), "softdog"),
		Cmdline:     "console=ttyAMA0 panic=5 quiet loglevel=4",
		EFI:         efiARM64(),
		QEMU:        virt("virtio-blk-pci", "virtio-net-pci"),
	}
}
