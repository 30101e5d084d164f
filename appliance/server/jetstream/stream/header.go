package stream

import "bytes"

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

// HeaderValue returns the first value of key in a raw header block, without surrounding spaces, or
// nil. Keys are compared as they are written, as nats-server does.
func HeaderValue(block []byte, key string) []byte {
	for from := 0; ; {
		i := bytes.Index(block[from:], []byte(key))
		if i < 0 {
			return nil
		}
		i += from
		from = i + len(key)
		if i < 2 || block[i-1] != '\n' || from >= len(block) || block[from] != ':' {
			continue
		}
		v := block[from+1:]
		if end := bytes.Index(v, []byte("\r\n")); end >= 0 {
			v = v[:end]
		}
		return bytes.TrimSpace(v)
	}
}
