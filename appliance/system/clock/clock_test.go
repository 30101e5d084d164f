package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		offset   time.Duration
		agreeing int
		running  bool
		want     Action
		refused  bool
		doubtful bool
	}{
		{0, 1, false, Nothing, false, false},
		{time.Hour, 1, false, Step, false, false},
		{-24 * time.Hour, 1, false, Step, false, false}, // nothing runs yet
		{500 * time.Microsecond, 1, true, Nothing, false, false},
		{time.Second, 1, true, Slew, false, false},
		{-time.Second, 1, true, Slew, false, false},
		{3 * time.Second, 1, true, Step, false, false},
		{-3 * time.Second, 1, true, Slew, false, false}, // never back
		{-24 * time.Hour, 3, true, Slew, false, false},
		{24 * time.Hour, 1, true, Nothing, true, false},
		{24 * time.Hour, 2, true, Step, false, false},
		{20 * 365 * 24 * time.Hour, 1, false, Nothing, true, false}, // would expire what it should not
		{20 * 365 * 24 * time.Hour, 1, false, Step, false, true},    // the hardware clock is dead
		{20 * 365 * 24 * time.Hour, 2, false, Step, false, false},
		{20 * 365 * 24 * time.Hour, 1, true, Nothing, true, true},
	} {
		got, refused := decide(tt.offset, tt.agreeing, tt.running, tt.doubtful)
		if got != tt.want || (refused != "") != tt.refused {
			t.Errorf("%+v: got %d, %q", tt, got, refused)
		}
	}
}

// Whatever servers say, the clock of a running box is never set back.
func TestDecideNeverBack(t *testing.T) {
	for offset := -48 * time.Hour; offset < 0; offset += 17 * time.Minute {
		for agreeing := 1; agreeing < 4; agreeing++ {
			if a, _ := decide(offset, agreeing, true, true); a == Step {
				t.Fatalf("set back by %v", offset)
			}
		}
	}
}

func TestBest(t *testing.T) {
	s := func(name string, off, err time.Duration) Sample { return Sample{name, off, err} }
	for _, tt := range []struct {
		samples  []Sample
		want     string
		agreeing int
	}{
		{[]Sample{s("a", time.Second, 5)}, "a", 1},
		{[]Sample{s("a", time.Second, 5), s("b", 2*time.Second, 3)}, "b", 2},
		{[]Sample{s("liar", time.Hour, 1), s("a", time.Second, 5), s("b", time.Second, 9)}, "a", 2},
		{[]Sample{s("a", time.Second, 5), s("liar", time.Hour, 1)}, "liar", 1}, // who knows
	} {
		if got, n := best(tt.samples); got.Server != tt.want || n != tt.agreeing {
			t.Errorf("%v: got %v, %d agree", tt.samples, got, n)
		}
	}
}

// fake is a world of servers and a clock that is off by some time.
type fake struct {
	mu    sync.Mutex
	off   time.Duration
	dead  bool
	slow  bool
	done  []string
	said  []string
	asked int
}

func (f *fake) config() Config {
	return Config{
		Servers: []string{"a", "b"},
		Ask: func(ctx context.Context, server string) (Sample, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked++
			if f.slow {
				f.mu.Unlock()
				<-ctx.Done()
				f.mu.Lock()
				return Sample{}, ctx.Err()
			}
			if f.dead {
				return Sample{}, errors.New("no route")
			}
			return Sample{Server: server, Offset: f.off}, nil
		},
		Set: func(a Action, d time.Duration) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.done = append(f.done, fmt.Sprintf("%d %v", a, d))
			f.off = 0
			return nil
		},
		Say:    func(s string) { f.mu.Lock(); defer f.mu.Unlock(); f.said = append(f.said, s) },
		Logger: slog.New(slog.DiscardHandler),
	}
}

func (f *fake) change(fn func()) { f.mu.Lock(); defer f.mu.Unlock(); fn() }

// The clock is set before Start returns, and from then on only forward.
func TestClockSetsThenSlews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{off: -time.Hour}
		k := Start(t.Context(), f.config(), time.Second)
		defer k.Close()
		if got := strings.Join(f.done, ", "); got != "1 -1h0m0s" {
			t.Fatalf("done %s", got)
		}
		f.change(func() { f.off = -time.Minute })
		time.Sleep(soonest)
		synctest.Wait()
		f.change(func() {
			if got := f.done[len(f.done)-1]; got != "2 -1m0s" {
				t.Errorf("done %s", got)
			}
			f.asked = 0
		})
		time.Sleep(24 * time.Hour)
		f.change(func() {
			if n := f.asked / 2; n < 80 || n > 100 {
				t.Errorf("asked %d times a day", n)
			}
		})
	})
}

// Start waits for servers that do not answer as long as it may, and they are asked again.
func TestClockWaitsWithABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{slow: true}
		begin := time.Now()
		k := Start(t.Context(), f.config(), 3*time.Second)
		defer k.Close()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("waited %v", took)
		}
		f.change(func() { f.slow, f.off = false, 5*time.Second })
		time.Sleep(soonest)
		synctest.Wait()
		f.change(func() {
			if got := strings.Join(f.done, ", "); got != "1 5s" {
				t.Errorf("done %q", got)
			}
			if n := len(f.said); n != 2 || !strings.Contains(f.said[0], "not known") || !strings.Contains(f.said[1], "off by 5s") {
				t.Errorf("said %q", f.said)
			}
			f.dead = true
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		f.change(func() {
			if n := len(f.said); n < 3 || !strings.Contains(f.said[n-1], "stopped answering") {
				t.Errorf("said %q", f.said)
			}
		})
	})
}
