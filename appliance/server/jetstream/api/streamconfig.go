package api

import (
	"maps"
	"slices"
	"time"
)

// StreamConfig is the configuration of a stream. Limits count as unlimited when they are -1.
type StreamConfig struct {
	Name         string        `json:"name"`
	Description  string        `json:"description,omitempty"`
	Subjects     []string      `json:"subjects,omitempty"`
	Retention    Retention     `json:"retention"`
	MaxConsumers int           `json:"max_consumers"`
	MaxMsgs      int64         `json:"max_msgs"`
	MaxBytes     int64         `json:"max_bytes"`
	MaxAge       time.Duration `json:"max_age"`
	MaxMsgsPer   int64         `json:"max_msgs_per_subject"`
	// MaxMsgSize limits header plus body, in bytes.
	MaxMsgSize  int32           `json:"max_msg_size,omitempty"`
	Discard     Discard         `json:"discard"`
	Storage     Storage         `json:"storage"`
	Replicas    int             `json:"num_replicas"`
	NoAck       bool            `json:"no_ack,omitempty"`
	Duplicates  time.Duration   `json:"duplicate_window,omitempty"`
	Placement   *Placement      `json:"placement,omitempty"`
	Mirror      *StreamSource   `json:"mirror,omitempty"`
	Sources     []*StreamSource `json:"sources,omitempty"`
	Compression Compression     `json:"compression"`
	FirstSeq    uint64          `json:"first_seq,omitempty"`

	// SubjectTransform is applied to a message's subject before anything else looks at it.
	SubjectTransform *SubjectTransform `json:"subject_transform,omitempty"`
	// RePublish publishes stored messages again (ADR-28).
	RePublish *RePublish `json:"republish,omitempty"`

	AllowDirect   bool `json:"allow_direct"`
	MirrorDirect  bool `json:"mirror_direct"`
	DiscardNewPer bool `json:"discard_new_per_subject,omitempty"`
	Sealed        bool `json:"sealed"`
	DenyDelete    bool `json:"deny_delete"`
	DenyPurge     bool `json:"deny_purge"`
	AllowRollup   bool `json:"allow_rollup_hdrs"`

	// ConsumerLimits are defaults and maxima of the stream's consumers.
	ConsumerLimits ConsumerLimits `json:"consumer_limits"`

	// AllowMsgTTL enables the Nats-TTL header (ADR-43).
	AllowMsgTTL            bool          `json:"allow_msg_ttl"`
	SubjectDeleteMarkerTTL time.Duration `json:"subject_delete_marker_ttl,omitempty"`

	AllowMsgCounter    bool        `json:"allow_msg_counter,omitempty"`
	AllowAtomicPublish bool        `json:"allow_atomic,omitempty"`
	AllowMsgSchedules  bool        `json:"allow_msg_schedules,omitempty"`
	PersistMode        PersistMode `json:"persist_mode,omitempty"`
	AllowBatchPublish  bool        `json:"allow_batched,omitempty"`

	Metadata map[string]string `json:"metadata,omitempty"`
}

// Clone returns a deep copy.
func (c *StreamConfig) Clone() StreamConfig {
	n := *c
	n.Subjects = slices.Clone(c.Subjects)
	n.Placement = c.Placement.clone()
	n.Mirror = c.Mirror.clone()
	n.Sources = slices.Clone(c.Sources)
	for i, s := range n.Sources {
		n.Sources[i] = s.clone()
	}
	n.SubjectTransform = clonePtr(c.SubjectTransform)
	n.RePublish = clonePtr(c.RePublish)
	n.Metadata = maps.Clone(c.Metadata)
	return n
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// ConsumerLimits bound the consumers of a stream; zero means no bound.
type ConsumerLimits struct {
	InactiveThreshold time.Duration `json:"inactive_threshold,omitempty"`
	MaxAckPending     int           `json:"max_ack_pending,omitempty"`
}

// SubjectTransform maps subjects that match Source to Destination; an empty Destination maps none,
// an empty Source is all, see ParseTransform.
type SubjectTransform struct {
	Source      string `json:"src"`
	Destination string `json:"dest"`
}

// RePublish tells which stored messages are published again and where; an empty Source is all.
type RePublish struct {
	Source      string `json:"src,omitempty"`
	Destination string `json:"dest"`
	HeadersOnly bool   `json:"headers_only,omitempty"`
}

// Placement asks for servers of a cluster or with tags.
type Placement struct {
	Cluster   string   `json:"cluster,omitempty"`
	Tags      []string `json:"tags,omitempty"`
	Preferred string   `json:"preferred,omitempty"`
}

func (p *Placement) clone() *Placement {
	n := clonePtr(p)
	if n != nil {
		n.Tags = slices.Clone(p.Tags)
	}
	return n
}

// StreamSource names a stream that a mirror or a sourcing stream copies.
type StreamSource struct {
	Name              string             `json:"name"`
	OptStartSeq       uint64             `json:"opt_start_seq,omitempty"`
	OptStartTime      *time.Time         `json:"opt_start_time,omitempty"`
	FilterSubject     string             `json:"filter_subject,omitempty"`
	SubjectTransforms []SubjectTransform `json:"subject_transforms,omitempty"`
	External          *ExternalStream    `json:"external,omitempty"`
	Consumer          *SourceConsumer    `json:"consumer,omitempty"`
}

func (s *StreamSource) clone() *StreamSource {
	n := clonePtr(s)
	if n != nil {
		n.OptStartTime = clonePtr(s.OptStartTime)
		n.SubjectTransforms = slices.Clone(s.SubjectTransforms)
		n.External = clonePtr(s.External)
		n.Consumer = clonePtr(s.Consumer)
	}
	return n
}

// SourceConsumer names the durable consumer that sourcing reads from (ADR-60).
type SourceConsumer struct {
	Name           string `json:"name,omitempty"`
	DeliverSubject string `json:"deliver_subject,omitempty"`
}

// ExternalStream qualifies a source in another account or domain.
type ExternalStream struct {
	APIPrefix     string `json:"api"`
	DeliverPrefix string `json:"deliver"`
}
