package delivery

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

var explicit = api.ConsumerConfig{AckPolicy: api.AckExplicit}

func TestPullDeliversAndAcknowledges(t *testing.T) {
	inBubble(t, 5, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", `{"batch":3}`)
		t.want(got, "1", "2", "3")
		for i, want := range []string{"$JS.ACK.S.C.1.1.1.", "$JS.ACK.S.C.1.2.2.", "$JS.ACK.S.C.1.3.3."} {
			want += fmt.Sprint(got[i].at.UnixNano(), ".", 4-i)
			if got[i].reply != want {
				t.Errorf("reply %q, want %q", got[i].reply, want)
			}
		}
		if got[1].subject != "b" || got[1].data != "m2" || got[1].header != "" {
			t.Errorf("message %+v", got[1])
		}
		t.ack(got[0], "")
		t.ack(got[2], "+ACK")
		info := t.Info()
		if info.NumAckPending != 1 || info.AckFloor.Stream != 1 || info.Delivered.Consumer != 3 || info.NumPending != 2 {
			t.Errorf("info %+v", info)
		}
		t.want(t.pull("in", ""), "4")
		t.want(t.pull("in", "7"), "5")
		if n := t.Info().NumWaiting; n != 1 {
			t.Errorf("%d waiting, want 1", n)
		}
		t.publish("a")
		t.want(t.bus.take("in"), "6")
	})
}

func TestPullStatuses(t *testing.T) {
	limited := explicit
	limited.MaxRequestBatch, limited.MaxRequestExpires, limited.MaxRequestMaxBytes = 10, time.Minute, 1000
	for _, test := range []struct{ request, want string }{
		{`{"batch":11}`, "409 Exceeded MaxRequestBatch of 10"},
		{`{"batch":1,"expires":61000000000}`, "409 Exceeded MaxRequestExpires of 1m0s"},
		{`{"batch":1,"max_bytes":1001}`, "409 Exceeded MaxRequestMaxBytes of 1000"},
		{`{"batch":1,"no_wait":true}`, "404 No Messages"},
		{`{"batch":1,"idle_heartbeat":1000}`, "400 Bad Request - heartbeat value too large"},
		{`{"batch":1,"min_pending":5,"group":"g"}`, "400 Bad Request - Not a Overflow Priority consumer"},
		{`{"batch":1,"id":"x"}`, "400 Bad Request - Not a Pinned Client Priority consumer"},
		{`{"batch":1,"priority":10}`, "400 Bad Request - Priority must be between 0 and 9"},
		{`{"batch":"x"}`, "400 Bad Request - json: cannot unmarshal string into Go struct field nextRequest.batch of type int"},
	} {
		inBubble(t, 0, func(t *bench) {
			t.start(limited)
			t.want(t.pull("in", test.request), test.want)
		})
	}
}

func TestPullExpires(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", `{"batch":5,"max_bytes":1000,"expires":3000000000}`), "1")
		t.after(3*time.Second - 1)
		t.want(t.bus.take("in"))
		t.after(1)
		got := t.bus.take("in")
		t.want(got, "408 Request Timeout")
		if n, b := got[0].field("Nats-Pending-Messages"), got[0].field("Nats-Pending-Bytes"); n != "4" || b == "" || b >= "990" {
			t.Errorf("pending %s messages, %s bytes", n, b)
		}
		if n := t.Info().NumWaiting; n != 0 {
			t.Errorf("%d waiting", n)
		}
	})
}

func TestPullNoWait(t *testing.T) {
	inBubble(t, 2, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", `{"batch":5,"no_wait":true}`), "1", "2", "404 No Messages")
		// With expires it waits for one round of messages.
		t.want(t.pull("in", `{"batch":5,"no_wait":true,"expires":1000000000}`))
		t.publish("a")
		t.want(t.bus.take("in"), "3", "404 No Messages")
		// Others already wait for what there is.
		full := t.Info().Config
		full.MaxAckPending = 3
		t.Update(*full, func(error) {})
		t.want(t.pull("other", "4"))
		t.publish("a")
		t.want(t.pull("in", `{"batch":5,"no_wait":true}`), "408 Requests Pending")
	})
}

