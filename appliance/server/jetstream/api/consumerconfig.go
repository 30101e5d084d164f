package api

import (
	"maps"
	"slices"
	"time"
)

// ConsumerConfig is the configuration of a consumer.
type ConsumerConfig struct {
	Durable         string          `json:"durable_name,omitempty"`
	Name            string          `json:"name,omitempty"`
	Description     string          `json:"description,omitempty"`
	DeliverPolicy   DeliverPolicy   `json:"deliver_policy"`
	OptStartSeq     uint64          `json:"opt_start_seq,omitempty"`
	OptStartTime    *time.Time      `json:"opt_start_time,omitempty"`
	AckPolicy       AckPolicy       `json:"ack_policy"`
	AckWait         time.Duration   `json:"ack_wait,omitempty"`
	MaxDeliver      int             `json:"max_deliver,omitempty"`
	BackOff         []time.Duration `json:"backoff,omitempty"`
	FilterSubject   string          `json:"filter_subject,omitempty"`
	FilterSubjects  []string        `json:"filter_subjects,omitempty"`
	ReplayPolicy    ReplayPolicy    `json:"replay_policy"`
	RateLimit       uint64          `json:"rate_limit_bps,omitempty"` // bits per second
	SampleFrequency string          `json:"sample_freq,omitempty"`
	MaxWaiting      int             `json:"max_waiting,omitempty"`
	MaxAckPending   int             `json:"max_ack_pending,omitempty"`
	FlowControl     bool            `json:"flow_control,omitempty"`
	HeadersOnly     bool            `json:"headers_only,omitempty"`

	// Pull consumers only.
	MaxRequestBatch    int           `json:"max_batch,omitempty"`
	MaxRequestExpires  time.Duration `json:"max_expires,omitempty"`
	MaxRequestMaxBytes int           `json:"max_bytes,omitempty"`

	// Push consumers only.
	DeliverSubject string        `json:"deliver_subject,omitempty"`
	DeliverGroup   string        `json:"deliver_group,omitempty"`
	Heartbeat      time.Duration `json:"idle_heartbeat,omitempty"`

	// InactiveThreshold is how long a consumer without interest is kept; zero keeps a durable.
	InactiveThreshold time.Duration `json:"inactive_threshold,omitempty"`

	// Replicas of zero follows the stream.
	Replicas      int  `json:"num_replicas"`
	MemoryStorage bool `json:"mem_storage,omitempty"`

	// Direct and Sourcing mark consumers that servers make to mirror and source streams.
	Direct   bool `json:"direct,omitempty"`
	Sourcing bool `json:"sourcing,omitempty"`

	Metadata map[string]string `json:"metadata,omitempty"`

	// PauseUntil suspends delivery until that time.
	PauseUntil *time.Time `json:"pause_until,omitempty"`

	// Priority groups (ADR-42).
	PriorityGroups []string       `json:"priority_groups,omitempty"`
	PriorityPolicy PriorityPolicy `json:"priority_policy,omitempty"`
	PinnedTTL      time.Duration  `json:"priority_timeout,omitempty"`
}

// Clone returns a deep copy.
func (c *ConsumerConfig) Clone() ConsumerConfig {
	n := *c
	n.OptStartTime = clonePtr(c.OptStartTime)
	n.BackOff = slices.Clone(c.BackOff)
	n.FilterSubjects = slices.Clone(c.FilterSubjects)
	n.Metadata = maps.Clone(c.Metadata)
	n.PauseUntil = clonePtr(c.PauseUntil)
	n.PriorityGroups = slices.Clone(c.PriorityGroups)
	return n
}

// Filters returns the subject filters, nil when every subject matches.
func (c *ConsumerConfig) Filters() []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

// IsPush reports whether the consumer delivers on its own to a subject.
func (c *ConsumerConfig) IsPush() bool { return c.DeliverSubject != "" }

// IsDurable reports whether the consumer outlives its clients by name.
func (c *ConsumerConfig) IsDurable() bool { return c.Durable != "" }
