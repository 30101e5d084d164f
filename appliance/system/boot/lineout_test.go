package boot

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/boxapi"
)

// terminal is a console that stands still while held.
type terminal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *terminal) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *terminal) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Writers do not wait for a console that stands still; what is dropped is said once it goes on.
func TestLineOutDropsInsteadOfWaiting(t *testing.T) {
	var slow, second terminal
	l := newLineOut(&slow)
	slow.mu.Lock()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range 2 * maxQueued / len(line) {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	slow.mu.Unlock()
	l.flush(10 * time.Second)
	l.add(&second)
	if _, err := l.Write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	l.close()
	got := slow.String()
	if lines := strings.Count(got, "x\n"); lines < maxQueued/len(line)-1 || lines >= 2*maxQueued/len(line) {
		t.Errorf("%d lines written", lines)
	}
	if !strings.Contains(got, " messages dropped, the console is too slow\nafter\n") {
		t.Errorf("ends in %q", got[len(got)-100:])
	}
	if !strings.HasSuffix(second.String(), "after\n") || strings.Contains(second.String(), "x") {
		t.Errorf("the second console got %q", second.String())
	}
}

// The end of the box waits for the console only so long.
func TestLineOutFlushHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		l := newLineOut(blocked(hold))
		if _, err := l.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		l.flush(3 * time.Second)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("waited %v", took)
		}
		close(hold)
		l.flush(time.Hour)
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("waited %v in all", took)
		}
		l.close()
	})
}

type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) { <-b; return len(p), nil }

func TestStatusLine(t *testing.T) {
	i := boxapi.Info{Name: "box-1", Role: boxapi.RoleRouter, Version: "1.1", Health: boxapi.Health{Status: "ok"}}
	for _, tt := range []struct {
		change  func()
		cluster string
		want    string
	}{
		{func() {}, "", "box-1, no address, router, alone, ok"},
		{func() { i.Addresses = []string{"10.0.0.1", "2001:db8::1"} }, "east", "box-1, 10.0.0.1 2001:db8::1, router, cluster east, ok"},
		{func() { i.Health = boxapi.Health{Status: "unavailable", Error: "no route"}; i.Update.Trial = true }, "east",
			"box-1, 10.0.0.1 2001:db8::1, router, cluster east, unavailable: no route, version 1.1 on trial"},
	} {
		tt.change()
		if got := statusLine(i, tt.cluster); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
