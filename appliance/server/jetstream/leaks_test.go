package jetstream

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// holdings counts what a ring's nodes hold.
func (r *ring) holdings() string {
	r.after(time.Minute) // what waits gives up
	count := func(b *space) int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.subs)
	}
	// NumGoroutine counts 32 too many while the runtime moves those that ended between its lists, on a busy machine for long.
	stacks := make([]byte, 16<<20)
	goroutines := strings.Count("\n"+string(stacks[:runtime.Stack(stacks, true)]), "\ngoroutine ")
	out := fmt.Sprintf("%d goroutines, %d and %d subscriptions", goroutines, count(r.space), count(r.system))
	for _, n := range r.nodes {
		e, s := n.engine, n.stream
		e.calls.mu.Lock()
		out += fmt.Sprintf("; %d calls", len(e.calls.waiting))
		e.calls.mu.Unlock()
		e.catalog.learners.mu.Lock()
		out += fmt.Sprintf(", %d learners", len(e.catalog.learners.waiting))
		e.catalog.learners.mu.Unlock()
		s.mu.Lock()
		out += fmt.Sprintf(", %d in flight, %d queued, %d consumers, %d unsure", len(s.inflight), len(s.queue), len(s.consumers), s.unsure.Load())
		s.mu.Unlock()
		e.members.mu.Lock()
		out += fmt.Sprintf(", %d assets", len(e.members.assets))
		e.members.mu.Unlock()
	}
	return out
}

// Leaders that come and go, with requests and messages under way, leave nothing behind.
func TestLeaderChangesLeaveNothingBehind(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{MaxWaiting: 8}, 1)
		in := r.listen("in")
		round := func(i int) {
			r.held(ringStream, i%3 == 0)
			r.held(ringConsumer, i%4 == 0)
			r.space.Publish("S.a", "in", []byte("NATS/1.0\r\nNats-Msg-Id: "+fmt.Sprint(i%7)+"\r\n\r\n"), nil)
			r.space.Publish("S.a", "in", []byte("NATS/1.0\r\nNats-Expected-Last-Sequence: 0\r\n\r\n"), nil)
			r.space.Publish("$JS.API.CONSUMER.MSG.NEXT.S.C", "in", nil, []byte("2"))
			for _, n := range r.nodes {
				a := n.engine.accounts["A"]
				a.request(Msg{Subject: []byte("$JS.API.STREAM.INFO.S"), Reply: []byte("in")})
				a.request(Msg{Subject: []byte("$JS.API.STREAM.MSG.DELETE.S"), Reply: []byte("in"), Data: []byte(`{"seq":1}`)})
				a.request(Msg{Subject: []byte("$JS.API.CONSUMER.INFO.S.C"), Reply: []byte("in")})
				a.request(Msg{Subject: []byte("$JS.API.CONSUMER.CREATE.S"), Reply: []byte("in"),
					Data: []byte(`{"stream_name":"S","config":{"ack_policy":"explicit"}}`)})
			}
			if i%2 == 0 {
				synctest.Wait()
			}
			for _, m := range in.take() {
				if m.reply != "" {
					r.space.Publish(m.reply, "in", nil, nil)
				}
			}
			r.elect(ringStream, i%3, i%2)
			r.elect(ringConsumer, (i/2)%3, i%2)
		}
		rest := func() string {
			r.held(ringStream, false)
			r.held(ringConsumer, false)
			r.elect(ringStream, 0, 0)
			r.elect(ringConsumer, 1, 0)
			return r.holdings()
		}
		for i := range 20 {
			round(i)
		}
		before := rest()
		for i := range 1000 {
			round(i)
		}
		if after := rest(); after != before {
			r.Errorf("before: %s\nafter:  %s", before, after)
		}
		if len(in.take()) == 0 {
			r.Error("nothing was answered")
		}
	})
}
