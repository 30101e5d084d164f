package boot

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestHangJudge(t *testing.T) {
	for _, tt := range []struct {
		name string
		// A look every 10 s, so many times as the number says: "a" it answers, "s" it is silent, "n" nothing runs, "p"
		// another process has been started and is silent.
		looks []any
		want  string // verdicts other than none, with the time since the first look
	}{
		{"well", []any{"a", 1000}, ""},
		{"a large store is read", []any{"s", 1000, "a", 1}, ""},
		{"silent for less than two minutes", []any{"a", 1, "s", 11, "a", 1, "s", 11}, ""},
		{"hangs", []any{"a", 1, "s", 20}, "dump 2m0s, kill 2m30s"},
		{"ends of being asked", []any{"a", 1, "s", 12, "n", 1, "p", 100}, "dump 2m0s"},
		{"answers too late", []any{"a", 1, "s", 12, "a", 10}, "dump 2m0s, kill 2m30s"},
		{"cannot be killed", []any{"a", 1, "s", 29}, "dump 2m0s, kill 2m30s, reset 4m30s, reset 4m40s, reset 4m50s"},
		{"hangs again", []any{"a", 1, "s", 16, "p", 1, "a", 1, "s", 13}, "dump 2m0s, kill 2m30s, dump 5m0s"},
	} {
		var h hang
		begin := time.Unix(1000, 0)
		now, process := begin, begin.Add(-time.Minute)
		var got []string
		for i := 0; i < len(tt.looks); i += 2 {
			what := tt.looks[i].(string)
			if what == "p" || what == "n" {
				process = now
			}
			for range tt.looks[i+1].(int) {
				running := process
				if what == "n" {
					running = time.Time{}
				}
				if v := h.judge(now, running, what == "a"); v != noHang {
					got = append(got, fmt.Sprint([]string{"", "dump", "kill", "reset"}[v], " ", now.Sub(begin)))
				}
				now = now.Add(10 * time.Second)
			}
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
}
