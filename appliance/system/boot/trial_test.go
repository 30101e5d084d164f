package boot

import (
	"testing"
	"time"
)

func TestTrialJudge(t *testing.T) {
	begin := time.Unix(1000, 0)
	type look struct {
		at      time.Duration
		healthy bool
		want    verdict
	}
	for _, tt := range []struct {
		name  string
		ends  int
		looks []look
	}{
		{"healthy from the start", 0, []look{{0, true, undecided}, {5 * time.Second, true, undecided}, {trialSteady, true, good}}},
		{"a break counts anew", 0, []look{{0, true, undecided}, {10 * time.Second, false, undecided}, {20 * time.Second, true, undecided},
			{30 * time.Second, true, undecided}, {35 * time.Second, true, good}}},
		{"never healthy", 0, []look{{0, false, undecided}, {trialTime - 1, false, undecided}, {trialTime, false, bad}}},
		{"healthy too late", 0, []look{{trialTime - time.Second, true, undecided}, {trialTime, true, bad}}},
		{"healthy at the last moment", 0, []look{{trialTime - trialSteady, true, undecided}, {trialTime, true, good}}},
		{"ends again and again", trialEnds, []look{{time.Second, false, bad}}},
		{"ends now and then", trialEnds - 1, []look{{time.Second, false, undecided}}},
	} {
		tr := trial{began: begin}
		for range tt.ends {
			tr.ended()
		}
		for _, l := range tt.looks {
			if got, why := tr.judge(begin.Add(l.at), l.healthy); got != l.want || (why == "") != (got == undecided) {
				t.Errorf("%s: after %v: %d, %q; want %d", tt.name, l.at, got, why, l.want)
			}
		}
	}
	// Ending by itself breaks a time of health, though the next look finds it well again.
	tr := trial{began: begin}
	tr.judge(begin, true)
	tr.ended()
	if got, _ := tr.judge(begin.Add(trialSteady), true); got != undecided {
		t.Errorf("health across an end: %d", got)
	}
}

func TestLiveness(t *testing.T) {
	var l liveness
	now := time.Unix(1000, 0)
	if l.alive(now) {
		t.Error("alive before anything said so")
	}
	l.set(now, time.Minute)
	if !l.alive(now.Add(59*time.Second)) || l.alive(now.Add(time.Minute)) {
		t.Error("a minute is not a minute")
	}
	l.set(now, time.Second) // less than before counts too
	if l.alive(now.Add(2 * time.Second)) {
		t.Error("the longer time counts")
	}
}
