package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

func consumerScenarios() []scenario {
	fill := func(x *session) {
		x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`)
		x.put("s.1", "s.2", "s.3", "s.1", "s.2", "s.4.5")
	}
	create := func(x *session, name, config string) map[string]any {
		return x.api("CONSUMER.CREATE.S."+name, `{"stream_name":"S","config":{"durable_name":"`+name+`"`+config+`}}`)
	}
	return []scenario{
		{"consumer/create", func(x *session) {
			fill(x)
			create(x, "c", ``)
			create(x, "c", ``)
			create(x, "c", `,"ack_policy":"all"`)
			create(x, "c", `,"max_deliver":5`)
			x.api("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c","max_deliver":5},"action":"create"}`)
			x.api("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c"},"action":"create"}`)
			x.api("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c","max_deliver":6},"action":"update"}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"S","config":{"durable_name":"x"},"action":"update"}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"S","config":{"durable_name":"x"},"action":"nonsense"}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"T","config":{"durable_name":"x"}}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"S","config":{"durable_name":"y"}}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"S","config":{"name":"y"}}`)
			x.api("CONSUMER.CREATE.S.x", `{"stream_name":"S","config":{"name":"x","durable_name":"y"}}`)
			x.api("CONSUMER.CREATE.S.x", ``)
			x.api("CONSUMER.CREATE.S.x", `nonsense`)
			x.api("CONSUMER.CREATE.S.x", `{}`)
			x.api("CONSUMER.CREATE.none.x", `{"stream_name":"none","config":{"durable_name":"x"}}`)
			x.api("CONSUMER.CREATE.S", `{"stream_name":"S","config":{"durable_name":"x"}}`)
			eph := x.do("CONSUMER.CREATE.S", `{"stream_name":"S","config":{"ack_policy":"explicit"}}`)
			x.alias(eph["name"].(string), "EPHEMERAL1")
			x.note("length of a name", len(eph["name"].(string)))
			x.api("CONSUMER.INFO.S."+eph["name"].(string), "")
			x.api("CONSUMER.CREATE.S.e", `{"stream_name":"S","config":{"name":"e","ack_policy":"explicit"}}`)
			x.api("CONSUMER.CREATE.S.f.s.1", `{"stream_name":"S","config":{"name":"f","filter_subject":"s.1"}}`)
			x.api("CONSUMER.CREATE.S.g.s.1", `{"stream_name":"S","config":{"name":"g","filter_subject":"s.2"}}`)
			x.api("CONSUMER.CREATE.S.g.s.1", `{"stream_name":"S","config":{"name":"g"}}`)
			x.api("CONSUMER.CREATE.S.g.s.1", `{"stream_name":"S","config":{"name":"g","filter_subjects":["s.1"]}}`)
			x.api("CONSUMER.CREATE.S.g.s.>", `{"stream_name":"S","config":{"name":"g","filter_subject":"s.>"}}`)
			x.api("CONSUMER.DURABLE.CREATE.S.h", `{"stream_name":"S","config":{"durable_name":"h"}}`)
			x.api("CONSUMER.DURABLE.CREATE.S.i", `{"stream_name":"S","config":{}}`)
			x.api("CONSUMER.DURABLE.CREATE.S.i", `{"stream_name":"S","config":{"durable_name":"j"}}`)
			x.api("CONSUMER.DELETE.S.h", "{}")
			x.api("CONSUMER.DELETE.S.h", "")
			x.api("CONSUMER.DELETE.S.h", "")
			x.api("CONSUMER.INFO.S.h", "")
			x.api("CONSUMER.INFO.none.h", "")
			x.api("CONSUMER.INFO.S.c", "{}")
			x.api("CONSUMER.INFO.S.c", "nonsense")
			x.api("STREAM.INFO.S", "")
		}},
		{"consumer/create-checks", func(x *session) {
			x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"consumer_limits":{"max_ack_pending":50,"inactive_threshold":3600000000000}}`)
			long := strings.Repeat("n", 256)
			for _, config := range []string{
				``, `,"deliver_policy":"all","opt_start_seq":1`, `,"deliver_policy":"by_start_sequence"`, `,"deliver_policy":"by_start_time"`, `,"deliver_policy":"last_per_subject"`, `,"deliver_policy":"last","opt_start_seq":1`,
				`,"deliver_policy":"new","opt_start_time":"2020-01-01T00:00:00Z"`, `,"deliver_policy":"by_start_sequence","opt_start_seq":5,"opt_start_time":"2020-01-01T00:00:00Z"`, `,"deliver_policy":"some"`,
				`,"ack_policy":"some"`, `,"ack_wait":-5`, `,"ack_wait":1`, `,"max_deliver":-5`, `,"max_deliver":0`, `,"max_waiting":-1`, `,"max_waiting":5`, `,"max_batch":5,"max_expires":1000000000,"max_bytes":100`, `,"max_batch":-5`, `,"max_expires":1`, `,"max_expires":-1`,
				`,"max_ack_pending":51`, `,"max_ack_pending":-1`, `,"max_ack_pending":10`, `,"max_ack_pending":-5`, `,"inactive_threshold":7200000000000`, `,"inactive_threshold":1000000000`, `,"inactive_threshold":-1`,
				`,"backoff":[1000000000,2000000000]`, `,"backoff":[1000000000,2000000000],"max_deliver":1`, `,"backoff":[1000000000,2000000000],"max_deliver":2`, `,"backoff":[1000000000,2000000000],"max_deliver":3`, `,"backoff":[1000000000],"ack_wait":5000000000,"max_deliver":3`, `,"backoff":[-1],"max_deliver":3`, `,"backoff":[0],"max_deliver":3`,
				`,"filter_subject":"t"`, `,"filter_subject":"s..x"`, `,"filter_subject":">"`, `,"filter_subject":"s.1","filter_subjects":["s.2"]`, `,"filter_subjects":["s.1","s.1"]`, `,"filter_subjects":["s.*","s.1"]`, `,"filter_subjects":["s.1",""]`, `,"filter_subjects":["t.1","s.1"]`, `,"filter_subjects":["s.1"]`, `,"filter_subjects":[]`, `,"filter_subject":"*.1"`,
				`,"deliver_subject":"d"`, `,"deliver_subject":"d.*"`, `,"deliver_subject":"s.1"`, `,"deliver_subject":"d..x"`, `,"deliver_subject":"d","max_waiting":5`, `,"deliver_subject":"d","max_batch":5`, `,"deliver_subject":"d","idle_heartbeat":1000000000,"flow_control":true`, `,"deliver_subject":"d","flow_control":true`, `,"deliver_subject":"d","idle_heartbeat":1000`,
				`,"deliver_subject":"d","idle_heartbeat":-1`, `,"idle_heartbeat":1000000000`, `,"flow_control":true`, `,"deliver_group":"g"`, `,"deliver_subject":"d","deliver_group":"g"`, `,"deliver_subject":"d","deliver_group":"g h"`, `,"deliver_subject":"d","rate_limit_bps":1000`, `,"rate_limit_bps":1000`,
				`,"deliver_subject":"d","deliver_group":"g","idle_heartbeat":1000000000`, `,"deliver_subject":"d","ack_policy":"none","max_ack_pending":5`, `,"ack_policy":"none","max_ack_pending":5`, `,"ack_policy":"none","ack_wait":1000000000`, `,"ack_policy":"none","max_deliver":5`, `,"ack_policy":"none"`, `,"ack_policy":"all"`,
				`,"sample_freq":"50%"`, `,"sample_freq":"50"`, `,"sample_freq":"x"`, `,"sample_freq":"150"`, `,"replay_policy":"original"`, `,"replay_policy":"slow"`, `,"headers_only":true`, `,"num_replicas":3`, `,"num_replicas":1`, `,"num_replicas":-1`, `,"mem_storage":true`, `,"metadata":{"a":"b","_nats.c":"d"}`,
				`,"description":"` + strings.Repeat(long, 17) + `"`, `,"pause_until":"2100-01-01T00:00:00Z"`, `,"pause_until":"2000-01-01T00:00:00Z"`, `,"unknown":1`, `,"max_deliver":"x"`,
			} {
				x.api("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c"`+config+`}}`)
				x.nc.Request("$JS.API.CONSUMER.DELETE.S.c", nil, answerTimeout)
			}
			for _, config := range []string{`"name":"a.b"`, `"name":"a b"`, `"name":"a/b"`, `"name":"a*"`, `"durable_name":"a.b"`, `"name":""`, `"deliver_subject":"d"`} {
				answer := x.api("CONSUMER.CREATE.S", `{"stream_name":"S","config":{`+config+`,"inactive_threshold":1000000000}}`)
				if name, _ := answer["name"].(string); name != "" {
					x.records = x.records[:len(x.records)-1]
				}
			}
			x.do("STREAM.CREATE.M", `{"name":"M","max_consumers":1}`)
			x.api("CONSUMER.CREATE.M.c", `{"stream_name":"M","config":{"durable_name":"c"}}`)
			x.api("CONSUMER.CREATE.M.d", `{"stream_name":"M","config":{"durable_name":"d"}}`)
			x.api("CONSUMER.CREATE.M.c", `{"stream_name":"M","config":{"durable_name":"c"}}`)
		}},
		{"consumer/update", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit"`)
			for _, config := range []string{
				`,"ack_policy":"explicit","description":"d","metadata":{"a":"b"}`, `,"ack_policy":"none"`, `,"ack_policy":"explicit","deliver_policy":"last"`, `,"ack_policy":"explicit","replay_policy":"original"`, `,"ack_policy":"explicit","deliver_subject":"d"`,
				`,"ack_policy":"explicit","filter_subject":"s.1"`, `,"ack_policy":"explicit","filter_subjects":["s.1","s.2"]`, `,"ack_policy":"explicit","max_waiting":7`, `,"ack_policy":"explicit","ack_wait":60000000000`, `,"ack_policy":"explicit","headers_only":true`,
				`,"ack_policy":"explicit","max_ack_pending":2`, `,"ack_policy":"explicit","inactive_threshold":60000000000`, `,"ack_policy":"explicit","backoff":[1000000000],"max_deliver":4`, `,"ack_policy":"explicit","sample_freq":"10"`, `,"ack_policy":"explicit","max_batch":3,"max_expires":1000000000,"max_bytes":100`,
				`,"ack_policy":"explicit","mem_storage":true`, `,"ack_policy":"explicit","num_replicas":1`, `,"ack_policy":"explicit","pause_until":"2100-01-01T00:00:00Z"`, `,"ack_policy":"explicit"`, `,"ack_policy":"explicit","flow_control":true`, `,"ack_policy":"explicit","deliver_policy":"by_start_sequence","opt_start_seq":3`,
			} {
				create(x, "c", config)
			}
			x.api("CONSUMER.INFO.S.c", "")
			create(x, "p", `,"ack_policy":"explicit","deliver_subject":"d1"`)
			create(x, "p", `,"ack_policy":"explicit","deliver_subject":"d2"`)
			sub := x.listen("d2")
			x.receive(sub, 6)
			create(x, "p", `,"ack_policy":"explicit","deliver_subject":"d3"`)
			create(x, "p", `,"ack_policy":"explicit"`)
		}},
		{"consumer/update-filter", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit","filter_subject":"s.1"`)
			x.next("S", "c", `{"batch":1}`, 1)
			create(x, "c", `,"ack_policy":"explicit","filter_subject":"s.2"`)
			x.next("S", "c", `{"batch":5,"no_wait":true}`, 5)
			x.api("CONSUMER.INFO.S.c", "")
			create(x, "c", `,"ack_policy":"explicit"`)
			x.next("S", "c", `{"batch":5,"no_wait":true}`, 5)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"consumer/list", func(x *session) {
			fill(x)
			for _, name := range []string{"c", "a", "b"} {
				x.do("CONSUMER.CREATE.S."+name, `{"stream_name":"S","config":{"durable_name":"`+name+`","ack_policy":"explicit"}}`)
			}
			for _, body := range []string{"", "{}", `{"offset":1}`, `{"offset":10}`, `{"offset":-1}`, "nonsense"} {
				x.api("CONSUMER.NAMES.S", body)
				x.api("CONSUMER.LIST.S", body)
			}
			x.api("CONSUMER.NAMES.none", "")
			x.api("CONSUMER.LIST.none", "")
		}},
		{"consumer/deliver-policies", func(x *session) {
			fill(x)
			for i, config := range []string{
				`,"deliver_policy":"all"`, `,"deliver_policy":"last"`, `,"deliver_policy":"new"`, `,"deliver_policy":"by_start_sequence","opt_start_seq":4`, `,"deliver_policy":"by_start_sequence","opt_start_seq":40`,
				`,"deliver_policy":"by_start_time","opt_start_time":"2020-01-01T00:00:00Z"`, `,"deliver_policy":"by_start_time","opt_start_time":"2100-01-01T00:00:00Z"`,
				`,"deliver_policy":"last_per_subject","filter_subject":"s.*"`, `,"deliver_policy":"last_per_subject","filter_subject":">"`, `,"deliver_policy":"last","filter_subject":"s.1"`, `,"deliver_policy":"last","filter_subjects":["s.1","s.3"]`,
				`,"deliver_policy":"last_per_subject","filter_subjects":["s.1","s.2"]`, `,"filter_subject":"s.2"`, `,"filter_subjects":["s.1","s.3"]`, `,"filter_subject":"s.none"`, `,"deliver_policy":"last","filter_subject":"s.none"`,
				`,"deliver_policy":"last_per_subject","filter_subject":"s.none"`, `,"deliver_policy":"by_start_sequence","opt_start_seq":2,"filter_subject":"s.1"`, `,"deliver_policy":"all","headers_only":true`, `,"filter_subject":"s.1","max_deliver":1`,
				`,"deliver_policy":"new","filter_subject":"s.1"`,
			} {
				name := fmt.Sprintf("c%d", i)
				create(x, name, config+`,"ack_policy":"explicit"`)
				x.next("S", name, `{"batch":10,"no_wait":true}`, 10)
				x.api("CONSUMER.INFO.S."+name, "")
				x.put("s.1")
				if !slices.Contains([]int{4, 12, 14, 15, 16}, i) { // these do not take it
					x.untilConsumer("S", name, 1, "num_pending")
				}
				x.next("S", name, `{"batch":10,"no_wait":true}`, 10)
				x.do("STREAM.MSG.DELETE.S", fmt.Sprintf(`{"seq":%d}`, 7+i))
			}
		}},
		{"consumer/deliver-push", func(x *session) {
			fill(x)
			sub := x.listen("d")
			create(x, "c", `,"deliver_policy":"last_per_subject","filter_subject":"s.*","deliver_subject":"d","ack_policy":"none"`)
			x.receive(sub, 3)
			x.put("s.1")
			x.receive(sub, 1)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"consumer/headers-only", func(x *session) {
			x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`)
			x.pub("s.1", "12345", "A", "b")
			x.pub("s.1", "")
			x.pub("s.1", "", "A", "b")
			create(x, "c", `,"headers_only":true`)
			x.next("S", "c", `{"batch":3}`, 3)
		}},
		{"consumer/pause", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit"`)
			x.api("CONSUMER.PAUSE.S.c", `{"pause_until":"2100-01-01T00:00:00Z"}`)
			x.api("CONSUMER.INFO.S.c", ``)
			x.next("S", "c", `{"batch":1,"expires":200000000}`, 1)
			x.next("S", "c", `{"batch":1,"no_wait":true,"expires":200000000}`, 1)
			x.api("CONSUMER.PAUSE.S.c", `{"pause_until":"2000-01-01T00:00:00Z"}`)
			x.api("CONSUMER.INFO.S.c", ``)
			x.next("S", "c", `{"batch":1}`, 1)
			x.api("CONSUMER.PAUSE.S.c", `{"pause_until":"2100-01-01T00:00:00Z"}`)
			x.api("CONSUMER.PAUSE.S.c", ``)
			x.api("CONSUMER.PAUSE.S.c", `{}`)
			x.api("CONSUMER.PAUSE.S.c", `nonsense`)
			x.api("CONSUMER.PAUSE.S.none", ``)
			x.api("CONSUMER.PAUSE.none.c", ``)
			x.api("CONSUMER.INFO.S.c", ``)
			sub := x.listen("d")
			create(x, "p", `,"deliver_subject":"d","pause_until":"`+time.Now().Add(300*time.Millisecond).UTC().Format(time.RFC3339Nano)+`"`)
			x.records = x.records[:len(x.records)-1]
			x.receive(sub, 6)
		}},
		{"consumer/reset", func(x *session) {
			fill(x)
			// The position in nats-server's answer lags behind the reset; the deliveries after it count.
			reset := func(name, body string) {
				x.api("CONSUMER.RESET.S."+name, body)
				last := &x.records[len(x.records)-1]
				last.lines = slices.DeleteFunc(last.lines, func(line string) bool {
					return !strings.HasPrefix(line, "error.") && !strings.HasPrefix(line, "reset_seq") && !strings.HasPrefix(line, "name")
				})
			}
			create(x, "c", `,"ack_policy":"explicit"`)
			got := x.next("S", "c", `{"batch":4}`, 4)
			if len(got) == 4 {
				x.ack(got[0], "+ACK")
				x.ack(got[2], "+ACK")
			}
			reset("c", ``)
			x.next("S", "c", `{"batch":10,"no_wait":true}`, 10)
			reset("c", `{"seq":5}`)
			x.next("S", "c", `{"batch":10,"no_wait":true}`, 10)
			reset("c", `{"seq":1}`)
			x.next("S", "c", `{"batch":1,"no_wait":true}`, 1)
			reset("c", `{"seq":100}`)
			create(x, "n", `,"ack_policy":"explicit","deliver_policy":"new"`)
			reset("n", `{"seq":1}`)
			reset("n", ``)
			create(x, "s", `,"ack_policy":"explicit","deliver_policy":"by_start_sequence","opt_start_seq":3`)
			reset("s", `{"seq":2}`)
			reset("s", `{"seq":4}`)
			x.next("S", "s", `{"batch":1,"no_wait":true}`, 1)
		}},
		{"consumer/inactive", func(x *session) {
			fill(x)
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.DELETED.S.*")
			x.do("CONSUMER.CREATE.S.e", `{"stream_name":"S","config":{"name":"e","ack_policy":"explicit","inactive_threshold":200000000}}`)
			x.receive(sub, 1)
			x.api("CONSUMER.INFO.S.e", "")
			x.next("S", "e", `{"batch":1}`, 1)
			x.do("CONSUMER.CREATE.S.d", `{"stream_name":"S","config":{"durable_name":"d","ack_policy":"explicit","inactive_threshold":200000000}}`)
			x.receive(sub, 1)
			push := x.listen("d")
			x.do("CONSUMER.CREATE.S.p", `{"stream_name":"S","config":{"name":"p","deliver_subject":"d","ack_policy":"none","inactive_threshold":200000000}}`)
			x.receive(push, 6)
			x.must(push.Unsubscribe())
			x.receive(sub, 1)
		}},
		{"consumer/stream-deleted", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit"`)
			inbox := nats.NewInbox()
			sub := x.listen(inbox)
			x.next("S", "c", `{"batch":6}`, 6)
			x.must(x.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, []byte(`{"batch":1}`)))
			x.untilConsumer("S", "c", 1, "num_waiting")
			x.api("CONSUMER.INFO.S.c", "")
			x.do("STREAM.DELETE.S", "")
			x.receive(sub, 1)
			x.next("S", "c", `{"batch":6}`, 6)
		}},
		{"consumer/purged", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit"`)
			x.next("S", "c", `{"batch":3}`, 3)
			x.api("STREAM.PURGE.S", `{"seq":3}`)
			x.untilConsumer("S", "c", 1, "num_ack_pending")
			x.api("CONSUMER.INFO.S.c", "")
			x.api("STREAM.PURGE.S", `{"filter":"s.2"}`)
			x.api("CONSUMER.INFO.S.c", "")
			x.api("STREAM.PURGE.S", ``)
			x.untilConsumer("S", "c", 0, "num_ack_pending")
			x.api("CONSUMER.INFO.S.c", "")
			x.put("s.1")
			x.next("S", "c", `{"batch":1}`, 1)
			x.api("CONSUMER.INFO.S.c", "")
		}},
		{"consumer/deleted-pending", func(x *session) {
			fill(x)
			create(x, "c", `,"ack_policy":"explicit"`)
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
			x.next("S", "c", `{"batch":3}`, 3)
			x.api("STREAM.MSG.DELETE.S", `{"seq":1}`)
			x.receive(sub, 1)
			x.untilConsumer("S", "c", 2, "num_ack_pending")
			x.api("CONSUMER.INFO.S.c", "")
			x.api("STREAM.MSG.DELETE.S", `{"seq":4}`)
			x.api("CONSUMER.INFO.S.c", "")
			x.next("S", "c", `{"batch":1}`, 1)
		}},
	}
}

