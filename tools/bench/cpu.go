package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// ticksPerSecond is the unit of CPU times in /proc: USER_HZ, 100 on all that Linux runs on.
const ticksPerSecond = 100

// cpu is the CPU time of all nodes since their start.
func (c *reachCluster) cpu() (total time.Duration, err error) {
	for _, n := range c.Nodes {
		t, err := cpuOf(n.PID())
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", n.Name, err)
		}
		total += t
	}
	return total, nil
}

// cpuOf reads the user and system time of a process: fields 14 and 15 of /proc/PID/stat (proc(5)).
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(text)
}

func parseCPU(stat []byte) (time.Duration, error) {
	// The second field is the program's name in parentheses, which may have any character.
	_, rest, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("parse %q: too few fields", stat)
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse %q: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}
