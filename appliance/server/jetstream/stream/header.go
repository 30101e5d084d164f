package stream

// Headers that decide what becomes of a publish.
const (
	HeaderMsgID              = "Nats-Msg-Id"
	HeaderExpectedStream     = "Nats-Expected-Stream"
	HeaderExpectedLastSeq    = "Nats-Expected-Last-Sequence"
	HeaderExpectedLastMsgID  = "Nats-Expected-Last-Msg-Id"
	HeaderExpectedSubjectSeq = "Nats-Expected-Last-Subject-Sequence"
	HeaderExpectedSubject    = "Nats-Expected-Last-Subject-Sequence-Subject"
	HeaderRollup             = "Nats-Rollup"
	HeaderTTL                = "Nats-TTL"
	HeaderIncrement          = "Nats-Incr"
	HeaderSchedule           = "Nats-Schedule"
	HeaderBatchID            = "Nats-Batch-Id"
	HeaderRequiredAPILevel   = "Nats-Required-Api-Level"
)
