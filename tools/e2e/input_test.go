package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestBadProtocolLines sends what no client should and expects the -ERR that clients know, or an
// end of the connection, and a server that goes on for others.
func TestBadProtocolLines(t *testing.T) {
	s := startServer(t, "max_payload: 1KB, max_control_line: 512")
	tests := []struct {
		send, want string
		closes     bool
	}{
		{"GARBAGE\r\n", "-ERR 'Unknown Protocol Operation'", true},
		{"PUB a 2000\r\n" + strings.Repeat("x", 2000) + "\r\n", "-ERR 'Maximum Payload Violation'", true},
		{"PUB a 3\r\nabcdef\r\n", "-ERR 'Unknown Protocol Operation'", true},
		{"PUB " + strings.Repeat("a", 5000) + " 0\r\n\r\n", "-ERR 'maximum control line exceeded'", true},
		{"SUB a..b 1\r\nPING\r\n", "-ERR 'Invalid Subject'", false},
		{"CONNECT {\"verbose\":tru\r\n", "", true},
		{"CONNECT {\"pedantic\":true,\"verbose\":false}\r\nPUB a..b 1\r\nx\r\nPING\r\n", "-ERR 'Invalid Publish Subject'", false},
		{"CONNECT {\"verbose\":true}\r\nPING\r\n", "+OK", false},
	}
	for _, tt := range tests {
		got, closed := raw(t, s, tt.send)
		if !strings.Contains(strings.ToLower(got), strings.ToLower(tt.want)) {
			t.Errorf("%.40q: got %q, want %s", tt.send, got, tt.want)
		}
		if closed != tt.closes {
			t.Errorf("%.40q: closed %v, want %v (%q)", tt.send, closed, tt.closes, got)
		}
	}
	if !s.Greets() {
		t.Error("the server does not answer any more")
	}
}

// raw sends bytes to the server and returns all it answers until it closes the connection or
// answers a PING.
func raw(t *testing.T, s *server, send string) (got string, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatalf("read INFO: %v", err)
	}
	if _, err := conn.Write([]byte(send)); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := r.ReadString('\n')
		got += line
		if strings.HasPrefix(line, "PONG") {
			return got, false
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%.40q: no answer and no end: %q", send, got)
		}
		if err != nil {
			return got, true
		}
	}
}

