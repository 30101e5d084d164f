package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A signal reaches the process that it is for and none that was started later.
func TestSupervisorSignal(t *testing.T) {
	r := startReaper()
	defer r.Close()
	ended := make(chan struct{}, 10)
	s := &supervisor{
		reaper: r, path: "/bin/sleep", args: []string{"1000"}, console: io.Discard, log: io.Discard,
		addr: "127.0.0.1:1", ready: func() {}, ended: func() { ended <- struct{}{} }, logger: slog.New(slog.DiscardHandler),
	}
	if !s.process().IsZero() {
		t.Error("a process before any was started")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { s.run(ctx); close(stopped) }()
	first := running(t, s, time.Time{})
	s.signal(first, unix.SIGKILL)
	<-ended
	second := running(t, s, first)
	s.signal(first, unix.SIGKILL)
	s.signal(second, 0)
	if got := s.process(); !got.Equal(second) {
		t.Errorf("process of %v, want that of %v", got, second)
	}
	cancel()
	<-stopped
	if len(ended) > 0 {
		t.Error("the second process ended by itself")
	}
	if !s.process().IsZero() {
		t.Error("a process after the end")
	}
}

// running waits until another process than that of before runs.
func running(t *testing.T, s *supervisor, before time.Time) time.Time {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if p := s.process(); !p.IsZero() && !p.Equal(before) {
			return p
		}
		select {
		case <-deadline:
			t.Fatal("no process was started")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// What a supervisor runs has the processor before init, and init is as it was.
func TestSupervisorPriority(t *testing.T) {
	r := startReaper()
	defer r.Close()
	var said, out bytes.Buffer
	s := &supervisor{
		reaper: r, path: "/bin/sh", args: []string{"-c", "nice"}, env: []string{"PATH=/bin:/usr/bin"}, console: io.Discard, log: &out,
		addr: "127.0.0.1:1", ready: func() {}, ended: func() {}, logger: slog.New(slog.NewTextHandler(&said, nil)),
	}
	if err := s.once(t.Context()); err == nil || err.Error() != "exit code 0" {
		t.Fatal(err)
	}
	if said.Len() > 0 {
		t.Skipf("may not set priorities here: %s", said.String())
	}
	if got := strings.TrimSpace(out.String()); got != fmt.Sprint(niceness) {
		t.Errorf("it ran with niceness %q, want %d", got, niceness)
	}
	out.Reset()
	s.ahead(func() {})
	if output, code, err := r.run(t.Context(), "/bin/sh", "-c", "nice"); err != nil || code != 0 || strings.TrimSpace(output) != "0" {
		t.Errorf("others run with niceness %q, code %d, %v", output, code, err)
	}
}
