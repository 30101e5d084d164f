package service_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace/plugins"
	"millrace/plugins/pluginstest"
	"millrace/plugins/service"
	"millrace/plugins/service/servicetest"
)

// cacheDir keeps compiled guests for all tests.
var cacheDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		panic(err)
	}
	cacheDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// space is an account with a service in it.
type space struct {
	*testing.T
	store     service.Store
	consumers service.Consumers
	bus       service.Bus
	request   func(subject string, data []byte) ([]byte, error)
	memory    *servicetest.Memory // nil over a server
	config    service.Config
}

// eachSpace runs a test in memory and over a nats-server.
func eachSpace(t *testing.T, f func(s *space)) {
	t.Run("memory", func(t *testing.T) {
		m := servicetest.NewMemory()
		f(&space{T: t, store: m, consumers: m, bus: m.Bus(), request: m.Request, memory: m})
	})
	t.Run("nats", func(t *testing.T) {
		n, err := servicetest.NewNATS(servicetest.Connect(t, servicetest.Server(t)))
		if err != nil {
			t.Fatal(err)
		}
		f(&space{T: t, store: n, consumers: n, bus: n.Bus(), request: n.Request})
	})
}

// open starts a service until the test ends or stop is called.
func (s *space) open() (svc *service.Service, stop func()) {
	s.Helper()
	rt, err := plugins.Open(plugins.Config{CacheDir: cacheDir})
	if err != nil {
		s.Fatal(err)
	}
	c := s.config
	c.Runtime, c.Store, c.Consumers, c.Bus = rt, s.store, s.consumers, s.bus
	c.Logger = slog.New(slog.NewTextHandler(s.Output(), nil))
	if c.Backoff == nil {
		c.Backoff = []time.Duration{time.Millisecond}
	}
	svc, err = service.Open(c)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(svc.Close)
	return svc, svc.Close
}

func (s *space) stream(name string, subjects ...string) {
	s.Helper()
	config, err := json.Marshal(map[string]any{"name": name, "subjects": subjects})
	if err != nil {
		s.Fatal(err)
	}
	if err := s.store.EnsureStream(s.Context(), config); err != nil {
		s.Fatal(err)
	}
}

func (s *space) bucket(name string) { s.Helper(); s.stream("KV_"+name, "$KV."+name+".>") }

func (s *space) publish(subject string, data ...string) {
	s.Helper()
	for _, d := range data {
		if err := s.store.Publish(s.Context(), []service.Outgoing{{Subject: subject, Data: []byte(d)}}); err != nil {
			s.Fatal(err)
		}
	}
}

// upload puts a module into the object store as ADR-20 says, in chunks of 128 KiB.
func (s *space) upload(wasm []byte) (digest string) {
	s.Helper()
	s.stream("OBJ_MILLRACE_PLUGINS", "$O.MILLRACE_PLUGINS.C.>", "$O.MILLRACE_PLUGINS.M.>")
	digest = plugins.Digest(wasm)
	chunks := 0
	for at := 0; at < len(wasm); at += 128 << 10 {
		s.publish("$O.MILLRACE_PLUGINS.C.nuid1"+digest[:8], string(wasm[at:min(at+128<<10, len(wasm))]))
		chunks++
	}
	s.publish("$O.MILLRACE_PLUGINS.M."+base64.URLEncoding.EncodeToString([]byte(digest)),
		fmt.Sprintf(`{"name":%q,"bucket":"MILLRACE_PLUGINS","nuid":%q,"size":%d,"chunks":%d}`,
			digest, "nuid1"+digest[:8], len(wasm), chunks))
	return digest
}

// do sends an API request and decodes the response into out. It returns the error of the response.
func (s *space) do(verb string, request, out any) *service.Error {
	s.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		s.Fatal(err)
	}
	answer, err := s.request(service.APIPrefix+verb, data)
	if err != nil {
		s.Fatal(err)
	}
	var failed service.ErrorResponse
	if err := json.Unmarshal(answer, &failed); err != nil {
		s.Fatalf("%s: %v in %s", verb, err, answer)
	}
	if failed.Error == nil && out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			s.Fatalf("%s: %v in %s", verb, err, answer)
		}
	}
	return failed.Error
}

