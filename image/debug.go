package image

import "strings"

const (
	// debugPackage is the Debian package that the debug variant takes its shell from.
	debugPackage = "busybox-static"

	// debugSuffix ends the version of a debug variant, so that nobody takes it for another.
	debugSuffix = "-debug"

	// shellFile is where init looks for a shell (appliance/system/boot).
	shellFile = "bin/sh"

	busyboxFile = "bin/busybox"
)

// debugCommands are what the shell of a debug image can do beside its own words: look, mostly.
const debugCommands = `awk basename cat chmod clear cp cut date dd df diff dirname dmesg du echo env find free fuser grep
	head hexdump hostname id ifconfig ip kill killall less ln losetup ls lsmod lsscsi md5sum mkdir mknod more mount mv
	nc netstat nslookup pgrep pidof ping ping6 printf ps pwd readlink reset rm rmdir route sed seq sha256sum sleep sort
	stat strings stty sync tail tar tee telnet time top touch traceroute tr umount uname uniq uptime vi wc wget which
	xargs xxd zcat`

// addShell adds a shell and its commands to an initramfs.
func addShell(out, packages tree) error {
	b, err := packages.read(busyboxFile)
	if err != nil {
		return err
	}
	out[busyboxFile] = file{data: b}
	out[shellFile] = file{target: "busybox"}
	for _, name := range strings.Fields(debugCommands) {
		out["bin/"+name] = file{target: "busybox"}
	}
	return nil
}
