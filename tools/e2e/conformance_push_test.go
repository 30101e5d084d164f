package e2e

import (
	"strings"
	"time"
)

func pushScenarios() []scenario {
	six := []string{"s.1", "s.2", "s.3", "s.4", "s.5", "s.6"}
	stream := func(x *session) { x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`) }
	push := func(x *session, name, config string) {
		x.api("CONSUMER.CREATE.S."+name, `{"stream_name":"S","config":{"durable_name":"`+name+`","deliver_subject":"d.`+name+`"`+config+`}}`)
	}
	return []scenario{
		{"push/plain", func(x *session) {
			stream(x)
			x.put(six...)
			push(x, "c", `,"ack_policy":"explicit"`)
			x.api("CONSUMER.INFO.S.c", "")
			sub := x.listen("d.c")
			for _, m := range x.receive(sub, 6) {
				x.ack(m, "+ACK")
			}
			x.api("CONSUMER.INFO.S.c", "")
			x.api("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c","deliver_subject":"d.x","ack_policy":"explicit"}}`)
			x.must(sub.Unsubscribe())
			x.until("consumer without interest", func() bool { return x.do("CONSUMER.INFO.S.c", "")["push_bound"] == nil })
			x.put("s.1")
			x.untilConsumer("S", "c", 1, "num_pending")
			x.api("CONSUMER.INFO.S.c", "")
			x.receive(x.listen("d.c"), 1)
		}},
		{"push/queue", func(x *session) {
			stream(x)
			// Neither of these is in the group.
			plain, other := x.listen("d.c"), x.listen("d.c", "other")
			x.put("s.1", "s.2")
			push(x, "c", `,"ack_policy":"explicit","deliver_group":"g"`)
			x.api("CONSUMER.INFO.S.c", "")
			x.nothing(plain)
			x.nothing(other)
			x.receive(x.listen("d.c", "g"), 2)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"push/heartbeat", func(x *session) {
			stream(x)
			push(x, "c", `,"ack_policy":"none","idle_heartbeat":200000000`)
			sub := x.listen("d.c")
			x.nextOf(sub, true)
			x.put("s.1")
			x.nextOf(sub, false)
			x.nextOf(sub, true)
		}},
		{"push/flow-control", func(x *session) {
			stream(x)
			sub := x.listen("d.c")
			x.must(sub.SetPendingLimits(-1, -1))
			push(x, "c", `,"ack_policy":"none","idle_heartbeat":5000000000,"flow_control":true`)
			big := make([]byte, 200<<10)
			const total = 40
			for range total {
				x.must(x.nc.Publish("s.1", big))
			}
			data, requests := 0, 0
			for data < total {
				m, err := sub.NextMsg(answerTimeout)
				x.must(err)
				switch {
				case len(m.Data) > 0:
					data++
				case strings.HasPrefix(m.Header.Get("Description"), "FlowControl"):
					if requests++; requests == 1 {
						x.seen(m)
					}
					x.must(m.Respond(nil))
				}
			}
			x.note("flow control was asked for", requests > 0)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"push/stalled", func(x *session) {
			stream(x)
			sub := x.listen("d.c")
			x.must(sub.SetPendingLimits(-1, -1))
			push(x, "c", `,"ack_policy":"none","idle_heartbeat":300000000,"flow_control":true`)
			big := make([]byte, 400<<10)
			for range 40 {
				x.must(x.nc.Publish("s.1", big))
			}
			var request string
			for {
				m, err := sub.NextMsg(answerTimeout)
				x.must(err)
				if strings.HasPrefix(m.Header.Get("Description"), "FlowControl") {
					request = m.Reply
				}
				if stalled := m.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
					x.note("stalled on the open request", stalled == request)
					break
				}
			}
			x.must(x.nc.Publish(request, nil))
			x.nextOf(sub, false)
			x.records[len(x.records)-1].lines = nil // which one it is depends on the window
		}},
		{"push/max-pending", func(x *session) {
			stream(x)
			x.put(six...)
			push(x, "c", `,"ack_policy":"explicit","max_ack_pending":2`)
			sub := x.listen("d.c")
			got := x.receive(sub, 2)
			x.nothing(sub)
			x.ack(got[0], "+ACK")
			x.receive(sub, 1)
			x.ack(got[1], "+TERM")
			x.receive(sub, 1)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"push/redelivery", func(x *session) {
			stream(x)
			x.put("s.1", "s.2")
			push(x, "c", `,"ack_policy":"explicit","ack_wait":200000000,"max_deliver":3`)
			sub := x.listen("d.c")
			advisories := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
			x.receive(sub, 6)
			x.unordered(advisories, 2)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"push/replay-original", func(x *session) {
			stream(x)
			x.put("s.1")
			gap := time.NewTimer(800 * time.Millisecond)
			<-gap.C
			x.put("s.2")
			sub := x.listen("d.c")
			push(x, "c", `,"ack_policy":"none","replay_policy":"original"`)
			x.receive(sub, 1)
			first := time.Now()
			x.receive(sub, 1)
			x.note("as far apart as they were stored", time.Since(first) > 200*time.Millisecond)
		}},
		{"push/rate-limit", func(x *session) {
			stream(x)
			x.put(six...)
			sub := x.listen("d.c")
			push(x, "c", `,"ack_policy":"none","rate_limit_bps":1000000`)
			x.receive(sub, 6)
		}},
		{"push/deleted", func(x *session) {
			stream(x)
			x.put("s.1")
			sub := x.listen("d.c")
			push(x, "c", `,"ack_policy":"none","idle_heartbeat":10000000000`)
			x.receive(sub, 1)
			x.do("CONSUMER.DELETE.S.c", "")
			x.nothing(sub)
		}},
	}
}
