// Package vm runs Millrace images in QEMU, for tools/qemu and for tests that need whole booted
// boxes. It does not build images.
//
// Reading order:
//
//	vm.go       Config, VM: start, wait, power down, kill
//	args.go     the emulator's command line
//	boot.go     Boot: start and wait until the box serves, retrying a stalled emulator once
//	console.go  what the guest prints
//	qmp.go      the emulator's control socket
//	switch.go   Switch: the wire between machines, and what can happen to it
//	gateway.go  Gateway: ports of machines behind a switch, on this machine
package vm