func TestPullMaxBytes(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", `{"batch":3,"max_bytes":5}`), "409 Message Size Exceeds MaxBytes")
		got := t.pull("in", `{"batch":2,"max_bytes":10000}`)
		t.want(got, "1", "2", "409 Batch Completed")
		if got[2].field("Nats-Pending-Messages") != "0" {
			t.Errorf("status %q", got[2].header)
		}
	})
}

func TestPullMaxWaiting(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		conf := explicit
		conf.MaxWaiting = 2
		t.start(conf)
		t.want(t.pull("i1", `{"batch":1,"expires":1000000000}`))
		t.want(t.pull("i2", "1"))
		t.want(t.pull("i3", "1"), "409 Exceeded MaxWaiting")
		t.want(t.pull("i3", `{"batch":1,"expires":9000000000,"idle_heartbeat":1000000000}`))
		t.bus.ignore("i2") // a request without interest makes room
		t.want(t.pull("i3", "1"))
		t.publish("a")
		t.want(t.bus.take("i1"), "1")
		t.publish("a")
		t.want(t.bus.take("i3"), "2")
	})
}

func TestPullRequestsTakeTurns(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.start(explicit)
		t.pull("i1", "3")
		t.pull("i2", "2")
		for range 5 {
			t.stream.add("a", "x")
		}
		t.NewMessages()
		synctest.Wait()
		t.want(t.bus.take("i1"), "1", "3", "5")
		t.want(t.bus.take("i2"), "2", "4")
	})
}

func TestPullIdleHeartbeat(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", `{"batch":9,"expires":10000000000,"idle_heartbeat":2000000000}`), "1")
		t.after(1500 * time.Millisecond)
		t.publish("a") // a delivery puts the heartbeat off
		t.after(1900 * time.Millisecond)
		t.want(t.bus.take("in"), "2")
		t.after(200 * time.Millisecond)
		got := t.bus.take("in")
		t.want(got, "100 Idle Heartbeat")
		if got[0].field("Nats-Last-Consumer") != "2" || got[0].field("Nats-Last-Stream") != "2" {
			t.Errorf("heartbeat %q", got[0].header)
		}
		t.bus.ignore("in")
		t.after(2 * time.Second)
		if t.waiting.n != 0 {
			t.Error("a request without interest is kept")
		}
	})
}

func TestPullDropsRequestWithoutInterest(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.start(explicit)
		t.pull("i1", "1")
		t.pull("i2", "1")
		t.bus.ignore("i1")
		t.publish("a")
		t.want(t.bus.take("i2"), "1")
		if n := t.Info().Delivered.Consumer; n != 1 {
			t.Errorf("%d deliveries counted, want 1", n)
		}
	})
}

func TestPullOfPushConsumer(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		conf := explicit
		conf.DeliverSubject = "d"
		t.start(conf)
		t.want(t.pull("in", "1"), "409 Consumer is push based")
	})
}

func TestCloseAndDeleteTellWaitingRequests(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.start(explicit)
		t.pull("in", "2")
		t.Close()
		got := t.bus.take("in")
		t.want(got, "409 Server Shutdown")
		if got[0].field("Nats-Pending-Messages") != "2" {
			t.Errorf("status %q", got[0].header)
		}
	})
	inBubble(t, 0, func(t *bench) {
		t.start(explicit)
		t.pull("in", "2")
		t.Delete()
		t.want(t.bus.take("in"), "409 Consumer Deleted")
		if len(t.bus.handlers) != 0 {
			t.Errorf("%d subscriptions left", len(t.bus.handlers))
		}
		var err error
		t.Sync(func(e error) { err = e })
		if err != ErrClosed {
			t.Errorf("sync after delete: %v", err)
		}
		if got := t.Fetch(1, 0); got != nil {
			t.Errorf("fetch after delete: %v", got)
		}
	})
}

