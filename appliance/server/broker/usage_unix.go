//go:build unix

package broker

import (
	"syscall"
	"time"
)

// processUsage returns the CPU time used since start in percent of one core, and the memory taken
// from the system in bytes.
func processUsage(start time.Time) (cpu float64, mem int64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
		cpu = 100 * used.Seconds() / max(time.Since(start).Seconds(), 0.001)
	}
	return cpu, runtimeMemory()
}
