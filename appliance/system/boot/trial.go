package boot

import "time"

// How a version on trial is judged.
const (
	// trialTime is how long it has to become healthy; reading a large store back takes time.
	trialTime = 5 * time.Minute

	// trialSteady is how long it must have been healthy without a break.
	trialSteady = 15 * time.Second

	// trialEnds is how often millraced may end by itself meanwhile.
	trialEnds = 5
)

// verdict is the outcome of a trial.
type verdict int

const (
	undecided verdict = iota
	good
	bad // start anew: the loader counts, and takes the version before when no try is left
)

// trial judges a version that has yet to prove itself.
type trial struct {
	began time.Time

	since time.Time // healthy without a break since then; zero: not healthy
	ends  int
}

// ended notes that millraced has ended by itself.
func (t *trial) ended() {
	t.ends++
	t.since = time.Time{}
}

// judge takes one look at the health.
func (t *trial) judge(now time.Time, healthy bool) (v verdict, why string) {
	if !healthy {
		t.since = time.Time{}
	} else if t.since.IsZero() {
		t.since = now
	}
	switch {
	case healthy && now.Sub(t.since) >= trialSteady:
		return good, "healthy for " + trialSteady.String()
	case t.ends >= trialEnds:
		return bad, "millraced ends again and again"
	case now.Sub(t.began) >= trialTime:
		return bad, "not healthy within " + trialTime.String()
	}
	return undecided, ""
}
