package api

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/subject"
)

// Normalize returns the configuration as it is stored for a consumer of the stream s: checked, with
// defaults filled in. In pedantic mode a default that would change what was asked for is an error.
// The rules among consumers are not checked here, see CheckWorkQueue.
func (c *ConsumerConfig) Normalize(s *StreamConfig, l *Limits, pedantic bool) (ConsumerConfig, *Error) {
	n := c.Clone()
	if n.Name == "" {
		n.Name = n.Durable
	}
	for _, check := range []func() *Error{
		func() *Error {
			if n.Replicas > 1 && !l.Clustered {
				return ErrStreamReplicasNotSupported
			}
			return nil
		},
		func() *Error { return n.defaults(s, l, pedantic) },
		n.checkNames,
		func() *Error { return n.checkReplicas(s) },
		n.checkAcks,
		func() *Error {
			if n.IsPush() {
				return n.checkPush(s)
			}
			return n.checkPull(s, l)
		},
		func() *Error { return n.checkLimits(s, l) },
		n.checkFilters,
		n.checkStart,
		n.checkRest,
		n.checkServed,
	} {
		if err := check(); err != nil {
			return ConsumerConfig{}, err
		}
	}
	n.Metadata = stored(n.Metadata, n.requiredLevel())
	return n, nil
}

func (c *ConsumerConfig) checkServed() *Error {
	if reason := unserved(consumerFeatures, c); reason != "" {
		return ErrConsumerCreateF(reason)
	}
	return nil
}

// atLeast raises *v to least; pedantically that is refused with key and what it must be.
func atLeast[T int | time.Duration](v *T, least T, pedantic bool, reason string) *Error {
	if *v >= least {
		return nil
	}
	if pedantic {
		return ErrPedanticF(reason)
	}
	*v = least
	return nil
}

func (c *ConsumerConfig) defaults(s *StreamConfig, l *Limits, pedantic bool) *Error {
	for _, err := range []*Error{
		atLeast(&c.MaxDeliver, -1, pedantic, "max_deliver must be set to -1"),
		atLeast(&c.MaxWaiting, 0, pedantic, "max_waiting must not be negative"),
		atLeast(&c.MaxAckPending, -1, pedantic, "max_ack_pending must be set to -1"),
		atLeast(&c.MaxRequestBatch, 0, pedantic, "max_batch must not be negative"),
		atLeast(&c.MaxRequestExpires, 0, pedantic, "max_expires must not be negative"),
		atLeast(&c.MaxRequestMaxBytes, 0, pedantic, "max_bytes must not be negative"),
		atLeast(&c.Heartbeat, 0, pedantic, "idle_heartbeat must not be negative"),
		atLeast(&c.InactiveThreshold, 0, pedantic, "inactive_threshold must not be negative"),
	} {
		if err != nil {
			return err
		}
	}
	if c.MaxDeliver == 0 {
		c.MaxDeliver = -1
	}
	if !c.IsPush() && c.MaxWaiting == 0 {
		c.MaxWaiting = DefaultMaxWaiting
	}
	if c.AckWait == 0 && c.AckPolicy != AckNone {
		c.AckWait = DefaultAckWait
	}
	if len(c.BackOff) > 0 {
		if pedantic && c.AckWait != c.BackOff[0] {
			return ErrPedanticF("first backoff value has to equal batch AckWait")
		}
		c.AckWait = c.BackOff[0]
	}
	if c.MaxAckPending == 0 && s.ConsumerLimits.MaxAckPending > 0 {
		if pedantic {
			return ErrPedanticF("max_ack_pending must be set if it's configured in stream limits")
		}
		c.MaxAckPending = s.ConsumerLimits.MaxAckPending
	}
	if c.InactiveThreshold == 0 && s.ConsumerLimits.InactiveThreshold > 0 {
		if pedantic {
			return ErrPedanticF("inactive_threshold must be set if it's configured in stream limits")
		}
		c.InactiveThreshold = s.ConsumerLimits.InactiveThreshold
	}
	if c.MaxAckPending == 0 && c.AckPolicy != AckNone {
		c.MaxAckPending = DefaultMaxAckPending
		for _, most := range []int{l.MaxAckPending, l.Account.MaxAckPending} {
			if most > 0 {
				c.MaxAckPending = min(c.MaxAckPending, most)
			}
		}
	}
	if !c.IsPush() && c.MaxRequestBatch == 0 && l.MaxRequestBatch > 0 {
		if pedantic {
			return ErrPedanticF("max_request_batch must be set if it's JetStream limits are set")
		}
		c.MaxRequestBatch = l.MaxRequestBatch
	}
	if !c.IsDurable() && c.InactiveThreshold == 0 {
		c.InactiveThreshold = DefaultInactiveThreshold
	}
	return nil
}

