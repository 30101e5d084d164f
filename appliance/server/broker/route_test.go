package broker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/wire"
	"millrace/tools/cluster"
)

// member is a server of a cluster under test.
type member struct {
	*broker.Broker
	clients, routes string // addresses
	log             *syncBuffer
}

// syncBuffer collects a log.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// join starts a server of the cluster C, unless change says otherwise, with routes to others.
func join(t testing.TB, name string, change func(*broker.Config), others ...string) *member {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return joinAt(t, l, name, change, others...)
}

func joinAt(t testing.TB, l net.Listener, name string, change func(*broker.Config), others ...string) *member {
	t.Helper()
	log := &syncBuffer{}
	cfg := broker.Config{
		ServerName: name, Host: "127.0.0.1", Cluster: &broker.ClusterConfig{Name: "C", Host: "127.0.0.1"}, CarrierReply: broker.CarrierReply{Prefix: "$ACK.", Tokens: 3},
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, o := range others {
		cfg.Cluster.Routes = append(cfg.Cluster.Routes, "nats://"+o)
	}
	if change != nil {
		change(&cfg)
	}
	b := newBroker(t, cfg)
	b.SetRefusedDelay(50 * time.Millisecond)
	m := &member{Broker: b, clients: listen(t, b), routes: l.Addr().String(), log: log}
	addr, err := net.ResolveTCPAddr("tcp", m.clients)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.JoinCluster(l, addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log)
		}
	})
	return m
}

// peers returns the names of the servers that m has a route with.
func (m *member) peers() string {
	var names []string
	for _, r := range m.Routez().Routes {
		names = append(names, r.RemoteName)
	}
	return strings.Join(names, " ")
}

// meshed waits until every server has a route with every other.
func meshed(t testing.TB, members ...*member) {
	t.Helper()
	for _, m := range members {
		eventually(t, "routes of "+m.Name(), func() bool { return m.Routez().NumRoutes == len(members)-1 })
	}
}

// interested waits until m knows interest in a subject of $G.
func interested(t testing.TB, m *member, subject string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("interest of %s in %s: %v", m.Name(), subject, want), func() bool {
		return m.Account(broker.GlobalAccount).HasInterest(subject) == want
	})
}

// peer is another server that speaks the route protocol by hand.
type peer struct{ *conn }

const peerInfo = `INFO {"server_id":"%s","server_name":"%s","version":"2.15.0","proto":1,"host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576,"cluster":"C","lnoc":true}` + "\r\n"

// dialRoute connects to a server as the peer with that id and does the handshake.
func dialRoute(t testing.TB, m *member, id string) *peer {
	t.Helper()
	p := &peer{dial(t, m.routes)}
	p.send(`CONNECT {"echo":true,"verbose":false,"pedantic":false,"tls_required":false,"headers":true,"name":"` + id + `","cluster":"C","lnoc":true}` + "\r\n")
	p.send(fmt.Sprintf(peerInfo, id, id))
	p.handled()
	return p
}

// handled waits until everything sent so far has been handled, and returns the lines before that,
// without what each server subscribes to for itself.
func (p *peer) handled() []string {
	p.Helper()
	p.send("PING\r\n")
	var lines []string
	for {
		line := p.line()
		if line == "PONG" {
			return lines
		}
		if !strings.Contains(line, " $SYS.REQ.") {
			lines = append(lines, line)
		}
	}
}

// expectLines compares what the server has sent so far.
func (p *peer) expectLines(want ...string) {
	p.Helper()
	if got := p.handled(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		p.Fatalf("got %q, want %q", got, want)
	}
}

