//go:build linux

// Command uinit is the first process of a Millrace box: /init in its initramfs. It does nothing on
// any other machine.
package main

import (
	"fmt"
	"os"

	"millrace/appliance/system/boot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "uinit: this is the first process of a Millrace box and cannot be run by hand")
		os.Exit(1)
	}
	err := boot.Run(os.Stderr)
	// The kernel panics when its first process ends, and reboots after that.
	fmt.Fprintln(os.Stderr, "millrace: ERROR:", err)
	os.Exit(1)
}
