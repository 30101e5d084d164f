package boot

import "time"

// backoff says how long to wait before a program is started again: longer after each quick end,
// short again after it has run a while.
type backoff struct {
	first, most time.Duration // shortest and longest wait
	steady      time.Duration // a run at least this long resets the wait

	wait time.Duration
}

// next returns the wait after a run of the given length.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= b.steady || b.wait == 0 {
		b.wait = b.first
	} else {
		b.wait = min(b.wait*2, b.most)
	}
	return b.wait
}
