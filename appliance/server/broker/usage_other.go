//go:build !unix

package broker

import "time"

// processUsage returns the memory taken from the system in bytes; CPU time is not known here.
func processUsage(time.Time) (cpu float64, mem int64) { return 0, runtimeMemory() }
