package api

import (
	"fmt"
	"strings"
	"time"
)

// Normalize returns the configuration as it is stored: checked, with defaults filled in. In
// pedantic mode a default that would change what was asked for is an error. The catalogue's rules
// (other streams, room) are not checked here, see package meta.
func (c *StreamConfig) Normalize(l *Limits, pedantic bool) (StreamConfig, *Error) {
	n := c.Clone()
	for _, check := range []func() *Error{
		n.checkText,
		n.checkEnums,
		func() *Error { return invalidStream(unserved(streamFeatures, &n)) },
		n.checkReplicas,
		func() *Error { return n.defaultLimits(pedantic) },
		func() *Error { return n.checkDuplicates(l, pedantic) },
		func() *Error { return n.checkPermissions(pedantic) },
		n.checkSubjects,
		func() *Error { return n.checkMaxBytes(&l.Account) },
		n.checkTransform,
		func() *Error { return n.checkRePublish(pedantic) },
		n.checkPlacement,
		func() *Error {
			if n.Replicas > 1 && !l.Clustered {
				return ErrStreamReplicasNotSupported
			}
			return nil
		},
	} {
		if err := check(); err != nil {
			return StreamConfig{}, err
		}
	}
	n.Metadata = stored(n.Metadata, n.requiredLevel())
	return n, nil
}

// CheckCreate refuses what only an existing stream can have. nats-server checks it before the rest.
func (c *StreamConfig) CheckCreate() *Error {
	switch {
	case strings.ContainsAny(c.Name, `\/`):
		return ErrStreamNameContainsPathSeparators
	case c.Sealed:
		return ErrStreamInvalidConfigF("stream configuration for create can not be sealed")
	case c.MirrorDirect && c.Mirror == nil:
		return ErrStreamInvalidConfigF("stream has no mirror but does have mirror direct")
	}
	return nil
}

// invalidStream is nil for an empty reason.
func invalidStream(reason string) *Error {
	if reason == "" {
		return nil
	}
	return ErrStreamInvalidConfigF(reason)
}

func (c *StreamConfig) checkText() *Error {
	switch {
	case !ValidName(c.Name):
		return invalidStream(`stream name is required and can not contain '.', '*', '>', '\', '/'`)
	case len(c.Name) > MaxNameLen:
		return invalidStream(fmt.Sprintf("stream name is too long, maximum allowed is %d", MaxNameLen))
	case len(c.Description) > MaxDescriptionLen:
		return invalidStream(fmt.Sprintf("stream description is too long, maximum allowed is %d", MaxDescriptionLen))
	case metadataLen(c.Metadata) > MaxMetadataLen:
		return invalidStream(fmt.Sprintf("stream metadata exceeds maximum size of %d bytes", MaxMetadataLen))
	}
	return nil
}

// checkEnums guards against values that did not come from JSON.
func (c *StreamConfig) checkEnums() *Error {
	switch {
	case c.Retention > WorkQueuePolicy:
		return invalidStream("invalid retention")
	case c.Discard > DiscardNew:
		return invalidStream("invalid discard policy")
	case c.Compression > S2Compression:
		return invalidStream("invalid compression")
	case c.Storage > MemoryStorage:
		return invalidStream("invalid storage type")
	}
	return nil
}

func (c *StreamConfig) checkReplicas() *Error {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Replicas > MaxReplicas {
		return invalidStream(fmt.Sprintf("maximum replicas is %d", MaxReplicas))
	}
	if c.Replicas < 0 {
		return ErrReplicasCountCannotBeNegative
	}
	return nil
}

// defaultLimits makes -1 of every limit that is not set.
func (c *StreamConfig) defaultLimits(pedantic bool) *Error {
	if pedantic {
		for _, limit := range []struct {
			key   string
			value int64
		}{
			{"max_msgs", c.MaxMsgs}, {"max_msgs_per_subject", c.MaxMsgsPer}, {"max_bytes", c.MaxBytes},
			{"max_msg_size", int64(c.MaxMsgSize)}, {"max_consumers", int64(c.MaxConsumers)},
		} {
			if limit.value < -1 {
				return ErrPedanticF(limit.key + " must be set to -1")
			}
		}
	}
	unlimit(&c.MaxMsgs)
	unlimit(&c.MaxMsgsPer)
	unlimit(&c.MaxBytes)
	unlimit(&c.MaxMsgSize)
	unlimit(&c.MaxConsumers)
	if c.MaxAge < 0 {
		return invalidStream("max age can not be negative")
	}
	if c.MaxAge != 0 && c.MaxAge < 100*time.Millisecond {
		return invalidStream("max age needs to be >= 100ms")
	}
	return nil
}

