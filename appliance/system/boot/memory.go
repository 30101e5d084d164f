package boot

import (
	"strconv"
	"strings"

	"millrace/appliance/boxapi"
)

// parseMemory reads /proc/meminfo (proc_meminfo(5)), whose numbers are in KiB. What it does not say is 0.
func parseMemory(text string) (m boxapi.Memory) {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if len(words) != 2 || words[1] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			m.Total = n << 10
		case "MemAvailable":
			m.Available = n << 10
		}
	}
	return m
}
