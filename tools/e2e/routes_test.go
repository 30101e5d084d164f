package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// clusterTimeout bounds what servers of a cluster need to find each other.
const clusterTimeout = 15 * time.Second

// clusterServer is a server of a cluster under test.
type clusterServer struct {
	*server
	name   string
	routes int           // port
	login  []nats.Option // of every client; nil: none, which is account $G
}

// connect is server.connect with the login.
func (s *clusterServer) connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	return s.server.connect(slices.Concat(s.login, opts)...)
}

// jetstream is server.jetstream with the login.
func (s *clusterServer) jetstream() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	return s.server.jetstream(s.login...)
}

// newClusterServer writes the configuration of a server with routes to others. options are lines of the
// file; those that begin with "cluster:" go into the cluster block, "user u:p" goes into the URLs of
// routes, "jetstream" enables streams, and with "account" clients log in to an account A.
func newClusterServer(t testing.TB, program, name string, others []*clusterServer, options ...string) *clusterServer {
	t.Helper()
	s := &clusterServer{server: newProcess(t), name: name, routes: freePort(t)}
	s.Program = program
	var file, block strings.Builder
	account := ""
	if slices.Contains(options, "account") {
		account = "A { jetstream: enabled, users [ { user: a, pass: pw } ] }"
		s.login = []nats.Option{nats.UserInfo("a", "pw")}
	}
	fmt.Fprintf(&file, "listen: \"127.0.0.1:%d\"\nserver_name: %s\naccounts { $SYS { users [ { user: admin, pass: pw } ] }, %s }\n", s.port, name, account)
	fmt.Fprintf(&block, "cluster {\n  listen: \"127.0.0.1:%d\"\n", s.routes)
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "cluster: name") }) {
		block.WriteString("  name: C\n")
	}
	user := ""
	for _, o := range options {
		switch {
		case o == "account":
		case o == "jetstream":
			fmt.Fprintf(&file, "jetstream { store_dir: %q }\n", s.store())
		case strings.HasPrefix(o, "user "):
			user = strings.TrimPrefix(o, "user ") + "@"
		case strings.HasPrefix(o, "cluster: "):
			fmt.Fprintf(&block, "  %s\n", strings.TrimPrefix(o, "cluster: "))
		default:
			fmt.Fprintln(&file, o)
		}
	}
	if len(others) > 0 {
		block.WriteString("  routes: [\n")
		for _, o := range others {
			fmt.Fprintf(&block, "    \"nats://%s127.0.0.1:%d\"\n", user, o.routes)
		}
		block.WriteString("  ]\n")
	}
	block.WriteString("}\n")
	s.writeConf(file.String() + block.String())
	return s
}

// startCluster starts a storage node, a router of ours and a stock nats-server, in this order. The
// storage node has no routes of its own, the router knows only the storage node, and so does the
// stock server: these two find each other by gossip.
func startCluster(t testing.TB, options ...string) (storage, router, stock *clusterServer) {
	t.Helper()
	storage = newClusterServer(t, serverPath, "storage", nil, append(options, "jetstream")...)
	router = newClusterServer(t, serverPath, "router", []*clusterServer{storage}, options...)
	stock = newClusterServer(t, peerProgram(t), "stock", []*clusterServer{storage}, options...)
	var wg sync.WaitGroup
	for _, s := range []*clusterServer{storage, router, stock} {
		wg.Go(s.start)
	}
	wg.Wait()
	waitMesh(t, storage, router, stock)
	return storage, router, stock
}

// waitMesh waits until every server hears every other: each has a subscription that the others
// publish to.
func waitMesh(t testing.TB, servers ...*clusterServer) {
	t.Helper()
	conns := make([]*nats.Conn, len(servers))
	for i, s := range servers {
		conns[i] = s.connect()
		defer conns[i].Close()
	}
	for i, nc := range conns {
		subject := nc.NewInbox()
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		for k, other := range conns {
			what := fmt.Sprintf("message from %s to %s", servers[k].name, servers[i].name)
			waitFor(t, clusterTimeout, what, func() bool {
				other.Publish(subject, nil)
				_, err := sub.NextMsg(50 * time.Millisecond)
				return err == nil
			})
			for { // what came late
				if _, err := sub.NextMsg(time.Millisecond); err != nil {
					break
				}
			}
		}
	}
}

