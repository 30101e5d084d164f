package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"millrace/appliance/server/jetstream/api"
	"millrace/raft"
	"millrace/tools/cluster"
)

// formTime bounds what nodes need to form a cluster in a test.
const formTime = 30 * time.Second

// testLog collects the log of a node.
type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// crew is machines on which nodes of one cluster run, each on an address of its own.
type crew struct {
	testing.TB
	names   []string
	clients []int    // ports
	routes  []string // addresses
	dirs    []string
	extra   string // lines of the cluster block
	login   string // of routes, such as "u:p@"
	knows   func(i, k int) bool
}

func newCrew(t testing.TB, nodes int) *crew {
	t.Helper()
	c := &crew{TB: t, knows: func(i, k int) bool { return i != k }}
	for i := range nodes {
		var ports [2]int
		for k := range ports { // a node that starts again wants its own
			var err error
			if ports[k], err = cluster.FreePort(); err != nil {
				t.Fatal(err)
			}
		}
		c.names = append(c.names, fmt.Sprintf("n%d-c1", i+1))
		c.clients = append(c.clients, ports[0])
		c.routes = append(c.routes, fmt.Sprintf("127.0.0.1:%d", ports[1]))
		c.dirs = append(c.dirs, filepath.Join(t.TempDir(), "storage"))
	}
	return c
}

// settings is the file that three machines have, but for addresses.
func (c *crew) settings(i int, storage bool) *Settings {
	c.Helper()
	var routes []string
	for k, address := range c.routes {
		if c.knows(i, k) {
			routes = append(routes, "    nats://"+c.login+address)
		}
	}
	jetstream := fmt.Sprintf("jetstream { store_dir=%s }", c.dirs[i])
	if !storage {
		jetstream = ""
	}
	text := fmt.Sprintf(`server_name=%s
listen=127.0.0.1:%d
accounts {
  $SYS { users = [ { user: "admin", pass: "%s" } ] }
}
%s
cluster {
  name: C1
  listen: %s
  %s
  routes: [
%s
  ]
}
`, c.names[i], c.clients[i], hash, jetstream, c.routes[i], c.extra, strings.Join(routes, "\n"))
	path := filepath.Join(c.TempDir(), "node.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		c.Fatal(err)
	}
	return s
}

// running is a node that runs.
type running struct {
	*Node
	log  *testLog
	stop func()
}

func (c *crew) start(i int) *running { c.Helper(); return c.run(c.settings(i, true)) }

func (c *crew) run(s *Settings) *running {
	c.Helper()
	r := &running{log: &testLog{}}
	n, err := Start(c.Context(), s, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		c.Fatalf("start %s: %v", s.ServerName, err)
	}
	r.Node = n
	r.stop = sync.OnceFunc(func() {
		if err := n.Close(context.Background()); err != nil {
			c.Errorf("close %s: %v", s.ServerName, err)
		}
	})
	c.Cleanup(func() {
		r.stop()
		if c.Failed() {
			c.Logf("log of %s:\n%s", s.ServerName, r.log)
		}
		select {
		case err := <-n.Fatal():
			c.Errorf("%s could not go on: %v", s.ServerName, err)
		default:
		}
	})
	return r
}

// hears reports whether the node hears of another one by raft.
func (r *running) hears(node uint64) bool {
	r.forming.Wait()
	for _, p := range r.store.host.Peers() {
		if p.Node == node {
			return p.Connected && p.State == raft.PeerAlive
		}
	}
	return false
}

// place waits for the decision.
func (r *running) place(t testing.TB) *membership {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), formTime)
	defer cancel()
	m, err := r.formCluster(ctx)
	if err != nil {
		t.Fatalf("%s: %v\n%s", r.settings.ServerName, err, r.log)
	}
	return m
}

