package raft

import (
	"testing"
	"time"
)

func TestAttentionIgnoresTimesOfBeingHeldUp(t *testing.T) {
	const most = 100 * time.Millisecond
	begin := time.Unix(1000, 0)
	a := newAttention(begin, most)
	for _, step := range []struct {
		at   time.Duration // of the clock
		tick bool
		want time.Duration
		what string
	}{
		{50 * time.Millisecond, true, 50 * time.Millisecond, "a tick in time"},
		{70 * time.Millisecond, false, 70 * time.Millisecond, "between ticks"},
		{150 * time.Millisecond, true, 150 * time.Millisecond, "a tick that is a little late"},
		{5 * time.Second, false, 250 * time.Millisecond, "long after the last tick"},
		{5 * time.Second, true, 250 * time.Millisecond, "a tick that is very late"},
		{5*time.Second + 10*time.Millisecond, true, 260 * time.Millisecond, "a tick soon after it"},
		{5 * time.Second, true, 260 * time.Millisecond, "a clock that goes back"},
		{5*time.Second + 40*time.Millisecond, false, 300 * time.Millisecond, "after that"},
	} {
		got := a.at(begin.Add(step.at))
		if step.tick {
			got, _ = a.pass(begin.Add(step.at))
		}
		if got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
}

func TestPatienceIsLearnedFromSilences(t *testing.T) {
	const little, most = 350 * time.Millisecond, 650 * time.Millisecond
	var p patience
	at := func(now, want time.Duration) {
		t.Helper()
		if got := p.at(now); got != want {
			t.Errorf("at %s: %s more, want %s", now, got, want)
		}
	}
	at(0, 0)
	p.heard(time.Second, 100*time.Millisecond, little, most)
	p.heard(2*time.Second, little, little, most)
	at(2*time.Second, 0)
	p.heard(3*time.Second, 500*time.Millisecond, little, most)
	at(4*time.Second, 500*time.Millisecond)
	p.heard(5*time.Second, 400*time.Millisecond, little, most) // a shorter one takes nothing away, and it counts from here
	at(3*time.Second+patienceTime, 500*time.Millisecond)
	at(5*time.Second+patienceTime, 0)
	p.heard(time.Hour, time.Minute, little, most)
	at(time.Hour, most)
	p.heard(2*time.Hour, 100*time.Millisecond, little, most)
	at(2*time.Hour, 0)
}
