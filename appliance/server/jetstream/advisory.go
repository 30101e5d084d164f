package jetstream

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nuid"
)

// advisory is what `nats events` and monitoring read about the life of streams and consumers.
type advisory struct {
	Type     string    `json:"type"`
	ID       string    `json:"id"`
	Time     time.Time `json:"timestamp"`
	Stream   string    `json:"stream"`
	Consumer string    `json:"consumer,omitempty"`
	Action   string    `json:"action"`
	Domain   string    `json:"domain,omitempty"`
}

// advise publishes that a stream or, if consumer is not empty, a consumer was created, modified or
// deleted. kind is the token after $JS.EVENT.ADVISORY.
func (a *account) advise(kind, stream, consumer, action string) {
	subject, typ := "$JS.EVENT.ADVISORY."+kind+"."+stream, "io.nats.jetstream.advisory.v1.stream_action"
	if consumer != "" {
		subject, typ = subject+"."+consumer, "io.nats.jetstream.advisory.v1.consumer_action"
	}
	if !a.bus.HasInterest(subject) {
		return
	}
	body, err := json.Marshal(advisory{
		Type: typ, ID: nuid.Next(), Time: time.Now().UTC(), Stream: stream, Consumer: consumer, Action: action,
		Domain: a.engine.cfg.Domain,
	})
	if err != nil {
		panic("BUG: encode advisory: " + err.Error())
	}
	a.bus.Publish(subject, "", nil, body)
}
