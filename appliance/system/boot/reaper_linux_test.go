package boot

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReaperRun is one test, since a reaper takes every child of the process.
func TestReaperRun(t *testing.T) {
	r := startReaper()
	defer r.Close()
	out, code, err := r.run(t.Context(), "/bin/sh", "-c", "echo said; echo more >&2; exit 7")
	if err != nil || code != 7 || out != "said\nmore\n" {
		t.Errorf("got %q, code %d, error %v; want %q, 7, nil", out, code, err, "said\nmore\n")
	}
	if _, _, err := r.run(t.Context(), "/no/such/program"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: got error %v, want %v", err, os.ErrNotExist)
	}
	if _, _, err := r.run(t.Context(), "/bin/sh", "-c", "kill -9 $$"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("killed program: got error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.run(ctx, "/bin/sh", "-c", "exec sleep 100"); err == nil {
		t.Error("ended context: no error")
	}
	// An orphan is collected too: were it not, its process would stay as a zombie child.
	for range 50 {
		pid, done, err := r.start("/bin/true", nil, nil, os.Stderr)
		if err != nil || pid <= 1 {
			t.Fatalf("start gave process %d, error %v", pid, err)
		}
		if status := <-done; !status.Exited() || status.ExitStatus() != 0 {
			t.Fatalf("true ended with %v", status)
		}
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("children are left: wait gave %d, %v", pid, err)
	}
}

// Signals to the processes 0 and -1 reach every process the kernel lets us reach.
func TestSignalChildRefusesGroups(t *testing.T) {
	for _, pid := range []int{1, 0, -1, -7} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("signal 0 for process %d was sent", pid)
				}
			}()
			signalChild(pid, 0) // signal 0 does nothing, should it be sent
		}()
	}
}

func TestWaitReady(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	greetings := []string{"", "220 mail\r\n", "INFO {\"server_id\":\"x\"}\r\n"}
	served := make(chan int, 1)
	go func() {
		n := 0
		defer func() { served <- n }()
		for _, g := range greetings {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n++
			c.Write([]byte(g))
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := waitReady(ctx, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if n := <-served; n != len(greetings) {
		t.Errorf("ready after %d connections, want %d", n, len(greetings))
	}
}

func TestIsPowerKey(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		b[16], b[18], b[20] = byte(kind), byte(code), byte(value)
		return b
	}
	for _, tt := range []struct {
		event []byte
		want  bool
	}{
		{event(eventKey, keyPower, 1), true},
		{event(eventKey, keyPower, 0), false}, // let go
		{event(0, 0, 0), false},
		{event(eventKey, 30, 1), false},
		{event(2, keyPower, 1), false},
	} {
		if got := isPowerKey(tt.event); got != tt.want {
			t.Errorf("isPowerKey(%v) = %v, want %v", tt.event, got, tt.want)
		}
	}
}
