package jetstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
)

// begun starts a consumer and returns what its client is answered.
func begun(s *Stream, cfg api.ConsumerConfig, created time.Time) (info *api.ConsumerInfo, err *api.Error) {
	_, err = s.startEphemeral(cfg, created, func(_ delivery.Publisher, of *api.ConsumerInfo) { info = of })
	return info, err
}

// Ephemeral consumers go on where their stream is led next: one that is pulled from with what is not acknowledged, one
// that pushes without a gap in what it counts.
func TestEphemeralsFollowTheLeadership(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		first := r.nodes[0].stream
		in, watch := r.listen("in"), r.listen("watch")
		created := time.Now().Add(-time.Minute)
		for _, cfg := range []api.ConsumerConfig{
			{Name: "C", AckPolicy: api.AckExplicit, AckWait: time.Minute, MaxDeliver: -1, MaxWaiting: 512, InactiveThreshold: time.Hour},
			{AckPolicy: api.AckNone, DeliverSubject: "watch", DeliverPolicy: api.DeliverNew},
		} {
			if _, err := begun(first, cfg, created); err != nil {
				r.Fatal(err)
			}
		}
		r.publish(3)
		r.pull("in", 2)
		got := in.take()
		r.ack(got[0], "")
		r.pull("in", 2) // one is waited for
		if s := seqs(in.take()) + ", " + seqs(watch.take()); s != "3, 1 2 3" {
			r.Fatalf("got %s", s)
		}
		for _, next := range []int{1, 2} {
			r.elect(ringStream, next, 0)
			r.after(time.Second)
			if next == 1 {
				if s := seqs(in.take()); s != "409 Leadership Change" {
					r.Errorf("told %q", s)
				}
			}
			if n := len(r.nodes[next-1].stream.allConsumers()); n != 0 {
				r.Errorf("%d consumers live on where they were", n)
			}
			r.publish(1)
			list := watch.take()
			if len(list) != 1 || !strings.Contains(list[0].reply, map[int]string{1: ".1.4.4.", 2: ".1.5.5."}[next]) {
				r.Errorf("at node %d: watched %v", next, list)
			}
			c, err := r.nodes[next].stream.consumer("C")
			if err != nil {
				r.Fatal(err)
			}
			if info := c.Info(); info.NumAckPending != 2 || info.Delivered.Consumer != 3 || !info.Created.Equal(created) {
				r.Errorf("at node %d: %+v", next, info)
			}
		}
		r.pull("in", 2)
		if s := seqs(in.take()); s != "4 5" {
			r.Errorf("got %s, want 4 5", s)
		}
		// Nobody leads the stream for long: they end, and the next leader hears nothing of them.
		r.elect(ringStream, -1, 0)
		r.after(2 * sendWait)
		r.elect(ringStream, 0, 0)
		r.after(2 * sendWait)
		for _, n := range r.nodes {
			if list := n.stream.allConsumers(); len(list) > 0 {
				r.Errorf("%d consumers live on", len(list))
			}
		}
	})
}

// What is sent twice is taken once, and what is not whole is not taken.
func TestStreamTakesEphemeralsOnce(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		s := r.nodes[0].stream
		cfg := api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "watch"}
		state := begunState(r, cfg)
		for _, x := range []struct {
			ephemeral
			want int
		}{
			{ephemeral{Name: "a", Config: &cfg, State: state}, 1},
			{ephemeral{Name: "a", Config: &cfg, State: state}, 1},
			{ephemeral{Name: "b", Config: &cfg, State: state[:len(state)-1]}, 1},
			{ephemeral{Name: "c", State: state}, 1},
			{ephemeral{Name: "d", Config: &cfg, State: state}, 2},
		} {
			s.takeEphemerals([]ephemeral{x.ephemeral})
			if n := len(s.allConsumers()); n != x.want {
				r.Errorf("%d consumers with %s, want %d", n, x.Name, x.want)
			}
		}
		if err := r.nodes[1].stream.takeEphemerals([]ephemeral{{Name: "e", Config: &cfg, State: state}}); err != api.ErrClusterNotAvail {
			r.Errorf("where the stream is not led: %v", err)
		}
		synctest.Wait()
	})
}

// begunState is the state of a consumer that has begun.
func begunState(r *ring, cfg api.ConsumerConfig) []byte {
	r.Helper()
	s := r.nodes[0].stream
	info, err := begun(s, cfg, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	c, err := s.consumer(info.Name)
	if err != nil {
		r.Fatal(err)
	}
	d := c.led.Load()
	s.dropConsumer(c)
	return d.State().Snapshot()
}

// Those of a stream that keeps messages for its consumers go on too when the leadership is handed over: what they need is
// there, what they were done with goes, and what nobody wants as well, but not before the next leader has them.
func TestEphemeralsKeepTheirMessages(t *testing.T) {
	for _, retention := range []api.Retention{api.InterestPolicy, api.WorkQueuePolicy} {
		t.Run(retention.String(), func(t *testing.T) {
			inRing(t, retention, func(r *ring) {
				in := r.listen("in")
				cfg := api.ConsumerConfig{Name: "C", AckPolicy: api.AckExplicit, AckWait: time.Hour, MaxDeliver: -1,
					MaxWaiting: 512, InactiveThreshold: time.Hour, FilterSubject: "S.a"}
				if _, err := begun(r.nodes[0].stream, cfg, time.Now()); err != nil {
					r.Fatal(err)
				}
				r.publish(4)
				r.after(time.Second)
				r.pull("in", 2)
				first := in.take()
				r.nodes[0].stream.quiesce(r.nodes[0].engine.ctx)
				r.ack(first[0], "") // the removal comes to nothing
				r.elect(ringStream, 1, 0)
				next := r.nodes[1].stream
				next.mu.RLock()
				early := next.known
				next.mu.RUnlock()
				r.publish(1)
				if n := next.numConsumers(); n == 0 && early {
					r.Error("the next leader knows all consumers before it has them")
				}
				r.after(time.Second)
				r.space.Publish("S.b", "", nil, nil) // for nobody
				r.after(time.Second)
				want := map[api.Retention]string{api.InterestPolicy: "[2 3 4 5]", api.WorkQueuePolicy: "[2 3 4 5 6]"}[retention]
				if s := r.nodes[1].stored(); s != want {
					r.Errorf("stored %s, want %s", s, want)
				}
				in.take()
				r.pull("in", 10)
				rest := in.take()
				if s := seqs(rest); s != "3 4 5" {
					r.Errorf("got %s, want 3 4 5", s)
				}
				for _, l := range append(rest, first[1]) {
					r.ack(l, "")
				}
				r.after(time.Second)
				want = map[api.Retention]string{api.InterestPolicy: "[]", api.WorkQueuePolicy: "[6]"}[retention]
				if s := r.nodes[2].stored(); s != want {
					r.Errorf("stored %s in the end, want %s", s, want)
				}
			})
		})
	}
}
