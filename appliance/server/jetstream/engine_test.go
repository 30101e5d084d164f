package jetstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

func streamConfig(name string, change ...func(*api.StreamConfig)) api.StreamConfig {
	c := api.StreamConfig{Name: name, Subjects: []string{name + ".>"}, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 1}
	for _, f := range change {
		f(&c)
	}
	return c
}

func durable(streamName, name string) api.CreateConsumerRequest {
	return api.CreateConsumerRequest{Stream: streamName, Config: api.ConsumerConfig{
		Durable: name, AckPolicy: api.AckExplicit, AckWait: time.Minute,
	}}
}

func header(pairs ...string) []byte {
	b := []byte("NATS/1.0\r\n")
	for i := 0; i < len(pairs); i += 2 {
		b = fmt.Appendf(b, "%s: %s\r\n", pairs[i], pairs[i+1])
	}
	return append(b, "\r\n"...)
}

func TestStreamAcknowledgesAfterCommitOnly(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack.*")
	s.disk.holdBack()
	for i := range 5 {
		s.bus.Publish("S.a", fmt.Sprintf("ack.%d", i), nil, []byte("x"))
	}
	s.bus.Publish("S.a", "ack.x", header(stream.HeaderExpectedLastSeq, "9"), nil)
	if got := acks.take(); len(got) > 0 { // nor is anybody refused by what may never be stored
		t.Fatalf("before the commit: %q", got)
	}
	s.disk.release()
	want := []string{}
	for i := range 5 {
		want = append(want, fmt.Sprintf(`{"stream":"S","seq":%d}`, i+1))
	}
	want = append(want, `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"S","seq":0}`)
	if got := acks.take(); !slices.Equal(got, want) {
		t.Errorf("acks %q", got)
	}
}

func TestStreamAnswersDuplicatesInFlightAfterTheirBatch(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack")
	s.disk.holdBack()
	s.bus.Publish("S.a", "ack", header(stream.HeaderMsgID, "1"), []byte("x")) // on its way to the disk
	s.bus.Publish("S.a", "ack", header(stream.HeaderMsgID, "1"), []byte("x"))
	s.bus.Publish("S.a", "ack", header(stream.HeaderMsgID, "2"), []byte("y")) // in the open batch
	s.bus.Publish("S.a", "ack", header(stream.HeaderMsgID, "2"), []byte("y"))
	if got := acks.take(); len(got) > 0 {
		t.Fatalf("before the commit: %q", got)
	}
	s.disk.release()
	want := []string{
		`{"stream":"S","seq":1}`, `{"stream":"S","seq":1,"duplicate":true}`,
		`{"stream":"S","seq":2}`, `{"stream":"S","seq":2,"duplicate":true}`,
	}
	if got := acks.take(); !slices.Equal(got, want) {
		t.Errorf("acks %q", got)
	}
	s.bus.Publish("S.a", "ack", header(stream.HeaderMsgID, "1"), []byte("x"))
	if got := acks.take(); !slices.Equal(got, want[1:2]) {
		t.Errorf("stored duplicate: %q", got)
	}
}

func TestStreamGoesOnAfterARefusedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		acks := s.subscribe("ack")
		s.disk.refuse = errors.New("disk is full")
		s.bus.Publish("S.a", "ack", nil, []byte("lost"))
		synctest.Wait()
		if got := acks.take(); len(got) != 1 || !strings.Contains(got[0], "disk is full") || !strings.Contains(got[0], "10077") {
			t.Fatalf("refused: %q", got)
		}
		s.disk.refuse = nil
		s.bus.Publish("S.a", "ack", nil, []byte("kept"))
		if got := acks.take(); !slices.Equal(got, []string{`{"stream":"S","seq":1}`}) {
			t.Errorf("after: %q", got)
		}
	})
}

func TestEngineRecoversStreamsAndConsumers(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("STREAM.CREATE.M", streamConfig("M", func(c *api.StreamConfig) { c.Storage = api.MemoryStorage }), nil)
	s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
	s.call("CONSUMER.CREATE.S", api.CreateConsumerRequest{Stream: "S", Config: api.ConsumerConfig{AckPolicy: api.AckExplicit}}, nil)
	for range 3 {
		s.bus.Publish("S.a", "", nil, []byte("x"))
		s.bus.Publish("M.a", "", nil, []byte("x"))
	}
	c, err := s.engine.Local("A").Consumer("S", "C")
	if err != nil {
		t.Fatal(err)
	}
	got := c.Fetch(2, 0)
	settled := make(chan error)
	c.Settle(settlements(got[:1]), func(err error) { settled <- err })
	if err := <-settled; err != nil || len(got) != 2 {
		t.Fatal(len(got), err)
	}

	s = s.restart()
	defer s.engine.Close()
	state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
	if state["messages"] != 3.0 || state["consumer_count"] != 1.0 {
		t.Errorf("file stream: %v", state)
	}
	state = s.call("STREAM.INFO.M", nil, nil)["state"].(map[string]any)
	if state["messages"] != 0.0 {
		t.Errorf("memory stream: %v", state)
	}
	info := s.call("CONSUMER.INFO.S.C", nil, nil)
	floor := info["ack_floor"].(map[string]any)
	if floor["stream_seq"] != 1.0 || info["num_ack_pending"] != 1.0 || info["num_pending"] != 1.0 {
		t.Errorf("consumer: %v", info)
	}
	s.call("STREAM.DELETE.S", nil, nil)
	s.call("STREAM.INFO.S", nil, api.ErrStreamNotFound)
	s = s.restart()
	defer s.engine.Close()
	s.call("STREAM.INFO.S", nil, api.ErrStreamNotFound)
	s.call("CONSUMER.INFO.S.C", nil, api.ErrStreamNotFound)
}

