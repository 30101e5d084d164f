package e2e

import (
	"slices"

	"github.com/nats-io/nats.go"
)

func pullScenarios() []scenario {
	fill := func(x *session, config string, subjects ...string) {
		x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`)
		x.put(subjects...)
		x.do("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit"`+config+`}}`)
	}
	six := []string{"s.1", "s.2", "s.3", "s.4", "s.5", "s.6"}
	return []scenario{
		{"pull/requests", func(x *session) {
			fill(x, "", six...)
			x.next("S", "c", ``, 1)
			x.next("S", "c", `2`, 2)
			x.next("S", "c", `{"batch":2}`, 2)
			x.next("S", "c", `{"batch":2,"no_wait":true}`, 2)
			x.next("S", "c", `{"batch":2,"no_wait":true}`, 2)
			x.next("S", "c", `{"batch":2,"expires":200000000}`, 2)
			x.next("S", "c", `{"batch":2,"expires":200000000,"no_wait":true}`, 2)
			x.next("S", "c", `{"batch":2,"expires":200000000,"max_bytes":100}`, 2)
			x.next("S", "c", `{"batch":-1,"no_wait":true}`, 1)
			x.next("S", "c", `{"batch":0,"no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"idle_heartbeat":1000000000}`, 1)
			x.next("S", "c", `{"batch":1,"expires":1000000000,"idle_heartbeat":600000000}`, 1)
			x.next("S", "c", `{"batch":1,"max_bytes":-5,"no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"expires":"1s"}`, 1)
			x.next("S", "c", `{"batch":1,"group":"g","no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"min_pending":1,"no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"id":"x","no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"priority":5,"no_wait":true}`, 1)
			x.next("S", "c", `{"batch":1,"unknown":5,"no_wait":true}`, 1)
			x.next("S", "none", `{"batch":1}`, 1)
			x.next("none", "c", `{"batch":1}`, 1)
			x.until("no pull requests waiting", func() bool { return number(x.do("CONSUMER.INFO.S.c", ""), "num_waiting") <= 1 })
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"pull/max-bytes", func(x *session) {
			fill(x, "", six...)
			x.pub("s.1", string(slices.Repeat([]byte("x"), 500)))
			x.next("S", "c", `{"batch":10,"max_bytes":200,"expires":300000000}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":1,"expires":300000000}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":120,"no_wait":true}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":300,"no_wait":true}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":300,"no_wait":true}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":3000,"no_wait":true}`, 10)
			x.next("S", "c", `{"batch":10,"max_bytes":3000,"no_wait":true}`, 10)
		}},
		{"pull/limits", func(x *session) {
			fill(x, `,"max_waiting":2,"max_batch":5,"max_expires":3000000000,"max_bytes":1000`, "s.1")
			x.next("S", "c", `{"batch":6}`, 1)
			x.next("S", "c", `{"batch":5,"expires":4000000000}`, 1)
			x.next("S", "c", `{"batch":5,"expires":1000000000,"max_bytes":1001}`, 1)
			x.next("S", "c", `{"batch":1}`, 1)
			x.next("S", "c", `{"batch":1,"no_wait":true}`, 1)
			var subs []*nats.Subscription
			for range 2 {
				inbox := nats.NewInbox()
				subs = append(subs, x.listen(inbox))
				x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":1,"expires":3000000000}`)))
			}
			x.untilConsumer("S", "c", 2, "num_waiting")
			x.next("S", "c", `{"batch":1,"expires":900000000}`, 1)
			x.receive(subs[0], 1)
			x.receive(subs[1], 1)
		}},
		{"pull/heartbeat", func(x *session) {
			fill(x, "", "s.1")
			x.next("S", "c", `{"batch":1}`, 1)
			inbox := nats.NewInbox()
			sub := x.listen(inbox)
			x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":2,"expires":30000000000,"idle_heartbeat":200000000}`)))
			x.receive(sub, 1)
			x.put("s.2")
			x.nextOf(sub, false)
			x.nextOf(sub, true)
		}},
		{"pull/consumer-deleted", func(x *session) {
			fill(x, "")
			inbox := nats.NewInbox()
			sub := x.listen(inbox)
			for _, body := range []string{`{"batch":3}`, `{"batch":3,"expires":30000000000}`} {
				x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(body)))
			}
			x.untilConsumer("S", "c", 2, "num_waiting")
			x.do("CONSUMER.DELETE.S.c", "")
			x.receive(sub, 1)
			x.receive(sub, 1)
		}},
		{"pull/waiting", func(x *session) {
			fill(x, "")
			inbox := nats.NewInbox()
			sub := x.listen(inbox)
			x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":3,"expires":30000000000}`)))
			x.untilConsumer("S", "c", 1, "num_waiting")
			x.put("s.1", "s.2", "s.3", "s.4")
			x.subjects(sub, 3)
			x.api("CONSUMER.INFO.S.c", "")
			x.must(sub.Unsubscribe())
			x.next("S", "c", `{"batch":1,"no_wait":true}`, 1)
		}},
		{"pull/round-robin", func(x *session) {
			fill(x, "")
			var subs []*nats.Subscription
			for i := range 3 {
				inbox := nats.NewInbox()
				subs = append(subs, x.listen(inbox))
				x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":2,"expires":30000000000}`)))
				x.untilConsumer("S", "c", int64(i+1), "num_waiting")
			}
			x.put(six...)
			for _, sub := range subs {
				x.subjects(sub, 2)
			}
		}},
		{"pull/on-push", func(x *session) {
			x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`)
			x.do("CONSUMER.CREATE.S.p", `{"stream_name":"S","config":{"durable_name":"p","deliver_subject":"d"}}`)
			x.next("S", "p", `{"batch":1,"expires":200000000}`, 1)
		}},
	}
}
