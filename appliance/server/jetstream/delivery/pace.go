package delivery

import (
	"time"

	"millrace/appliance/server/jetstream/api"
)

// rateLimit spaces deliveries so that their bytes keep below a rate, with bursts of one message of the
// greatest size.
type rateLimit struct {
	perByte time.Duration // in units of 1/1024 ns, see cost; 0: no limit
	burst   time.Duration
	tat     time.Time // theoretical arrival time: when the bytes sent so far are paid off
}

// set takes a rate in bits per second; 0 removes the limit.
func (l *rateLimit) set(bitsPerSecond uint64, burst int) {
	*l = rateLimit{tat: l.tat}
	if bitsPerSecond > 0 {
		l.perByte = max(time.Duration(8*1024*float64(time.Second)/float64(bitsPerSecond)), 1)
		l.burst = l.cost(burst)
	}
}

func (l *rateLimit) cost(bytes int) time.Duration {
	return time.Duration(float64(l.perByte) * float64(bytes) / 1024)
}

// at returns when a message of size bytes may be sent.
func (l *rateLimit) at(now time.Time, size int) time.Time {
	if l.perByte == 0 {
		return now
	}
	return l.after(now, size)
}

func (l *rateLimit) after(now time.Time, size int) time.Time {
	tat := l.tat
	if floor := now.Add(-l.burst); tat.Before(floor) {
		tat = floor
	}
	return tat.Add(l.cost(size))
}

func (l *rateLimit) sent(now time.Time, size int) {
	if l.perByte > 0 {
		l.tat = l.after(now, size)
	}
}

// replayPace holds first deliveries of what was stored before the start to the pace of their storing
// (replay policy original).
type replayPace struct {
	upTo   uint64    // pace is kept up to here; 0: never
	stored time.Time // of the last delivered message
	sent   time.Time // when it was delivered
}

func (p *replayPace) at(now time.Time, next candidate, stored time.Time) time.Time {
	if next.count > 1 || next.seq > p.upTo || p.sent.IsZero() {
		return now
	}
	if gap := stored.Sub(p.stored); gap > time.Millisecond {
		return p.sent.Add(gap)
	}
	return now
}

// pace returns when the loaded message may be sent.
func (c *Consumer) pace(next candidate, size int) time.Time {
	at := c.rate.at(c.now, size)
	if r := c.replay.at(c.now, next, c.msg.Time); r.After(at) {
		at = r
	}
	return at
}

// paced books that the loaded message was sent.
func (c *Consumer) paced(next candidate, size int) {
	c.rate.sent(c.now, size)
	if next.count == 1 {
		c.replay.stored, c.replay.sent = c.msg.Time, c.now
	}
}

func (c *Consumer) startPace() {
	if c.conf.ReplayPolicy == api.ReplayOriginal {
		_, c.replay.upTo = c.cfg.Source.Bounds()
	}
}
