package boot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/appliance/boxlink"
)

func TestKernelMessage(t *testing.T) {
	for record, want := range map[string]string{
		"6,1,0,-;Linux version 6.1\n":                       "[    0.000000] Linux version 6.1",
		"4,2,12345678,-;ata1: link down\n SUBSYSTEM=scsi\n": "[   12.345678] ata1: link down",
		"14,3,5,-;written by a program, facility 1\n":       "",
		"no record":     "",
		"":              "",
		"6,1,0,-;a;b\n": "[    0.000000] a;b",
		"6,1;a\n":       "",
		"6,1,x,-;a\n":   "",
		"30,340,6,-;systemd would log with facility 3 here": "",
	} {
		if got := kernelMessage([]byte(record)); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}

// Health is that of the millraced which runs now, and its absence is no health.
func TestDaemonLinkHealth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	d, err := listenDaemon(path, func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("not asked") }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { d.run(ctx) })
	defer wg.Wait()
	defer cancel()
	if h, answered := d.health(ctx); answered || h.OK() || h.Error != "millraced does not run" {
		t.Errorf("before it runs: %+v", h)
	}
	for _, tt := range []struct {
		answer string
		fails  error
		want   string
	}{
		{`{"status":"ok"}`, nil, ""},
		{`{"status":"unavailable","error":"no route"}`, nil, "no route"},
		{"nonsense", nil, "millraced answers nonsense: invalid character 'o' in literal null (expecting 'u')"},
		{"", errors.New("unknown request"), "millraced does not answer: unknown request"},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		daemon := boxlink.New(conn, boxlink.Config{Answer: func(context.Context, string, []byte) ([]byte, error) {
			return []byte(tt.answer), tt.fails
		}})
		running, stop := context.WithCancel(ctx)
		var dwg sync.WaitGroup
		dwg.Go(func() { _ = daemon.Run(running) })
		until(t, func() bool { return d.current() != nil })
		h, _ := d.health(ctx)
		if h.OK() != (tt.want == "") || h.Error != tt.want {
			t.Errorf("answer %q, %v: %+v, want %q", tt.answer, tt.fails, h, tt.want)
		}
		stop()
		dwg.Wait()
		until(t, func() bool { return d.current() == nil })
	}
}

// until waits for a condition, which must come true soon.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	end := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("waited in vain")
		}
	}
}