func until(t testing.TB, what string, fn func() bool) {
	t.Helper()
	deadline := time.Now().Add(formTime)
	for poll := time.NewTicker(5 * time.Millisecond); !fn(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

// agree waits until all nodes have the same place, with n founders, and sends a frame from each to each.
func agree(t testing.TB, n int, nodes ...*running) [16]byte {
	t.Helper()
	first := nodes[0].place(t)
	if len(first.Founders) != n || !slices.IsSorted(first.Founders) || first.Cluster == [16]byte{} {
		t.Errorf("cluster %x, founders %x, want %d", first.Cluster, first.Founders, n)
	}
	for _, r := range nodes {
		m := r.place(t)
		if m.Cluster != first.Cluster || !slices.Equal(m.Founders, first.Founders) {
			t.Fatalf("%s is in %x of %x, %s in %x of %x", r.settings.ServerName, m.Cluster, m.Founders,
				nodes[0].settings.ServerName, first.Cluster, first.Founders)
		}
	}
	return first.Cluster
}

// talk waits until each node hears of each other one.
func talk(t testing.TB, nodes ...*running) {
	t.Helper()
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				until(t, from.settings.ServerName+" hears of "+to.settings.ServerName, func() bool { return from.hears(to.place(t).Node) })
			}
		}
	}
}

// TestFormationInEveryOrder starts the three machines in every order.
func TestFormationInEveryOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			c := newCrew(t, 3)
			var nodes []*running
			for _, i := range order {
				nodes = append(nodes, c.start(i))
			}
			// All were there when a majority was, or soon after: they are all founders, unless the machine is
			// so slow that the third took more than the two seconds that it is waited for.
			n := len(nodes[0].place(t).Founders)
			if n < 2 {
				t.Errorf("%d founders", n)
			}
			id := agree(t, n, nodes...)
			talk(t, nodes...)
			for _, r := range nodes {
				r.stop()
			}
			again := c.start(order[1]) // alone, it knows where it belongs
			if m := again.place(t); m.Cluster != id {
				t.Errorf("after a restart the cluster is %x, was %x", m.Cluster, id)
			}
		})
	}
}

func TestFormationWithTwoOfThree(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3)
	first := c.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if m, err := first.formCluster(ctx); err == nil {
		t.Fatalf("one of three has formed %+v", m)
	}
	second := c.start(1)
	id := agree(t, 2, first, second)
	third := c.start(2)
	if agree(t, 2, first, second, third) != id {
		t.Error("the cluster id has changed")
	}
	talk(t, first, second, third)
}

// TestFormationRemembersPeers restarts two nodes that knew each other by the gossip of a third, which is down.
func TestFormationRemembersPeers(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3)
	c.knows = func(i, k int) bool { return i != 0 && k == 0 } // the first is a seed: it forms at once
	nodes := []*running{c.start(0), c.start(1), c.start(2)}
	agree(t, 1, nodes...)
	until(t, "all know all", func() bool {
		for _, r := range nodes {
			if len(r.broker.StorageMesh().Peers) != 2 || !strings.Contains(string(r.catalog.Peers()), nodes[1].settings.ServerName) && r != nodes[1] ||
				!strings.Contains(string(r.catalog.Peers()), nodes[2].settings.ServerName) && r != nodes[2] {
				return false
			}
		}
		return true
	})
	for _, r := range nodes {
		r.stop()
	}
	second, third := c.start(1), c.start(2)
	talk(t, second, third)
	until(t, "route", func() bool { return second.broker.Routez().NumRoutes == 1 && third.broker.Routez().NumRoutes == 1 })
}

// TestFormationAroundRouters has one storage node whose routes lead to a router and to nobody, until that is a
// router too.
func TestFormationAroundRouters(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3)
	storage := c.start(0)
	router := c.run(c.settings(1, false))
	until(t, "one router known", func() bool { return storage.broker.StorageMesh().Routers == 1 })
	var answer struct{ Data api.JSInfo }
	ask(t, router.Node, "$SYS.REQ.SERVER."+router.broker.ID()+".JSZ", "{}", &answer)
	if !answer.Data.Disabled || answer.Data.ID != router.broker.ID() {
		t.Errorf("a router says of its streams: %+v", answer.Data)
	}
	if strings.Contains(storage.log.String(), "cluster of streams") {
		t.Error("formed while a storage node may be behind the other route")
	}
	c.run(c.settings(2, false))
	if m := storage.place(t); !soleFounder(m) {
		t.Errorf("founders %x", m.Founders)
	}
	until(t, "streams", func() bool { return strings.Contains(storage.log.String(), "storage node") })
}

