package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
)

// withRouters adds two routers: ours, if the program under test is, and a stock nats-server.
func withRouters(t *testing.T) func(*cluster.Options) {
	t.Helper()
	peer := peerProgram(t)
	return func(o *cluster.Options) {
		o.Routers = []string{peer, peer}
		if cluster.IsMillraced(o.Program) {
			o.Routers[0] = o.Program
		}
	}
}

// TestClusterRouters has clients at routers only: they create, publish, consume and use buckets as if they
// were at a storage node, and go on when a storage node and when a router is killed.
func TestClusterRouters(t *testing.T) {
	c := startNodes(t, 3, withRouters(t))
	for _, r := range c.Routers() {
		s := &clusterServer{server: c.server(r), name: r.Name}
		t.Run(r.Name+"-"+filepath.Base(r.Program), func(t *testing.T) {
			s.t = t
			useStreams(t, s)
			useStores(t, s)
			usePush(t, s)
		})
	}
	l := c.startLoad(3, c.Routers()...)
	l.progress("at routers")
	leader := c.leader(ordersStream)
	c.must(leader.Kill())
	l.progress("at routers without the leader")
	c.must(leader.Start())
	r := c.Routers()[1]
	c.must(r.Kill())
	l.progress("without a router")
	c.must(r.Start())
	c.healthy()
	l.finish()
}

// TestClusterOfOne has clients at routers of a single storage node, which is killed: a cluster of one is a
// cluster.
func TestClusterOfOne(t *testing.T) {
	if !cluster.IsMillraced(storageProgram(t)) {
		t.Skip("a nats-server with JetStream does not start in a cluster that has no routes")
	}
	c := startNodes(t, 1, withRouters(t))
	l := c.startLoad(1, c.Routers()...)
	l.progress("at routers")
	c.must(c.Nodes[0].Kill())
	c.must(c.Nodes[0].Start())
	l.progress("after the kill")
	l.finish()
}

// server is a node as other tests of this package have it.
func (c *testCluster) server(n *cluster.Node) *server {
	return &server{t: c.t, Process: n.Process}
}

// TestClusterAnswersAgree asks every node and router the same: whoever answers, it is the same answer.
func TestClusterAnswersAgree(t *testing.T) {
	c := startNodes(t, 3, withRouters(t))
	_, js := c.client(c.Nodes[0])
	ctx := c.context(healthLimit)
	for i, replicas := range []int{1, 3, 2} {
		name := fmt.Sprint("S", i)
		s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: replicas, Metadata: map[string]string{"a": "b"}})
		c.must(err)
		for k := range 10 {
			_, err := js.Publish(ctx, fmt.Sprintf("%s.%d", name, k%3), []byte("data"))
			c.must(err)
		}
		consumer, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour})
		c.must(err)
		batch, err := consumer.Fetch(5)
		c.must(err)
		for m := range batch.Messages() {
			if meta, err := m.Metadata(); err == nil && meta.Sequence.Stream <= 3 {
				c.must(m.DoubleAck(ctx))
			}
		}
	}
	c.must(js.DeleteStream(ctx, "S2"))
	c.healthy()
	conns := make([]*nats.Conn, len(c.Nodes))
	for i, n := range c.Nodes {
		conns[i], _ = c.client(n)
	}
	for _, q := range []struct{ subject, body string }{
		{"$JS.API.INFO", ""}, {"$JS.API.STREAM.NAMES", ""}, {"$JS.API.STREAM.LIST", ""},
		{"$JS.API.STREAM.NAMES", `{"subject":"S1.x"}`},
		{"$JS.API.STREAM.INFO.S0", ""}, {"$JS.API.STREAM.INFO.S1", `{"subjects_filter":">","deleted_details":true}`},
		{"$JS.API.STREAM.INFO.S2", ""}, {"$JS.API.CONSUMER.INFO.S1.worker", ""}, {"$JS.API.CONSUMER.INFO.S1.nobody", ""},
		{"$JS.API.CONSUMER.NAMES.S0", ""}, {"$JS.API.CONSUMER.LIST.S1", ""}, {"$JS.API.STREAM.MSG.GET.S1", `{"seq":7}`},
		{"$JS.API.STREAM.MSG.GET.S1", `{"last_by_subj":"S1.1"}`}, {"$JS.API.STREAM.CREATE.S1", `{"name":"S1","subjects":["other"]}`},
		{"$JS.API.STREAM.CREATE.S1", "{"},
	} {
		// A node may learn of the last change a moment after another.
		var answers [][]byte
		waitFor(t, clusterTimeout, "equal answers to "+q.subject, func() bool {
			answers = answers[:0]
			for i, nc := range conns {
				m, err := nc.Request(q.subject, []byte(q.body), clusterTimeout)
				if err != nil {
					t.Fatalf("ask %s at %s: %v", q.subject, c.Nodes[i].Name, err)
				}
				answers = append(answers, comparable(t, m.Data))
			}
			for i := range answers {
				if !bytes.Equal(answers[i], answers[0]) {
					t.Logf("%s at %s: %s\nat %s: %s", q.subject, c.Nodes[0].Name, answers[0], c.Nodes[i].Name, answers[i])
					return false
				}
			}
			return true
		})
	}
}

// comparable is an answer without what depends on when it was given.
func comparable(t *testing.T, answer []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range []string{"ts", "active", "lag", "api"} {
				delete(v, key)
			}
			for _, x := range v {
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		}
	}
	strip(v)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
