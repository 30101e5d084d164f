package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/plugins"
	"millrace/plugins/pluginstest"
	"millrace/plugins/service"
	"millrace/plugins/service/servicetest"
)

// output is a buffer that a verb writes while the test reads.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// millrace runs a command line and returns what it printed.
func millrace(t *testing.T, env map[string]string, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs output
	code = run(t.Context(), args, func(name string) string { return env[name] }, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// wait waits for a condition.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// serve starts a nats-server with a plugin service in it.
func serve(t *testing.T) (url string, conn *nats.Conn) {
	t.Helper()
	url = servicetest.Server(t)
	conn = servicetest.Connect(t, url)
	space, err := servicetest.NewNATS(conn)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := plugins.Open(plugins.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := service.Open(service.Config{Runtime: rt, Store: space, Consumers: space, Bus: space.Bus()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return url, conn
}

func TestPluginVerbs(t *testing.T) {
	url, conn := serve(t)
	env := map[string]string{"NATS_URL": url}
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{"ORDERS", "upper"} {
		config := &nats.StreamConfig{Name: stream, Subjects: []string{strings.ToLower(stream) + ".>"}}
		if _, err := js.AddStream(config); err != nil {
			t.Fatal(err)
		}
	}
	do := func(want string, args ...string) {
		t.Helper()
		code, stdout, stderr := millrace(t, env, "", append([]string{"plugin"}, args...)...)
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Fatalf("%q: exit code %d\n%s%s\nwant %q", args, code, stdout, stderr, want)
		}
	}
	fail := func(want string, args ...string) {
		t.Helper()
		code, _, stderr := millrace(t, env, "", append([]string{"plugin"}, args...)...)
		if code != exitFailure || !strings.Contains(stderr, want) {
			t.Fatalf("%q: exit code %d\n%s\nwant %q", args, code, stderr, want)
		}
	}
	upper := file(t, "upper.wasm", pluginstest.Guest(t, "upper-c"))
	trap := file(t, "trap.wasm", pluginstest.Guest(t, "trap-c"))

	fail("exports no function cpi_on_batch", "push", file(t, "empty.wasm", []byte("\x00asm\x01\x00\x00\x00")))
	do("plugin upper version 1: ", "push", upper)
	do("plugin upper version 1: ", "push", "--name", "upper", upper)
	do("plugin bad version 1", "push", trap, "--name", "bad")
	fail("would feed its own input", "bind", "upper", "--stream", "ORDERS", "--publish", ">")
	do("consumer upper of stream ORDERS: bound", "bind", "upper", "--stream", "ORDERS", "--filter", "orders.*", "--publish", "upper.>")
	do("consumer bad of stream ORDERS: bound", "bind", "bad", "--stream", "ORDERS", "--config", file(t, "c.json", []byte("{}")))
	if _, err := js.Publish("orders.1", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the output", func() bool {
		m, err := js.GetLastMsg("upper", "upper.orders.1")
		return err == nil && string(m.Data) == "HELLO"
	})
	var follow output
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		run(ctx, []string{"plugin", "logs", "-f", "bad", "-s", url}, os.Getenv, nil, &follow, &follow)
	})
	if _, err := js.Publish("orders.2", []byte("trap")); err != nil {
		t.Fatal(err)
	}
	const line = "error ORDERS/bad: plugin bad: message 2 of ORDERS: wasm error: unreachable in explode()"
	wait(t, "the log", func() bool { return strings.Contains(follow.String(), line) })
	cancel()
	wg.Wait()
	do(line, "logs", "bad")
	do(`"last_error": "plugin bad: message 2`, "info", "bad")
	do("PLUGIN  NEWEST  STREAM", "ls")
	do("paused", "pause", "upper")
	do(`"state": "paused"`, "info", "upper")
	do("resumed", "resume", "upper", "--stream", "ORDERS")
	do("upper   1       ORDERS  upper     1     running", "ls", "-s", url)
	fail("unbind it first", "rm", "bad")
	do("unbound", "unbind", "bad")
	do("not bound", "ls")
	do("plugin bad removed, with 1 versions", "rm", "bad")
	fail(`plugin "bad" not found`, "info", "bad")
	if store, err := js.ObjectStore(service.ModuleBucket); err != nil {
		t.Error(err)
	} else if left, err := store.List(); err != nil || len(left) != 2 { // upper and the refused one
		t.Errorf("object store holds %d modules, %v", len(left), err)
	}
}

func TestPluginVerbsWithoutServer(t *testing.T) {
	url := servicetest.Server(t)
	code, _, stderr := millrace(t, nil, "", "plugin", "ls", "-s", url)
	if code != exitFailure || !strings.Contains(stderr, "does not serve plugins for this account") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	conn := servicetest.Connect(t, url)
	if _, err := conn.Subscribe(service.APIPrefix+">", func(*nats.Msg) {}); err != nil { // takes the request and is silent
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = millrace(t, nil, "", "plugin", "rm", "-s", url, "-timeout", "100ms", "upper")
	if code != exitFailure || !strings.Contains(stderr, "within 100ms; it may be done all the same") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, _, stderr = millrace(t, nil, "", "plugin", "ls", "-s", url, "-timeout", "100ms")
	if code != exitFailure || !strings.Contains(stderr, "within 100ms; -timeout waits longer") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, _, stderr = millrace(t, nil, "", "plugin", "ls", "-s", "nats://127.0.0.1:1")
	if code != exitFailure || !strings.Contains(stderr, "connect to nats://127.0.0.1:1: ") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// A binding that does not run yet is one; one that failed is an error.
func TestBindTellsTheState(t *testing.T) {
	url := servicetest.Server(t)
	conn := servicetest.Connect(t, url)
	answer := service.BindingsResponse{Bindings: []service.BindingInfo{{Reason: "no room"}}}
	answer.Bindings[0].Plugin, answer.Bindings[0].Stream = "upper", "ORDERS"
	for _, test := range []struct {
		state, want string
		code        int
	}{
		{service.StateRunning, "stream ORDERS: bound\n", 0},
		{service.StateStarting, "stream ORDERS: bound, and starting; millrace plugin ls tells when it runs\n", 0},
		{service.StateErrored, "plugin upper is bound, but errored: no room", exitFailure},
	} {
		answer.Bindings[0].State = test.state
		data, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := conn.Subscribe(service.APIPrefix+service.VerbBind, func(m *nats.Msg) { _ = m.Respond(data) })
		if err == nil {
			err = conn.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := millrace(t, nil, "", "plugin", "bind", "-s", url, "--stream", "ORDERS", "upper")
		if code != test.code || !strings.Contains(stdout+stderr, test.want) {
			t.Errorf("%s: exit code %d: %s%s; want %q", test.state, code, stdout, stderr, test.want)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"plugin"}, {"nope"}, {"plugin", "nope"}, {"plugin", "push"}, {"plugin", "ls", "--nope"},
		{"plugin", "bind", "a", "--kv", "bucket"}} {
		if code, _, stderr := millrace(t, nil, "", args...); code != exitUsage || !strings.Contains(stderr, "usage: millrace plugin") {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
	}
	if code, _, stderr := millrace(t, map[string]string{"NATS_PASSWORD": "secret"}, "", "plugin", "ls", "-h"); code != exitOK || strings.Contains(stderr, "secret") {
		t.Errorf("-h: exit code %d: %s", code, stderr)
	}
}

func TestRun(t *testing.T) {
	upper := file(t, "upper.wasm", pluginstest.Guest(t, "upper-go"))
	state := file(t, "state.json", []byte(`{"state": {"a": "41"}}`))
	input := `{"subject": "a", "data": "hello"}` + "\n\n" + `{"subject": "b", "data_base64": "/w=="}`
	code, stdout, stderr := millrace(t, nil, input, "plugin", "run", upper, "--kv", "state:rw", "--state", state, "--publish", "upper.>")
	want := `{"event":"write","seq":1,"bucket":"state","key":"a","data":"42"}
{"event":"write","seq":2,"bucket":"state","key":"b","data":"1"}
{"event":"publish","seq":1,"subject":"upper.a","data":"HELLO"}
{"event":"publish","seq":2,"subject":"upper.b","data":"` + "\uFFFD" + `"}
{"event":"settle","seq":1,"kind":"ack"}
{"event":"settle","seq":2,"kind":"ack"}
{"event":"done","messages":2,`
	if code != exitOK || !strings.HasPrefix(stdout, want) {
		t.Errorf("exit code %d\n%s%s\nwant %s", code, stdout, stderr, want)
	}
	code, _, stderr = millrace(t, nil, `{"subjekt": "a"}`, "plugin", "run", upper)
	if code != exitFailure || !strings.Contains(stderr, `-:1: decode message: json: unknown field "subjekt"`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	endless := file(t, "endless.wasm", pluginstest.Guest(t, "endless-c"))
	code, stdout, stderr = millrace(t, nil, `{"data": "loop"}`, "plugin", "run", endless)
	if code != exitFailure || !strings.Contains(stderr, "1 of 1 messages failed") ||
		!strings.HasPrefix(stdout, `{"event":"fail","seq":1,"error":"stopped after 100ms of CPU: endless loop?","stack":"cpi_on_batch`) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// The projects that new makes build, pass their tests and run.
func TestNew(t *testing.T) {
	for _, test := range []struct {
		lang  string
		build []string
	}{
		{"go", []string{"sh", "-c", "go test ./... && GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o shout.wasm ."}},
		{"c", []string{"make"}},
	} {
		t.Run(test.lang, func(t *testing.T) {
			if test.lang == "c" {
				pluginstest.Guest(t, "upper-c") // skips where there is no clang
			}
			dir := filepath.Join(t.TempDir(), "shout")
			if code, _, stderr := millrace(t, nil, "", "plugin", "new", dir, "--lang", test.lang); code != exitOK {
				t.Fatal(stderr)
			}
			cmd := exec.Command(test.build[0], test.build[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			code, stdout, stderr := millrace(t, nil, "", "plugin", "run", filepath.Join(dir, "shout.wasm"), "--in", filepath.Join(dir, "msgs.jsonl"))
			if code != exitOK || !strings.Contains(stdout, `"data":"WORLD"`) || !strings.Contains(stdout, `"done","messages":2`) {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
			if code, _, stderr := millrace(t, nil, "", "plugin", "new", dir); code != exitFailure || !strings.Contains(stderr, "exists already") {
				t.Errorf("a second time: exit code %d: %s", code, stderr)
			}
		})
	}
}