func (s *space) must(verb string, request, out any) {
	s.Helper()
	if err := s.do(verb, request, out); err != nil {
		s.Fatalf("%s %+v: %v", verb, request, err)
	}
}

func (s *space) push(guest string) {
	s.Helper()
	s.must(service.VerbPush, service.PushRequest{Name: strings.TrimSuffix(guest, "-c"),
		Digest: s.upload(pluginstest.Guest(s, guest))}, nil)
}

// stored returns the data of a stream's messages on a filter.
func (s *space) stored(stream, filter string) []string {
	s.Helper()
	list := []string{}
	err := s.store.Scan(s.Context(), stream, filter, func(m *service.Stored) error {
		list = append(list, string(m.Data))
		return nil
	})
	if err != nil && !errors.Is(err, service.ErrNotFound) {
		s.Fatal(err)
	}
	return list
}

// wait waits for a condition.
func (s *space) wait(what string, condition func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("waited in vain for %s", what)
		}
	}
}

func (s *space) binding(plugin string) service.BindingInfo {
	s.Helper()
	var info service.PluginInfo
	s.must(service.VerbInfo, service.Target{Plugin: plugin}, &info)
	if len(info.Bindings) != 1 {
		s.Fatalf("plugin %s has bindings %+v", plugin, info.Bindings)
	}
	return info.Bindings[0]
}

func TestServiceRunsPlugin(t *testing.T) {
	eachSpace(t, func(s *space) {
		s.stream("ORDERS", "orders.>")
		s.stream("LOUD", "upper.>")
		_, stop := s.open()
		s.push("upper-c")
		s.publish("orders.a", "one", "two")
		var bound service.BindingsResponse
		s.must(service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Filter: "orders.>",
			Publish: []string{"upper.>"}, Config: json.RawMessage(`{"a":1}`)}, &bound)
		if b := bound.Bindings[0]; b.State != service.StateRunning || b.Consumer != "upper" || b.Version != 1 {
			s.Fatalf("bound as %+v", b)
		}
		s.publish("orders.b", "three")
		s.wait("three outputs", func() bool { return len(s.stored("LOUD", ">")) == 3 })
		if got := s.stored("LOUD", ">"); !reflect.DeepEqual(got, []string{"ONE", "TWO", "THREE"}) {
			s.Errorf("outputs %q", got)
		}
		s.wait("three acks", func() bool { return s.binding("upper").Stats.Acks == 3 })

		// Paused, it leaves messages alone, over a restart of the service too.
		s.must(service.VerbPause, service.Target{Plugin: "upper"}, nil)
		stop()
		s.open()
		s.publish("orders.c", "four")
		if b := s.binding("upper"); b.State != service.StatePaused || b.Stats.Messages != 0 {
			s.Errorf("after a restart it is %+v", b)
		}
		s.must(service.VerbResume, service.Target{Plugin: "upper"}, nil)
		s.wait("the fourth output", func() bool { return len(s.stored("LOUD", "upper.orders.c")) == 1 })

		if err := s.do(service.VerbRemove, service.Target{Plugin: "upper"}, nil); err == nil || err.ErrCode != service.CodePluginInUse {
			s.Errorf("removal of a bound plugin: %v", err)
		}
		s.must(service.VerbUnbind, service.Target{Plugin: "upper"}, nil)
		s.must(service.VerbRemove, service.Target{Plugin: "upper"}, nil)
		var list service.ListResponse
		s.must(service.VerbList, struct{}{}, &list)
		if len(list.Plugins) != 0 {
			s.Errorf("after removal the list is %+v", list)
		}
	})
}

