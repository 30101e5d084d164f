package jetstream

import (
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// A consumer that has no place in the stream yet needs everything; when it has one, what it does not want and
// others have settled meanwhile goes.
func TestStreamRemovesWhatANewConsumerBeginsBehind(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		const second = ringConsumer + 1
		cfg := r.nodes[0].entry().Config()
		cfg.Durable, cfg.Name, cfg.DeliverPolicy = "D", "D", api.DeliverNew
		for _, n := range r.nodes {
			mc := meta.Consumer{Account: "A", Stream: "S", Name: "D", Created: time.Now(), Config: &cfg, Group: ringPlaces(second)}
			if err := n.stream.startConsumer(mc, r.spec(second, n)); err != nil {
				r.Fatal(err)
			}
		}
		in := r.listen("in")
		r.publish(2)
		r.pull("in", 2)
		r.ack(in.take()[0], "")
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[1 2]" {
			r.Fatalf("stored %s", s)
		}
		r.elect(second, 0, 0) // where the stream is led
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[2]" {
			r.Errorf("stored %s, want 2", s)
		}
	})
}