// settle waits until what nc has subscribed to is known to the server of other.
func settle(t testing.TB, nc, other *nats.Conn) {
	t.Helper()
	inbox := nc.NewInbox()
	sub, err := nc.Subscribe(inbox, func(m *nats.Msg) { m.Respond(nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	// Interest travels in order: what was there before is known when this is.
	waitFor(t, clusterTimeout, "answer across a route", func() bool {
		_, err := other.Request(inbox, nil, 100*time.Millisecond)
		return err == nil
	})
}

// TestRoutes uses one cluster from all sides: storage node, router and stock nats-server.
func TestRoutes(t *testing.T) {
	needMillraced(t)
	storage, router, stock := startCluster(t)
	all := []*clusterServer{storage, router, stock}
	t.Run("all", func(t *testing.T) {
		for _, s := range all {
			t.Run("streams/"+s.name, func(t *testing.T) { t.Parallel(); useStreams(t, s) })
			t.Run("stores/"+s.name, func(t *testing.T) { t.Parallel(); useStores(t, s) })
			t.Run("push/"+s.name, func(t *testing.T) { t.Parallel(); usePush(t, s) })
		}
		for _, a := range all {
			for _, b := range all {
				if a != b {
					t.Run(fmt.Sprintf("core/%s/%s", a.name, b.name), func(t *testing.T) { t.Parallel(); useCore(t, a, b) })
				}
			}
		}
		t.Run("queue", func(t *testing.T) { t.Parallel(); useQueues(t, all) })
		t.Run("system", func(t *testing.T) { t.Parallel(); useSystem(t, all) })
		for _, s := range []*clusterServer{router, stock} {
			t.Run("cli/"+s.name, func(t *testing.T) { t.Parallel(); useCLI(t, s) })
		}
	})
	// Nobody has complained, but for nats-server about the connection it wanted for its system account.
	for _, s := range []*clusterServer{storage, router} {
		if log := s.Log.Tail(-1); strings.Contains(log, "level=ERROR") {
			t.Errorf("errors in the log of %s", s.name)
		}
	}
}

// useStreams creates a stream at one server and publishes, pulls and acknowledges.
func useStreams(t *testing.T, s *clusterServer) {
	nc, js := s.jetstream()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	name := "STREAM_" + s.name
	st, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}})
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	for i := range n {
		if _, err := js.PublishAsync(name+".a", fmt.Append(nil, i), jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal("acknowledgements of publishes are missing")
	}
	if ack, err := js.Publish(ctx, name+".a", nil, jetstream.WithMsgID("7")); err != nil || !ack.Duplicate || ack.Sequence != 8 {
		t.Errorf("duplicate: %+v, %v", ack, err)
	}
	c, err := st.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for got := 0; got < n; {
		if ctx.Err() != nil {
			t.Fatalf("%d of %d messages", got, n)
		}
		batch, err := c.Fetch(50, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if string(m.Data()) != fmt.Sprint(got) || m.Subject() != name+".a" || m.Headers().Get("Nats-Msg-Id") != fmt.Sprint(got) {
				t.Fatalf("message %d: %q on %q", got, m.Data(), m.Subject())
			}
			if got++; got == n {
				if err := m.DoubleAck(ctx); err != nil {
					t.Fatal(err)
				}
			} else if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		// A router learns of a new consumer a moment after it was made.
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
	}
	waitFor(t, clusterTimeout, "acknowledgements", func() bool {
		info, err := c.Info(ctx)
		return err == nil && info.NumAckPending == 0 && info.AckFloor.Stream == n
	})
	if _, err := c.Fetch(1, jetstream.FetchMaxWait(50*time.Millisecond)); err != nil {
		t.Error(err)
	}

	// Push with an ordered consumer, and consuming with a callback.
	ordered, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	it, err := ordered.Messages()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m, err := it.Next()
		if err != nil || string(m.Data()) != fmt.Sprint(i) {
			t.Fatalf("ordered message %d: %v, %v", i, m, err)
		}
	}
	it.Stop()

	// Direct get, and a large message with a large header.
	if m, err := st.GetLastMsgForSubject(ctx, name+".a"); err != nil || m.Sequence != n {
		t.Errorf("last message %+v, %v", m, err)
	}
	large := &nats.Msg{Subject: name + ".large", Data: bytes.Repeat([]byte("d"), 800_000), Header: nats.Header{"Big": {strings.Repeat("h", 60_000)}}}
	if _, err := js.PublishMsg(ctx, large); err != nil {
		t.Fatal(err)
	}
	if m, err := st.GetLastMsgForSubject(ctx, name+".large"); err != nil || !bytes.Equal(m.Data, large.Data) || m.Header.Get("Big") != large.Header.Get("Big") {
		t.Errorf("large message: %v", err)
	}
	if err := nc.Drain(); err != nil {
		t.Error(err)
	}
}

// usePush delivers to a subject and to a queue group, with flow control and heartbeats.
func usePush(t *testing.T, s *clusterServer) {
	nc := s.connect()
	js, err := nc.JetStream(nats.MaxWait(startTimeout))
	if err != nil {
		t.Fatal(err)
	}
	name := "PUSH_" + s.name
	if _, err := js.AddStream(&nats.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
		t.Fatal(err)
	}
	const n = 100
	for i := range n {
		if _, err := js.Publish(name, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, options := range [][]nats.SubOpt{
		{nats.OrderedConsumer()}, {nats.EnableFlowControl(), nats.IdleHeartbeat(time.Second), nats.AckExplicit()},
	} {
		sub, err := js.SubscribeSync(name, options...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			m, err := sub.NextMsg(clusterTimeout)
			if err != nil || string(m.Data) != fmt.Sprint(i) || m.Subject != name {
				t.Fatalf("message %d: %v, %v", i, m, err)
			}
			m.Ack()
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
	var mu sync.Mutex
	got := map[string]int{}
	for range 2 {
		if _, err := js.QueueSubscribe(name, "group", func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			got[string(m.Data)]++
		}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, clusterTimeout, "messages of the queue group", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == n
	})
	for data, k := range got {
		if k != 1 {
			t.Errorf("message %s came %d times", data, k)
		}
	}
}

// useStores uses a key-value bucket and an object store.
func useStores(t *testing.T, s *clusterServer) {
	_, js := s.jetstream()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "KV_" + s.name, History: 3})
	if err != nil {
		t.Fatal(err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.Updates(); e != nil {
		t.Fatalf("an empty bucket has %v", e)
	}
	for i := range 20 {
		if _, err := kv.Put(ctx, fmt.Sprintf("key.%d", i%5), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if e := <-w.Updates(); e == nil || string(e.Value()) != fmt.Sprint(i) {
			t.Fatalf("update %d: %v", i, e)
		}
	}
	w.Stop()
	e, err := kv.Get(ctx, "key.3")
	if err != nil || string(e.Value()) != "18" {
		t.Errorf("key.3: %v, %v", e, err)
	}
	if _, err := kv.Update(ctx, "key.3", nil, e.Revision()-1); err == nil {
		t.Error("an update with an old revision was taken")
	}
	if err := kv.Delete(ctx, "key.3"); err != nil {
		t.Error(err)
	}
	if _, err := kv.Get(ctx, "key.3"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("deleted key: %v", err)
	}
	if keys, err := kv.Keys(ctx); err != nil || len(keys) != 4 {
		t.Errorf("keys %q, %v", keys, err)
	}

	objects, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "OBJ_" + s.name})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	if _, err := objects.PutBytes(ctx, "blob", data); err != nil {
		t.Fatal(err)
	}
	if got, err := objects.GetBytes(ctx, "blob"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("object of %d bytes: %d, %v", len(data), len(got), err)
	}
}

// useCore publishes and requests from one server to another.
func useCore(t *testing.T, from, to *clusterServer) {
	a, b := from.connect(), to.connect()
	prefix := fmt.Sprintf("core.%s.%s.", from.name, to.name)
	sub, err := b.SubscribeSync(prefix + "plain.*")
	if err != nil {
		t.Fatal(err)
	}
	service, err := b.Subscribe(prefix+"service", func(m *nats.Msg) {
		m.RespondMsg(&nats.Msg{Data: append([]byte("re: "), m.Data...), Header: m.Header})
	})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, b, a)
	const n = 500
	for i := range n {
		if err := a.Publish(prefix+"plain.x", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		m, err := sub.NextMsg(clusterTimeout)
		if err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, m, err)
		}
	}
	request := &nats.Msg{Subject: prefix + "service", Data: []byte("hi"), Header: nats.Header{"X": {strings.Repeat("y", 70_000)}}}
	for range 20 {
		m, err := a.RequestMsg(request, clusterTimeout)
		if err != nil || string(m.Data) != "re: hi" || m.Header.Get("X") != request.Header.Get("X") {
			t.Fatalf("answer %v, %v", m, err)
		}
	}
	if _, err := a.Request(prefix+"nobody", nil, clusterTimeout); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request to nobody: %v", err)
	}
	// When the service has drained, there are no responders either.
	if err := service.Drain(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, clusterTimeout, "end of the service", func() bool {
		_, err := a.Request(prefix+"service", nil, time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	})
}

// useQueues has members of a queue group on all servers: every message reaches one of them.
func useQueues(t *testing.T, all []*clusterServer) {
	var mu sync.Mutex
	got := map[string]int{}
	at := map[string]int{}
	var conns []*nats.Conn
	for _, s := range all {
		nc := s.connect()
		conns = append(conns, nc)
		for range 2 {
			if _, err := nc.QueueSubscribe("queue.*", "group", func(m *nats.Msg) {
				mu.Lock()
				defer mu.Unlock()
				got[string(m.Data)]++
				at[s.name]++
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, a := range conns {
		for _, b := range conns {
			if a != b {
				settle(t, a, b)
			}
		}
	}
	const n = 300
	for i, nc := range conns {
		for k := range n {
			if err := nc.Publish("queue.x", fmt.Appendf(nil, "%d %d", i, k)); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	waitFor(t, clusterTimeout, "messages", func() bool { return count() == 3*n })
	for _, a := range conns { // what is still on its way would come before the answer
		for _, b := range conns {
			if a != b {
				settle(t, a, b)
			}
		}
	}
	for data, k := range got {
		if k != 1 {
			t.Errorf("message %q came %d times", data, k)
		}
	}
	t.Logf("messages at %v", at)
}

// useSystem asks all servers from each.
func useSystem(t *testing.T, all []*clusterServer) {
	for _, s := range all {
		nc := s.connect(nats.UserInfo("admin", "pw"))
		inbox, err := nc.SubscribeSync(nc.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("$SYS.REQ.SERVER.PING", inbox.Subject, nil); err != nil {
			t.Fatal(err)
		}
		var answers strings.Builder
		for range all {
			m, err := inbox.NextMsg(clusterTimeout)
			if err != nil {
				t.Fatalf("at %s: %v after %s", s.name, err, answers.String())
			}
			answers.Write(m.Data)
		}
		for _, other := range all {
			if !regexp.MustCompile(`"name": *"` + other.name + `"`).MatchString(answers.String()) {
				t.Errorf("asked at %s, %s does not answer", s.name, other.name)
			}
		}
	}
}

// useCLI runs the command line client at a router.
func useCLI(t *testing.T, s *clusterServer) {
	cli := cliProgram(t)
	home := t.TempDir()
	name := "CLI_" + s.name
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"stream", "add", name, "--subjects", name + ".>", "--defaults"}, `was created`},
		{[]string{"pub", name + ".new", "hello", "--jetstream"}, `Stored in Stream: ` + name},
		{[]string{"consumer", "add", name, "worker", "--pull", "--defaults"}, `worker`},
		{[]string{"consumer", "next", name, "worker"}, `hello`},
		{[]string{"stream", "info", name}, `Messages: 1`},
		{[]string{"kv", "add", name}, name},
		{[]string{"kv", "put", name, "k", "v"}, `v`},
		{[]string{"kv", "get", name, "k", "--raw"}, `^v`},
		{[]string{"stream", "ls", "--names"}, name},
		{[]string{"stream", "rm", name, "--force"}, ``},
	} {
		cmd := exec.Command(cli, append([]string{"-s", s.url(), "--timeout", "20s"}, step.args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "NATS_CONTEXT=")
		out, err := cmd.CombinedOutput()
		if err != nil || !regexp.MustCompile(step.want).Match(out) {
			t.Fatalf("nats %s: %v, no %q in\n%s", strings.Join(step.args, " "), err, step.want, out)
		}
	}
}

// TestRoutesAfterKills kills servers under a client, which goes on at another one that it was told of,
// and finds everything when they are back.
func TestRoutesAfterKills(t *testing.T) {
	needMillraced(t)
	storage, router, stock := startCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	nc, js := router.jetstream()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	publish := func(what string) {
		t.Helper()
		waitFor(t, clusterTimeout, what, func() bool {
			try, cancel := context.WithTimeout(t.Context(), 2*time.Second) // what was under way to a server that died is lost
			defer cancel()
			_, err := js.Publish(try, "s", []byte(what))
			return err == nil
		})
	}
	publish("first")
	waitFor(t, clusterTimeout, "three servers known to the client", func() bool { return len(nc.Servers()) == 3 })

	router.kill()
	waitFor(t, clusterTimeout, "client at another server", func() bool { return nc.IsConnected() && nc.ConnectedUrl() != router.url() })
	publish("without the router")

	router.start()
	waitMesh(t, storage, router, stock)

	// The storage node comes back under the same name with another id; both others find it again.
	storage.kill()
	waitFor(t, clusterTimeout, "client at another server", func() bool { return nc.IsConnected() && nc.ConnectedUrl() != storage.url() })
	none, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := js.Publish(none, "s", nil); err == nil {
		t.Error("a publish was acknowledged without a storage node")
	}
	storage.start()
	waitMesh(t, storage, router, stock)
	publish("after the storage node")

	for _, s := range []*clusterServer{router, stock} {
		_, js := s.jetstream()
		st, err := js.Stream(ctx, "S")
		if err != nil {
			t.Fatal(err)
		}
		if n := st.CachedInfo().State.Msgs; n < 3 {
			t.Errorf("at %s: %d messages", s.name, n)
		}
	}
	stock.kill()
	stock.start()
	waitMesh(t, storage, router, stock)
}

// TestRoutesGossip has two stock servers that only the storage node knows: what it passes on must be
// enough for them to open the pool of routes that they use among themselves.
func TestRoutesGossip(t *testing.T) {
	needMillraced(t)
	storage := newClusterServer(t, serverPath, "storage", nil, "jetstream")
	first := newClusterServer(t, peerProgram(t), "first", []*clusterServer{storage})
	second := newClusterServer(t, peerProgram(t), "second", []*clusterServer{storage}, "cluster: compression: s2_auto")
	for _, s := range []*clusterServer{storage, first, second} {
		s.start()
	}
	waitMesh(t, storage, first, second)
	useCore(t, first, second)
	useStreams(t, second)
}

// TestReadmeRouters runs the files of the README: the router's with millraced and with nats-server.
func TestReadmeRouters(t *testing.T) {
	needMillraced(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string {
		m := regexp.MustCompile("(?s)```\n# " + regexp.QuoteMeta(name) + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			t.Fatalf("README.md has no %s", name)
		}
		return string(m[1])
	}
	storage, router, stock := newProcess(t), newProcess(t), newProcess(t)
	stock.Program = peerProgram(t)
	routes := freePort(t)
	text := strings.NewReplacer("/data/streams", storage.store(), "0.0.0.0:6222", fmt.Sprintf("127.0.0.1:%d", routes)).Replace(file("storage.conf"))
	storage.writeConf(fmt.Sprintf("listen: \"127.0.0.1:%d\"\n%s", storage.port, text))
	storage.start()
	for i, s := range []*server{router, stock} {
		s.writeConf(strings.NewReplacer("server_name: router", fmt.Sprintf("server_name: router%d", i), "4223", fmt.Sprintf("\"127.0.0.1:%d\"", s.port),
			"0.0.0.0:6223", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "127.0.0.1:6222", fmt.Sprintf("127.0.0.1:%d", routes)).Replace(file("router.conf")))
		s.start()
		_, js := s.jetstream()
		waitFor(t, clusterTimeout, "stream made at a router", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: fmt.Sprint("ORDERS", i), Subjects: []string{fmt.Sprintf("orders.%d.>", i)}})
			return err == nil
		})
	}
}

// TestRoutesRefusals has servers that may not join: their clients are served alone, the others go on.
func TestRoutesRefusals(t *testing.T) {
	needMillraced(t)
	const secret = "cluster: authorization { user: u, password: p }"
	storage := newClusterServer(t, serverPath, "storage", nil, "jetstream", secret)
	storage.start()
	router := newClusterServer(t, serverPath, "router", []*clusterServer{storage}, secret)
	router.start()
	waitMesh(t, storage, router)
	said := func(s *clusterServer, pattern string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		waitFor(t, clusterTimeout, fmt.Sprintf("%q in the log of %s", pattern, s.name), func() bool { return re.MatchString(s.Log.Tail(-1)) })
	}
	peer := peerProgram(t)
	for _, tt := range []struct {
		name, program string
		options       []string
		here, there   string // in the logs of the storage node and of the refused server
	}{
		{"password", serverPath, []string{"user u:wrong"}, `level=ERROR .*Authorization Violation: user .*u`, `level=ERROR .*refuses: Authorization Violation`},
		{"password-stock", peer, []string{"user x:wrong"}, `level=ERROR .*Authorization Violation: user .*x`, `Authorization Violation`},
		{"name", serverPath, []string{"user u:p", "cluster: name: D"}, `cluster name .*"D.*" does not match .*"C`, `level=ERROR .*cluster name`},
		{"name-stock", peer, []string{"user u:p", "cluster: name: E"}, `cluster name .*"E.*" does not match .*"C`, `cluster name "E" does not match "C"`},
		{"second-stock", peer, []string{"user u:p", "jetstream"}, `level=ERROR .*JetStream of server .*"second-stock.*" refused`,
			`JetStream of server "second-stock" refused: it is no Millrace storage node`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newClusterServer(t, tt.program, tt.name, []*clusterServer{storage, router}, tt.options...)
			s.start()
			said(storage, tt.here)
			said(s, tt.there)
		})
	}
	t.Run("second", func(t *testing.T) {
		// A storage node with data of its own. With routes it founds a cluster that the others are not in.
		s := newClusterServer(t, serverPath, "second", []*clusterServer{storage, router}, secret, "jetstream")
		clustered, err := os.ReadFile(s.conf)
		if err != nil {
			t.Fatal(err)
		}
		s.writeConf(fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q }\n", s.port, s.store()))
		s.start()
		ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
		defer cancel()
		_, js := s.jetstream()
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "OWN", Subjects: []string{"own"}}); err != nil {
			t.Fatal(err)
		}
		s.stop()
		s.writeConf(string(clustered))
		s.start()
		const text = `level=ERROR .*its data belongs to the cluster with the id .* nothing that either has stored is touched`
		said(s, text)
		said(storage, text)
		// It goes on to serve what it has.
		_, js = s.jetstream()
		if ack, err := js.Publish(ctx, "own", nil); err != nil || ack.Stream != "OWN" {
			t.Errorf("publish: %+v, %v", ack, err)
		}
		_, there := router.jetstream()
		if _, err := there.Stream(ctx, "OWN"); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("the stream seen from the cluster: %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		for text, want := range map[string]string{
			"cluster { name: C, listen: 1 }\njetstream: true":                                             "server_name is missing",
			"server_name: x, cluster { listen: 1 }, jetstream {}":                                         "name is missing",
			fmt.Sprintf("server_name: x, port: -1, cluster { listen: \"127.0.0.1:%d\" }", storage.routes): "listen for routes of the cluster: listen tcp 127.0.0.1",
		} {
			s := newProcess(t)
			s.writeConf(text)
			if out, code := s.runToEnd(); code != 1 || !strings.Contains(out, want) {
				t.Errorf("%q: exit code %d, output %q, want %q", text, code, out, want)
			}
		}
	})
}

// TestRoutesTLS has certificates on both sides of every route, credentials and compression; clients are in
// an account of their own.
func TestRoutesTLS(t *testing.T) {
	needMillraced(t)
	dir := t.TempDir()
	issueCertificates(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	options := []string{
		fmt.Sprintf("cluster: tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 5 }", file("cert.pem"), file("key.pem"), file("ca.pem")),
		"cluster: authorization { user: u, password: p, timeout: 5 }", "user u:p", "account",
		"cluster: compression: s2_fast",
	}
	storage, router, stock := startCluster(t, options...)
	useStreams(t, stock)
	useCore(t, router, stock)

	// A server with a certificate of someone else, and one without TLS, stay outside.
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	issueCertificates(t, foreign)
	other := newClusterServer(t, serverPath, "other", []*clusterServer{storage}, "user u:p", fmt.Sprintf(
		"cluster: tls { cert_file: %q, key_file: %q, ca_file: %q, timeout: 5 }", filepath.Join(foreign, "cert.pem"), filepath.Join(foreign, "key.pem"), file("ca.pem")))
	plain := newClusterServer(t, serverPath, "plain", []*clusterServer{storage}, "user u:p")
	other.start()
	plain.start()
	for s, want := range map[*clusterServer]string{
		storage: `level=ERROR msg="TLS handshake of a route"`,
		other:   `level=WARN msg="dial route" .*tls: `,
		plain:   `level=WARN msg="dial route" .*before the handshake was done`,
	} {
		re := regexp.MustCompile(want)
		waitFor(t, clusterTimeout, "complaint of "+s.name, func() bool { return re.MatchString(s.Log.Tail(-1)) })
	}
	for _, s := range []*clusterServer{other, plain} {
		if strings.Contains(s.Log.Tail(-1), "route up") {
			t.Errorf("%s has a route", s.name)
		}
	}
}

// TestClusterConfiguration starts the file that three machines have: one of them serves clients and waits for
// another, two form a cluster, and the third joins it.
func TestClusterConfiguration(t *testing.T) {
	needMillraced(t)
	var ports []int
	for range 3 {
		ports = append(ports, freePort(t))
	}
	machine := func(i int) *server {
		s := newProcess(t)
		s.writeConf(fmt.Sprintf(`server_name=n%d-c1
listen=%d
accounts {
  $SYS { users = [ { user: "admin", pass: "$2a$11$DRh4C0KNbNnD8K/hb/buWe1zPxEHrLEiDmuq1Mi0rRJiH/W25Qidm" } ] }
}
jetstream { store_dir=%s }
cluster {
  name: C1
  listen: 0.0.0.0:%d
  routes: [
    nats://127.0.0.%d:%d
    nats://127.0.0.%d:%d
  ]
}
`, i+1, s.port, s.store(), ports[i], (i+1)%3+1, ports[(i+1)%3], (i+2)%3+1, ports[(i+2)%3]))
		s.start()
		return s
	}
	first := machine(0)
	// Comparing the hash takes long on a busy machine.
	nc := first.connect(nats.UserInfo("admin", "a very long s3cr3t! password"), nats.Timeout(startTimeout))
	if _, err := nc.Request("$SYS.REQ.SERVER.PING", nil, clusterTimeout); err != nil {
		t.Error(err)
	}
	nc = first.connect()
	if _, err := nc.Request("$JS.API.INFO", nil, clusterTimeout); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request to the streams of a cluster that is not formed: %v", err)
	}
	waitFor(t, clusterTimeout, "attempts to reach the others", func() bool { return strings.Count(first.Log.Tail(-1), "dial route") == 2 })
	waitFor(t, clusterTimeout, "what it waits for", func() bool {
		return strings.Contains(first.Log.Tail(-1), "the cluster waits for storage nodes\" present=1 needed=2 expected=3")
	})
	formed := regexp.MustCompile(`msg="cluster of streams" id=([0-9a-f]{32}) .*founders="?\[([0-9a-f]{16}) ([0-9a-f]{16})\]`)
	said := func(s *server) (found []string) {
		t.Helper()
		waitFor(t, startTimeout, "a formed cluster", func() bool { found = formed.FindStringSubmatch(s.Log.Tail(-1)); return found != nil })
		return found[1:]
	}
	second := machine(1)
	a, b := said(first), said(second)
	third := machine(2)
	c := said(third)
	if !slices.Equal(a, b) || !slices.Equal(a, c) {
		t.Errorf("id and founders are %q, %q and %q", a, b, c)
	}
	for _, s := range []*server{first, second, third} {
		s.stop()
	}
}
