package main

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	tests := []struct {
		name, out string
		want      float64
	}{
		{"one client", "19:21:41 Starting\n\nNATS JetStream asynchronous publisher stats: 160,302 msgs/sec ~ 20 MiB/sec ~ min: 1,818.06us\n", 160302},
		{"several", "  [1] 79,191 msgs/sec ~ 9.7 MiB/sec\n  [2] 77,639 msgs/sec ~ 9.5 MiB/sec\n\n" +
			" NATS Core NATS subscriber aggregated stats: 1,155,205 msgs/sec ~ 19 MiB/sec\n message rates min 77,639 | avg 78,415\n", 1155205},
		{"slow", "NATS JetStream synchronous publisher stats: 87 msgs/sec ~ 11 KiB/sec\n", 87},
	}
	for _, tt := range tests {
		if got, err := parseRate(tt.out); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
	for _, out := range []string{"", "nats: error: no", "NATS x stats: 0 msgs/sec", "stats: 12 msgs/sec"} {
		if got, err := parseRate(out); err == nil {
			t.Errorf("%q: got %v, want an error", out, got)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		list []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{5, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.list); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.list, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	got := report([]result{{"js async", map[string][]float64{
		"millraced": {200_000, 210_000, 190_000}, "nats always": {900, 1000, 1100}, "nats default": {160_000, 150_000, 170_000},
	}}})
	for _, want := range []string{"js async", "200k", "190k-210k", "1.0k", "900-1.1k", "200.00", "1.25"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestLoadCount(t *testing.T) {
	l := load{probe: 2000, most: 100_000}
	for rate, want := range map[float64]int{10: 2000, 5_000: 10_000, 5_055: 10_100, 1e9: 100_000} {
		if got := l.count(rate, 2*time.Second); got != want {
			t.Errorf("%v: got %d, want %d", rate, got, want)
		}
	}
}

func TestParseCPU(t *testing.T) {
	stat := []byte("7 (a) b c) S 1 7 7 0 -1 4194560 1500 0 0 0 250 50 0 0 20 0 9 0 100 1 2\n")
	if d, err := parseCPU(stat); err != nil || d != 3*time.Second {
		t.Errorf("got %v, %v, want 3s", d, err)
	}
	if _, err := parseCPU([]byte("7 (a) S 1")); err == nil {
		t.Error("a short line is no error")
	}
	if d, err := cpuOf(os.Getpid()); runtime.GOOS == "linux" && err != nil {
		t.Errorf("own time: %v, %v", d, err)
	}
}

func TestReachRatio(t *testing.T) {
	if r := (reachRow{less: true}).ratio(10, 40); r != 4 {
		t.Errorf("a fourth of the time is %v times better", r)
	}
	if r := (reachRow{}).ratio(40, 10); r != 4 {
		t.Errorf("four times the rate is %v times better", r)
	}
}