func TestRouteSendsInterest(t *testing.T) {
	m := join(t, "m", nil)
	c := dial(t, m.clients).hello(quiet)
	c.send("SUB foo 1\r\nSUB foo 2\r\nSUB foo.* q 3\r\n")
	c.sync()
	p := &peer{dial(t, m.routes)}
	if i := p.info; i.ServerID != m.ID() || i.ServerName != "m" || i.Cluster != "C" || i.Proto != 1 || !i.Headers || i.RoutePoolSize != 0 || i.JetStream {
		t.Errorf("INFO %+v", i)
	}
	p.send(`CONNECT {"name":"P","cluster":"C","headers":true}` + "\r\n")
	p.expectLines()
	p.send(fmt.Sprintf(peerInfo, "P", "p"))
	lines := p.handled()
	if got := strings.Join(lines, "\n"); len(lines) != 2 || !strings.Contains(got, "RS+ $G foo\n") && !strings.HasSuffix(got, "RS+ $G foo") ||
		!strings.Contains(got, "RS+ $G foo.* q 1") {
		t.Fatalf("at first %q", lines)
	}
	for _, step := range []struct{ do, want string }{
		{"SUB foo 4\r\n", ""},
		{"SUB foo.* q 5\r\n", "RS+ $G foo.* q 2"},
		{"SUB > 6\r\n", "RS+ $G >"},
		{"UNSUB 1\r\nUNSUB 2\r\n", ""},
		{"UNSUB 4\r\n", "RS- $G foo"},
		{"UNSUB 3\r\n", "RS+ $G foo.* q 1"},
		{"UNSUB 6 1\r\n", ""},
		{"PUB x 0\r\n\r\n", "RS- $G >"},
		{"UNSUB 5\r\n", "RS- $G foo.* q"},
	} {
		c.send(step.do)
		if strings.HasPrefix(step.do, "PUB") {
			c.expect("MSG x 6 0\r\n\r\n")
		}
		c.sync()
		if got := strings.Join(p.handled(), "\n"); got != step.want {
			t.Fatalf("after %q: %q, want %q", step.do, got, step.want)
		}
	}
	c.send("SUB foo 7\r\nSUB foo.* q 8\r\n")
	c.sync()
	p.expectLines("RS+ $G foo", "RS+ $G foo.* q 1")
	c.Close()
	eventually(t, "end of interest", func() bool { return !m.Account(broker.GlobalAccount).HasInterest("foo") })
	got := p.handled()
	if len(got) != 2 || !strings.HasPrefix(got[0], "RS- $G foo") || !strings.HasPrefix(got[1], "RS- $G foo") {
		t.Errorf("when the client has gone %q", got)
	}
	if s := fmt.Sprint(got, lines); strings.Contains(s, "USER.INFO") {
		t.Errorf("interest of the server itself: %s", s)
	}
}

func TestRouteSendsMessages(t *testing.T) {
	m := join(t, "m", nil)
	p := dialRoute(t, m, "P")
	p.send("RS+ $G foo\r\nRS+ $G foo.*\r\nRS+ $G foo.* q 2\r\nRS+ $G q.> q1 1\r\nLS+ hub $G q.a q2 1\r\nRS+ NONE x\r\nRS+ $G big\r\nLS+ hub $G foo\r\n")
	p.handled()
	c := dial(t, m.clients).hello(quiet)
	for _, step := range []struct{ do, want string }{
		{"PUB foo 2\r\nhi\r\n", "RMSG $G foo 2\r\nhi\r\n"},
		{"PUB foo r 2\r\nhi\r\n", "RMSG $G foo r 2\r\nhi\r\n"},
		{"PUB foo.a 1\r\nx\r\n", "RMSG $G foo.a | q 1\r\nx\r\n"},
		{"PUB foo.a r 1\r\nx\r\n", "RMSG $G foo.a + r q 1\r\nx\r\n"},
		{"HPUB foo r 12 13\r\nNATS/1.0\r\n\r\nx\r\n", "HMSG $G foo r 12 13\r\nNATS/1.0\r\n\r\nx\r\n"},
		{"PUB q.a 0\r\n\r\n", "RMSG $G q.a | q1 q2 0\r\n\r\n"},
		{"PUB nobody 0\r\n\r\nPUB q.b 0\r\n\r\n", "RMSG $G q.b | q1 0\r\n\r\n"},
	} {
		c.send(step.do)
		p.expect(step.want)
	}
	large := strings.Repeat("L", 300_000)
	c.send(fmt.Sprintf("HPUB big 12 %d\r\nNATS/1.0\r\n\r\n%s\r\n", 12+len(large), large))
	p.expect(fmt.Sprintf("HMSG $G big 12 %d\r\nNATS/1.0\r\n\r\n%s\r\n", 12+len(large), large))

	a := m.Account(broker.GlobalAccount)
	if n := a.Publish("foo", "", []byte("NATS/1.0\r\nA: b\r\n\r\n"), []byte("in")); n != 1 {
		t.Errorf("%d receivers", n)
	}
	p.expect("HMSG $G foo 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nin\r\n")
	a.PublishAs("foo", "orders.new", "$ACK.s@s.1", nil, []byte("d"))
	p.expect("RMSG $G foo $ACK.s@s.1@orders.new 1\r\nd\r\n")
	a.PublishAs("foo", "orders.new", "", nil, []byte("d"))
	p.expect("RMSG $G foo 1\r\nd\r\n")

	// No responders: interest anywhere counts, and it ends.
	c.send("SUB inbox 1\r\nPUB foo inbox 0\r\n\r\n")
	p.expect("RS+ $G inbox\r\nRMSG $G foo inbox 0\r\n\r\n")
	p.send("RS- $G foo\r\nLS- hub $G foo\r\n")
	p.handled()
	c.send("PUB foo inbox 0\r\n\r\n")
	c.expect("HMSG inbox 1 35 35\r\nNATS/1.0 503\r\nNats-Subject: foo\r\n\r\n\r\n")
	p.Close()
	eventually(t, "end of the route", func() bool { return m.Routez().NumRoutes == 0 })
	if a.HasInterest("foo.a") || a.HasInterest("q.a") {
		t.Error("interest of a peer that has gone")
	}
}

