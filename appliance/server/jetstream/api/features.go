package api

// feature is a configuration key that is refused by name while it is not served.
type feature[C any] struct {
	key    string // as in the JSON, with a value where only that is meant
	served bool
	used   func(*C) bool
}

// streamFeatures and consumerFeatures are the one place to turn a feature on.
var (
	streamFeatures = []feature[StreamConfig]{
		{"mirror", false, func(c *StreamConfig) bool { return c.Mirror != nil }},
		{"sources", false, func(c *StreamConfig) bool { return len(c.Sources) > 0 }},
		{"compression s2", false, func(c *StreamConfig) bool { return c.Compression == S2Compression }},
		{"persist_mode async", false, func(c *StreamConfig) bool { return c.PersistMode == AsyncPersistMode }},
		{"allow_msg_counter", false, func(c *StreamConfig) bool { return c.AllowMsgCounter }},
		{"allow_atomic", false, func(c *StreamConfig) bool { return c.AllowAtomicPublish }},
		{"allow_batched", false, func(c *StreamConfig) bool { return c.AllowBatchPublish }},
		{"allow_msg_schedules", false, func(c *StreamConfig) bool { return c.AllowMsgSchedules }},
		{"allow_msg_ttl", false, func(c *StreamConfig) bool { return c.AllowMsgTTL }},
		{"subject_delete_marker_ttl", false, func(c *StreamConfig) bool { return c.SubjectDeleteMarkerTTL != 0 }},
		{"subject_transform", true, func(c *StreamConfig) bool { return c.SubjectTransform != nil }},
		{"republish", false, func(c *StreamConfig) bool { return c.RePublish != nil }},
	}
	consumerFeatures = []feature[ConsumerConfig]{
		{"ack_policy flow_control", false, func(c *ConsumerConfig) bool { return c.AckPolicy == AckFlowControl }},
		{"priority_policy", false, func(c *ConsumerConfig) bool { return c.PriorityPolicy != PriorityNone }},
		{"priority_groups", false, func(c *ConsumerConfig) bool { return len(c.PriorityGroups) > 0 }},
		{"priority_timeout", false, func(c *ConsumerConfig) bool { return c.PinnedTTL != 0 }},
		{"direct", false, func(c *ConsumerConfig) bool { return c.Direct }},
		{"sourcing", false, func(c *ConsumerConfig) bool { return c.Sourcing }},
	}
)

// unserved returns why c is refused, or "".
func unserved[C any](features []feature[C], c *C) string {
	for _, f := range features {
		if !f.served && f.used(c) {
			return f.key + " is not supported"
		}
	}
	return ""
}
