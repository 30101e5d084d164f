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
		BootLoader: "systemd-boot-efi",
		Packages:   []string{"e2fsprogs", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1", "libc6"},
		Programs:   []string{"sbin/mke2fs", "sbin/e2fsck"},
		Modules: []string{
			"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng",
			"button", "evdev", // the ACPI power button and its key events
			"crc32c_intel", // ext4 metadata checksums
		},
		// vfat finds its character sets by name, which needs a modprobe the image does not have.
		LoadModules: []string{"vfat", "nls_cp437", "nls_ascii"},
		// panic=5: Debian's default is to hang for ever.
		Cmdline: "console=ttyS0 panic=5 quiet loglevel=4",
		EFI: EFI{
			Removable: "BOOTX64.EFI",
			Loader:    "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
			Stub:      "usr/lib/systemd/boot/efi/linuxx64.efi.stub",
		},
		QEMU: QEMU{
			Binary: "qemu-system-x86_64",
			// -cpu max: older models have no RDRAND, and the guest then waits minutes for randomness.
			Args:     []string{"-machine", "q35", "-accel", "tcg", "-cpu", "max"},
			Firmware: "/usr/share/OVMF/OVMF_CODE_4M.fd",
			NVRAM:    "/usr/share/OVMF/OVMF_VARS_4M.fd",
		},
	}
}