func TestPullFilters(t *testing.T) {
	inBubble(t, 9, func(t *bench) { // a b c a b c a b c
		conf := explicit
		conf.FilterSubjects = []string{"a", "c"}
		t.start(conf)
		got := t.pull("in", "4")
		t.want(got, "1", "3", "4", "6")
		if n := got[3].number(4); n != 2 {
			t.Errorf("%d pending after the fourth, want 2", n)
		}
		next := t.Info().Config
		next.FilterSubjects = []string{"b"}
		t.Update(*next, func(error) {})
		synctest.Wait()
		if n := t.Info().NumPending; n != 1 {
			t.Errorf("%d pending after the update, want 1", n)
		}
		t.want(t.pull("in", "4"), "8")
		if t.Needs(5, "b") || t.Needs(9, "c") || !t.Needs(20, "b") || !t.Needs(8, "b") {
			t.Error("wrong needs")
		}
	})
}

func TestHeadersOnly(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		conf := explicit
		conf.HeadersOnly = true
		t.start(conf)
		got := t.pull("in", "2")
		if got[0].header != "NATS/1.0\r\nNats-Msg-Size: 2\r\n\r\n" || got[0].data != "" {
			t.Errorf("message %+v", got[0])
		}
		t.stream.mu.Lock()
		t.stream.last++
		t.stream.msgs[2] = Message{Subject: "a", Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"), Data: []byte("xyz")}
		t.stream.mu.Unlock()
		t.NewMessages()
		synctest.Wait()
		got = t.bus.take("in")
		if len(got) != 1 || got[0].header != "NATS/1.0\r\nA: b\r\nNats-Msg-Size: 3\r\n\r\n" {
			t.Errorf("messages %+v", got)
		}
	})
}

func TestDeliverPolicies(t *testing.T) {
	for name, test := range map[string]struct {
		conf    api.ConsumerConfig
		want    []string // of 1a 2b 3c 4a 5b 6c 7a, then 8b, which comes after the start
		pending uint64
	}{
		"all":           {api.ConsumerConfig{}, []string{"1", "2", "3", "4", "5", "6", "7", "8"}, 7},
		"last":          {api.ConsumerConfig{DeliverPolicy: api.DeliverLast}, []string{"7", "8"}, 1},
		"last filtered": {api.ConsumerConfig{DeliverPolicy: api.DeliverLast, FilterSubject: "b"}, []string{"5", "8"}, 1},
		"new":           {api.ConsumerConfig{DeliverPolicy: api.DeliverNew}, []string{"8"}, 0},
		"sequence":      {api.ConsumerConfig{DeliverPolicy: api.DeliverByStartSequence, OptStartSeq: 6}, []string{"6", "7", "8"}, 2},
		"future":        {api.ConsumerConfig{DeliverPolicy: api.DeliverByStartSequence, OptStartSeq: 9}, nil, 0},
		"time":          {api.ConsumerConfig{DeliverPolicy: api.DeliverByStartTime}, []string{"4", "5", "6", "7", "8"}, 4},
		"last per":      {api.ConsumerConfig{DeliverPolicy: api.DeliverLastPerSubject}, []string{"5", "6", "7", "8"}, 3},
		"last per a,b":  {api.ConsumerConfig{DeliverPolicy: api.DeliverLastPerSubject, FilterSubjects: []string{"a", "b"}}, []string{"5", "7", "8"}, 2},
		"last per none": {api.ConsumerConfig{DeliverPolicy: api.DeliverLastPerSubject, FilterSubject: "x"}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(t *bench) {
				for i := range 7 {
					t.stream.add(string(rune('a'+i%3)), "x")
					t.after(time.Second)
				}
				middle := time.Now().Add(-4*time.Second - 1)
				test.conf.OptStartTime = &middle
				test.conf.AckPolicy = api.AckExplicit
				t.start(test.conf)
				if t.info.NumPending != test.pending || t.info.Delivered.Consumer != 0 {
					t.Errorf("%d pending and %d delivered at the start, want %d and 0",
						t.info.NumPending, t.info.Delivered.Consumer, test.pending)
				}
				got := t.pull("in", "100")
				if len(got) > 0 && got[0].number(4) != test.pending-1 {
					t.Errorf("%d pending after the first delivery, want %d", got[0].number(4), test.pending-1)
				}
				t.publish("b")
				t.want(append(got, t.bus.take("in")...), test.want...)
			})
		})
	}
}
