package boot

import "time"

// How long millraced may be without an answer before something is done about it. A machine that is busy
// answers late; one that stands still does not.
const (
	hangDump  = 2 * time.Minute  // it is asked to write down what it does, and ends of that
	hangKill  = 30 * time.Second // later it is killed
	hangReset = 2 * time.Minute  // later a process that cannot be killed is left to the watchdog: the kernel holds it
)

// hangVerdict is what to do about a millraced that does not answer.
type hangVerdict int

const (
	noHang hangVerdict = iota
	dumpHung
	killHung
	resetHung // do not feed the watchdog any more
)

// hang finds out whether millraced stands still.
//
//  1. Only a process that has answered since it was started is judged: reading a large store takes as long as it
//     takes.
//  2. An answer that it is not well is an answer: nothing is ended that knows what is wrong.
//  3. Each step is taken once, and the next one only when the process is still the same.
type hang struct {
	process  time.Time // when the process was started that this is about; zero: none
	answered time.Time // last; zero: not yet
	step     hangVerdict
	stepped  time.Time
}

// judge is told at each look which process runs (zero: none) and whether it has just answered.
func (h *hang) judge(now, process time.Time, answered bool) hangVerdict {
	if !process.Equal(h.process) {
		*h = hang{process: process}
	}
	switch {
	case process.IsZero():
		return noHang
	case answered && h.step == noHang:
		h.answered = now
		return noHang
	case h.answered.IsZero():
		return noHang
	}
	next, after, since := dumpHung, hangDump, h.answered
	switch h.step {
	case dumpHung:
		next, after, since = killHung, hangKill, h.stepped
	case killHung:
		next, after, since = resetHung, hangReset, h.stepped
	case resetHung:
		return resetHung
	}
	if now.Sub(since) < after {
		return noHang
	}
	h.step, h.stepped = next, now
	return next
}