func TestServiceKeepsStateInBucket(t *testing.T) {
	eachSpace(t, func(s *space) {
		s.stream("ORDERS", "orders.>")
		s.bucket("state")
		s.open()
		s.push("upper-go")
		s.must(service.VerbBind, service.BindRequest{Plugin: "upper-go", Stream: "ORDERS", Publish: []string{"upper.>"},
			KV: map[string]string{"state": "rw"}, Batch: 3}, nil)
		for range 10 {
			s.publish("orders.x", "m")
		}
		s.wait("ten acks", func() bool { return s.binding("upper-go").Stats.Acks == 10 })
		stored := s.stored("KV_state", "$KV.state.orders.x")
		if got := stored[len(stored)-1]; got != "10" {
			s.Errorf("counted %s messages (%q), want 10", got, stored)
		}
	})
}

func TestServicePunishesOnlyPoison(t *testing.T) {
	eachSpace(t, func(s *space) {
		s.stream("JOBS", "jobs")
		s.stream("DEAD", "dead")
		s.push0("trap-c")
		s.publish("jobs", "a", "trap", "b")
		s.must(service.VerbBind, service.BindRequest{Plugin: "trap", Stream: "JOBS", DeadLetter: "dead", MaxDeliver: 3}, nil)
		s.wait("the dead letter", func() bool { return len(s.stored("DEAD", "dead")) == 1 })
		b := s.binding("trap")
		if b.State != service.StateRunning || b.Stats.Acks != 2 || b.Stats.Naks != 2 || b.Stats.Terms != 1 ||
			b.Stats.DeadLetters != 1 || b.Stats.Traps["trap"] != 3 {
			s.Errorf("binding is %+v", b)
		}
		if want := "plugin trap: message 2 of JOBS: wasm error: unreachable in explode()"; b.Stats.LastError != want {
			s.Errorf("last error %q, want %q", b.Stats.LastError, want)
		}
		letter, err := s.store.Last(s.Context(), "DEAD", "dead")
		if err != nil || string(letter.Data) != "trap" {
			s.Fatalf("dead letter %+v, %v", letter, err)
		}
		for _, want := range []string{"Nats-DL-Stream: JOBS\r\n", "Nats-DL-Seq: 2\r\n", "Nats-DL-Subject: jobs\r\n",
			"Nats-DL-Plugin: trap\r\n", "Nats-DL-Delivered: 3\r\n", "Nats-DL-Trap: trap\r\n", "Nats-DL-Reason: wasm error: unreachable"} {
			if !strings.Contains(string(letter.Header), want) {
				s.Errorf("header %q lacks %q", letter.Header, want)
			}
		}
		var logs service.LogsResponse
		s.must(service.VerbLogs, service.Target{Plugin: "trap"}, &logs)
		if len(logs.Lines) != 3 || logs.Lines[0].Level != "error" || logs.Lines[0].Text != b.Stats.LastError {
			s.Errorf("log %+v", logs.Lines)
		}
	})
}

// push0 opens the service and pushes a guest.
func (s *space) push0(guest string) {
	s.Helper()
	s.open()
	s.push(guest)
}

func TestServiceStopsEndlessPlugin(t *testing.T) {
	eachSpace(t, func(s *space) {
		s.stream("JOBS", "jobs")
		s.config.Limits.MessageCPU = 20 * time.Millisecond
		s.config.Breaker = 3
		s.push0("endless-c")
		s.publish("jobs", "fine", "loop", "recurse", "loop", "fine")
		s.must(service.VerbBind, service.BindRequest{Plugin: "endless", Stream: "JOBS"}, nil)
		s.wait("the breaker", func() bool { return s.binding("endless").State == service.StateErrored })
		b := s.binding("endless")
		want := "3 different messages in a row failed, the last one: plugin endless: message 4 of JOBS: " +
			"stopped after 20ms of CPU: endless loop?"
		if b.Reason != want {
			s.Errorf("reason %q, want %q", b.Reason, want)
		}
		if b.Stats.Acks != 1 || b.Stats.Traps["cpu"] != 2 || b.Stats.Traps["call-depth"] != 1 {
			s.Errorf("stats %+v", b.Stats)
		}
		consumers, err := s.consumers.List(s.Context())
		if err != nil || consumers[0].Metadata["millrace.plugin.state"] != service.StateErrored {
			s.Errorf("consumers %+v, %v: the state is not durable", consumers, err)
		}
	})
}

