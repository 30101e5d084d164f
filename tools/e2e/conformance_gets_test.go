package e2e

import (
	"fmt"
	"time"
)

func getScenarios() []scenario {
	fill := func(x *session) {
		x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"allow_direct":true,"max_msgs_per_subject":10}`)
		x.put("s.1", "s.2", "s.3", "s.1", "s.2", "s.4.5")
		x.pub("s.1", "with header", "A", "b", "A", "c", "B", "")
		x.do("STREAM.MSG.DELETE.S", `{"seq":2}`)
	}
	return []scenario{
		{"get/api", func(x *session) {
			fill(x)
			for _, body := range []string{`{"seq":1}`, `{"seq":2}`, `{"seq":7}`, `{"seq":8}`, `{"seq":0}`, `{}`, ``, `nonsense`, `{"last_by_subj":"s.1"}`, `{"last_by_subj":"s.*"}`,
				`{"last_by_subj":"none"}`, `{"last_by_subj":"s..1"}`, `{"last_by_subj":">"}`, `{"seq":1,"last_by_subj":"s.1"}`, `{"next_by_subj":"s.1"}`, `{"seq":2,"next_by_subj":"s.2"}`,
				`{"seq":6,"next_by_subj":"s.2"}`, `{"seq":2,"next_by_subj":"s.*"}`, `{"seq":99,"next_by_subj":"s.*"}`, `{"last_by_subj":"s.1","next_by_subj":"s.1"}`,
				`{"batch":2}`, `{"seq":1,"batch":2}`, `{"multi_last":["s.1"]}`, `{"seq":1,"no_hdr":true}`, `{"seq":7,"no_hdr":true}`, `{"seq":-1}`, `{"start_time":"2020-01-01T00:00:00Z"}`, `{"seq":1,"max_bytes":5}`} {
				x.api("STREAM.MSG.GET.S", body)
			}
			x.api("STREAM.MSG.GET.none", `{"seq":1}`)
			x.do("STREAM.CREATE.E", `{"name":"E"}`)
			x.api("STREAM.MSG.GET.E", `{"seq":1}`)
			x.api("STREAM.MSG.GET.E", `{"last_by_subj":">"}`)
		}},
		{"get/direct", func(x *session) {
			fill(x)
			for _, body := range []string{`{"seq":1}`, `{"seq":2}`, `{"seq":7}`, `{"seq":8}`, `{"seq":0}`, `{}`, ``, `nonsense`, `{"last_by_subj":"s.1"}`, `{"last_by_subj":"s.*"}`,
				`{"last_by_subj":"none"}`, `{"last_by_subj":"s..1"}`, `{"last_by_subj":">"}`, `{"seq":1,"last_by_subj":"s.1"}`, `{"next_by_subj":"s.1"}`, `{"seq":2,"next_by_subj":"s.2"}`,
				`{"seq":6,"next_by_subj":"s.2"}`, `{"seq":2,"next_by_subj":"s.*"}`, `{"seq":99,"next_by_subj":"s.*"}`, `{"last_by_subj":"s.1","next_by_subj":"s.1"}`, `{"seq":1,"no_hdr":true}`, `{"seq":7,"no_hdr":true}`, `{"seq":1,"max_bytes":5}`} {
				x.ask("$JS.API.DIRECT.GET.S", body, 1)
			}
			for _, subject := range []string{"s.1", "s.4.5", "none", "s.*", ">", "s.>"} {
				x.ask("$JS.API.DIRECT.GET.S."+subject, "", 1)
			}
			x.ask("$JS.API.DIRECT.GET.S.s.1", `{"seq":1}`, 1)
			x.ask("$JS.API.DIRECT.GET.S.s.1", `{"no_hdr":true}`, 1)
			x.ask("$JS.API.DIRECT.GET.S.s.1", `{"last_by_subj":"s.2"}`, 1)
			x.ask("$JS.API.DIRECT.GET.S.s.1", `{"next_by_subj":"s.2"}`, 1)
			x.ask("$JS.API.DIRECT.GET.S.s.1", `nonsense`, 1)
			x.ask("$JS.API.DIRECT.GET.none", `{"seq":1}`, 1)
			x.do("STREAM.CREATE.N", `{"name":"N"}`)
			x.ask("$JS.API.DIRECT.GET.N", `{"seq":1}`, 1)
			x.do("STREAM.UPDATE.S", `{"name":"S","subjects":["s.>"],"max_msgs_per_subject":10}`)
			x.ask("$JS.API.DIRECT.GET.S", `{"seq":1}`, 1)
		}},
		{"get/direct-batch", func(x *session) {
			fill(x)
			for _, body := range []string{
				`{"batch":3}`, `{"batch":3,"seq":1}`, `{"batch":100,"seq":1}`, `{"batch":2,"seq":3,"next_by_subj":"s.*"}`, `{"batch":2,"next_by_subj":"s.1"}`, `{"batch":3,"next_by_subj":"none"}`,
				`{"batch":3,"seq":99}`, `{"batch":10,"seq":1,"max_bytes":60}`, `{"batch":10,"seq":1,"max_bytes":1}`, `{"batch":-1,"seq":1}`, `{"seq":1,"batch":1}`, `{"seq":1,"batch":2,"up_to_seq":4}`,
				`{"batch":2,"start_time":"2020-01-01T00:00:00Z"}`, `{"batch":2,"start_time":"2100-01-01T00:00:00Z"}`, `{"batch":2,"seq":1,"start_time":"2020-01-01T00:00:00Z"}`,
				`{"batch":2,"next_by_subj":"s.1","start_time":"2020-01-01T00:00:00Z"}`,
				`{"batch":2,"last_by_subj":"s.1"}`, `{"batch":3,"seq":1,"no_hdr":true}`,
			} {
				x.ask("$JS.API.DIRECT.GET.S", body, 20)
			}
		}},
		{"get/direct-time", func(x *session) {
			fill(x)
			x.ask("$JS.API.DIRECT.GET.S", `{"start_time":"2020-01-01T00:00:00Z"}`, 1)
			x.ask("$JS.API.DIRECT.GET.S", `{"start_time":"2020-01-01T00:00:00Z","next_by_subj":"s.4.5"}`, 1)
			x.ask("$JS.API.DIRECT.GET.S", `{"start_time":"2100-01-01T00:00:00Z"}`, 1)
		}},
		{"get/direct-multi", func(x *session) {
			fill(x)
			for _, body := range []string{
				`{"multi_last":["s.1"]}`, `{"multi_last":["s.1","s.2"]}`, `{"multi_last":["s.*"]}`, `{"multi_last":[">"]}`, `{"multi_last":["none"]}`, `{"multi_last":[]}`, `{"multi_last":["s.*"],"batch":2}`,
				`{"multi_last":["s.*"],"up_to_seq":4}`, `{"multi_last":["s.*"],"up_to_seq":2}`, `{"multi_last":["s.*"],"up_to_seq":1}`, `{"multi_last":["s.*"],"seq":4}`, `{"multi_last":["s.*"],"seq":4,"batch":1}`,
				`{"multi_last":["s.*"],"up_to_time":"2100-01-01T00:00:00Z"}`, `{"multi_last":["s.*"],"up_to_time":"2020-01-01T00:00:00Z"}`, `{"multi_last":["s.*"],"up_to_seq":4,"up_to_time":"2100-01-01T00:00:00Z"}`,
				`{"multi_last":["s.1"],"last_by_subj":"s.1"}`, `{"multi_last":["s.1"],"next_by_subj":"s.1"}`, `{"multi_last":["s.1","s.1","s.*"]}`, `{"multi_last":["s.*"],"max_bytes":30}`, `{"multi_last":["s.*"],"max_bytes":1}`, `{"multi_last":["s.*"],"no_hdr":true}`,
				`{"multi_last":["s..x"]}`, `{"multi_last":["s.*"],"start_time":"2020-01-01T00:00:00Z"}`,
			} {
				x.ask("$JS.API.DIRECT.GET.S", body, 20)
			}
			x.do("STREAM.CREATE.E", `{"name":"E","allow_direct":true}`)
			x.ask("$JS.API.DIRECT.GET.E", `{"multi_last":[">"]}`, 1)
			x.ask("$JS.API.DIRECT.GET.E", `{"batch":1,"seq":1}`, 1)
			x.do("STREAM.CREATE.M", `{"name":"M","subjects":["m.>"],"allow_direct":true,"storage":"memory"}`)
			for i := range 1030 {
				x.must(x.nc.Publish(fmt.Sprintf("m.%d", i), nil))
			}
			x.untilMessages("M", 1030)
			x.ask("$JS.API.DIRECT.GET.M", `{"multi_last":["m.*"]}`, 1)
			x.ask("$JS.API.DIRECT.GET.M", `{"multi_last":["m.*"],"batch":2}`, 3)
		}},
		{"get/direct-multi-beyond", func(x *session) {
			fill(x)
			x.ask("$JS.API.DIRECT.GET.S", `{"multi_last":["s.*"],"up_to_seq":99}`, 20)
		}},
		{"get/times", func(x *session) {
			x.do("STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"allow_direct":true}`)
			x.put("s.1", "s.2", "s.1", "s.2")
			m := x.do("STREAM.MSG.GET.S", `{"seq":3}`)
			at := m["message"].(map[string]any)["time"].(string)
			title := len(x.records)
			for _, body := range []string{`{"batch":2,"start_time":"%s"}`, `{"multi_last":["s.*"],"up_to_time":"%s"}`} {
				x.ask("$JS.API.DIRECT.GET.S", fmt.Sprintf(body, at), 5)
			}
			x.do("CONSUMER.CREATE.S.c", `{"stream_name":"S","config":{"durable_name":"c","deliver_policy":"by_start_time","opt_start_time":"`+at+`"}}`)
			x.next("S", "c", `{"batch":1}`, 1)
			parsed, err := time.Parse(time.RFC3339Nano, at)
			x.must(err)
			x.do("CONSUMER.CREATE.S.d", `{"stream_name":"S","config":{"durable_name":"d","deliver_policy":"by_start_time","opt_start_time":"`+parsed.Add(1).Format(time.RFC3339Nano)+`"}}`)
			x.next("S", "d", `{"batch":1}`, 1)
			for i := range x.records[title:] {
				r := &x.records[title+i]
				if len(r.title) > 20 && r.title[:10] == "DIRECT.GET" {
					r.title = "DIRECT.GET with a time"
				}
			}
		}},
	}
}