func ackScenarios() []scenario {
	fill := func(x *session, config string) {
		x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"]}`)
		x.put("s.1", "s.2", "s.3", "s.4", "s.5", "s.6")
		x.do("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c"`+config+`}}`)
	}
	info := func(x *session) { x.api("CONSUMER.INFO.S.c", "") }
	return []scenario{
		{"ack/explicit", func(x *session) {
			fill(x, `,"ack_policy":"explicit"`)
			got := x.next("S", "c", `{"batch":6}`, 6)
			x.ack(got[1], "+ACK")
			info(x)
			x.ack(got[1], "+ACK")
			x.ack(got[0], "")
			info(x)
			x.ack(got[3], "+OK")
			x.ack(got[2], "+TERM")
			info(x)
			x.ack(got[4], "+WPI")
			info(x)
			x.ack(got[5], "-NAK")
			x.next("S", "c", `{"batch":1}`, 1)
			info(x)
			x.ack(got[5], "+ACK")
			x.ack(got[4], "+TERM because it is bad")
			info(x)
		}},
		{"ack/all", func(x *session) {
			fill(x, `,"ack_policy":"all"`)
			got := x.next("S", "c", `{"batch":6}`, 6)
			x.ack(got[3], "+ACK")
			info(x)
			x.ack(got[1], "+ACK")
			info(x)
			x.ack(got[5], "-NAK")
			info(x)
			x.next("S", "c", `{"batch":1}`, 1)
			x.ack(got[4], "+TERM")
			info(x)
		}},
		{"ack/none", func(x *session) {
			fill(x, `,"ack_policy":"none"`)
			got := x.next("S", "c", `{"batch":2}`, 2)
			x.note("reply", got[0].Reply)
			_, err := x.nc.Request(got[0].Reply, []byte("+ACK"), answerTimeout)
			x.note("ack", err)
			info(x)
		}},
		{"ack/next", func(x *session) {
			fill(x, `,"ack_policy":"explicit"`)
			got := x.next("S", "c", `{"batch":1}`, 1)
			got = x.ask(got[0].Reply, "+NXT", 1)
			got = x.ask(got[0].Reply, "+NXT 2", 2)
			got = x.ask(got[1].Reply, `+NXT {"batch":1,"no_wait":true}`, 1)
			got = x.ask(got[0].Reply, `+NXT {"batch":5,"no_wait":true}`, 5)
			x.ask(got[0].Reply, `+NXT {"batch":5,"no_wait":true}`, 5)
			info(x)
		}},
		{"ack/nak-delay", func(x *session) {
			fill(x, `,"ack_policy":"explicit","ack_wait":60000000000`)
			naks := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.>")
			terms := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
			got := x.next("S", "c", `{"batch":6}`, 6)
			x.ack(got[0], `-NAK {"delay":200000000}`)
			x.receive(naks, 1)
			got = append(got, x.next("S", "c", `{"batch":1}`, 1)...)
			x.ack(got[1], `-NAK 100ms`)
			x.receive(naks, 1)
			x.next("S", "c", `{"batch":1}`, 1)
			x.ack(got[2], `-NAK nonsense`)
			x.receive(naks, 1)
			x.next("S", "c", `{"batch":1}`, 1)
			x.ack(got[3], "+TERM")
			x.receive(terms, 1)
			x.ack(got[4], "+TERM some reason")
			x.receive(terms, 1)
			x.ack(got[3], "-NAK")
			info(x)
			x.nothing(naks)
		}},
		{"ack/redelivery", func(x *session) {
			fill(x, `,"ack_policy":"explicit","ack_wait":1000000000`)
			x.next("S", "c", `{"batch":2}`, 2)
			x.next("S", "c", `{"batch":4}`, 4)
			got := x.next("S", "c", `{"batch":1}`, 1)
			x.ack(got[0], "+ACK")
		}},
		{"ack/max-deliver", func(x *session) {
			fill(x, `,"ack_policy":"explicit","ack_wait":200000000,"max_deliver":2,"filter_subject":"s.1"`)
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
			x.next("S", "c", `{"batch":1}`, 1)
			x.next("S", "c", `{"batch":1}`, 1)
			x.next("S", "c", `{"batch":1,"expires":500000000}`, 1)
			x.receive(sub, 1)
			info(x)
		}},
		{"ack/max-deliver-nak", func(x *session) {
			fill(x, `,"ack_policy":"explicit","max_deliver":2,"filter_subject":"s.1"`)
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
			x.ack(x.next("S", "c", `{"batch":1}`, 1)[0], "-NAK")
			m := x.next("S", "c", `{"batch":1}`, 1)[0]
			x.ack(m, "-NAK")
			x.next("S", "c", `{"batch":1,"no_wait":true}`, 1)
			x.receive(sub, 1)
			info(x)
			x.ack(m, "+ACK")
			info(x)
		}},
		{"ack/backoff", func(x *session) {
			fill(x, `,"ack_policy":"explicit","backoff":[150000000,250000000],"max_deliver":4,"filter_subject":"s.1"`)
			sub := x.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
			for range 4 {
				x.next("S", "c", `{"batch":1}`, 1)
			}
			x.next("S", "c", `{"batch":1,"expires":500000000}`, 1)
			x.receive(sub, 1)
			info(x)
		}},
		{"ack/max-pending", func(x *session) {
			fill(x, `,"ack_policy":"explicit","max_ack_pending":2`)
			got := x.next("S", "c", `{"batch":6,"expires":300000000}`, 6)
			info(x)
			x.ack(got[0], "+ACK")
			x.next("S", "c", `{"batch":6,"no_wait":true,"expires":300000000}`, 6)
			x.ack(got[1], "-NAK")
			x.next("S", "c", `{"batch":1}`, 1)
			info(x)
		}},
		{"ack/sample", func(x *session) {
			fill(x, `,"ack_policy":"explicit","sample_freq":"100"`)
			sub := x.listen("$JS.EVENT.METRIC.CONSUMER.ACK.>")
			x.ack(x.next("S", "c", `{"batch":1}`, 1)[0], "+ACK")
			x.receive(sub, 1)
		}},
		{"ack/foreign", func(x *session) {
			fill(x, `,"ack_policy":"explicit"`)
			m := x.next("S", "c", `{"batch":1}`, 1)[0]
			for _, reply := range []string{"$JS.ACK.S.c.1.1", "$JS.ACK.S.c.1.99.99.1700000000000000000.0", "$JS.ACK.S.none.1.1.1.1700000000000000000.0", "$JS.ACK.S.c.x.y.z.t.u"} {
				_, err := x.nc.Request(reply, []byte("+ACK"), time.Second)
				x.note(reply, err)
			}
			info(x)
			_, err := x.nc.Request(m.Reply, []byte("+NONSENSE"), time.Second)
			x.note("nonsense", err)
			info(x)
			x.ack(m, "+ACK")
		}},
	}
}