func TestServiceRefuses(t *testing.T) {
	m := servicetest.NewMemory()
	s := &space{T: t, store: m, consumers: m, bus: m.Bus(), request: m.Request, memory: m}
	s.stream("ORDERS", "orders.>")
	s.bucket("prices")
	s.push0("upper-c")
	other := map[string]any{"durable_name": "taken", "metadata": map[string]string{"owner": "me"}}
	config, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureConsumer(t.Context(), "ORDERS", config); err != nil {
		t.Fatal(err)
	}
	absent := plugins.Digest([]byte("absent"))
	for _, test := range []struct {
		verb    string
		request any
		code    int
		want    string
	}{
		{service.VerbPush, service.PushRequest{Name: "a b", Digest: absent}, service.CodeBadRequest, `plugin name "a b": use letters`},
		{service.VerbPush, service.PushRequest{Name: "a", Digest: "zz"}, service.CodeBadRequest, `digest "zz": must be the sha256`},
		{service.VerbPush, service.PushRequest{Name: "a", Digest: absent}, service.CodeModuleNotFound, "upload the module under that name first"},
		{service.VerbPush, service.PushRequest{Name: "a", Digest: s.upload([]byte("\x00asm\x0d\x00\x01\x00"))}, service.CodeModuleRefused, "build for wasm32-wasip1"},
		{service.VerbPush, service.PushRequest{Name: "a", Digest: s.upload([]byte("\x00asm\x01\x00\x00\x00"))}, service.CodeModuleRefused, "exports no function cpi_on_batch(i32,i32,i32)->i32"},
		{service.VerbPush, map[string]any{"nmae": "a"}, service.CodeBadRequest, `unknown field "nmae"`},
		{service.VerbBind, service.BindRequest{Plugin: "nope", Stream: "ORDERS"}, service.CodePluginNotFound, `plugin "nope" not found`},
		{service.VerbBind, service.BindRequest{Plugin: "upper"}, service.CodeBadRequest, "stream is missing"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "NOPE"}, service.CodeStreamNotFound, `stream "NOPE" not found`},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Version: 7}, service.CodePluginNotFound, "has no version 7"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Filter: "orders.*", Publish: []string{"orders.done"}}, service.CodeLoop,
			`plugin upper would feed its own input: "orders.done", which it may publish to, overlaps "orders.*", which it consumes from ORDERS`},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", DeadLetter: "orders.dead"}, service.CodeLoop, "would feed its own input"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "KV_prices", KV: map[string]string{"prices": "rw"}}, service.CodeLoop, "which it may write"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Publish: []string{"$JS.>"}}, service.CodeBadRequest, "does not start with $"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", KV: map[string]string{"nope": "r"}}, service.CodeBucketNotFound, `KV bucket "nope" not found`},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", KV: map[string]string{"prices": "x"}}, service.CodeBadRequest, "with r or rw"},
		{service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Consumer: "taken"}, service.CodeConsumerInUse, "is not a plugin's"},
		{service.VerbUnbind, service.Target{Plugin: "upper"}, service.CodeBindingNotFound, "has no such binding"},
		{service.VerbInfo, service.Target{Plugin: "nope"}, service.CodePluginNotFound, `plugin "nope" not found`},
	} {
		err := s.do(test.verb, test.request, nil)
		if err == nil || err.ErrCode != test.code || !strings.Contains(err.Description, test.want) {
			t.Errorf("%s %+v: error %+v, want %d %q", test.verb, test.request, err, test.code, test.want)
		}
	}
}

