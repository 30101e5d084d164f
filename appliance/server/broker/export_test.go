package broker

import "time"

// SetRefusedDelay sets the time to the next attempt after one server of a cluster has refused another.
func (b *Broker) SetRefusedDelay(d time.Duration) { b.mesh.refused = d }
