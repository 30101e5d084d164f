package broker_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/appliance/server/broker"
)

// preamble is how connections begin that are not routes.
const preamble = "\xa9CARRY\n"

// storage makes a server a storage node; cluster 0: it belongs to none yet.
func storage(node uint64, cluster byte, changed func()) func(*broker.Config) {
	return func(c *broker.Config) {
		c.JetStream = true
		c.Cluster.Storage = &broker.StorageConfig{Node: node, Changed: changed}
		c.Cluster.Storage.Cluster[0] = cluster
	}
}

func clusterID(b byte) (id [16]byte) { id[0] = b; return id }

// describe writes down what m knows of storage nodes.
func (m *member) describe() string {
	view := m.StorageMesh()
	var s strings.Builder
	for _, p := range view.Peers {
		fmt.Fprintf(&s, "%d %s %x %v, ", p.Node, p.ServerName, p.Cluster[0], p.Connected)
	}
	return fmt.Sprintf("%srouters %d, selves %d, unknown %d", s.String(), view.Routers, view.Selves, view.Unknown)
}

func (m *member) expectMesh(t testing.TB, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Errorf("%s sees %q", m.Name(), m.describe())
		}
	}()
	eventually(t, fmt.Sprintf("%s sees %q", m.Name(), want), func() bool { return m.describe() == want })
}

