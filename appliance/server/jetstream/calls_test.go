package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// A leader that gets a call and leads no more does not answer: who asks learns of that at once.
func TestCallOfALeaderThatLeaves(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		const group = 77
		var once sync.Once
		var stop func()
		stop, _ = r.system.Subscribe(leaderSubject(group), "", func(Msg) {
			once.Do(func() { time.AfterFunc(50*time.Millisecond, func() { stop() }) })
		})
		began := time.Now()
		err := r.nodes[0].engine.calls.call(context.Background(), leaderSubject(group), leaderCall{}, nil)
		if !errors.Is(err, errLeaderGone) || time.Since(began) > time.Second {
			r.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A create whose answer is asked of a leader that is about to lose a group, or that never got the question, is
// answered by the next one.
func TestCreateIsAnsweredByTheNextLeader(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		inRing(t, api.LimitsPolicy, func(r *ring) {
			const group = 77
			serve := func(m Msg) {
				body, _ := json.Marshal(callAnswer{Data: json.RawMessage(`"next"`)})
				r.system.Publish(string(m.Reply), "", nil, body)
			}
			asked := 0
			var stop func()
			stop, _ = r.system.Subscribe(leaderSubject(group), "", func(m Msg) {
				asked++
				switch {
				case leaves:
					time.AfterFunc(time.Millisecond, func() {
						stop()
						time.AfterFunc(200*time.Millisecond, func() {
							_, _ = r.system.Subscribe(leaderSubject(group), "", serve)
						})
					})
				case asked > 1:
					serve(m)
				}
			})
			e := r.nodes[0].engine
			q := &request{account: e.accounts["A"]}
			began := time.Now()
			answer, err := q.byLeader(group, leaderCall{Kind: callStreamPut})
			if took := time.Since(began); err != nil || string(answer.(json.RawMessage)) != `"next"` || took > 2*time.Second {
				r.Errorf("leaves %t: answer %s, error %v after %v", leaves, answer, err, took)
			}
		})
	}
}

// A leader that is asked and then leads no more says so, and does not wait until nobody listens.
func TestLeaderThatIsAskedAndDeposed(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		s := r.nodes[0].stream
		other := *s.assigned
		config := *other.Config
		config.MaxMsgs = 7
		other.Config = &config
		r.held(ringStream, true) // the new configuration never gets through
		s.assign(other)
		r.held(ringConsumer, true)
		cfg := r.nodes[0].entry().Config()
		cfg.AckWait = time.Minute
		r.nodes[0].entry().setConfig(cfg)
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.takeCall([]byte(`{"kind":"stream_put"}`)); !errors.Is(err, api.ErrClusterNotAvail) {
				r.Errorf("the stream: %v", err)
			}
		})
		wg.Go(func() {
			_, err := s.takeConsumerCall(r.nodes[0].entry(), []byte(`{"kind":"consumer_put"}`))
			if !errors.Is(err, api.ErrClusterNotAvail) {
				r.Errorf("the consumer: %v", err)
			}
		})
		r.after(100 * time.Millisecond)
		r.elect(ringStream, 1, 0)
		r.elect(ringConsumer, 1, 0)
		wg.Wait()
		if took := time.Since(began); took > 300*time.Millisecond {
			r.Errorf("answered after %v", took)
		}
		r.held(ringStream, false)
		r.held(ringConsumer, false)
	})
}

// Who leads the meta group no more takes nothing, and says so: the entry goes to the next one, within its time.
func TestEntryGoesToTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &ring{T: t, space: &space{subs: map[int]spaceSub{}}, system: &space{subs: map[int]spaceSub{}}}
		e := r.startNode(0).engine
		defer func() {
			e.cancel()
			e.calls.stop()
			e.lanes.close()
			e.wg.Wait()
		}()
		asked, refusals := 0, 2
		if _, err := e.calls.serve(leaderSubject(metaGroup), func([]byte) (any, *api.Error) {
			if asked++; asked <= refusals {
				return nil, api.ErrClusterNotLeader
			}
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := e.catalog.submit(t.Context(), 0, []byte("entry")); err != nil || asked != 3 {
			t.Errorf("%v after %d requests", err, asked)
		}
		refusals = 1 << 30
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.catalog.submit(ctx, 0, []byte("entry")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a leader: %v", err)
		}
	})
}

// A list has what is led by who is not heard for a moment, and does not wait for long for what nobody leads.
func TestListWaitsForLeadersThatAreNotHeard(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		a := r.nodes[1].engine.accounts["A"]
		ms := meta.Stream{Name: "X", Group: meta.Group{ID: 77}}
		ctx, cancel := context.WithTimeout(context.Background(), gatherWait)
		defer cancel()
		time.AfterFunc(300*time.Millisecond, func() {
			r.nodes[0].engine.calls.serveLeader(77, func([]byte) (any, *api.Error) {
				return api.StreamInfo{Config: api.StreamConfig{Name: "X"}}, nil
			})
		})
		if info := a.streamInfo(ctx, ms); info == nil || info.Config.Name != "X" {
			r.Errorf("info %+v", info)
		}
		began := time.Now()
		ms.Group.ID = 78
		if info := a.streamInfo(ctx, ms); info != nil || time.Since(began) > askWait {
			r.Errorf("info %+v after %v", info, time.Since(began))
		}
	})
}
