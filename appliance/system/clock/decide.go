package clock

import (
	"cmp"
	"slices"
	"time"
)

// Thresholds of corrections.
const (
	// fine is an offset that is not worth a correction.
	fine = time.Millisecond

	// forwardStep is how far the clock may be behind before it is set instead of made faster, which
	// takes 2000 times the offset.
	forwardStep = 2 * time.Second

	// alone is the most that one server may move the clock by itself once millraced runs: forward
	// cannot be taken back. Larger offsets need a second one that agrees.
	alone = time.Hour

	// aloneAtStart is the same for a forward step before millraced runs, unless the clock is known to be
	// wrong: messages that expire by a false time are gone.
	aloneAtStart = 30 * 24 * time.Hour

	// agreement is how close two servers must be to agree.
	agreement = 10 * time.Second
)

// Sample is the answer of one time server.
type Sample struct {
	Server string
	Offset time.Duration // of its time from ours; positive: our clock is behind
	Error  time.Duration // at most so far from true time (root distance)
}

// Action is what to do about an offset.
type Action int

// The actions.
const (
	Nothing Action = iota
	Step           // set the clock
	Slew           // make it faster or slower until the offset is gone
)

// best chooses among samples: those that agree with most others, of those the most exact one. agreeing
// is how many servers say so, itself included.
func best(samples []Sample) (s Sample, agreeing int) {
	for _, x := range samples {
		n := 0
		for _, y := range samples {
			if (x.Offset - y.Offset).Abs() <= agreement {
				n++
			}
		}
		if n > agreeing || n == agreeing && x.Error < s.Error {
			s, agreeing = x, n
		}
	}
	return s, agreeing
}

// decide says what to do about an offset that so many servers agree on. running says that millraced
// runs: then the clock is never set back. doubtful says that the clock is wrong for sure.
func decide(offset time.Duration, agreeing int, running, doubtful bool) (a Action, refused string) {
	switch {
	case offset.Abs() < fine:
		return Nothing, ""
	case !running && !doubtful && offset > aloneAtStart && agreeing < 2:
		return Nothing, "only one time server says so"
	case !running:
		return Step, ""
	case offset.Abs() > alone && agreeing < 2:
		return Nothing, "only one time server says so"
	case offset > forwardStep:
		return Step, ""
	}
	return Slew, ""
}

// describe says for people how well the time is known.
func describe(s Sample, agreeing int) string {
	return s.Server + ", off by " + s.Offset.Round(100*time.Microsecond).String() + " when last asked" +
		map[bool]string{true: "", false: ", nobody else agrees"}[agreeing > 1]
}

// sorted returns samples by server, for messages.
func sorted(samples []Sample) []Sample {
	return slices.SortedFunc(slices.Values(samples), func(a, b Sample) int { return cmp.Compare(a.Server, b.Server) })
}
