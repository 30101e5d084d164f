package consumer

import (
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// Config is the part of a consumer's configuration that its bookkeeping depends on. It is part of
// the state: a change reaches the machine as a SetConfig operation of the log.
type Config struct {
	AckPolicy     api.AckPolicy   // none, all or explicit
	AckWait       time.Duration   // a delivery not acknowledged for so long is due again; 0: never
	BackOff       []time.Duration // replaces AckWait: the wait after the n-th delivery, the last repeats
	MaxDeliver    int             // deliveries of one message; <= 0: unlimited
	MaxAckPending int             // unacknowledged messages that stop new deliveries; <= 0: unlimited
}

// ConfigOf returns the machine's part of c.
func ConfigOf(c *api.ConsumerConfig) Config {
	return Config{
		AckPolicy:     c.AckPolicy,
		AckWait:       c.AckWait,
		BackOff:       slices.Clone(c.BackOff),
		MaxDeliver:    max(c.MaxDeliver, 0),
		MaxAckPending: max(c.MaxAckPending, 0),
	}
}

// Equal reports whether c and o are the same configuration.
func (c *Config) Equal(o *Config) bool {
	return c.AckPolicy == o.AckPolicy && c.AckWait == o.AckWait && c.MaxDeliver == o.MaxDeliver &&
		c.MaxAckPending == o.MaxAckPending && slices.Equal(c.BackOff, o.BackOff)
}

// Wait returns how long the delivery number count (from 1) of a message may stay unacknowledged; 0
// means for ever.
func (c *Config) Wait(count uint32) time.Duration {
	if n := len(c.BackOff); n > 0 {
		return c.BackOff[min(max(int(count), 1), n)-1]
	}
	return c.AckWait
}
