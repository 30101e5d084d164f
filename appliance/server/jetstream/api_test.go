package jetstream

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// request makes an API request with a body that need not be JSON and returns the answer's text.
func (s *server) request(call, body string) string {
	response, err := s.engine.Local("A").Request(s.t.Context(), call, []byte(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(response)
}

func TestAPITakesWhatIsNotJSONForNoBody(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
	for _, call := range []string{"STREAM.INFO.S", "STREAM.NAMES", "STREAM.LIST", "STREAM.PURGE.S", "CONSUMER.NAMES.S",
		"CONSUMER.LIST.S", "CONSUMER.PAUSE.S.C"} {
		if got := s.request(call, "nonsense"); strings.Contains(got, `"error"`) {
			t.Errorf("%s: %s", call, got)
		}
		if got := s.request(call, "{nonsense"); !strings.Contains(got, `"err_code":10025`) {
			t.Errorf("%s with broken JSON: %s", call, got)
		}
	}
	for _, call := range []string{"INFO", "CONSUMER.INFO.S.C", "CONSUMER.DELETE.S.C", "STREAM.DELETE.S"} {
		if got := s.request(call, "nonsense"); !strings.Contains(got, `"err_code":10038`) {
			t.Errorf("%s with a body: %s", call, got)
		}
		if got := s.request(call, " {} "); strings.Contains(got, `"error"`) {
			t.Errorf("%s with an empty object: %s", call, got)
		}
	}
}

func TestAPIErrorsCarryTheFieldsOfTheirType(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	for call, want := range map[string][]string{
		"STREAM.INFO.none":      {`"total":0`, `"offset":0`, `"limit":0`},
		"STREAM.PURGE.none":     {`"purged":0`},
		"CONSUMER.NAMES.none":   {`"total":0`, `"consumers":[]`},
		"CONSUMER.LIST.none":    {`"total":0`, `"consumers":[]`},
		"CONSUMER.PAUSE.none.C": {`"paused":false`},
		"CONSUMER.RESET.none.C": {`"reset_seq":0`},
	} {
		got := s.request(call, "")
		for _, field := range append(want, `"err_code":10059`, `"type":"io.nats.`) {
			if !strings.Contains(got, field) {
				t.Errorf("%s: no %s in %s", call, field, got)
			}
		}
	}
}

func TestStreamRemovesWhatAnotherRetentionDoesNotKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
		for range 4 {
			s.bus.Publish("S.a", "", nil, []byte("x"))
		}
		c, err := s.engine.Local("A").Consumer("S", "C")
		if err != nil {
			t.Fatal(err)
		}
		settle := func(n int) {
			settled := make(chan error, 1)
			c.Settle(settlements(c.Fetch(n, 0)), func(err error) { settled <- err })
			<-settled
			synctest.Wait()
		}
		messages := func(answer map[string]any) any { return answer["state"].(map[string]any)["messages"] }
		retention := func(r api.Retention) map[string]any {
			return s.call("STREAM.UPDATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Retention = r }), nil)
		}
		settle(2)
		if got := messages(retention(api.InterestPolicy)); got != 2.0 {
			t.Errorf("%v messages in the answer to the update, want 2", got)
		}
		settle(1)
		if got := messages(s.call("STREAM.INFO.S", nil, nil)); got != 1.0 {
			t.Errorf("%v messages after an acknowledgement, want 1", got)
		}
		retention(api.LimitsPolicy)
		settle(1)
		if got := messages(s.call("STREAM.INFO.S", nil, nil)); got != 1.0 {
			t.Errorf("%v messages with limits retention, want 1", got)
		}
	})
}