func TestStreamRetention(t *testing.T) {
	for _, tt := range []struct {
		retention api.Retention
		consumers []string
		want      []float64 // messages after each consumer has acknowledged everything
	}{
		{api.LimitsPolicy, []string{"C1"}, []float64{3}},
		{api.WorkQueuePolicy, []string{"C1"}, []float64{0}},
		{api.InterestPolicy, []string{"C1", "C2"}, []float64{3, 0}},
	} {
		t.Run(tt.retention.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, newDisk())
				defer func() { s.engine.Close() }()
				s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Retention = tt.retention }), nil)
				for _, name := range tt.consumers {
					s.call("CONSUMER.DURABLE.CREATE.S."+name, durable("S", name), nil)
				}
				for range 3 {
					s.bus.Publish("S.a", "", nil, []byte("x"))
				}
				for i, name := range tt.consumers {
					c, err := s.engine.Local("A").Consumer("S", name)
					if err != nil {
						t.Fatal(err)
					}
					settled := make(chan error, 1)
					c.Settle(settlements(c.Fetch(10, 0)), func(err error) { settled <- err })
					<-settled
					synctest.Wait()
					state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
					if state["messages"] != tt.want[i] {
						t.Errorf("after %s: %v messages, want %v", name, state["messages"], tt.want[i])
					}
				}
			})
		})
	}
}

func TestStreamInterestKeepsNothingWithoutConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Retention = api.InterestPolicy }), nil)
		acks := s.subscribe("ack")
		s.bus.Publish("S.a", "ack", nil, []byte("x"))
		if got := acks.take(); !slices.Equal(got, []string{`{"stream":"S","seq":1}`}) {
			t.Errorf("ack %q", got)
		}
		s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
		s.bus.Publish("S.a", "ack", nil, []byte("x"))
		state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
		if state["messages"] != 1.0 || state["first_seq"] != 2.0 {
			t.Errorf("state %v", state)
		}
		s.call("CONSUMER.DELETE.S.C", nil, nil)
		synctest.Wait()
		state = s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
		if state["messages"] != 0.0 {
			t.Errorf("after the consumer is gone: %v", state)
		}
	})
}

func TestStreamExpiresByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxAge = 10 * time.Second }), nil)
		s.bus.Publish("S.a", "", nil, []byte("x"))
		time.Sleep(6 * time.Second)
		s.bus.Publish("S.a", "", nil, []byte("x"))
		time.Sleep(6 * time.Second)
		synctest.Wait()
		state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
		if state["messages"] != 1.0 || state["first_seq"] != 2.0 {
			t.Errorf("after 12 s: %v", state)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		state = s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
		if state["messages"] != 0.0 || state["first_seq"] != 3.0 {
			t.Errorf("after 17 s: %v", state)
		}
	})
}

// A lower max_age counts from when it is configured, not from when the timer of the old one is over.
func TestStreamExpiresByALowerAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		aged := func(age time.Duration) api.StreamConfig {
			return streamConfig("S", func(c *api.StreamConfig) { c.MaxAge = age })
		}
		s.call("STREAM.CREATE.S", aged(24*time.Hour), nil)
		s.bus.Publish("S.a", "", nil, []byte("x"))
		synctest.Wait()
		s.call("STREAM.UPDATE.S", aged(time.Minute), nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)["messages"]; n != 0.0 {
			t.Errorf("%v messages after their time", n)
		}
	})
}

func TestStreamRefusesBeyondTheAccountsLimit(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.engine.accounts["A"].limits.MaxStore = 500
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack")
	for range 6 {
		s.bus.Publish("S.a", "ack", nil, make([]byte, 100))
	}
	if got := acks.take(); len(got) != 6 || !strings.Contains(got[3], `"seq":4`) || !strings.Contains(got[4], "10002") {
		t.Errorf("acks %q", got)
	}
	s.call("STREAM.PURGE.S", nil, nil)
	s.bus.Publish("S.a", "ack", nil, nil)
	if got := acks.take(); len(got) != 1 || !strings.Contains(got[0], `"seq":5`) {
		t.Errorf("after the purge: %q", got)
	}
}

