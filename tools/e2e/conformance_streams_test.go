package e2e

import (
	"fmt"
	"strings"
	"time"
)

func streamScenarios() []scenario {
	return []scenario{
		{"stream/create", func(x *session) {
			x.api("STREAM.CREATE.A", `{"name":"A"}`)
			x.api("STREAM.CREATE.A", `{"name":"A"}`)
			x.api("STREAM.CREATE.A", `{"name":"A","max_msgs":5}`)
			x.api("STREAM.CREATE.B", `{"name":"B","subjects":["b.*","b.x.>"],"description":"d","metadata":{"k":"v"},"max_msgs":10,
				"max_bytes":1000,"max_age":3600000000000,"max_msgs_per_subject":2,"max_msg_size":100,"discard":"new","storage":"memory",
				"duplicate_window":1000000000,"allow_direct":true,"allow_rollup_hdrs":true,"no_ack":true,"max_consumers":3,"num_replicas":1,
				"consumer_limits":{"inactive_threshold":60000000000,"max_ack_pending":50}}`)
			x.api("STREAM.CREATE.C", `{"name":"C","subjects":["b.y"]}`)
			x.api("STREAM.CREATE.C", `{"name":"C","first_seq":100,"retention":"interest","sealed":false,"deny_delete":true,"deny_purge":true}`)
			x.pub("C", "x")
			x.api("STREAM.INFO.C", "")
			x.api("STREAM.INFO.B", "")
			x.api("STREAM.INFO.none", "")
			x.api("STREAM.INFO.A", "nonsense")
			x.api("STREAM.INFO.A", "{}")
			x.api("STREAM.CREATE.D", `{"name":"E"}`)
			x.api("STREAM.CREATE.D", `{"name":`)
			x.api("STREAM.CREATE.D", ``)
			x.api("STREAM.CREATE.D", `{"name":"D","unknown":1}`)
			x.api("STREAM.CREATE.F", `{"name":"F","pedantic":true,"max_msgs":-5}`)
			x.api("STREAM.CREATE.F", `{"name":"F","subjects":["f"]}`)
			x.api("STREAM.DELETE.F", "{}")
			x.api("STREAM.DELETE.F", "")
			x.api("STREAM.DELETE.F", "")
			x.api("STREAM.NAMES", "")
		}},
		{"stream/create-checks", func(x *session) {
			long := strings.Repeat("n", 256)
			for i, config := range []string{
				`"subjects":["a..b"]`, `"subjects":[""]`, `"subjects":["a"," b"]`, `"subjects":["a.*","a.b"]`, `"subjects":["a","a"]`,
				`"subjects":[">"]`, `"subjects":["$JS.API.>"]`, `"subjects":["$JS.EVENT.NONE.>"]`, `"subjects":["$SYS.ACCOUNT.>"]`,
				`"subjects":["*.>"]`, `"max_age":-1`, `"max_age":1000`, `"duplicate_window":-1`, `"duplicate_window":1000`,
				`"max_age":1000000000,"duplicate_window":2000000000`, `"discard_new_per_subject":true`,
				`"discard_new_per_subject":true,"discard":"new"`, `"deny_purge":true,"allow_rollup_hdrs":true`, `"sealed":true`, `"num_replicas":3`,
				`"num_replicas":6`, `"num_replicas":-1`, `"mirror_direct":true`, `"retention":"other"`, `"storage":"tape"`, `"discard":"some"`,
				`"max_msgs":0,"max_bytes":0,"max_consumers":0,"max_msg_size":0,"max_msgs_per_subject":0`,
				`"description":"` + strings.Repeat(long, 17) + `"`, `"max_msgs":"5"`, `"max_msgs":1.5`, `"subjects":"a"`,
				`"placement":{}`, `"placement":{"cluster":"c"}`, `"placement":{"tags":["t"]}`,
				`"subject_transform":{"src":"x.*","dest":"y.{{wildcard(1)}}"},"subjects":["x.*"]`,
				`"subject_transform":{"src":"x..","dest":"y"}`, `"subject_transform":{"src":"x.*","dest":"y.{{wildcard(2)}}"}`,
				`"subject_transform":{"src":"x.*","dest":"y.{{nothing(1)}}"}`, `"subject_transform":{"src":"other.*","dest":"y.$1"},"subjects":["x.*"]`,
				`"subject_transform":{"src":"","dest":"y.>"}`, `"consumer_limits":{"inactive_threshold":-1}`, `"consumer_limits":{"max_ack_pending":-5}`,
				`"compression":"none"`, `"compression":"zip"`, `"first_seq":0`, `"metadata":{"_nats.x":"y"}`,
				`"allow_msg_ttl":false,"subject_delete_marker_ttl":0`, `"persist_mode":"default"`,
			} {
				// nats-server may refuse a name whose files it has not yet removed.
				name := fmt.Sprintf("T%d", i)
				x.api("STREAM.CREATE."+name, `{"name":"`+name+`",`+config+`}`)
				x.api("STREAM.DELETE."+name, "")
			}
			// It may hold the advisory of its own creation already, so that its state is not compared.
			x.do("STREAM.CREATE.ALL", `{"name":"ALL","subjects":[">"],"no_ack":true}`)
			x.do("STREAM.DELETE.ALL", "")
			x.api("STREAM.CREATE."+long, `{"name":"`+long+`"}`)
			x.api("STREAM.CREATE.a*", `{"name":"a*"}`)
			x.api("STREAM.CREATE.a/b", `{"name":"a/b"}`)
			x.api("STREAM.UPDATE.none", `{"name":"none"}`)
			x.api("STREAM.UPDATE.none", `{"name":"some"}`)
			x.api("STREAM.UPDATE.none", ``)
		}},
		{"stream/refused", func(x *session) {
			// Only the answers of the server under test are of interest: each is an error.
			for _, config := range []string{
				`"compression":"s2"`, `"allow_msg_ttl":true`, `"allow_msg_counter":true`, `"allow_atomic":true`, `"allow_batched":true`,
				`"allow_msg_schedules":true`, `"republish":{"src":">","dest":"r.>"}`, `"sources":[{"name":"O"}]`,
			} {
				answer := x.api("STREAM.CREATE.T", `{"name":"T","subjects":["t"],`+config+`}`)
				if x.server.Program == serverPath && isMillraced() && answer["error"] == nil {
					x.stop("accepted " + config)
				}
				x.nc.Request("$JS.API.STREAM.DELETE.T", nil, answerTimeout)
			}
		}},
		{"stream/update", func(x *session) {
			x.do("STREAM.CREATE.A", `{"name":"A","subjects":["a.>"],"max_consumers":5}`)
			x.do("STREAM.CREATE.B", `{"name":"B","subjects":["b"]}`)
			x.put("a.1", "a.1", "a.2", "a.2", "a.3")
			for _, config := range []string{
				`"subjects":["a.>"],"max_consumers":5,"description":"new"`, `"subjects":["a.>","b"],"max_consumers":5`, `"subjects":["a.>"],"max_consumers":6`,
				`"subjects":["a.>"],"max_consumers":5,"storage":"memory"`, `"subjects":["a.>"],"max_consumers":5,"retention":"workqueue"`,
				`"subjects":["a.>"],"max_consumers":5,"retention":"interest"`, `"subjects":["a.>"],"max_consumers":5,"retention":"limits"`,
				`"subjects":["a.>"],"max_consumers":5,"num_replicas":3`, `"subjects":["a.>"],"max_consumers":5,"max_msgs":4`,
				`"subjects":["a.>"],"max_consumers":5,"max_msgs_per_subject":1`, `"subjects":["a.>"],"max_consumers":5,"deny_delete":true`,
				`"subjects":["a.>"],"max_consumers":5,"deny_delete":false`, `"subjects":["a.>"],"max_consumers":5,"deny_delete":true,"deny_purge":true`,
				`"subjects":["a.>"],"max_consumers":5,"deny_delete":true,"deny_purge":false`,
				`"subjects":["c"],"max_consumers":5,"deny_delete":true,"deny_purge":true,"allow_direct":true,"first_seq":3`,
				`"subjects":["c"],"max_consumers":5,"deny_delete":true,"deny_purge":true,"metadata":{"a":"b"},"max_age":1000000000`,
				`"subjects":["c"],"max_consumers":5,"deny_delete":true,"deny_purge":true,"sealed":true`,
				`"subjects":["c"],"max_consumers":5,"deny_delete":true,"deny_purge":true,"sealed":false`,
			} {
				x.api("STREAM.UPDATE.A", `{"name":"A",`+config+`}`)
			}
			x.api("STREAM.INFO.A", "")
			x.pub("c", "x")
			x.pub("a.1", "x")
		}},
		{"stream/purge", func(x *session) {
			x.do("STREAM.CREATE.P", `{"name":"P","subjects":["p.>"]}`)
			fill := func() {
				x.do("STREAM.PURGE.P", "")
				x.put("p.1", "p.2", "p.1", "p.2", "p.1", "p.2", "p.3", "p.4.5", "p.1", "p.1")
			}
			for _, body := range []string{
				"", "{}", `{"filter":"p.1"}`, `{"filter":"p.*"}`, `{"filter":">"}`, `{"keep":3}`, `{"keep":100}`, `{"filter":"p.1","keep":2}`, `{"filter":"p.>","keep":2}`,
				`{"filter":"none"}`, `{"filter":"p..1"}`, `{"keep":1,"seq":5}`, `{"seq":1}`, `{"seq":0}`, `nonsense`, `{"filter":5}`, `{"keep":-1}`,
				`{"filter":"p.3","keep":1}`, `{"filter":"p.4.*"}`,
			} {
				fill()
				x.api("STREAM.PURGE.P", body)
				x.api("STREAM.INFO.P", `{"deleted_details":true,"subjects_filter":">"}`)
			}
			fill()
			last := number(x.do("STREAM.INFO.P", ""), "state", "last_seq")
			for i, filter := range []string{`,"filter":"p.1"`, `,"filter":"p.*"`, ""} {
				x.api("STREAM.PURGE.P", fmt.Sprintf(`{"seq":%d%s}`, last-int64(6-i), filter))
				x.api("STREAM.INFO.P", `{"deleted_details":true,"subjects_filter":">"}`)
			}
			x.api("STREAM.PURGE.P", fmt.Sprintf(`{"seq":%d}`, last+1))
			x.api("STREAM.PURGE.P", fmt.Sprintf(`{"seq":%d}`, last+10))
			x.api("STREAM.INFO.P", "")
			x.pub("p.1", "x")
			x.api("STREAM.PURGE.P", fmt.Sprintf(`{"seq":%d,"filter":"p.1"}`, last+100))
			x.pub("p.1", "x")
			x.api("STREAM.PURGE.none", "")
			x.do("STREAM.CREATE.D", `{"name":"D","deny_purge":true}`)
			x.api("STREAM.PURGE.D", "")
		}},
		{"stream/delete-message", func(x *session) {
			x.do("STREAM.CREATE.P", `{"name":"P","subjects":["p.>"]}`)
			x.put("p.1", "p.2", "p.1", "p.2", "p.1")
			for _, body := range []string{
				`{"seq":3}`, `{"seq":3}`, `{"seq":1}`, `{"seq":2,"no_erase":true}`, `{"seq":5}`, `{"seq":9}`, `{"seq":0}`, ``, `{}`, `nonsense`,
			} {
				x.api("STREAM.MSG.DELETE.P", body)
				x.api("STREAM.INFO.P", `{"deleted_details":true,"subjects_filter":">"}`)
			}
			x.api("STREAM.MSG.DELETE.P", `{"seq":4}`)
			x.api("STREAM.INFO.P", `{"deleted_details":true,"subjects_filter":">"}`)
			x.pub("p.1", "x")
			x.api("STREAM.INFO.P", `{"deleted_details":true,"subjects_filter":">"}`)
			x.api("STREAM.MSG.DELETE.none", `{"seq":1}`)
			x.do("STREAM.CREATE.D", `{"name":"D","deny_delete":true}`)
			x.put("D")
			x.api("STREAM.MSG.DELETE.D", `{"seq":1}`)
		}},
		{"stream/sealed", func(x *session) {
			x.do("STREAM.CREATE.P", `{"name":"P","subjects":["p"]}`)
			x.put("p", "p")
			x.api("STREAM.UPDATE.P", `{"name":"P","subjects":["p"],"sealed":true}`)
			x.pub("p", "x")
			x.api("STREAM.PURGE.P", "")
			x.api("STREAM.MSG.DELETE.P", `{"seq":1}`)
			x.api("STREAM.MSG.GET.P", `{"seq":1}`)
			x.api("CONSUMER.CREATE.P.c", `{"stream_name":"P","config":{"name":"c","ack_policy":"none"}}`)
			x.next("P", "c", `{"batch":2}`, 2)
			x.api("STREAM.UPDATE.P", `{"name":"P","subjects":["p"],"sealed":false}`)
			x.api("STREAM.UPDATE.P", `{"name":"P","subjects":["p"],"sealed":true,"description":"x"}`)
			x.api("STREAM.DELETE.P", "")
		}},
		{"stream/subjects", func(x *session) {
			x.do("STREAM.CREATE.P", `{"name":"P","subjects":["p.>","q"]}`)
			x.put("p.1", "p.2.x", "p.1", "q")
			for _, body := range []string{`{"subjects_filter":">"}`, `{"subjects_filter":"p.*"}`, `{"subjects_filter":"none"}`, `{"subjects_filter":"p.1"}`,
				`{"subjects_filter":">","offset":2}`, `{"subjects_filter":">","offset":10}`, `{"subjects_filter":">","offset":-1}`, `{"subjects_filter":"p..x"}`, `{"deleted_details":true}`} {
				x.api("STREAM.INFO.P", body)
			}
		}},
		{"stream/list", func(x *session) {
			x.api("STREAM.NAMES", "")
			x.api("STREAM.LIST", "")
			for i := range 5 {
				x.do(fmt.Sprintf("STREAM.CREATE.L%d", i), fmt.Sprintf(`{"name":"L%d","subjects":["l.%d.*","all%d"]}`, i, i, i))
			}
			x.put("l.2.a", "all3")
			for _, body := range []string{"", "{}", `{"offset":3}`, `{"offset":30}`, `{"offset":-3}`, `{"subject":"l.2.x"}`, `{"subject":"l.*.x"}`, `{"subject":"*"}`, `{"subject":">"}`,
				`{"subject":"none"}`, `nonsense`, `{"subject":"a..b"}`} {
				x.api("STREAM.NAMES", body)
				x.api("STREAM.LIST", body)
			}
		}},
		{"stream/memory", func(x *session) {
			x.do("STREAM.CREATE.M", `{"name":"M","subjects":["m.>"],"storage":"memory","max_msgs_per_subject":2,"allow_direct":true}`)
			x.put("m.1", "m.1", "m.1", "m.2")
			x.pub("m.3", "data", "A", "b")
			x.api("STREAM.INFO.M", `{"deleted_details":true,"subjects_filter":">"}`)
			x.api("STREAM.MSG.GET.M", `{"last_by_subj":"m.3"}`)
			x.ask("$JS.API.DIRECT.GET.M.m.1", "", 1)
			x.api("CONSUMER.CREATE.M.c", `{"stream_name":"M","config":{"durable_name":"c","ack_policy":"explicit"}}`)
			for _, m := range x.next("M", "c", `{"batch":2}`, 2) {
				x.ack(m, "+ACK")
			}
			x.api("CONSUMER.INFO.M.c", "")
			x.api("STREAM.PURGE.M", `{"keep":1}`)
			x.api("INFO", "")
		}},
		{"account/info", func(x *session) {
			x.api("INFO", "")
			x.do("STREAM.CREATE.A", `{"name":"A","max_bytes":10000}`)
			x.do("STREAM.CREATE.B", `{"name":"B","storage":"memory"}`)
			x.put("A", "A", "B")
			x.do("CONSUMER.CREATE.A.c", `{"stream_name":"A","config":{"durable_name":"c"}}`)
			x.do("CONSUMER.CREATE.A.d", `{"stream_name":"A","config":{"name":"d"}}`)
			x.api("INFO", "")
			x.api("INFO", "{}")
			x.do("STREAM.PURGE.A", "")
			x.api("INFO", "")
			x.do("STREAM.DELETE.A", "")
			x.api("INFO", "")
			x.do("STREAM.DELETE.B", "")
			x.api("INFO", "")
		}},
		{"account/unserved", func(x *session) {
			for _, call := range []string{"STREAM.LEADER.STEPDOWN.A", "STREAM.PEER.REMOVE.A", "CONSUMER.LEADER.STEPDOWN.A.c", "META.LEADER.STEPDOWN",
				"SERVER.REMOVE", "STREAM.TEMPLATE.NAMES", "NOTHING", "STREAM.NOTHING.A", "STREAM.INFO", "CONSUMER.INFO.A"} {
				x.note(call, "")
				_, err := x.nc.Request("$JS.API."+call, nil, time.Second)
				x.note("silent", err != nil)
			}
		}},
		{"advisory/stream", func(x *session) {
			sub := x.listen("$JS.EVENT.ADVISORY.>")
			advisories := func() {
				m, err := sub.NextMsg(answerTimeout)
				x.must(err)
				for strings.HasPrefix(m.Subject, "$JS.EVENT.ADVISORY.API") {
					m, err = sub.NextMsg(answerTimeout)
					x.must(err)
				}
				x.seen(m)
			}
			x.do("STREAM.CREATE.A", `{"name":"A"}`)
			advisories()
			x.do("STREAM.UPDATE.A", `{"name":"A","max_msgs":3}`)
			advisories()
			x.do("CONSUMER.CREATE.A.c", `{"stream_name":"A","config":{"durable_name":"c"}}`)
			advisories()
			x.do("CONSUMER.CREATE.A.d", `{"stream_name":"A","config":{"name":"d"}}`)
			advisories()
			x.do("CONSUMER.PAUSE.A.c", `{"pause_until":"2100-01-01T00:00:00Z"}`)
			advisories()
			x.do("CONSUMER.PAUSE.A.c", `{}`)
			advisories()
			x.do("CONSUMER.DELETE.A.c", ``)
			advisories()
			x.do("STREAM.DELETE.A", ``)
			advisories()
			advisories()
		}},
	}
}
