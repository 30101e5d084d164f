package api

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// CheckStreamUpdate returns the configuration that a stream with configuration old gets when it is
// updated to next, or why it can not be. Both are normalized.
func CheckStreamUpdate(old, next *StreamConfig) (StreamConfig, *Error) {
	reason := ""
	switch {
	case next.Name != old.Name:
		reason = "stream configuration name must match original"
	case next.Storage != old.Storage:
		reason = "stream configuration update can not change storage type"
	case next.Retention != old.Retention && (old.Retention == WorkQueuePolicy || next.Retention == WorkQueuePolicy):
		reason = "stream configuration update can not change retention policy to/from workqueue"
	case old.Sealed && !next.Sealed:
		reason = "stream configuration update can not unseal a sealed stream"
	case old.DenyDelete && !next.DenyDelete:
		reason = "stream configuration update can not cancel deny message deletes"
	case old.DenyPurge && !next.DenyPurge:
		reason = "stream configuration update can not cancel deny purge"
	case old.AllowMsgTTL && !next.AllowMsgTTL:
		reason = "message TTL status can not be disabled"
	}
	if reason != "" {
		return StreamConfig{}, invalidStream(reason)
	}
	n := next.Clone()
	if n.Sealed {
		n.MaxAge, n.Discard, n.DenyDelete, n.DenyPurge, n.AllowRollup = 0, DiscardNew, true, true, false
	}
	return n, nil
}

// CheckConsumerLimits refuses an update of a stream's consumer limits that one of its consumers
// would exceed. consumers are given by name.
func CheckConsumerLimits(old, next *StreamConfig, consumers map[string]*ConsumerConfig) *Error {
	was, is := old.ConsumerLimits, next.ConsumerLimits
	if was == is {
		return nil
	}
	var names []string
	for name, c := range consumers {
		if is.InactiveThreshold > 0 && c.InactiveThreshold > is.InactiveThreshold ||
			is.MaxAckPending > 0 && c.MaxAckPending > is.MaxAckPending {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return ErrStreamUpdateF("change to limits violates consumers: " + strings.Join(names, ", "))
}

// Equal reports whether both configurations are the same. Empty and absent lists are the same.
func (c *StreamConfig) Equal(o *StreamConfig) bool { return equalJSON(c, o) }

// Equal reports whether both configurations are the same. Empty and absent lists are the same.
func (c *ConsumerConfig) Equal(o *ConsumerConfig) bool { return equalJSON(c, o) }

// equalJSON compares by the encoding, which has no order of map keys and no nil to depend on.
func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
