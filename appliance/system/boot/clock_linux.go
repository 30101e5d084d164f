package boot

import (
	"cmp"
	"context"
	"time"

	"millrace/appliance/system/clock"
)

// defaultTimeServers are asked when neither the owner nor DHCP names any.
var defaultTimeServers = []string{"0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"}

// How long a boot waits for the time: longer for servers that somebody has named.
const (
	clockWait        = 10 * time.Second
	defaultClockWait = 3 * time.Second
)

// startClock sets the clock, waiting a bounded time for that, and keeps it right from then on.
func (b *systemBox) startClock(ctx context.Context) {
	s := b.conf.Settings
	if s.NoNTP {
		b.sayClock("that of the machine, as configured")
		return
	}
	servers, wait := s.NTP, clockWait
	if len(servers) == 0 {
		servers = b.network.TimeServers()
	}
	if len(servers) == 0 {
		servers, wait = defaultTimeServers, defaultClockWait
	}
	b.timekeeper = clock.Start(ctx, clock.Config{Servers: servers, Doubtful: b.clockWrong, Earliest: earliest, Say: b.sayClock, Logger: b.logger}, wait)
	b.mu.Lock()
	b.clock = cmp.Or(b.clock, "not known from a time server yet")
	b.mu.Unlock()
}

func (b *systemBox) sayClock(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = text
}
