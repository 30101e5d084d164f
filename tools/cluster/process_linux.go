package cluster

import "syscall"

// attributes of a process that must not outlive this one, whatever ends it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
