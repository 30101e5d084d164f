package api

import "iter"

// CheckConsumerUpdate refuses an update of a consumer from old to next, both normalized. bound
// tells that the old deliver subject has interest; it can not be changed then.
func CheckConsumerUpdate(old, next *ConsumerConfig, bound bool) *Error {
	reason := ""
	switch {
	case old.DeliverPolicy != next.DeliverPolicy:
		reason = "deliver policy can not be updated"
	case old.MemoryStorage != next.MemoryStorage:
		reason = "storage type can not be updated"
	case old.Direct != next.Direct:
		reason = "direct can not be updated"
	case old.Sourcing != next.Sourcing:
		reason = "sourcing can not be updated"
	case old.OptStartSeq != next.OptStartSeq:
		reason = "start sequence can not be updated"
	case !sameTime(old, next):
		reason = "start time can not be updated"
	case old.AckPolicy != next.AckPolicy:
		reason = "ack policy can not be updated"
	case old.ReplayPolicy != next.ReplayPolicy:
		reason = "replay policy can not be updated"
	case old.Heartbeat != next.Heartbeat:
		reason = "heart beats can not be updated"
	case old.FlowControl != next.FlowControl:
		reason = "flow control can not be updated"
	case !old.IsPush() && next.IsPush():
		reason = "can not update pull consumer to push based"
	case old.IsPush() && !next.IsPush():
		reason = "can not update push consumer to pull based"
	case old.DeliverSubject != next.DeliverSubject && bound:
		return ErrConsumerNameExist
	case old.MaxWaiting != next.MaxWaiting:
		reason = "max waiting can not be updated"
	case old.IsDurable() != next.IsDurable():
		reason = "durable name can not be updated"
	default:
		return next.checkBackOff()
	}
	return ErrConsumerCreateF(reason)
}

func sameTime(a, b *ConsumerConfig) bool {
	x, y := a.OptStartTime, b.OptStartTime
	return x == y || x != nil && y != nil && x.Equal(*y)
}

// CheckWorkQueue applies the rules among the consumers of a work-queue stream to the consumer c,
// new or updated: explicit acks, delivery of all, and no message matched by two consumers. others
// yields the stream's consumers; one named as c is passed over.
func CheckWorkQueue(c *ConsumerConfig, others iter.Seq2[string, *ConsumerConfig]) *Error {
	if c.AckPolicy != AckExplicit {
		return ErrConsumerWQRequiresExplicitAck
	}
	if c.DeliverPolicy != DeliverAll {
		return ErrConsumerWQConsumerNotDeliverAll
	}
	filters := c.Filters()
	for name, other := range others {
		if name == c.Name && name != "" {
			continue
		}
		if len(filters) == 0 {
			return ErrConsumerWQMultipleUnfiltered
		}
		if taken := other.Filters(); len(taken) == 0 || SubjectsOverlap(filters, taken) {
			return ErrConsumerWQConsumerNotUnique
		}
	}
	return nil
}