// TestFormationThroughRouter has two storage nodes that know a router only: they hear of each other from it.
func TestFormationThroughRouter(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3)
	c.knows = func(i, k int) bool { return i != 2 && k == 2 }
	c.run(c.settings(2, false))
	agree(t, 2, c.start(0), c.start(1))
}

// TestFormationOfUsedStores begins with a store that was written by a node on its own.
func TestFormationOfUsedStores(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3)
	alone := func(i int) {
		s := c.settings(i, true)
		s.Cluster = nil
		c.run(s).stop()
	}
	alone(0)
	first, second := c.start(0), c.start(1)
	id := agree(t, 1, first, second)
	if !soleFounder(first.place(t)) {
		t.Error("it is not the only founder")
	}
	// Another one with data of its own is no part of it.
	alone(2)
	third := c.start(2)
	if m := third.place(t); m.Cluster == id || !soleFounder(m) {
		t.Errorf("a store with data is in the cluster %x, the others are in %x", m.Cluster, id)
	}
	for _, r := range []*running{first, third} {
		until(t, "refusal at "+r.settings.ServerName, func() bool {
			return strings.Contains(r.log.String(), "its data belongs to the cluster with the id")
		})
	}
	// A store of a cluster is not opened without that.
	second.stop()
	s := c.settings(1, true)
	s.Cluster = nil
	if _, err := Start(t.Context(), s, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "has no cluster block") {
		t.Errorf("start without the cluster: %v", err)
	}
}

func TestFormationWithPasswordAndTLS(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 2)
	dir := t.TempDir()
	writeCertificate(t, dir)
	c.login = "u:a%20very%20long%20s3cr3t!%20password@"
	c.extra = fmt.Sprintf("authorization { user: u, pass: %q, timeout: 20 }\n  tls { cert_file: %q, key_file: %q, ca_file: %q, timeout: 20 }",
		quickHash(t), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem"))
	first, second := c.start(0), c.start(1)
	agree(t, 2, first, second)
	talk(t, first, second)
}

// TestFormationNeedsThePassword has storage nodes that know a hash of it only: they could not talk.
func TestFormationNeedsThePassword(t *testing.T) {
	hash := quickHash(t)
	for _, tt := range []struct {
		routes  []string
		pass    string
		missing bool
	}{
		{nil, hash, true},
		{[]string{"nats://h:1", "nats://u:wrong@h:2", "nats://x:a%20very%20long%20s3cr3t!%20password@h:3"}, hash, true},
		{[]string{"nats://u:wrong@h:2", "nats://u:a%20very%20long%20s3cr3t!%20password@h:3"}, hash, false},
		{nil, "a very long s3cr3t! password", false},
	} {
		cl := &Cluster{User: "u", Password: tt.pass, Routes: tt.routes}
		if _, missing, err := clusterCredentials(cl); err != nil || (missing != nil) != tt.missing {
			t.Errorf("routes %q, password %q: %v, %v", tt.routes, tt.pass, missing, err)
		}
	}
}

// quickHash is bcrypt of the password that hash is of, as cheap as it can be: a comparison with hash takes longer
// than a handshake may on a busy machine with the race detector.
func quickHash(t testing.TB) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte("a very long s3cr3t! password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// writeCertificate makes a certificate that is its own authority.
func writeCertificate(t testing.TB, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// soleFounder reports whether a node has founded its cluster by itself.
func soleFounder(m *membership) bool { return len(m.Founders) == 1 && nodeOf(m.Founders[0]) == m.Node }
