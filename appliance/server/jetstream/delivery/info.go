package delivery

import (
	"time"

	"millrace/appliance/server/jetstream/api"
)

// Info returns the state of the consumer. The caller owns it.
func (c *Consumer) Info() *api.ConsumerInfo {
	now := time.Now()
	c.mu.Lock()
	conf := c.conf.Clone()
	delivered, floor := c.m.Delivered(), c.m.Floor()
	info := &api.ConsumerInfo{
		Stream:         c.cfg.Stream,
		Name:           c.cfg.Name,
		Created:        c.cfg.Created.UTC(),
		Config:         &conf,
		Delivered:      api.SequenceInfo{Consumer: delivered.Consumer, Stream: delivered.Stream, Last: utc(c.m.LastDelivered())},
		AckFloor:       api.SequenceInfo{Consumer: floor.Consumer, Stream: floor.Stream, Last: utc(c.m.LastAcked())},
		NumAckPending:  c.m.NumPending(),
		NumRedelivered: c.m.NumRedelivered(),
		PushBound:      conf.IsPush() && c.active,
		TimeStamp:      now.UTC(),
	}
	listed := uint64(len(c.skip))
	from := max(delivered.Stream, c.m.Horizon()) + 1
	filters := c.filters
	var inboxes []string
	for p := c.waiting.head; p != nil; p = p.next {
		if p.expires.IsZero() || now.Before(p.expires) {
			inboxes = append(inboxes, p.reply)
		}
	}
	c.mu.Unlock()

	info.NumPending = listed + c.cfg.Source.Pending(from, filters)
	for _, inbox := range inboxes {
		if c.cfg.Bus.HasInterest(inbox) {
			info.NumWaiting++
		}
	}
	if conf.MaxDeliver == 1 {
		info.NumRedelivered = 0 // there are no redeliveries to speak of
	}
	if conf.PauseUntil != nil && now.Before(*conf.PauseUntil) {
		info.Paused, info.PauseRemaining = true, conf.PauseUntil.Sub(now)
	}
	return info
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