func (c *ConsumerConfig) checkNames() *Error {
	switch {
	case c.Name != "" && c.Name != c.Durable && !ValidName(c.Name):
		return invalidStream(`consumer name can not contain '.', '*', '>', '\', '/'`)
	case c.Durable != "" && !ValidName(c.Durable):
		return invalidStream(`consumer durable name can not contain '.', '*', '>', '\', '/'`)
	case c.Durable != "" && c.Name != c.Durable:
		return ErrConsumerCreateDurableAndNameMismatch
	case len(c.Name) > MaxNameLen:
		return ErrConsumerNameTooLongF(MaxNameLen)
	case len(c.Description) > MaxDescriptionLen:
		return ErrConsumerDescriptionTooLongF(MaxDescriptionLen)
	}
	return nil
}

func (c *ConsumerConfig) checkReplicas(s *StreamConfig) *Error {
	switch {
	case c.Replicas < 0:
		return ErrReplicasCountCannotBeNegative
	case c.Replicas > s.Replicas:
		return ErrConsumerReplicasExceedsStream
	case s.Retention != LimitsPolicy && c.Replicas != 0 && c.Replicas != s.Replicas:
		return ErrConsumerReplicasShouldMatchStream
	}
	return nil
}

func (c *ConsumerConfig) checkAcks() *Error {
	if c.AckPolicy > AckFlowControl {
		return ErrConsumerAckPolicyInvalid
	}
	if c.ReplayPolicy > ReplayOriginal {
		return ErrConsumerReplayPolicyInvalid
	}
	for _, wait := range c.BackOff {
		if wait < 0 {
			return ErrConsumerBackOffNegative
		}
	}
	if c.AckWait < 0 {
		return ErrConsumerAckWaitNegative
	}
	return c.checkBackOff()
}

func (c *ConsumerConfig) checkBackOff() *Error {
	if n := len(c.BackOff); n > 0 && c.MaxDeliver != -1 && n > c.MaxDeliver {
		return ErrConsumerMaxDeliverBackoff
	}
	return nil
}

func (c *ConsumerConfig) checkPush(s *StreamConfig) *Error {
	switch {
	case !subject.IsLiteral(c.DeliverSubject):
		return ErrConsumerDeliverToWildcards
	case !subject.Valid(c.DeliverSubject):
		return ErrConsumerInvalidDeliverSubject
	case SubjectsOverlap(s.Subjects, []string{c.DeliverSubject}):
		return ErrConsumerDeliverCycle
	case c.MaxWaiting != 0:
		return ErrConsumerPushMaxWaiting
	case c.MaxAckPending > 0 && c.AckPolicy == AckNone:
		return ErrConsumerMaxPendingAckPolicyRequired
	case c.Heartbeat > 0 && c.Heartbeat < 100*time.Millisecond:
		return ErrConsumerSmallHeartbeat
	case c.FlowControl && c.Heartbeat == 0:
		return ErrConsumerWithFlowControlNeedsHeartbeats
	}
	return nil
}