// A publication that cannot be stored leaves the batch unacknowledged; when that runs again, what was
// stored the first time is not stored twice.
func TestServiceRepeatsAfterFailedPublish(t *testing.T) {
	m := servicetest.NewMemory()
	s := &space{T: t, store: m, consumers: m, bus: m.Bus(), request: m.Request, memory: m}
	s.stream("ORDERS", "orders.>")
	s.stream("LOUD", "upper.>")
	s.push0("upper-c")
	s.publish("orders.a", "one")
	s.publish("orders.b", "two")
	s.publish("orders.c", "three")
	m.FailOnce("upper.orders.b", errors.New("disk full"))
	s.must(service.VerbBind, service.BindRequest{Plugin: "upper", Stream: "ORDERS", Publish: []string{"upper.>"}}, nil)
	s.wait("three acks", func() bool { return s.binding("upper").Stats.Acks == 3 })
	if got := s.stored("LOUD", ">"); !reflect.DeepEqual(got, []string{"ONE", "TWO", "THREE"}) {
		t.Errorf("outputs %q", got)
	}
	b := s.binding("upper")
	if want := "commit effects: publish to upper.orders.b: disk full"; b.Stats.LastError != want || b.Stats.Naks != 0 {
		t.Errorf("last error %q and %d naks, want %q and none by the plugin", b.Stats.LastError, b.Stats.Naks, want)
	}
	if got := fmt.Sprint(m.Delays()); got != "[1s 1s 1s]" {
		t.Errorf("naks with delays %v", got)
	}
}

func TestServiceBacksOff(t *testing.T) {
	m := servicetest.NewMemory()
	s := &space{T: t, store: m, consumers: m, bus: m.Bus(), request: m.Request, memory: m}
	s.stream("JOBS", "jobs")
	s.config.Backoff = []time.Duration{time.Millisecond, time.Second, time.Hour}
	s.push0("trap-c")
	s.publish("jobs", "trap", "fine")
	s.must(service.VerbBind, service.BindRequest{Plugin: "trap", Stream: "JOBS", MaxDeliver: 4}, nil)
	s.wait("the last delivery", func() bool { return len(m.Delays()) == 4 })
	if got := fmt.Sprint(m.Delays()); got != "[1ms 1s 1h0m0s 1h0m0s]" {
		t.Errorf("delays %v", got)
	}
	if n := len(m.Lines(service.LogPrefix + "trap")); n != 4 {
		t.Errorf("%d log lines were published, want 4", n)
	}
}

// A write whose expectation fails because another client was faster is no fault of the message: the
// batch runs again on the new state.
func TestServiceRepeatsAfterConflict(t *testing.T) {
	m := servicetest.NewMemory()
	s := &space{T: t, store: m, consumers: m, bus: m.Bus(), request: m.Request, memory: m}
	s.stream("ORDERS", "orders.>")
	s.bucket("state")
	s.push0("upper-go")
	s.publish("orders.x", "m")
	m.FailOnce("$KV.state.orders.x", service.ErrWrongLastSequence)
	s.must(service.VerbBind, service.BindRequest{Plugin: "upper-go", Stream: "ORDERS", Publish: []string{"upper.>"},
		KV: map[string]string{"state": "rw"}}, nil)
	s.wait("the ack", func() bool { return s.binding("upper-go").Stats.Acks == 1 })
	if len(m.Delays()) != 0 || s.binding("upper-go").Stats.LastError != "" {
		t.Errorf("the message was punished: %v, %+v", m.Delays(), s.binding("upper-go").Stats)
	}
}

func TestServiceUpgrades(t *testing.T) {
	eachSpace(t, func(s *space) {
		s.stream("JOBS", "jobs")
		s.stream("LOUD", "upper.>")
		s.push0("trap-c")
		s.must(service.VerbBind, service.BindRequest{Plugin: "trap", Stream: "JOBS"}, nil)
		digest := s.upload(pluginstest.Guest(s, "upper-c"))
		var pushed service.PushResponse
		for range 2 { // the second push of the same module changes nothing
			s.must(service.VerbPush, service.PushRequest{Name: "trap", Digest: digest}, &pushed)
		}
		if pushed.Version.Version != 2 || pushed.Digest != digest {
			s.Fatalf("pushed %+v, want version 2", pushed)
		}
		s.must(service.VerbBind, service.BindRequest{Plugin: "trap", Stream: "JOBS", Publish: []string{"upper.>"}}, nil)
		s.publish("jobs", "new")
		s.wait("output of the new version", func() bool { return len(s.stored("LOUD", ">")) == 1 })
	})
}
