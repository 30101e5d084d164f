package board

// bootLoader is the package of systemd-boot and the EFI stub.
const bootLoader = "systemd-boot-efi"

// ext4Packages hold the programs that make and check ext4, and the libraries they need.
func ext4Packages() []string {
	return []string{"e2fsprogs", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1", "libc6"}
}

// ext4Programs make and check ext4.
func ext4Programs() []string {
	return []string{"sbin/mke2fs", "sbin/e2fsck"}
}

// fatModules are file systems of the EFI system partition. vfat finds its character sets by name, which
// needs a modprobe the image does not have.
func fatModules() []string {
	return []string{"vfat", "nls_cp437", "nls_ascii"}
}

// networkModules are what a network may need beside the card's driver: init loads them when the owner's
// configuration asks for it.
func networkModules() []string {
	return []string{"8021q"}
}

// virtioModules drive the devices of QEMU and of clouds on it.
func virtioModules() []string {
	return []string{"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng"}
}

// serverModules drive what is in servers of every architecture: disk controllers, network cards, USB
// sticks to start from.
func serverModules() []string {
	return append(networkModules(),
		"nvme", "ahci", "sd_mod", "mpt3sas", "megaraid_sas", "uas", "usb_storage", "xhci_pci", "ehci_pci",
		"e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "bnxt_en", "mlx4_en", "mlx5_core", "r8169", "tg3", "atlantic",
		"usbhid", "hid_generic", // a keyboard: Ctrl-Alt-Del
	)
}

// ext4Modules are for a kernel that has ext4 as a module. It asks for its checksums by name, as vfat does for its
// character sets, and not every processor has a driver that its kind announces.
func ext4Modules() []string {
	return []string{"crc32c_generic", "ext4"}
}

// efiAMD64 names the boot files of amd64.
func efiAMD64() EFI {
	return EFI{
		Removable: "BOOTX64.EFI",
		Loader:    "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
		Stub:      "usr/lib/systemd/boot/efi/linuxx64.efi.stub",
	}
}

// efiARM64 names the boot files of arm64.
func efiARM64() EFI {
	return EFI{
		Removable: "BOOTAA64.EFI",
		Loader:    "usr/lib/systemd/boot/efi/systemd-bootaa64.efi",
		Stub:      "usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
	}
}

// q35 is QEMU's machine that is most like a PC, with the given devices.
func q35(disk, nic string) QEMU {
	return QEMU{
		Binary: "qemu-system-x86_64",
		// -cpu max: older models have no RDRAND, and the guest then waits minutes for randomness. Without AVX, which is slower
		// than what programs do instead when it is emulated: SHA-256 takes half the time then, a search for a byte a third.
		Args:     []string{"-machine", "q35", "-accel", "tcg", "-cpu", "max,-avx,-avx2"},
		Disk:     disk,
		NIC:      nic,
		Firmware: "/usr/share/OVMF/OVMF_CODE_4M.fd",
		NVRAM:    "/usr/share/OVMF/OVMF_VARS_4M.fd",
	}
}

// virt is QEMU's arm64 machine, with the given devices.
func virt(disk, nic string) QEMU {
	return QEMU{
		Binary: "qemu-system-aarch64",
		// Not -cpu max: its pointer authentication takes most of the time when emulated.
		Args:     []string{"-machine", "virt", "-accel", "tcg", "-cpu", "cortex-a72"},
		Disk:     disk,
		NIC:      nic,
		Firmware: "/usr/share/AAVMF/AAVMF_CODE.fd",
		NVRAM:    "/usr/share/AAVMF/AAVMF_VARS.fd",
	}
}