// TestBadAPIRequests expects the error codes that clients know.
func TestBadAPIRequests(t *testing.T) {
	s := startServer(t)
	nc, js := s.jetstream()
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		subject, body string
		code          int
		errCode       int
	}{
		{"$JS.API.STREAM.INFO.NONE", "", 404, 10059},
		{"$JS.API.STREAM.CREATE.X", "{not json", 400, 10025},
		{"$JS.API.STREAM.CREATE.X", `{"name":"Y","subjects":["y"]}`, 400, 10056},
		{"$JS.API.STREAM.CREATE.X", `{"name":"X","subjects":["s.a"],"num_replicas":1,"retention":"limits","storage":"file"}`, 400, 10065},
		{"$JS.API.STREAM.DELETE.NONE", "", 404, 10059},
		{"$JS.API.CONSUMER.INFO.S.NONE", "", 404, 10014},
		{"$JS.API.CONSUMER.DURABLE.CREATE.NONE.D", `{"stream_name":"NONE","config":{"durable_name":"D","ack_policy":"explicit"}}`, 404, 10059},
		{"$JS.API.STREAM.MSG.GET.S", `{"seq":99}`, 404, 10037},
	}
	for _, tt := range tests {
		m, err := nc.Request(tt.subject, []byte(tt.body), 10*time.Second)
		if err != nil {
			t.Errorf("%s %s: %v", tt.subject, tt.body, err)
			continue
		}
		var answer struct {
			Error struct {
				Code        int    `json:"code"`
				ErrCode     int    `json:"err_code"`
				Description string `json:"description"`
			} `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			t.Errorf("%s: answer %q: %v", tt.subject, m.Data, err)
		}
		if answer.Error.Code != tt.code || answer.Error.ErrCode != tt.errCode || answer.Error.Description == "" {
			t.Errorf("%s %s: got %+v, want %d/%d", tt.subject, tt.body, answer.Error, tt.code, tt.errCode)
		}
	}
}

// TestAccountsAreIsolated gives two accounts the same stream and subject names.
func TestAccountsAreIsolated(t *testing.T) {
	// The hash is bcrypt of "a very long s3cr3t! password".
	s := startServer(t, `accounts {
  A { jetstream: enabled, users: [ { user: a, pass: "$2a$11$DRh4C0KNbNnD8K/hb/buWe1zPxEHrLEiDmuq1Mi0rRJiH/W25Qidm" } ] }
  B { jetstream: enabled, users: [ { user: b, pass: bpass, permissions: { publish: { deny: "secret.>" } } } ] }
  C { users: [ { user: c, pass: cpass } ] }
}
no_auth_user: c`)
	ctx := t.Context()
	_, ajs := s.jetstream(nats.UserInfo("a", "a very long s3cr3t! password"))
	denied := make(chan error, 10)
	bnc, bjs := s.jetstream(nats.UserInfo("b", "bpass"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	for i, js := range []jetstream.JetStream{ajs, bjs} {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		for range i + 1 {
			if _, err := js.Publish(ctx, "s", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, js := range []jetstream.JetStream{ajs, bjs} {
		stream, err := js.Stream(ctx, "S")
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != uint64(i+1) {
			t.Errorf("account %d: %d messages, want %d", i, n, i+1)
		}
	}
	if err := bnc.Publish("secret.x", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-denied:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("got %v, want a permission violation", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a denied publish was not answered")
	}
	for _, user := range []nats.Option{nats.UserInfo("a", "wrong"), nats.UserInfo("nobody", "x"), nats.Token("t")} {
		if nc, err := nats.Connect(s.url(), user); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("got %v, want an authorization violation", err)
			nc.Close()
		}
	}
	_, cjs := s.jetstream() // no credentials: user c, whose account has no streams
	if _, err := cjs.AccountInfo(ctx); !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) && !errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		t.Errorf("got %v, want streams disabled", err)
	}
}

// TestBadConfiguration expects file, line and key before anything is opened.
func TestBadConfiguration(t *testing.T) {
	needMillraced(t)
	for text, want := range map[string]string{
		"port: 4222\njetsteam: {}":            `:2:1: unknown key "jetsteam" (did you mean "jetstream"?)`,
		"port: 4222\n\n cluster { name: C1 }": `:3:2: cluster: needs a listen address`,
		"max_payload: many":                   `:1:1: max_payload: want a size`,
		"jetstream {\n  store_dir: /x":        `:2: Expected a map value terminator "," or a map terminator "}", but got the end of the file`,
	} {
		s := newServer(t)
		s.writeConf(text)
		for _, args := range [][]string{nil, {"-t"}} {
			out, code := s.runToEnd(args...)
			if code != 1 || !strings.Contains(out, s.conf+want) {
				t.Errorf("%q %v: exit code %d, output %q, want %s", text, args, code, out, want)
			}
		}
	}
	s := newServer(t)
	if out, code := s.runToEnd("-t"); code != 0 || !strings.Contains(out, "is valid") {
		t.Errorf("good file: exit code %d, %q", code, out)
	}
	out, code := s.runToEnd("extra")
	if code != 2 || !strings.Contains(out, `unknown argument "extra"`) {
		t.Errorf("extra argument: exit code %d, %q", code, out)
	}
}

// TestPortInUse expects an error that names the address.
func TestPortInUse(t *testing.T) {
	first := startServer(t)
	second := newServer(t)
	second.writeConf(fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q }", first.port, second.store()))
	out, code := second.runToEnd()
	if code != 1 || !strings.Contains(out, first.Addr) || !strings.Contains(out, "address already in use") {
		t.Errorf("exit code %d, output %q", code, out)
	}
}
