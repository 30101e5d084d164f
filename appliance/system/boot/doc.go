// Package boot is what a Millrace box does as its first process: mounts, kernel modules, disk,
// network, then it runs millraced until the box is switched off. It works as PID 1 only;
// appliance/cmd/uinit calls Run.
//
// Reading order:
//
//	run_linux.go  Run: the steps in order, and why in that order
//	cmdline.go    the kernel command line; pure
//	modules.go    which kernel module drives which device; pure
//	scan.go       where things are in a nats-server configuration file; pure
//	config.go     the box's settings, and the configuration handed to millraced; pure
//	supervise.go  running millraced, again when it ends
//	backoff.go    how long to wait before the next start; pure
//	output.go     millraced's output on the console, bounded
//	ready.go      whether millraced answers
//	reaper.go     child processes
//	power.go      power button, signals, power off
//	console.go    log lines on the console
//	lineout.go    writing to slow consoles without waiting
//	status.go     the line that says how the box is; pure
//	liveness.go   whether the watchdog is fed
//	trial.go      whether a version has proven itself; pure
//	state_linux   the state of the box: orders, configuration, identity, data disk
//	slots_linux   versions on the system disk
//	link_linux    millraced, as the other end of a socket
package boot