func unlimit[T int | int32 | int64](limit *T) {
	if *limit <= 0 {
		*limit = -1
	}
}

func (c *StreamConfig) checkDuplicates(l *Limits, pedantic bool) *Error {
	if c.Duplicates == 0 {
		c.Duplicates = DefaultDuplicateWindow
		if l.DuplicateWindow > 0 && c.Duplicates > l.DuplicateWindow {
			if pedantic {
				return ErrPedanticF("duplicate window limits are higher than current limits")
			}
			c.Duplicates = l.DuplicateWindow
		}
		if c.MaxAge != 0 && c.MaxAge < c.Duplicates {
			if pedantic {
				return ErrPedanticF("duplicate window cannot be bigger than max age")
			}
			c.Duplicates = c.MaxAge
		}
	}
	switch {
	case c.Duplicates < 0:
		return invalidStream("duplicates window can not be negative")
	case c.MaxAge != 0 && c.Duplicates > c.MaxAge:
		return invalidStream("duplicates window can not be larger then max age")
	case l.DuplicateWindow > 0 && c.Duplicates > l.DuplicateWindow:
		return invalidStream(fmt.Sprintf("duplicates window can not be larger then server limit of %v", l.DuplicateWindow))
	case c.Duplicates < 100*time.Millisecond:
		return invalidStream("duplicates window needs to be >= 100ms")
	}
	return nil
}

// checkPermissions checks rollup, discard per subject and delete markers (ADR-43).
func (c *StreamConfig) checkPermissions(pedantic bool) *Error {
	switch {
	case c.DenyPurge && c.AllowRollup:
		return invalidStream("roll-ups require the purge permission")
	case c.DiscardNewPer && c.Discard != DiscardNew:
		return invalidStream("discard new per subject requires discard new policy to be set")
	case c.DiscardNewPer && c.MaxMsgsPer <= 0:
		return invalidStream("discard new per subject requires max msgs per subject > 0")
	case c.SubjectDeleteMarkerTTL < 0:
		return invalidStream("subject delete marker TTL must not be negative")
	case c.SubjectDeleteMarkerTTL == 0:
		return nil
	case c.SubjectDeleteMarkerTTL < time.Second:
		return invalidStream("subject delete marker TTL must be at least 1 second")
	case pedantic && !c.AllowMsgTTL:
		return invalidStream("subject delete marker cannot be set if message TTLs are disabled")
	case pedantic && !c.AllowRollup:
		return invalidStream("subject delete marker cannot be set if roll-ups are disabled")
	}
	c.AllowMsgTTL = true
	if !c.AllowRollup {
		c.AllowRollup, c.DenyPurge = true, false
	}
	return nil
}

func (c *StreamConfig) checkMaxBytes(a *AccountLimits) *Error {
	most := a.StoreMaxStreamBytes
	if c.Storage == MemoryStorage {
		most = a.MemoryMaxStreamBytes
	}
	if a.MaxBytesRequired && c.MaxBytes <= 0 {
		return ErrStreamMaxBytesRequired
	}
	if most > 0 && c.MaxBytes > most {
		return ErrStreamMaxStreamBytesExceeded
	}
	if c.MaxConsumers > 0 && a.MaxConsumers > 0 && c.MaxConsumers > a.MaxConsumers {
		return ErrMaximumConsumersLimit
	}
	return nil
}

func (c *StreamConfig) checkPlacement() *Error {
	p := c.Placement
	if p == nil {
		return nil
	}
	if p.Cluster == "" && len(p.Tags) == 0 && p.Preferred == "" {
		c.Placement = nil // nats.go sends an empty one with object stores
		return nil
	}
	if p.Preferred != "" {
		return invalidStream("preferred server not permitted in placement")
	}
	return nil
}
