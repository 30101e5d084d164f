package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/boxlink"
	"millrace/appliance/server/broker"
	"millrace/appliance/server/jetstream/api"
)

// startOnBox starts a router on a box whose init is the test.
func startOnBox(t *testing.T, answer func(verb string, data []byte) ([]byte, error)) (*Node, *boxlink.Link) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "box")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	links := make(chan *boxlink.Link, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			close(links)
			return
		}
		link := boxlink.New(conn, boxlink.Config{Answer: func(_ context.Context, verb string, data []byte) ([]byte, error) {
			return answer(verb, data)
		}})
		links <- link
		_ = link.Run(context.Background())
	}()
	s := baseSettings()
	s.Host, s.Port, s.BoxSocket = "127.0.0.1", 0, path
	(&checker{}).finish(s)
	n, err := Start(t.Context(), s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n, <-links
}

// ask sends a request in the system account and waits for the answer.
func ask(t *testing.T, n *Node, subject, data string, into any) {
	t.Helper()
	got := make(chan []byte, 1)
	sub, err := n.broker.SystemAccount().Subscribe("reply.here", "", func(m *broker.Msg) { got <- append([]byte(nil), m.Data...) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	n.broker.SystemAccount().Publish(subject, "reply.here", nil, []byte(data))
	select {
	case b := <-got:
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatalf("answer %q: %v", b, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no answer to %s", subject)
	}
}

// Requests of the system account reach the box and its answers, or errors, come back; the box asks how
// the node is; log lines of the box reach those who follow.
func TestNodeCarriesRequestsToBox(t *testing.T) {
	n, link := startOnBox(t, func(verb string, data []byte) ([]byte, error) {
		if verb == "BAD.VERB" {
			return nil, errors.New("no such verb")
		}
		return json.Marshal(verb + " " + string(data))
	})
	id := n.broker.ID()
	for _, tt := range []struct{ subject, data, want, err string }{
		{boxapi.Ping, "", "INFO ", ""},
		{boxapi.Subject(id, boxapi.VerbInfo), "", "INFO ", ""},
		{boxapi.Subject(id, boxapi.VerbConfigGet), "x", "CONFIG.GET x", ""},
		{boxapi.Subject(id, "BAD.VERB"), "", "", "no such verb"},
	} {
		var a boxapi.Answer
		ask(t, n, tt.subject, tt.data, &a)
		var got string
		if len(a.Data) > 0 {
			if err := json.Unmarshal(a.Data, &got); err != nil {
				t.Fatal(err)
			}
		}
		if got != tt.want || a.Error != tt.err || a.Server != id {
			t.Errorf("%s: answer %q, error %q of %s; want %q, %q", tt.subject, got, a.Error, a.Server, tt.want, tt.err)
		}
	}
	var h api.HealthStatus
	out, err := link.Call(t.Context(), "HEALTHZ", nil)
	if err != nil || json.Unmarshal(out, &h) != nil || h.Status != "ok" {
		t.Errorf("health for the box: %s, %v", out, err)
	}
	lines := make(chan string, 1)
	if _, err := n.broker.SystemAccount().Subscribe(boxapi.Subject(id, boxapi.VerbLog), "", func(m *broker.Msg) { lines <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := link.Send(boxapi.VerbLog, []byte("a line")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-lines:
		if got != "a line" {
			t.Errorf("followed %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("a log line does not arrive")
	}
}

// The subjects of a box are those of the system account alone.
func TestNodeBoxIsClosedToOtherAccounts(t *testing.T) {
	asked := make(chan string, 10)
	n, _ := startOnBox(t, func(verb string, _ []byte) ([]byte, error) { asked <- verb; return []byte("1"), nil })
	if got := n.broker.Account(GlobalAccount).Publish(boxapi.Subject(n.broker.ID(), boxapi.VerbPower), "x", nil, nil); got != 0 {
		t.Errorf("a request in the account of clients reaches %d", got)
	}
	var a boxapi.Answer
	ask(t, n, boxapi.Ping, "", &a) // whatever came before has arrived
	if verb := <-asked; verb != boxapi.VerbInfo {
		t.Errorf("the box was asked %s", verb)
	}
}

func TestNodeHealth(t *testing.T) {
	s := baseSettings()
	s.Host, s.Port = "127.0.0.1", 0
	s.Cluster = &Cluster{Name: "C", Host: "127.0.0.1", Routes: []string{"nats://127.0.0.1:1"}, ConnectRetries: 60}
	(&checker{}).finish(s)
	n, err := Start(t.Context(), s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Server broker.ServerInfo `json:"server"`
		Data   api.HealthStatus  `json:"data"`
	}
	ask(t, n, "$SYS.REQ.SERVER."+n.broker.ID()+".HEALTHZ", "", &answer)
	if h := answer.Data; h.Status != "unavailable" || h.StatusCode != 503 || !strings.Contains(h.Error, "no route") {
		t.Errorf("alone in a cluster: %+v", h)
	}
	n.settings.Cluster.Routes = nil
	if h := verdict(t, n); h.Status != "ok" {
		t.Errorf("the first of a cluster: %+v", h)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if h := verdict(t, n); h.Status != "unavailable" {
		t.Errorf("closed: %+v", h)
	}
}

// What the box reads in its own way does not keep the node from reading the rest.
func TestLoadApplianceBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.conf")
	const text = "port: 4333\nappliance { ntp: off, disks: 12345, network { vlan: 3, ipv6: off }, console: [tty1], update_keys: k }\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(path); err != nil || s.Port != 4333 {
		t.Errorf("%+v, %v", s, err)
	}
}

// verdict is the node's answer to HEALTHZ.
func verdict(t *testing.T, n *Node) api.HealthStatus {
	t.Helper()
	answer, err := n.health(nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer.(api.HealthStatus)
}
