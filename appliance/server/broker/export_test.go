package broker

import "time"

// SetRefusedDelay sets the time to the next attempt after one server of a cluster has refused another.
func (b *Broker) SetRefusedDelay(d time.Duration) { b.mesh.refused = d }

// HoldTime is how long requests are held.
const HoldTime = holdTime

// QuietRoutes is the number of routes that are quiet.
func (b *Broker) QuietRoutes() int { return int(b.mesh.quiet.Load()) }
