package jetstream

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// A leader that hands over acknowledges what it took, and the next one takes what it did not.
func TestStreamHandsPublishersOver(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		s := r.nodes[0].stream
		in := r.listen("in.*")
		r.held(ringStream, true)
		r.space.Publish("S.a", "in.1", nil, nil)
		var quiet sync.WaitGroup
		quiet.Go(func() { s.quiesce(r.nodes[0].engine.ctx) })
		synctest.Wait()
		r.space.Publish("S.a", "in.2", nil, nil)
		synctest.Wait()
		if got := in.take(); len(got) != 0 {
			r.Fatalf("told %v", got)
		}
		r.held(ringStream, false)
		quiet.Wait()
		if got := in.take(); len(got) != 1 || got[0].data != `{"stream":"S","seq":1}` {
			r.Errorf("what was in flight: %v", got)
		}
		r.space.Publish("S.a", "in.3", nil, nil)
		r.space.Publish("S.a", "in.4", header(stream.HeaderMsgID, "4"), nil)
		r.elect(ringStream, 1, 0)
		r.after(time.Second)
		for i, l := range in.take() {
			if want := fmt.Sprintf(`{"stream":"S","seq":%d}`, i+2); l.data != want {
				r.Errorf("told %v, want %s", l, want)
			}
		}
		r.publish(1)
		if stored := r.nodes[1].stored(); stored != "[1 2 3 4 5]" {
			r.Errorf("stored %s", stored)
		}
		if s.keeps() || r.nodes[0].engine.sending.Load() != 0 {
			r.Error("it seems to be under way still")
		}
	})
}

// A leader that was deposed and does not know it has nobody repeat what the next one may have, but for what has an id.
func TestDeposedLeaderHandsNobodyOver(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		s := r.nodes[0].stream
		r.depose(ringStream, 1)
		var quiet sync.WaitGroup
		quiet.Go(func() { s.quiesce(r.nodes[0].engine.ctx) })
		synctest.Wait()
		in := r.listen("in")
		r.space.Publish("S.a", "in", nil, nil)
		quiet.Wait()
		r.groups[ringStream].replicas[0].machine.Lead(1, false)
		r.after(time.Second)
		if got := in.take(); len(got) != 1 || got[0].data != `{"stream":"S","seq":1}` {
			r.Errorf("told %v, want one ack", got)
		}
	})
}

// A leader that nobody takes over from goes on with what it kept.
func TestStreamGoesOnAfterAHandOver(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		s := r.nodes[0].stream
		in := r.listen("in")
		s.quiesce(r.nodes[0].engine.ctx)
		r.space.Publish("S.a", "in", nil, nil)
		r.space.Publish("S.a", "in", nil, nil)
		synctest.Wait()
		if got := in.take(); len(got) != 0 {
			r.Fatalf("told %v", got)
		}
		s.goOn()
		synctest.Wait()
		if got := in.take(); len(got) != 2 || got[1].data != `{"stream":"S","seq":2}` {
			r.Errorf("told %v", got)
		}
	})
}
