package transport

import "time"

// quick bounds the jitter before the first attempt to connect after a loss.
const quick = 20 * time.Millisecond

// backoff tells how long to wait before an attempt to connect.
type backoff struct {
	min, max time.Duration
	tries    int // since the last connection that lasted
}

// delay returns the pause before the next attempt, of which each round asks all addresses. r is a
// random number in [0, 1): nodes that lost each other at the same time do not call at the same time.
func (b *backoff) delay(addresses int, r float64) time.Duration {
	round := b.tries / addresses
	if b.tries%addresses != 0 {
		return 0 // the next address
	}
	if round == 0 {
		return time.Duration(r * float64(quick))
	}
	d := b.max
	if round <= 32 && b.min<<(round-1) > 0 {
		d = min(d, b.min<<(round-1))
	}
	return d/2 + time.Duration(r*float64(d/2))
}