func (c *ConsumerConfig) checkPull(s *StreamConfig, l *Limits) *Error {
	switch {
	case c.AckPolicy == AckNone && s.Retention == WorkQueuePolicy:
		return ErrConsumerPullRequiresAck
	case c.RateLimit > 0:
		return ErrConsumerPullWithRateLimit
	case c.Heartbeat > 0:
		return ErrConsumerHBRequiresPush
	case c.FlowControl:
		return ErrConsumerFCRequiresPush
	case c.MaxRequestExpires != 0 && c.MaxRequestExpires < time.Millisecond:
		return ErrConsumerMaxRequestExpiresTooSmall
	case l.MaxRequestBatch > 0 && c.MaxRequestBatch > l.MaxRequestBatch:
		return ErrConsumerMaxRequestBatchExceededF(l.MaxRequestBatch)
	}
	return nil
}

func (c *ConsumerConfig) checkLimits(s *StreamConfig, l *Limits) *Error {
	for _, most := range []int{l.MaxAckPending, l.Account.MaxAckPending, s.ConsumerLimits.MaxAckPending} {
		if most > 0 && c.MaxAckPending > most {
			return ErrConsumerMaxPendingAckExcessF(most)
		}
	}
	if most := s.ConsumerLimits.InactiveThreshold; most > 0 && c.InactiveThreshold > most {
		return ErrConsumerInactiveThresholdExcessF(most.String())
	}
	return nil
}

func (c *ConsumerConfig) checkFilters() *Error {
	if c.FilterSubject != "" && len(c.FilterSubjects) > 0 {
		return ErrConsumerDuplicateFilterSubjects
	}
	for _, f := range c.FilterSubjects {
		if f == "" {
			return ErrConsumerEmptyFilter
		}
	}
	filters := c.Filters()
	for i, f := range filters {
		if !subject.Valid(f) {
			return invalidStream(badSubject)
		}
		for j, other := range filters {
			if i != j && subject.Subset(f, other) {
				return ErrConsumerOverlappingSubjectFilters
			}
		}
	}
	return nil
}

// checkStart checks that the optional start goes with the deliver policy.
func (c *ConsumerConfig) checkStart() *Error {
	if c.DeliverPolicy > DeliverLastPerSubject {
		return ErrConsumerInvalidPolicyF(fmt.Sprintf("unknown deliver policy %d", c.DeliverPolicy))
	}
	policy := strings.ReplaceAll(c.DeliverPolicy.String(), "_", " ")
	bySeq, byTime := c.DeliverPolicy == DeliverByStartSequence, c.DeliverPolicy == DeliverByStartTime
	set, missing := "", ""
	switch {
	case bySeq && c.OptStartSeq == 0:
		missing = "start sequence"
	case byTime && c.OptStartTime == nil:
		missing = "start time"
	case byTime && c.OptStartSeq > 0:
		set = "start sequence"
	case !bySeq && c.OptStartSeq > 0:
		set = "sequence"
	case !byTime && c.OptStartTime != nil:
		set = "time"
	case c.DeliverPolicy == DeliverLastPerSubject && len(c.Filters()) == 0:
		missing = "filter subject"
	}
	switch {
	case set != "":
		return ErrConsumerInvalidPolicyF(fmt.Sprintf(
			"consumer delivery policy is deliver %s, but optional start %s is also set", policy, set))
	case missing != "":
		return ErrConsumerInvalidPolicyF(fmt.Sprintf(
			"consumer delivery policy is deliver %s, but optional %s is not set", policy, missing))
	}
	return nil
}

func (c *ConsumerConfig) checkRest() *Error {
	if c.SampleFrequency != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(c.SampleFrequency, "%"))
		if err == nil && n < 0 {
			err = fmt.Errorf("%d is negative", n)
		}
		if err != nil {
			return ErrConsumerInvalidSamplingF(err.Error())
		}
	}
	if metadataLen(c.Metadata) > MaxMetadataLen {
		return ErrConsumerMetadataLengthF(fmt.Sprintf("%dKB", MaxMetadataLen/1024))
	}
	return nil
}
