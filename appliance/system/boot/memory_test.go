package boot

import (
	"testing"

	"millrace/appliance/boxapi"
)

func TestParseMemory(t *testing.T) {
	const text = "MemTotal:         489756 kB\nMemFree:          300000 kB\nMemAvailable:     401316 kB\nHugePages_Total:       0\nBad: x kB\n"
	if got, want := parseMemory(text), (boxapi.Memory{Total: 489756 << 10, Available: 401316 << 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := parseMemory(""); got != (boxapi.Memory{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
