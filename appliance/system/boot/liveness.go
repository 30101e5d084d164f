package boot

import (
	"sync"
	"time"
)

// How long the box may go without a sign of life from its main loop before the watchdog is no longer
// fed.
const (
	startAlive = 10 * time.Minute // to come up, checking a large disk included
	loopAlive  = time.Minute
	stopAlive  = 2 * time.Minute // to go down
)

// liveness is until when the box counts as alive. It goes by the monotonic clock: setting the time
// changes nothing.
type liveness struct {
	mu    sync.Mutex
	until time.Time
}

// set says that the box is alive for so long from now.
func (l *liveness) set(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = now.Add(d)
}

// alive reports whether the watchdog is to be fed.
func (l *liveness) alive(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until)
}
