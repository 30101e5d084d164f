//go:build !linux

package cluster

import "syscall"

// attributes of a process. Only Linux ends it with its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
