package jetstream

import (
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// carried lets a node carry out the catalogue up to an entry.
func (n *ringNode) carried(index uint64) {
	c := &n.engine.catalog.carrier
	c.mu.Lock()
	c.index = index
	c.mu.Unlock()
}

// A consumer was made, and the node that leads the stream next was not told of it yet: what is published
// meanwhile is kept for that consumer, and nothing that it wants is removed.
func TestLeaderKeepsWhatUnknownConsumersWant(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		r.publish(1)
		late := r.nodes[2].entry()
		r.nodes[2].stream.forgetConsumer(late)
		r.decided.Store(7)
		r.elect(ringStream, 2, 0)
		r.publish(1)
		r.after(10 * time.Second)
		for _, n := range r.nodes {
			if s := n.stored(); s != "[1 2]" {
				r.Errorf("node %d holds %s, want 1 and 2", n.number, s)
			}
		}
		s := r.nodes[2].stream
		s.mu.Lock()
		s.consumers["C"] = late
		s.mu.Unlock()
		r.nodes[2].carried(7)
		r.after(10 * time.Second)
		in := r.listen("in")
		r.pull("in", 9)
		got := in.take()
		if seqs(got) != "1 2" {
			r.Fatalf("got %s", seqs(got))
		}
		r.ack(got[0], "")
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[2]" {
			r.Errorf("stored %s, want 2", s)
		}
		r.nodes[2].stream.dropConsumer(late)
		r.publish(1)
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[]" {
			r.Errorf("stored %s, and nobody wants it", s)
		}
	})
}

// The log of the stream has a configuration that the catalogue of its next leader does not have yet: the old one
// does not come back, with its limits.
func TestLeaderDoesNotBringAnOldConfigurationBack(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		old := *r.nodes[0].stream.assigned.Config
		old.MaxMsgs = 2
		more := old
		more.MaxMsgs = 100
		for _, n := range r.nodes[:2] {
			n.stream.assign(meta.Stream{Account: "A", Name: "S", Config: &more})
		}
		r.nodes[2].stream.assign(meta.Stream{Account: "A", Name: "S", Config: &old})
		synctest.Wait()
		r.publish(5)
		r.decided.Store(7)
		r.elect(ringStream, 2, 0)
		r.publish(1)
		r.after(10 * time.Second)
		if s := r.nodes[0].stored(); s != "[1 2 3 4 5 6]" {
			r.Errorf("stored %s", s)
		}
		last := more
		last.MaxMsgs = 3
		r.nodes[2].stream.assign(meta.Stream{Account: "A", Name: "S", Config: &last})
		r.nodes[2].carried(7)
		r.after(10 * time.Second)
		if s := r.nodes[0].stored(); s != "[4 5 6]" {
			r.Errorf("stored %s, want the last three", s)
		}
	})
}
