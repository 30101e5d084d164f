package e2e

import (
	"strings"
	"time"
)

func publishScenarios() []scenario {
	config := func(extra string) string { return `{"name":"S","subjects":["s.>"]` + extra + `}` }
	return []scenario{
		{"publish/plain", func(x *session) {
			x.do("STREAM.CREATE.S", config(""))
			x.pub("s.1", "")
			x.pub("s.1", "data")
			x.pub("s.1", "data", "Key", "value", "Key", "second", "key", "lower", "Empty", "")
			x.pub("other", "data")
			x.must(x.nc.Publish("s.quiet", []byte("no reply")))
			x.untilMessages("S", 4)
			x.api("STREAM.MSG.GET.S", `{"seq":3}`)
			x.api("STREAM.MSG.GET.S", `{"seq":4}`)
			x.api("STREAM.INFO.S", "")
		}},
		{"publish/no-ack", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"no_ack":true`))
			_, err := x.nc.Request("s.1", nil, 100*time.Millisecond)
			x.note("answer", err)
			x.untilMessages("S", 1)
		}},
		{"publish/limits-old", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"max_msgs":3`))
			x.put("s.1", "s.2", "s.3", "s.4", "s.1")
			x.api("STREAM.INFO.S", `{"subjects_filter":">","deleted_details":true}`)
			x.do("STREAM.UPDATE.S", config(`,"max_msgs":2,"max_msgs_per_subject":1`))
			x.put("s.1", "s.1", "s.4")
			x.api("STREAM.INFO.S", `{"subjects_filter":">","deleted_details":true}`)
		}},
		{"publish/limits-bytes", func(x *session) {
			for _, storage := range []string{"file", "memory"} {
				stream := x.renew(`,"max_bytes":200,"storage":"` + storage + `"`)
				for range 8 {
					x.pub("s.1", strings.Repeat("x", 20))
				}
				x.pub("s.1", "x", "Some", "header")
				x.api("STREAM.INFO."+stream, `{"subjects_filter":">","deleted_details":true}`)
				stream = x.renew(`,"max_bytes":200,"discard":"new","storage":"` + storage + `"`)
				for range 5 {
					x.pub("s.1", strings.Repeat("x", 20))
				}
				x.pub("s.1", strings.Repeat("x", 300))
				x.api("STREAM.INFO."+stream, "")
			}
		}},
		{"publish/too-large", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"max_bytes":200`))
			x.pub("s.1", "1")
			x.pub("s.1", strings.Repeat("x", 300))
		}},
		{"publish/limits-new", func(x *session) {
			stream := x.renew(`,"max_msgs":2,"discard":"new"`)
			x.pub("s.1", "1")
			x.pub("s.2", "2")
			x.pub("s.3", "3")
			x.pub("s.3", "3", "Nats-Msg-Id", "i")
			x.api("STREAM.MSG.DELETE."+stream, `{"seq":1}`)
			x.pub("s.3", "3", "Nats-Msg-Id", "i")
			x.api("STREAM.INFO."+stream, "")
			stream = x.renew(`,"max_msgs_per_subject":1,"discard":"new"`)
			x.pub("s.1", "1")
			x.pub("s.1", "2")
			x.api("STREAM.INFO."+stream, "")
			stream = x.renew(`,"max_msgs_per_subject":1,"discard":"new","discard_new_per_subject":true,"max_msgs":3`)
			x.pub("s.1", "1")
			x.pub("s.1", "2")
			x.pub("s.2", "2")
			x.pub("s.3", "2")
			x.pub("s.4", "2")
			x.api("STREAM.INFO."+stream, "")
		}},
		{"publish/size", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"max_msg_size":10`))
			x.pub("s.1", "0123456789")
			x.pub("s.1", "0123456789x")
			x.pub("s.1", "", "Nats-Msg-Id", "123456789")
			x.pub("s.1", "x", "A", "")
			x.api("STREAM.INFO.S", "")
		}},
		{"publish/max-age", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"max_age":300000000`))
			x.put("s.1", "s.2")
			x.untilMessages("S", 0)
			x.api("STREAM.INFO.S", `{"deleted_details":true,"subjects_filter":">"}`)
			x.put("s.1")
			x.untilMessages("S", 0)
			x.pub("s.1", "x")
		}},
		{"publish/duplicates", func(x *session) {
			x.do("STREAM.CREATE.S", config(``))
			x.pub("s.1", "a", "Nats-Msg-Id", "1")
			x.pub("s.1", "b", "Nats-Msg-Id", "1")
			x.pub("s.2", "b", "Nats-Msg-Id", "1")
			x.pub("s.2", "b", "Nats-Msg-Id", "2")
			x.pub("s.2", "b", "Nats-Msg-Id", "")
			x.pub("s.2", "b", "Nats-Msg-Id", "")
			x.pub("s.1", "b", "Nats-Msg-Id", "1", "Nats-Expected-Last-Sequence", "99")
			x.api("STREAM.PURGE.S", "")
			x.pub("s.1", "a", "Nats-Msg-Id", "1")
			x.api("STREAM.INFO.S", "")
			x.do("STREAM.CREATE.W", `{"name":"W","duplicate_window":100000000}`)
			x.pub("W", "a", "Nats-Msg-Id", "1")
			x.until("end of the window", func() bool {
				m, err := x.nc.RequestMsg(message("W", "b", []string{"Nats-Msg-Id", "1"}), answerTimeout)
				return err == nil && !strings.Contains(string(m.Data), "duplicate")
			})
			x.api("STREAM.INFO.W", "")
		}},
		{"publish/expected", func(x *session) {
			x.do("STREAM.CREATE.S", config(``))
			for _, h := range [][]string{
				{"Nats-Expected-Last-Sequence", "0"}, {"Nats-Expected-Last-Sequence", "0"}, {"Nats-Expected-Last-Sequence", "1"}, {"Nats-Expected-Last-Sequence", "x"},
				{"Nats-Expected-Stream", "S"}, {"Nats-Expected-Stream", "T"}, {"Nats-Expected-Stream", ""},
				{"Nats-Expected-Last-Msg-Id", "i"}, {"Nats-Msg-Id", "i"}, {"Nats-Expected-Last-Msg-Id", "i"}, {"Nats-Expected-Last-Msg-Id", "i"},
				{"Nats-Expected-Last-Subject-Sequence", "0"}, {"Nats-Expected-Last-Subject-Sequence", "3"}, {"Nats-Expected-Last-Subject-Sequence", "x"},
				{"Nats-Expected-Last-Subject-Sequence", "0", "Nats-Expected-Last-Subject-Sequence-Subject", "s.9"},
				{"Nats-Expected-Last-Subject-Sequence", "5", "Nats-Expected-Last-Subject-Sequence-Subject", "s.*"},
				{"Nats-Expected-Last-Subject-Sequence", "6", "Nats-Expected-Last-Subject-Sequence-Subject", "s.*"},
				{"Nats-Expected-Last-Subject-Sequence", "6", "Nats-Expected-Last-Subject-Sequence-Subject", "s..x"},
				{"Nats-Expected-Last-Subject-Sequence-Subject", "s.1"}, {"Nats-Expected-Last-Subject-Sequence", ""}, {"Nats-Expected-Last-Sequence", ""},
				{"Nats-Expected-Last-Sequence", "-1"}, {"Nats-Expected-Last-Sequence", "99999999999999999999"},
				{"nats-expected-last-sequence", "99"}, {"Nats-Required-Api-Level", "0"}, {"Nats-Required-Api-Level", "99"}, {"Nats-Required-Api-Level", "x"},
			} {
				x.pub("s.1", "x", h...)
			}
			x.pub("s.new", "x", "Nats-Expected-Last-Subject-Sequence", "0")
			x.pub("s.new", "x", "Nats-Expected-Last-Subject-Sequence", "0")
			x.api("STREAM.INFO.S", "")
		}},
		{"publish/rollup", func(x *session) {
			x.do("STREAM.CREATE.S", config(``))
			x.pub("s.1", "x", "Nats-Rollup", "sub")
			x.do("STREAM.UPDATE.S", config(`,"allow_rollup_hdrs":true`))
			x.put("s.1", "s.1", "s.2", "s.2", "s.3")
			x.pub("s.1", "x", "Nats-Rollup", "sub")
			x.api("STREAM.INFO.S", `{"deleted_details":true,"subjects_filter":">"}`)
			x.pub("s.2", "x", "Nats-Rollup", "nonsense")
			x.pub("s.2", "x", "Nats-Rollup", "ALL")
			x.api("STREAM.INFO.S", `{"deleted_details":true,"subjects_filter":">"}`)
			x.pub("s.2", "x", "Nats-Rollup", "all")
			x.api("STREAM.INFO.S", `{"deleted_details":true,"subjects_filter":">"}`)
			x.api("STREAM.UPDATE.S", config(`,"allow_rollup_hdrs":true,"deny_purge":true`))
		}},
		{"publish/refused-headers", func(x *session) {
			x.do("STREAM.CREATE.S", config(``))
			for _, h := range [][]string{{"Nats-TTL", "1s"}, {"Nats-Incr", "1"}, {"Nats-Schedule", "@at 2100-01-01T00:00:00Z"}, {"Nats-Batch-Id", "b", "Nats-Batch-Sequence", "1"}} {
				x.pub("s.1", "x", h...)
			}
			x.api("STREAM.INFO.S", "")
		}},
		{"publish/transform", func(x *session) {
			for _, t := range [][2]string{
				{"s.*.*", "t.{{wildcard(2)}}.{{wildcard(1)}}"}, {"s.>", "t.>"}, {"s.*.*", "t.$2.$1"}, {"s.*.*", "t.{{partition(5,1,2)}}"}, {"s.*.*", "t.{{split(1,-)}}"},
				{"s.*.*", "t.{{left(1,2)}}.{{right(2,1)}}"}, {"s.*.*", "t.{{splitfromleft(1,2)}}"}, {"s.*.*", "t.{{slicefromright(1,2)}}"}, {">", "pre.>"}, {"s.*.*", "t.{{partition(3)}}.{{wildcard(1)}}"},
			} {
				stream := x.renew(`,"subject_transform":{"src":"` + t[0] + `","dest":"` + t[1] + `"}`)
				x.pub("s.ab-cd.xyz", "1")
				x.pub("s.one", "2")
				x.pub("s.a.b.c", "3")
				x.api("STREAM.INFO."+stream, `{"subjects_filter":">"}`)
			}
			stream := x.renew(`,"subject_transform":{"src":"s.*","dest":"t.$1"}`)
			x.pub("s.1", "x", "Nats-Expected-Last-Subject-Sequence", "0")
			x.pub("s.1", "x", "Nats-Expected-Last-Subject-Sequence", "0")
			x.do("CONSUMER.CREATE."+stream+".c", `{"stream_name":"`+stream+`","config":{"durable_name":"c","filter_subject":"t.1"}}`)
			x.next(stream, "c", `{"batch":1}`, 1)
		}},
	}
}

func retentionScenarios() []scenario {
	config := func(extra string) string { return `{"name":"S","subjects":["s.>"]` + extra + `}` }
	durable := func(name, extra string) string {
		return `{"stream_name":"S","config":{"durable_name":"` + name + `","ack_policy":"explicit"` + extra + `}}`
	}
	return []scenario{
		{"retention/workqueue", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"workqueue"`))
			x.put("s.1", "s.2", "s.1", "s.2", "s.3")
			x.api("CONSUMER.CREATE.S.n", `{"stream_name":"S","config":{"durable_name":"n","ack_policy":"none"}}`)
			x.api("CONSUMER.DELETE.S.n", ``)
			x.api("CONSUMER.CREATE.S.l", durable("l", `,"deliver_policy":"last"`))
			x.api("CONSUMER.CREATE.S.a", durable("a", `,"filter_subject":"s.1"`))
			x.api("CONSUMER.CREATE.S.b", durable("b", ``))
			x.api("CONSUMER.CREATE.S.b", durable("b", `,"filter_subject":"s.*"`))
			x.api("CONSUMER.CREATE.S.b", durable("b", `,"filter_subjects":["s.2","s.3"]`))
			for _, m := range x.next("S", "a", `{"batch":2}`, 2) {
				x.ack(m, "+ACK")
			}
			x.untilMessages("S", 3)
			for i, m := range x.next("S", "b", `{"batch":3}`, 3) {
				x.ack(m, []string{"+TERM", "-NAK", ""}[i])
			}
			x.untilMessages("S", 1)
			for _, m := range x.next("S", "b", `{"batch":3,"expires":3000000000}`, 1) {
				x.ack(m, "+ACK")
			}
			x.untilMessages("S", 0)
			x.api("STREAM.INFO.S", "")
			x.api("CONSUMER.DELETE.S.b", "")
			x.api("CONSUMER.CREATE.S.c", durable("c", `,"filter_subject":"s.3"`))
			x.put("s.3", "s.2")
			x.api("CONSUMER.INFO.S.c", "")
			x.api("STREAM.UPDATE.S", config(`,"retention":"limits"`))
			x.api("STREAM.UPDATE.S", config(`,"retention":"workqueue","max_msgs":1`))
			x.api("STREAM.INFO.S", "")
		}},
		{"retention/workqueue-ackall", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"workqueue"`))
			x.put("s.1", "s.2", "s.1", "s.2", "s.3")
			x.api("CONSUMER.CREATE.S.a", `{"stream_name":"S","config":{"durable_name":"a","ack_policy":"all"}}`)
		}},
		{"retention/workqueue-maxdeliver", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"workqueue"`))
			x.put("s.1", "s.2")
			x.do("CONSUMER.CREATE.S.a", durable("a", `,"max_deliver":1,"ack_wait":200000000`))
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
			x.next("S", "a", `{"batch":2}`, 2)
			x.unordered(sub, 2)
			x.next("S", "a", `{"batch":2,"no_wait":true}`, 2)
			x.api("STREAM.INFO.S", "")
			x.api("CONSUMER.INFO.S.a", "")
		}},
		{"retention/interest", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"interest"`))
			x.pub("s.1", "nobody")
			x.api("STREAM.INFO.S", "")
			x.do("CONSUMER.CREATE.S.a", durable("a", `,"filter_subject":"s.1"`))
			x.do("CONSUMER.CREATE.S.b", durable("b", ``))
			x.put("s.1", "s.2", "s.3", "s.1")
			x.api("STREAM.INFO.S", "")
			for _, m := range x.next("S", "a", `{"batch":2}`, 2) {
				x.ack(m, "+ACK")
			}
			x.api("STREAM.INFO.S", "")
			for _, m := range x.next("S", "b", `{"batch":2}`, 2) {
				x.ack(m, "+ACK")
			}
			x.untilMessages("S", 2)
			x.api("STREAM.INFO.S", `{"deleted_details":true}`)
			x.api("CONSUMER.DELETE.S.b", "")
			x.untilMessages("S", 0)
			x.api("STREAM.INFO.S", "")
			x.pub("s.2", "no interest")
			x.pub("s.1", "interest")
			x.api("STREAM.INFO.S", "")
		}},
		{"retention/interest-none", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"interest"`))
			x.do("CONSUMER.CREATE.S.a", `{"stream_name":"S","config":{"durable_name":"a","ack_policy":"none"}}`)
			x.put("s.1", "s.2", "s.3")
			x.next("S", "a", `{"batch":2}`, 2)
			x.untilMessages("S", 1)
			x.api("STREAM.INFO.S", "")
			x.api("CONSUMER.INFO.S.a", "")
		}},
		{"retention/interest-new-consumer", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"interest"`))
			x.do("CONSUMER.CREATE.S.a", durable("a", ``))
			x.put("s.1", "s.2", "s.3")
			x.do("CONSUMER.CREATE.S.b", durable("b", `,"deliver_policy":"new"`))
			x.api("CONSUMER.INFO.S.b", "")
			for _, m := range x.next("S", "a", `{"batch":3}`, 3) {
				x.ack(m, "+ACK")
			}
			x.untilMessages("S", 0)
			x.api("STREAM.INFO.S", "")
			x.api("CONSUMER.INFO.S.b", "")
		}},
		{"retention/interest-update", func(x *session) {
			x.do("STREAM.CREATE.S", config(``))
			x.do("CONSUMER.CREATE.S.a", durable("a", ``))
			x.put("s.1", "s.2", "s.3")
			for _, m := range x.next("S", "a", `{"batch":2}`, 2) {
				x.ack(m, "+ACK")
			}
			x.api("STREAM.UPDATE.S", config(`,"retention":"interest"`))
			x.untilMessages("S", 1)
			x.api("STREAM.INFO.S", "")
		}},
		{"retention/interest-limits", func(x *session) {
			x.do("STREAM.CREATE.S", config(`,"retention":"interest","max_msgs":3,"discard":"new"`))
			x.do("CONSUMER.CREATE.S.a", durable("a", ``))
			for range 4 {
				x.pub("s.1", "x")
			}
			for _, m := range x.next("S", "a", `{"batch":1}`, 1) {
				x.ack(m, "+ACK")
			}
			x.untilMessages("S", 2)
			x.pub("s.1", "x")
			x.api("CONSUMER.INFO.S.a", "")
		}},
	}
}