// says waits for a line in the log of m at level ERROR.
func (m *member) says(t testing.TB, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q in the log of %s", parts, m.Name()), func() bool {
	lines:
		for line := range strings.SplitSeq(m.log.String(), "\n") {
			for _, p := range append(parts, "level=ERROR") {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

func TestStorageNodesMeet(t *testing.T) {
	var changes atomic.Int64
	var ls []net.Listener
	var addrs []string
	for range 4 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls, addrs = append(ls, l), append(addrs, l.Addr().String())
	}
	a := joinAt(t, ls[0], "a", storage(10, 0, func() { changes.Add(1) }), addrs...)
	a.expectMesh(t, "routers 0, selves 1, unknown 3")
	r := joinAt(t, ls[3], "r", nil, addrs[0])
	a.expectMesh(t, "routers 1, selves 1, unknown 2")
	b := joinAt(t, ls[1], "b", storage(20, 0, nil), addrs...)
	a.expectMesh(t, "20 b 0 true, routers 1, selves 1, unknown 1")
	b.expectMesh(t, "10 a 0 true, routers 1, selves 1, unknown 1")
	c := joinAt(t, ls[2], "c", storage(5, 0, nil), addrs[0]) // b is known to it by gossip
	for m, want := range map[*member]string{
		a: "5 c 0 true, 20 b 0 true, routers 1, selves 1, unknown 0", b: "5 c 0 true, 10 a 0 true, routers 1, selves 1, unknown 0",
		c: "10 a 0 true, 20 b 0 true, routers 0, selves 0, unknown 0", r: "5 c 0 true, 10 a 0 true, 20 b 0 true, routers 0, selves 0, unknown 0",
	} {
		m.expectMesh(t, want)
	}
	for _, p := range a.StorageMesh().Peers {
		want := map[string]string{"b": b.routes, "c": c.routes}[p.ServerName]
		if fmt.Sprint(p.Addresses) != "["+want+"]" {
			t.Errorf("addresses of %s are %q, want %q", p.ServerName, p.Addresses, want)
		}
	}

	// One forms: the others hear of it, also those that come later.
	if err := a.FormCluster(clusterID(7)); err != nil {
		t.Fatal(err)
	}
	b.expectMesh(t, "5 c 0 true, 10 a 7 true, routers 1, selves 1, unknown 0")
	r.expectMesh(t, "5 c 0 true, 10 a 7 true, 20 b 0 true, routers 0, selves 0, unknown 0")
	before := changes.Load()
	if err := b.FormCluster(clusterID(7)); err != nil {
		t.Fatal(err)
	}
	a.expectMesh(t, "5 c 0 true, 20 b 7 true, routers 1, selves 1, unknown 0")
	if changes.Load() == before {
		t.Error("nobody was told of the change")
	}
	if err := b.FormCluster(clusterID(8)); err == nil || !strings.Contains(err.Error(), "belongs to 07") {
		t.Errorf("second cluster: %v", err)
	}

	// Who goes is remembered, and known again by its node id when it has another name.
	b.Shutdown()
	a.expectMesh(t, "5 c 0 true, 20 b 7 false, routers 1, selves 1, unknown 0")
	join(t, "b2", storage(20, 7, nil), addrs[0])
	a.expectMesh(t, "5 c 0 true, 20 b2 7 true, routers 1, selves 1, unknown 1")
}

func TestStorageRefusesOtherCluster(t *testing.T) {
	a := join(t, "a", storage(10, 1, nil))
	r := join(t, "r", nil, a.routes)
	meshed(t, a, r)
	b := join(t, "b", storage(20, 2, nil), a.routes, r.routes)
	const text = `its data belongs to the cluster with the id`
	for _, m := range []*member{a, b, r} {
		m.says(t, text, "nothing that either has stored is touched", fmt.Sprintf("%x", clusterID(1)), fmt.Sprintf("%x", clusterID(2)))
	}
	if a.peers() != "r" || b.peers() != "" || r.peers() != "a" {
		t.Errorf("routes of a %q, b %q, r %q", a.peers(), b.peers(), r.peers())
	}
	b.expectMesh(t, "routers 1, selves 0, unknown 1")
	// When the first has gone, the second takes its place.
	a.Shutdown()
	eventually(t, "b joins", func() bool { return r.peers() == "b" })
}

func TestStorageComparesAgainWhenFormed(t *testing.T) {
	a := join(t, "a", storage(10, 0, nil))
	b := join(t, "b", storage(20, 0, nil), a.routes)
	r := join(t, "r", nil, a.routes)
	meshed(t, a, b, r)
	for m, id := range map[*member]byte{a: 1, b: 2} {
		if err := m.FormCluster(clusterID(id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []*member{a, b} {
		m.says(t, "its data belongs to the cluster with the id")
	}
	eventually(t, "end of the route", func() bool { return a.peers() == "r" || b.peers() == "r" })
	eventually(t, "only one at the router", func() bool { return r.Routez().NumRoutes == 1 })
}

func TestStorageRefusesSameNode(t *testing.T) {
	a := join(t, "a", storage(10, 1, nil))
	b := join(t, "b", storage(10, 1, nil), a.routes)
	for _, m := range []*member{a, b} {
		m.says(t, "has the same node id 000000000000000a as server")
	}
	if n := a.Routez().NumRoutes; n != 0 {
		t.Errorf("%d routes", n)
	}
}

func TestStorageRefusesForeignJetStream(t *testing.T) {
	const good = `CONNECT {"name":"P","cluster":"C"}` + "\r\n"
	for _, tt := range []struct {
		name   string
		change func(*broker.Config)
		info   string
		want   string // empty: it may join
	}{
		{"at a router", nil, `"jetstream":true`, `JetStream of server "p" refused: it is no Millrace storage node`},
		{"at a storage node", storage(1, 0, nil), `"jetstream":true`, `JetStream of server "p" refused: it is no Millrace storage node`},
		{"router that says it is one of ours", storage(1, 0, nil), `"jetstream":true,"millrace":{}`, `JetStream of server "p" refused`},
		{"node", storage(1, 0, nil), `"millrace":{"node":"xyz"}`, `Unknown Protocol Operation`},
		{"cluster", storage(1, 0, nil), `"millrace":{"node":"2","cluster_id":"00"}`, `Unknown Protocol Operation`},
		{"cluster without node", storage(1, 0, nil), `"millrace":{"cluster_id":"01010101010101010101010101010101"}`, `Unknown Protocol Operation`},
		{"without JetStream", storage(1, 0, nil), `"headers":true`, ``},
		{"storage node", storage(1, 0, nil), `"jetstream":true,"millrace":{"node":"2"}`, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := join(t, "m", tt.change)
			p := &peer{dial(t, m.routes)}
			p.send(good + `INFO {"server_id":"P","server_name":"p","port":1,"cluster":"C",` + tt.info + "}\r\n")
			if tt.want == "" {
				p.handled()
				eventually(t, "route", func() bool { return m.peers() == "p" })
				return
			}
			if line := p.line(); !strings.HasPrefix(line, "-ERR '"+tt.want) {
				t.Errorf("got %q, want %q", line, tt.want)
			}
			p.expectClosed()
		})
	}
}

// TestStorageCarriesConnections connects to the cluster port for something else than a route, in plain and
// with TLS, and finds routes undisturbed.
func TestStorageCarriesConnections(t *testing.T) {
	cfg := routeTLS(t, "localhost")
	secure := func(c *broker.Config) { c.Cluster.TLS = cfg }
	for name, change := range map[string]func(*broker.Config){"plain": func(*broker.Config) {}, "TLS": secure} {
		t.Run(name, func(t *testing.T) {
			got := make(chan net.Conn, 1)
			both := func(node uint64) func(*broker.Config) {
				return func(c *broker.Config) {
					storage(node, 0, nil)(c)
					change(c)
					c.Cluster.Storage.Preamble, c.Cluster.Storage.Carry = preamble, func(nc net.Conn) { got <- nc }
				}
			}
			a := join(t, "a", both(1))
			_, port, _ := net.SplitHostPort(a.routes)
			b := join(t, "b", both(2), net.JoinHostPort("localhost", port))
			meshed(t, a, b)
			out, err := b.DialCluster(t.Context(), a.routes)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if _, err := io.WriteString(out, preamble+"hello"); err != nil {
				t.Fatal(err)
			}
			in := <-got
			defer in.Close()
			_, isTLS := in.(interface{ ConnectionState() tls.ConnectionState })
			_, isTCP := in.(*net.TCPConn)
			if isTLS != (name == "TLS") || isTCP == isTLS {
				t.Errorf("handed over is a %T", in)
			}
			all := make([]byte, len(preamble)+5)
			if _, err := io.ReadFull(in, all); err != nil || string(all) != preamble+"hello" {
				t.Errorf("read %q, %v", all, err)
			}
			if _, err := io.WriteString(in, "answer"); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(out, all[:6]); err != nil || string(all[:6]) != "answer" {
				t.Errorf("read %q, %v", all[:6], err)
			}
			// A broker that ends leaves it alone: it belongs to somebody else.
			a.Shutdown()
			if _, err := io.WriteString(in, "still"); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(out, all[:5]); err != nil || string(all[:5]) != "still" {
				t.Errorf("after the end of the broker: %q, %v", all[:5], err)
			}
		})
	}
}

func TestStorageCarryEndsSilence(t *testing.T) {
	m := join(t, "m", func(c *broker.Config) {
		storage(1, 0, nil)(c)
		c.Cluster.Storage.Preamble, c.Cluster.Storage.Carry = preamble, func(nc net.Conn) { nc.Close() }
		c.Cluster.AuthTimeout = patience
	})
	quick := join(t, "quick", func(c *broker.Config) {
		storage(2, 0, nil)(c)
		c.Cluster.Storage.Preamble, c.Cluster.Storage.Carry = preamble, func(nc net.Conn) { nc.Close() }
		c.Cluster.AuthTimeout = 20 * time.Millisecond
	})
	late := dial(t, quick.routes)
	late.expect("-ERR 'Authentication Timeout'\r\n")
	late.expectClosed()

	silent := dial(t, m.routes)
	m.Shutdown() // waits for a connection that says nothing, if nobody ends it
	silent.expectClosed()
	if _, err := m.DialCluster(t.Context(), m.routes); err == nil {
		t.Error("connected to a server that has ended")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.DialCluster(ctx, "127.0.0.1:1"); err == nil {
		t.Error("dialed without time")
	}
}
