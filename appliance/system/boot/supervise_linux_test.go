package boot

import (
	"context"
	"io"
	"log/slog"
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
