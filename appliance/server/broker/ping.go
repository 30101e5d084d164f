package broker

import (
	"math/rand/v2"
	"time"

	"millrace/appliance/server/wire"
)

// firstPing bounds the time to the first PING after CONNECT, which measures the round trip time.
const firstPing = 2 * time.Second

// remeasure is the age at which the round trip time is measured again although the client is active.
const remeasure = time.Hour

// startPings starts the ping timer, or starts it anew with a short first interval after CONNECT.
func (c *client) startPings(connected bool) {
	d := c.b.cfg.PingInterval
	if connected {
		d = min(d, firstPing)
		d += rand.N(d/5 + 1) // spreads the timers of clients that came together
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pingTimer != nil {
		c.pingTimer.Stop()
	}
	c.pingTimer = time.AfterFunc(d, c.ping)
}

// ping sends a PING to a client that has been silent, and closes the connection when too many are
// unanswered.
func (c *client) ping() {
	interval := c.b.cfg.PingInterval
	now := time.Now()
	c.mu.Lock()
	if c.pingTimer == nil {
		c.mu.Unlock()
		return
	}
	silent := now.Sub(time.Unix(0, c.lastIn.Load())) >= interval
	measure := c.pingSent.IsZero() || now.Sub(c.pingSent) > remeasure
	stale := false
	send := silent || measure
	if send {
		if stale = c.pingsOut+1 > c.b.cfg.MaxPingsOut; !stale {
			c.pingsOut++
			c.pingSent = now
		}
	}
	if !stale {
		c.pingTimer.Reset(interval)
	}
	c.mu.Unlock()
	switch {
	case stale:
		c.send(wire.AppendErr(nil, wire.TextStaleConnection))
		c.closeAfterFlush(closedStale, false)
	case send:
		c.send([]byte(wire.Ping))
	}
}

// handlePong notes that the client is alive and its round trip time.
func (c *client) handlePong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pingsOut = 0
	if c.info != nil && !c.pingSent.IsZero() {
		c.info.rtt.Store(int64(max(time.Since(c.pingSent), 1)))
	}
}

// stopTimers ends all timers of the connection.
func (c *client) stopTimers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pingTimer != nil {
		c.pingTimer.Stop()
		c.pingTimer = nil
	}
	if c.authTimer != nil {
		c.authTimer.Stop()
		c.authTimer = nil
	}
}

// startAuthTimer gives the client until AuthTimeout to send CONNECT.
func (c *client) startAuthTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.authTimer = time.AfterFunc(c.b.cfg.AuthTimeout, func() {
		c.mu.Lock()
		late := !c.connected
		c.authExpired = late
		c.mu.Unlock()
		if late {
			c.send(wire.AppendErr(nil, wire.TextAuthTimeout))
			c.closeAfterFlush(closedAuthTimeout, false)
		}
	})
}
