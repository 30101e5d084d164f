package cluster

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

// TestProcessEnds runs a shell as the server.
func TestProcessEnds(t *testing.T) {
	p := &Process{Program: "/bin/sh", Args: []string{"-c", `trap "exit 3" TERM; echo ready; while :; do read x < /dev/null; done`}, Log: &Log{}}
	if err := p.Kill(); err != nil || p.Running() {
		t.Errorf("before the start: %v", err)
	}
	start := func() {
		t.Helper()
		if err := p.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	if err := p.Launch(); err == nil {
		t.Error("started twice")
	}
	for !strings.Contains(p.Log.Tail(1)+p.Log.Tail(2), "ready") {
		Poll()
	}
	if err := errors.Join(p.Pause(), p.Resume()); err != nil || p.Paused() {
		t.Errorf("pause and resume: %v", err)
	}
	if code, err := p.End(syscall.SIGTERM); err != nil || code != 3 {
		t.Errorf("exit code %d, %v, want 3", code, err)
	}
	start()
	if err := p.Pause(); err != nil || !p.Paused() {
		t.Errorf("pause: %v", err)
	}
	if err := p.Kill(); err != nil || p.Running() || p.Paused() || p.ExitCode() != -1 {
		t.Errorf("kill of a paused process: %v", err)
	}
	p.Args = []string{"-c", "echo broken; exit 4"}
	if err := p.Start(); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("start of a program that ends: %v", err)
	}
}
