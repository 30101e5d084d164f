package board

// Board is one kind of machine an image can be built for.
type Board struct {
	// Name is what `mkimage -board` takes, such as "qemu-amd64".
	Name string

	// GOARCH is Go's name of the processor architecture.
	GOARCH string

	// DebArch is Debian's name of the processor architecture.
	DebArch string

	// LibDir is where Debian keeps this architecture's shared libraries, without leading slash.
	LibDir string

	// LockFile is the path, inside the source tree, of the file that pins the packages.
	LockFile string

	// Kernel is the Debian meta package that depends on the newest kernel of the wanted flavour.
	Kernel string

	// BootLoader is the Debian package that holds systemd-boot and the EFI stub.
	BootLoader string

	// Packages are the other Debian packages the image takes files from; Programs and the shared
	// libraries they need must be found in them.
	Packages []string

	// Programs are files of Packages that the image carries, without leading slash.
	Programs []string

	// Modules are the kernel modules the image carries (their dependencies are added). They are
	// loaded when a device with a matching modalias appears.
	Modules []string

	// LoadModules are modules that no device announces, such as file systems; init loads them
	// first. They are carried too.
	LoadModules []string

	// Cmdline is the kernel command line.
	Cmdline string

	// EFI names the boot files of this architecture.
	EFI EFI

	// QEMU says how to emulate the board; Binary is empty for boards QEMU does not have.
	QEMU QEMU
}

// EFI holds the names UEFI and systemd use for one architecture.
type EFI struct {
	Removable string // boot file the firmware looks for, such as "BOOTX64.EFI"
	Loader    string // path of systemd-boot in the BootLoader package, without leading slash
	Stub      string // path of the EFI stub in the BootLoader package, without leading slash
}

// QEMU holds how the emulator runs a board.
type QEMU struct {
	Binary   string   // such as "qemu-system-x86_64"
	Args     []string // machine and processor arguments
	Disk     string   // device model of disks, such as "virtio-blk-pci"
	NIC      string   // device model of network cards, such as "virtio-net-pci"
	Firmware string   // UEFI code image on the host, read only
	NVRAM    string   // template of the UEFI variable store on the host; each machine gets a copy
}

// All returns every board, in the order they are listed to users.
func All() []Board {
	return []Board{qemuAMD64(), pcAMD64(), qemuARM64(), sbsaARM64()}
}

// ByName returns the board of that name; ok is false when there is none.
func ByName(name string) (b Board, ok bool) {
	for _, b := range All() {
		if b.Name == name {
			return b, true
		}
	}
	return Board{}, false
}