func TestRouteDeliversMessages(t *testing.T) {
	m := join(t, "m", nil)
	p, other := dialRoute(t, m, "P"), dialRoute(t, m, "O")
	other.send("RS+ $G >\r\nRS+ $G > q 1\r\n")
	other.handled()
	p.handled() // gossip about O
	c := dial(t, m.clients).hello(quiet)
	old := dial(t, m.clients).hello("CONNECT {\"verbose\":false}\r\n")
	c.send("SUB foo 1\r\nSUB foo q 2\r\nSUB foo p 3\r\n")
	c.sync()
	old.send("SUB foo.h 1\r\n")
	old.sync()
	for _, step := range []struct{ do, want string }{
		{"RMSG $G foo 2\r\nhi\r\n", "MSG foo 1 2\r\nhi\r\n"},
		{"RMSG $G foo r 2\r\nhi\r\n", "MSG foo 1 r 2\r\nhi\r\n"},
		{"RMSG $G foo | q 2\r\nhi\r\n", "MSG foo 1 2\r\nhi\r\nMSG foo 2 2\r\nhi\r\n"},
		{"RMSG $G foo + r p q 2\r\nhi\r\n", "MSG foo 1 r 2\r\nhi\r\nMSG foo 3 r 2\r\nhi\r\nMSG foo 2 r 2\r\nhi\r\n"},
		{"RMSG $G foo | none 2\r\nhi\r\n", "MSG foo 1 2\r\nhi\r\n"},
		{"HMSG $G foo r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "HMSG foo 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"},
		{"LMSG hub $G foo 0 2\r\nhi\r\n", "MSG foo 1 2\r\nhi\r\n"},
		{"RMSG $G foo $ACK.s@s.1@orders.new 2\r\nhi\r\n", "MSG orders.new 1 $ACK.s@s.1 2\r\nhi\r\n"},
		{"RMSG $G foo $ACK.s.1 2\r\nhi\r\n", "MSG foo 1 $ACK.s.1 2\r\nhi\r\n"},
		{"RMSG $G foo ACK.1@x 2\r\nhi\r\n", "MSG foo 1 ACK.1@x 2\r\nhi\r\n"},
		{"RMSG NONE foo 2\r\nhi\r\nRMSG $SYS foo 2\r\nhi\r\nRMSG $G bar r 2\r\nhi\r\nRMSG $G foo 1\r\nx\r\n", "MSG foo 1 1\r\nx\r\n"},
	} {
		p.send(step.do)
		c.expect(step.want)
	}
	p.send("HMSG $G foo.h 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
	old.expect("MSG foo.h 1 2\r\nhi\r\n")
	// Nothing that came on a route went to another.
	for _, line := range other.handled() {
		if strings.HasPrefix(line, "RMSG") || strings.HasPrefix(line, "HMSG") {
			t.Errorf("sent on: %q", line)
		}
	}
	if v := m.Varz(); v.InMsgs == 0 || v.InClientMsgs != 0 || v.Routes != 2 || v.Cluster.Name != "C" {
		t.Errorf("varz in %d, of clients %d, routes %d, cluster %+v", v.InMsgs, v.InClientMsgs, v.Routes, v.Cluster)
	}
}

func TestRoutePrefersOwnQueueMembers(t *testing.T) {
	m := join(t, "m", nil)
	p := dialRoute(t, m, "P")
	p.send("RS+ $G foo q 9\r\n")
	p.handled()
	c := dial(t, m.clients).hello(quiet)
	c.send("SUB foo q 1\r\n")
	c.sync()
	for range 20 {
		c.send("PUB foo 0\r\n\r\n")
		c.expect("MSG foo 1 0\r\n\r\n")
	}
	c.send("UNSUB 1\r\nPUB foo 0\r\n\r\n")
	p.expect("RS+ $G foo q 1\r\nRS- $G foo q\r\nRMSG $G foo | q 0\r\n\r\n")
}

func TestRouteHandshakeRefusals(t *testing.T) {
	plain := func(*broker.Config) {}
	secret := func(c *broker.Config) { c.Cluster.User, c.Cluster.Password = "u", "p" }
	const good = `CONNECT {"name":"P","cluster":"C","user":"u","pass":"p"}` + "\r\n"
	for _, tt := range []struct {
		name   string
		change func(*broker.Config)
		send   string
		want   string
	}{
		{"message first", plain, "RMSG $G foo 0\r\n\r\n", "Unknown Protocol Operation"},
		{"interest first", plain, "RS+ $G foo\r\n", "Unknown Protocol Operation"},
		{"interest before INFO", plain, good + "RS+ $G foo\r\n", "Unknown Protocol Operation"},
		{"info first", plain, fmt.Sprintf(peerInfo, "P", "p"), "Unknown Protocol Operation"},
		{"client", plain, `CONNECT {"lang":"go","cluster":"C"}` + "\r\n", "attempted to connect to route port"},
		{"no password", secret, `CONNECT {"name":"P","cluster":"C"}` + "\r\n", "Authorization Violation"},
		{"wrong password", secret, `CONNECT {"name":"P","cluster":"C","user":"u","pass":"x"}` + "\r\n", "Authorization Violation"},
		{"wrong cluster", plain, `CONNECT {"name":"P","cluster":"D"}` + "\r\n", `Rejecting connection, cluster name "D" does not match "C"`},
		{"wrong cluster in INFO", plain, good + `INFO {"server_id":"P","server_name":"p","cluster":"D"}` + "\r\n",
			`Rejecting connection, cluster name "D" does not match "C"`},
		{"gateway", plain, `CONNECT {"name":"P","gateway":"G"}` + "\r\n", `Rejecting connection from gateway "G" on the Route port`},
		{"same name", secret, good + fmt.Sprintf(peerInfo, "P", "m"), `duplicate server name "m"`},
		{"garbage", plain, "GET / HTTP/1.1\r\n", "Unknown Protocol Operation"},
		{"not JSON", plain, "CONNECT {\r\n", "Unknown Protocol Operation"},
		{"pinned account", plain, good + `INFO {"server_id":"P","server_name":"p","cluster":"C","route_account":"$SYS"}` + "\r\n",
			"Not possible to have a dedicated route for an account"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := join(t, "m", tt.change)
			p := dial(t, m.routes)
			p.send(tt.send)
			p.expect("-ERR '" + tt.want + "'\r\n")
			p.expectClosed()
			if n := m.Routez().NumRoutes; n != 0 {
				t.Errorf("%d routes", n)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		m := join(t, "m", func(c *broker.Config) { c.Cluster.AuthTimeout = 20 * time.Millisecond })
		p := dial(t, m.routes)
		p.expect("-ERR 'Authentication Timeout'\r\n")
		p.expectClosed()
	})
	t.Run("right password", func(t *testing.T) {
		m := join(t, "m", secret)
		p := &peer{dial(t, m.routes)}
		p.send(good + fmt.Sprintf(peerInfo, "P", "p"))
		p.handled()
		eventually(t, "route", func() bool { return m.peers() == "p" })
	})
}

func TestRouteStaleWithoutPong(t *testing.T) {
	m := join(t, "m", func(c *broker.Config) { c.Cluster.PingInterval, c.Cluster.MaxPingsOut = 10*time.Millisecond, 2 })
	p := dial(t, m.routes)
	p.send(`CONNECT {"name":"P","cluster":"C"}` + "\r\n" + fmt.Sprintf(peerInfo, "P", "p"))
	pings := 0
	for line := ""; line != "-ERR 'Stale Connection'"; line = p.line() {
		if line == "PING" {
			pings++
		}
	}
	if pings != 2 {
		t.Errorf("%d PINGs", pings)
	}
	eventually(t, "end", func() bool { return m.Routez().NumRoutes == 0 })
}

// TestRouteDropsSlowPeer fills the way to a peer that reads nothing: publishers go on and the route
// ends.
func TestRouteDropsSlowPeer(t *testing.T) {
	m := join(t, "m", func(c *broker.Config) { c.MaxPending, c.MaxPayload = 1<<20, 1<<16 })
	p := dialRoute(t, m, "P")
	p.send("RS+ $G foo\r\n")
	p.handled()
	c := dial(t, m.clients).hello(quiet)
	one := "PUB foo 65536\r\n" + strings.Repeat("x", 65536) + "\r\n"
	for range 2000 {
		if m.Routez().NumRoutes == 0 {
			break
		}
		c.send(one)
	}
	c.sync()
	eventually(t, "end of the route", func() bool { return m.Routez().NumRoutes == 0 })
	if n := m.SlowConsumers(); n != 1 {
		t.Errorf("%d slow consumers", n)
	}
}

func TestRouteGossip(t *testing.T) {
	a := join(t, "a", nil)
	b := join(t, "b", nil, a.routes)
	meshed(t, a, b)
	c := join(t, "c", nil, a.routes)
	meshed(t, a, b, c)
	d := join(t, "d", nil, c.routes)
	meshed(t, a, b, c, d)
	// By hand: a new server's INFO goes to the others with its address and without its nonce.
	first := dialRoute(t, a, "FIRST")
	meshed := func() bool { return a.Routez().NumRoutes == 4 }
	eventually(t, "first", meshed)
	first.handled()
	second := &peer{dial(t, a.routes)}
	second.send(`CONNECT {"name":"SECOND","cluster":"C","headers":true}` + "\r\n")
	second.send(`INFO {"server_id":"SECOND","server_name":"SECOND","port":7,"cluster":"C","nonce":"n","route_pool_size":3,"later":"kept"}` + "\r\n")
	second.handled()
	var line string
	for _, line = range first.handled() {
		if strings.HasPrefix(line, "INFO") {
			break
		}
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &doc); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if doc["server_id"] != "SECOND" || doc["ip"] != "nats-route://127.0.0.1:7/" || doc["nonce"] != nil || doc["later"] != "kept" || doc["route_pool_size"] != 3.0 {
		t.Errorf("gossip %v", doc)
	}
}

func TestRouteReconnects(t *testing.T) {
	port, err := cluster.FreePort() // a will listen there again
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a := joinAt(t, l, "a", nil)
	b := join(t, "b", nil, addr)
	c := join(t, "c", nil, addr)
	meshed(t, a, b, c)
	got := make(chan string, 10)
	if _, err := b.Account("$G").Subscribe("foo", "", func(m *broker.Msg) { got <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	a.Shutdown()
	eventually(t, "loss of a", func() bool { return b.peers() == "c" && c.peers() == "b" })
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	a = joinAt(t, l, "a", nil)
	meshed(t, a, b, c)
	interested(t, a, "foo", true)
	a.Account("$G").Publish("foo", "", nil, []byte("x"))
	if s := <-got; s != "x" {
		t.Errorf("got %q", s)
	}
}

// TestRouteBothDial lets all servers dial each other at once, again and again.
func TestRouteBothDial(t *testing.T) {
	for range 5 {
		var ls []net.Listener
		var addrs []string
		for range 3 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ls, addrs = append(ls, l), append(addrs, l.Addr().String())
		}
		var members []*member
		for i, l := range ls {
			members = append(members, joinAt(t, l, fmt.Sprint("m", i), nil, addrs...)) // also to itself
		}
		meshed(t, members...)
		for _, m := range members {
			if _, err := m.Account("$G").Subscribe("from."+m.Name(), "", func(*broker.Msg) {}); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range members {
			for _, other := range members {
				interested(t, m, "from."+other.Name(), true)
			}
		}
		for _, m := range members {
			m.Shutdown()
		}
	}
}

// TestRouteStandby is the other side of a peer that decides which of two connections stays.
func TestRouteStandby(t *testing.T) {
	m := join(t, "m", nil)
	first, second := dialRoute(t, m, "P"), dialRoute(t, m, "P")
	second.send("RS+ $G foo\r\n")
	second.expectLines()
	c := dial(t, m.clients).hello(quiet)
	c.send("SUB bar 1\r\nSUB inbox 2\r\nPUB foo inbox 0\r\n\r\n")
	c.expect("HMSG inbox 2 35 35\r\nNATS/1.0 503\r\nNats-Subject: foo\r\n\r\n\r\n")
	second.send("RMSG $G bar 0\r\n\r\n")
	c.expect("MSG bar 1 0\r\n\r\n")
	if n := m.Routez().NumRoutes; n != 1 {
		t.Fatalf("%d routes", n)
	}
	first.Close() // the peer has chosen the second
	interested(t, m, "foo", true)
	lines := strings.Join(second.handled(), "\n")
	if !strings.Contains(lines, "RS+ $G bar") || !strings.Contains(lines, "RS+ $G inbox") {
		t.Errorf("interest %q", lines)
	}
	c.send("PUB foo 0\r\n\r\n")
	second.expect("RMSG $G foo 0\r\n\r\n")
}

func TestRouteClusterNames(t *testing.T) {
	dynamic := func(c *broker.Config) { c.Cluster.Name = "" }
	a := join(t, "a", dynamic)
	b := join(t, "b", dynamic, a.routes)
	meshed(t, a, b)
	if a.Cluster() == "" || a.Cluster() != b.Cluster() {
		t.Fatalf("names %q and %q", a.Cluster(), b.Cluster())
	}
	c := join(t, "c", nil, a.routes)
	meshed(t, a, b, c)
	for _, m := range []*member{a, b, c} {
		if m.Cluster() != "C" {
			t.Errorf("%s is in %q", m.Name(), m.Cluster())
		}
	}
	other := join(t, "o", func(c *broker.Config) { c.Cluster.Name = "D" }, a.routes)
	eventually(t, "refusal", func() bool { return strings.Contains(other.log.String(), "does not match") })
	if other.Routez().NumRoutes != 0 || other.Cluster() != "D" {
		t.Errorf("%s, cluster %s", other.peers(), other.Cluster())
	}
}

func TestRouteTellsClients(t *testing.T) {
	a := join(t, "a", nil)
	c := dial(t, a.clients)
	if c.info.Cluster != "C" || fmt.Sprint(c.info.ConnectURLs) != "["+a.clients+"]" {
		t.Errorf("INFO %+v", c.info)
	}
	c.send(`CONNECT {"verbose":false,"protocol":1}` + "\r\nPING\r\n")
	c.expect("PONG\r\n")
	var info wire.Info
	c.readInfo(&info)
	b := join(t, "b", nil, a.routes)
	c.readInfo(&info)
	if len(info.ConnectURLs) != 2 || !strings.Contains(fmt.Sprint(info.ConnectURLs), b.clients) {
		t.Errorf("with b: %q", info.ConnectURLs)
	}
	hidden := join(t, "hidden", func(c *broker.Config) { c.Cluster.NoAdvertise = true }, a.routes)
	meshed(t, a, b, hidden)
	c.readInfo(&info)
	if len(info.ConnectURLs) != 2 {
		t.Errorf("with hidden: %q", info.ConnectURLs)
	}
	if h := dial(t, hidden.clients); len(h.info.ConnectURLs) != 0 {
		t.Errorf("INFO of hidden %+v", h.info)
	}
	held := dial(t, b.clients).hello(quiet)
	held.sync()
	go b.LameDuck(t.Context(), time.Minute, 30*time.Second)
	c.readInfo(&info)
	if fmt.Sprint(info.ConnectURLs) != "["+a.clients+"]" || info.LameDuck {
		t.Errorf("after b said that it leaves: %+v", info)
	}
	b.Shutdown()
	c.readInfo(&info)
}

func TestRouteCrossesAccountsByName(t *testing.T) {
	accounts := func(c *broker.Config) {
		for _, name := range []string{"A", "B"} {
			c.Accounts = append(c.Accounts, broker.AccountConfig{Name: name, Users: []broker.UserConfig{{User: name, Pass: "p"}}})
		}
	}
	a := join(t, "a", accounts)
	b := join(t, "b", accounts, a.routes)
	meshed(t, a, b)
	var mu sync.Mutex
	got := map[string]int{}
	for _, name := range []string{"A", "B"} {
		if _, err := a.Account(name).Subscribe("foo", "", func(m *broker.Msg) {
			mu.Lock()
			defer mu.Unlock()
			got[m.Account.Name()+string(m.Data)]++
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "interest", func() bool { return b.Account(name).HasInterest("foo") })
	}
	for range 3 {
		b.Account("A").Publish("foo", "", nil, []byte("a"))
		b.Account("B").Publish("foo", "", nil, []byte("b"))
	}
	eventually(t, "messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got["Aa"] == 3 && got["Bb"] == 3
	})
	if len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestRouteAnswersSystemRequests(t *testing.T) {
	a := join(t, "a", nil)
	b := join(t, "b", nil, a.routes)
	meshed(t, a, b)
	answers := make(chan string, 10)
	if _, err := b.SystemAccount().Subscribe("inbox", "", func(m *broker.Msg) {
		var z struct{ Server broker.ServerInfo }
		if err := json.Unmarshal(m.Data, &z); err != nil {
			t.Error(err)
		}
		answers <- z.Server.Name + " " + z.Server.Cluster
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "interest", func() bool { return a.SystemAccount().HasInterest("inbox") })
	for _, verb := range []string{"PING", "PING.VARZ", "PING.ROUTEZ"} {
		b.SystemAccount().Publish("$SYS.REQ.SERVER."+verb, "inbox", nil, nil)
		if x, y := <-answers, <-answers; x+y != "a Cb C" && x+y != "b Ca C" {
			t.Errorf("%s: %q and %q", verb, x, y)
		}
	}
	b.SystemAccount().Publish("$SYS.REQ.SERVER."+a.ID()+".IDZ", "inbox", nil, nil)
	<-answers
	b.SystemAccount().Publish("$SYS.REQ.SERVER.PING", "inbox", nil, []byte(`{"cluster":"other"}`))
	b.SystemAccount().Publish("$SYS.REQ.SERVER.PING", "inbox", nil, []byte(`{"cluster":"C","server_name":"a"}`))
	if s := <-answers; s != "a C" {
		t.Errorf("got %q", s)
	}
}

// TestRouteTellsOfServers has a server hear how many servers there are, and that one ends: nats-server counts by it.
func TestRouteTellsOfServers(t *testing.T) {
	t.Parallel()
	a := join(t, "a", nil)
	events := make(chan string, 100)
	if _, err := a.SystemAccount().Subscribe("$SYS.SERVER.*.*", "", func(m *broker.Msg) {
		var z struct {
			broker.ServerInfo
			Server broker.ServerInfo
			Stats  struct {
				ActiveServers int `json:"active_servers"`
			} `json:"statsz"`
		}
		if err := json.Unmarshal(m.Data, &z); err != nil {
			t.Error(err)
		}
		id, kind, _ := strings.Cut(strings.TrimPrefix(string(m.Subject), "$SYS.SERVER."), ".")
		if id != z.ID && id != z.Server.ID {
			t.Errorf("%s has %s", m.Subject, m.Data)
		}
		events <- fmt.Sprint(kind, " ", z.Name, z.Server.Name, " ", z.Stats.ActiveServers)
	}); err != nil {
		t.Fatal(err)
	}
	b := join(t, "b", nil, a.routes)
	meshed(t, a, b)
	want := map[string]bool{"STATSZ a 2": true, "STATSZ b 2": true}
	for len(want) > 0 {
		delete(want, <-events)
	}
	b.Shutdown()
	for e := range events {
		if e == "SHUTDOWN b 0" {
			break
		}
	}
}