func TestMemoryStreamDropsDeadEntries(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Storage, c.MaxMsgs = api.MemoryStorage, 2 }), nil)
	for range 100 {
		s.bus.Publish("S.a", "", nil, []byte("x"))
	}
	st, _ := s.engine.accounts["A"].stream("S")
	if n := len(st.store.(*memoryGroup).entries); n != 2 {
		t.Errorf("%d entries kept for 2 messages", n)
	}
}

func TestStreamReportsUnreadableMessage(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.AllowDirect = true }), nil)
	s.bus.Publish("S.a", "", nil, []byte("payload"))
	st, _ := s.engine.accounts["A"].stream("S")
	place, _, _ := st.machine.Place(1)
	log := s.disk.logs[st.spec.ID]
	log[place.Index-1][int(place.Off+place.Len)-1] ^= 1
	response := s.call("STREAM.MSG.GET.S", api.MsgGetRequest{Seq: 1}, api.ErrStreamGeneralF(""))
	text := fmt.Sprint(response["error"])
	for _, part := range []string{"message 1", `"S"`, "log ", "checksum"} {
		if !strings.Contains(text, part) {
			t.Errorf("error does not name %q: %s", part, text)
		}
	}
}

func TestAPIRefusals(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxMsgs = 5 }), api.ErrStreamNameExist)
	s.call("STREAM.CREATE.T", streamConfig("T", func(c *api.StreamConfig) { c.Subjects = []string{"S.x"} }), api.ErrStreamSubjectOverlap)
	s.call("STREAM.CREATE.T", streamConfig("U"), api.ErrStreamMismatch)
	s.call("STREAM.CREATE.T", nil, api.ErrStreamMismatch)
	s.call("STREAM.CREATE.T", map[string]any{"name": "T", "nonsense": 1}, api.ErrInvalidJSONF(""))
	s.call("STREAM.UPDATE.T", streamConfig("T"), api.ErrStreamNotFound)
	s.call("STREAM.MSG.GET.S", api.MsgGetRequest{Seq: 1}, api.ErrNoMessageFound)
	s.call("STREAM.MSG.GET.S", api.MsgGetRequest{}, api.ErrBadRequest)
	s.call("STREAM.MSG.DELETE.S", api.MsgDeleteRequest{Seq: 7}, api.ErrStreamMsgDeleteFailedF("stream store EOF"))
	s.call("STREAM.PURGE.S", api.StreamPurgeRequest{Sequence: 1, Keep: 1}, api.ErrBadRequest)
	s.call("CONSUMER.INFO.S.none", nil, api.ErrConsumerNotFound)
	s.call("CONSUMER.INFO.none.C", nil, api.ErrStreamNotFound)
	s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "D"), api.ErrConsumerDurableNameNotMatchSubject)
	update := durable("S", "C")
	update.Action = api.ActionUpdate
	s.call("CONSUMER.DURABLE.CREATE.S.C", update, api.ErrConsumerDoesNotExist)
	s.call("NONSENSE", nil, api.ErrBadRequest)
}

// Requests may name the domain; those that nobody answers find no responders.
func TestEngineServesItsDomain(t *testing.T) {
	s := newServerWith(t, newDisk(), func(c *Config) { c.Domain = "hub" })
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	answers := make(chan string, 1)
	s.bus.Subscribe("answer", "", func(m Msg) { answers <- string(m.Header) + string(m.Data) })
	s.bus.Publish("$JS.hub.API.STREAM.INFO.S", "answer", nil, nil)
	if got := <-answers; !strings.Contains(got, `"domain":"hub"`) || !strings.Contains(got, `"name":"S"`) {
		t.Errorf("answer %s", got)
	}
	s.bus.Publish("$JS.hub.API.CONSUMER.MSG.NEXT.S.none", "answer", nil, nil)
	if got := <-answers; got != "NATS/1.0 503\r\n\r\n" {
		t.Errorf("a pull from nobody was answered %q", got)
	}
	s.call("STREAM.CREATE.KV_B", streamConfig("KV_B", func(c *api.StreamConfig) { c.Subjects = []string{"$KV.B.>"} }), nil)
	s.bus.Publish("$JS.hub.API.$KV.B.key", "answer", nil, []byte("v"))
	if got := <-answers; got != `{"stream":"KV_B","seq":1,"domain":"hub"}` {
		t.Errorf("a put was answered %q", got)
	}
	if s.bus.HasInterest("$JS.other.API.STREAM.INFO.S") {
		t.Error("another domain is served")
	}
}