func TestStreamAnswersPublishesWhenSealed(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("STREAM.UPDATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Sealed = true }), nil)
	acks := s.subscribe("ack")
	s.bus.Publish("S.a", "ack", nil, []byte("x"))
	if got := acks.take(); len(got) != 1 || !strings.Contains(got[0], `"err_code":10109`) {
		t.Errorf("acks %q", got)
	}
}

func TestStreamDeleteTellsOfItsConsumers(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
	advisories := s.subscribe("$JS.EVENT.ADVISORY.CONSUMER.DELETED.S.C")
	s.call("STREAM.DELETE.S", nil, nil)
	if got := advisories.take(); len(got) != 1 {
		t.Errorf("advisories %q", got)
	}
}

func TestConsumerPauseIsChangedByPauseOnly(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	until := time.Now().Add(time.Hour)
	request := api.CreateConsumerRequest{Stream: "S", Config: api.ConsumerConfig{Name: "C", AckPolicy: api.AckExplicit, AckWait: time.Minute}}
	s.call("CONSUMER.CREATE.S.C", request, nil)
	request.Config.PauseUntil = &until
	if got := s.call("CONSUMER.CREATE.S.C", request, nil); got["paused"] != nil {
		t.Errorf("paused by an update: %v", got)
	}
	s.call("CONSUMER.PAUSE.S.C", api.ConsumerPauseRequest{PauseUntil: until}, nil)
	request.Config.PauseUntil = nil
	request.Config.Description = "changed"
	if got := s.call("CONSUMER.CREATE.S.C", request, nil); got["paused"] != true {
		t.Errorf("resumed by an update: %v", got)
	}
}

func TestConsumerWithoutNameKeepsItsConfig(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	created := s.call("CONSUMER.CREATE.S", api.CreateConsumerRequest{Stream: "S", Config: api.ConsumerConfig{AckPolicy: api.AckExplicit}}, nil)
	name, _ := created["name"].(string)
	if len(name) != 8 {
		t.Fatalf("name %q", name)
	}
	info := s.call("CONSUMER.INFO.S."+name, nil, nil)
	if config := info["config"].(map[string]any); config["name"] != nil {
		t.Errorf("config has the name %v, which nobody gave", config["name"])
	}
}

func TestDirectGetStatuses(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.AllowDirect = true }), nil)
	for _, subj := range []string{"S.a", "S.b", "S.a", "S.c"} {
		s.bus.Publish(subj, "", nil, []byte("x"))
	}
	got := make(chan string, 10)
	s.bus.Subscribe("in", "", func(m Msg) {
		text, _, _ := strings.Cut(strings.TrimPrefix(string(m.Header), "NATS/1.0"), "\r\n")
		if text == "" {
			text = "seq " + string(wire.Header(m.Header, "Nats-Sequence"))
		}
		if left := wire.Header(m.Header, "Nats-Num-Pending"); left != nil {
			text += " left " + string(left)
		}
		got <- strings.TrimSpace(text)
	})
	for _, tt := range []struct {
		subject, body string
		want          []string
	}{
		{"", ``, []string{"408 Empty Request"}},
		{"", `{}`, []string{"408 Empty Request"}},
		{"", `{"batch":2}`, []string{"408 Empty Request"}},
		{"", `nonsense`, []string{"408 Malformed Request"}},
		{"", `{"seq":1,"last_by_subj":"S.a"}`, []string{"408 Bad Request"}},
		{"", `{"multi_last":["S.a"],"up_to_seq":1,"up_to_time":"2020-01-01T00:00:00Z"}`, []string{"408 Bad Request"}},
		{"", `{"seq":9}`, []string{"404 Message Not Found"}},
		{"", `{"seq":9,"batch":2}`, []string{"404 Message Not Found"}},
		{"", `{"seq":3}`, []string{"seq 3"}},
		{"", `{"seq":2,"next_by_subj":"S.a"}`, []string{"seq 3"}},
		{"", `{"start_time":"2020-01-01T00:00:00Z"}`, []string{"seq 1"}},
		{"", `{"seq":2,"batch":2}`, []string{"seq 2 left 2", "seq 3 left 1", "204 EOB left 1"}},
		{"", `{"seq":1,"batch":9,"max_bytes":5}`, []string{"seq 1 left 3", "seq 2 left 2", "204 EOB left 2"}},
		{"", `{"multi_last":["S.*"]}`, []string{"seq 2 left 2", "seq 3 left 1", "seq 4 left 0", "204 EOB left 0"}},
		{"", `{"multi_last":["S.*"],"seq":3,"batch":1}`, []string{"seq 3 left 1", "204 EOB left 1"}},
		{"", `{"multi_last":["S.*"],"up_to_seq":2}`, []string{"seq 1 left 1", "seq 2 left 0", "204 EOB left 0"}},
		{"", `{"multi_last":["S.*"],"up_to_time":"2020-01-01T00:00:00Z"}`, []string{"404 No Results"}},
		{"", `{"multi_last":["none"]}`, []string{"404 No Results"}},
		{".S.a", ``, []string{"seq 3"}},
		{".S.a", `{"seq":1}`, []string{"408 Bad Request"}},
		{".S.a", `nonsense`, []string{"408 Malformed Request"}},
	} {
		s.bus.Publish("$JS.API.DIRECT.GET.S"+tt.subject, "in", nil, []byte(tt.body))
		answers := []string{<-got}
		for len(answers) < len(tt.want) {
			answers = append(answers, <-got)
		}
		if !slices.Equal(answers, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.subject, tt.body, answers, tt.want)
		}
	}
	if len(got) > 0 {
		t.Errorf("unexpected: %s", <-got)
	}
}

func TestMsgGetWithoutHeaders(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.bus.Publish("S.a", "", header("A", "b"), []byte("x"))
	for body, want := range map[string]bool{`{"seq":1}`: true, `{"seq":1,"no_hdr":true}`: false} {
		var answer api.MsgGetResponse
		if err := json.Unmarshal([]byte(s.request("STREAM.MSG.GET.S", body)), &answer); err != nil {
			t.Fatal(err)
		}
		if got := len(answer.Message.Header) > 0; got != want {
			t.Errorf("%s: header %t, want %t", body, got, want)
		}
	}
}
