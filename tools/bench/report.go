package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// statsLine is the line of a run: of all clients together ("aggregated stats"), or of the only one.
var statsLine = regexp.MustCompile(`(?m)^ ?NATS .*?( aggregated)? stats: ([0-9,.]+) msgs/sec`)

// parseRate returns the messages a second that "nats bench" printed.
func parseRate(out string) (float64, error) {
	var text string
	for _, m := range statsLine.FindAllStringSubmatch(out, -1) {
		if text == "" || m[1] != "" {
			text = m[2]
		}
	}
	rate, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
	if err != nil || rate <= 0 {
		return 0, fmt.Errorf("no rate in the output of nats bench:\n%s", out)
	}
	return rate, nil
}

// median of a non-empty list.
func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// report is a table of medians with the range of the rounds, and of ratios to the others.
func report(results []result) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "load\t")
	for _, name := range serverNames {
		fmt.Fprintf(w, "%s\t(range)\t", name)
	}
	for _, name := range serverNames[1:] {
		fmt.Fprintf(w, "/ %s\t", name)
	}
	fmt.Fprintln(w)
	for _, r := range results {
		fmt.Fprintf(w, "%s\t", r.load)
		for _, name := range serverNames {
			rates := r.rates[name]
			fmt.Fprintf(w, "%s\t%s-%s\t", short(median(rates)), short(slices.Min(rates)), short(slices.Max(rates)))
		}
		for _, name := range serverNames[1:] {
			fmt.Fprintf(w, "%.2f\t", median(r.rates[serverNames[0]])/median(r.rates[name]))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return out.String()
}

// short writes a rate with three digits: 1.23M, 45.6k, 789.
func short(rate float64) string {
	switch {
	case rate >= 1e6:
		return fmt.Sprintf("%.2fM", rate/1e6)
	case rate >= 1e5:
		return fmt.Sprintf("%.0fk", rate/1e3)
	case rate >= 1e3:
		return fmt.Sprintf("%.1fk", rate/1e3)
	}
	return fmt.Sprintf("%.0f", rate)
}

// environment says what was measured on what.
func (b *bench) environment(ctx context.Context) string {
	var out strings.Builder
	fmt.Fprintf(&out, "messages a second, medians of %d rounds of about %s, %s\n", b.rounds, b.span, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(&out, "%d CPUs (%s), %s\n", runtime.NumCPU(), cpuModel(), runtime.Version())
	for _, p := range []struct{ name, path, flag string }{
		{"", b.millraced, "-version"}, {"", b.natsServer, "-v"}, {"nats ", b.cli, "--version"},
	} {
		if text, err := exec.CommandContext(ctx, p.path, p.flag).CombinedOutput(); err == nil {
			fmt.Fprintf(&out, "%s%s\n", p.name, strings.TrimSpace(string(text)))
		}
	}
	return out.String()
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
