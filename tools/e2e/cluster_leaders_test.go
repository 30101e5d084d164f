package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// TestClusterStepsDown moves the leaders of a stream, of a consumer and of the meta group under load.
func TestClusterStepsDown(t *testing.T) {
	c := startNodes(t, 3)
	l := c.startLoad(3)
	l.progress("at the start")
	nc, js := c.client(c.Nodes[0])
	admin, err := c.ConnectAdmin(c.Nodes[1])
	c.must(err)
	ctx := c.context(healthLimit)

	// A leader that is asked for gets it.
	led := map[string]bool{}
	for _, f := range c.followers(ordersStream) {
		name, err := workload.StepDown(ctx, nc, ordersStream, f.Name)
		c.must(err)
		waitFor(t, healthLimit, f.Name+" as the leader", func() bool { return c.leader(ordersStream) == f })
		led[name] = true
		l.publishProgress("after a step-down of the stream")
	}
	if len(led) < 2 {
		t.Errorf("leaders were only %v", led)
	}
	for range 3 {
		_, err := workload.StepDownConsumer(ctx, nc, queueStream, "worker", "")
		c.must(err)
		c.must(workload.StepDownMeta(ctx, admin))
		// The API works with every meta leader.
		waitFor(t, healthLimit, "stream made after a step-down", func() bool {
			try, cancel := context.WithTimeout(ctx, clusterTimeout)
			defer cancel()
			_, err := js.CreateStream(try, jetstream.StreamConfig{Name: "NEW", Replicas: 3})
			return err == nil
		})
		c.must(js.DeleteStream(ctx, "NEW"))
		l.progress("after step-downs of a consumer and of the meta group")
	}
	l.finish()
}

// TestClusterHandsOver stops each node cleanly while it leads a stream: others lead before it goes, so those that publish
// elsewhere notice next to nothing.
func TestClusterHandsOver(t *testing.T) {
	c := newCluster(t, 3, func(o *cluster.Options) { o.Routers = []string{o.Program} })
	if c.stock {
		t.Skip("nats-server moves its leaders in another way")
	}
	c.must(c.Start())
	c.formed()
	nc, js := c.client(c.Routers()[0])
	ctx := c.context(4 * time.Minute)
	var streams []string
	var all []*probes
	for i := range c.Storage() {
		name := fmt.Sprint("LED", i)
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
		c.must(err)
		streams = append(streams, name)
		all = append(all, probing(t, name, func(ctx context.Context, n int) error {
			_, err := js.Publish(ctx, name, fmt.Appendf(nil, "%d", n), jetstream.WithRetryAttempts(0), jetstream.WithMsgID(fmt.Sprint(n)))
			return err
		}))
	}
	for _, n := range c.Storage() {
		for _, stream := range streams {
			if c.leader(stream) != n {
				_, err := workload.StepDown(ctx, nc, stream, n.Name)
				c.must(err)
			}
		}
		begun := time.Now()
		c.must(n.Stop())
		stopped := time.Now()
		c.must(n.Start())
		c.healthy()
		for _, p := range all {
			gap := p.gap(begun, time.Now())
			t.Logf("%s stops within %s: %s: nothing acknowledged for at most %s", n.Name, stopped.Sub(begun).Round(time.Millisecond),
				p.name, gap.Round(time.Millisecond))
			if gap > vanishLimit {
				t.Errorf("%s: nothing acknowledged for %s", p.name, gap)
			}
		}
		if tail := n.Log.Tail(-1); !strings.Contains(tail, "leadership handed over, since this node stops") {
			t.Errorf("%s has handed nothing over:\n%s", n.Name, tail)
		}
	}
	for i, p := range all {
		p.end()
		content, err := workload.Read(ctx, nc, streams[i])
		c.must(err)
		if err := p.kept(content); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// kept compares the numbers of the probes that were acknowledged with a stream: each must be there once.
func (p *probes) kept(content *workload.Content) error {
	there := map[string]int{}
	for _, m := range content.Messages {
		there[string(m.Data)]++
	}
	for i, x := range p.list {
		if n := there[fmt.Sprint(x.n)]; x.err == nil && n != 1 {
			return fmt.Errorf("publish %d of %d, acknowledged at %s, is there %d times", i, len(p.list), x.answered, n)
		}
	}
	return nil
}

// scale gives a stream another number of replicas.
func (c *testCluster) scale(ctx context.Context, js jetstream.JetStream, name string, replicas int) {
	c.t.Helper()
	s, err := js.Stream(ctx, name)
	c.must(err)
	config := s.CachedInfo().Config
	config.Replicas = replicas
	_, err = js.UpdateStream(ctx, config)
	c.must(err)
}

// TestClusterScales changes the number of replicas of a stream and of a bucket while they are written.
func TestClusterScales(t *testing.T) {
	long(t)
	c := startNodes(t, 5)
	l := c.startLoad(1)
	l.progress("with one replica")
	_, js := c.client(c.Nodes[0])
	ctx := c.context(2 * healthLimit)
	for _, replicas := range []int{3, 5, 3, 1} {
		for _, name := range []string{ordersStream, "KV_" + bucketName, queueStream} {
			c.scale(ctx, js, name, replicas)
		}
		c.healthy()
		l.progress("with another number of replicas")
	}
	// One more time up, so that what is checked has been copied.
	c.scale(ctx, js, ordersStream, 3)
	l.finish()
}

// TestClusterKillsDuringMoves scales streams up and down and takes replicas away from nodes, and kills a node in the
// middle of each: one that has a replica, the leader among them. MILLRACE_SEED repeats the choices.
func TestClusterKillsDuringMoves(t *testing.T) {
	long(t)
	c := startNodes(t, 5)
	l := c.startLoad(3)
	l.progress("at the start")
	seed := rand.Uint64()
	if text := os.Getenv("MILLRACE_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		c.must(err)
	}
	t.Logf("MILLRACE_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	js, err := jetstream.New(nc)
	c.must(err)
	ctx := c.context(10 * healthLimit)
	for round := range 8 {
		what := ""
		for _, name := range []string{ordersStream, queueStream, "KV_" + bucketName} {
			replicas := c.replicas(nc, name)
			switch {
			case len(replicas) == 5:
				c.scale(ctx, js, name, 3)
				what += " " + name + " to 3,"
			case random.IntN(2) == 0:
				c.scale(ctx, js, name, 5)
				what += " " + name + " to 5,"
			default:
				n := replicas[random.IntN(len(replicas))]
				c.must(c.request(ctx, nc, "$JS.API.STREAM.PEER.REMOVE."+name, `{"peer":"`+n.Name+`"}`))
				what += " " + name + " off " + n.Name + ","
			}
		}
		select {
		case <-time.After(time.Duration(random.IntN(200)) * time.Millisecond):
		case <-ctx.Done():
		}
		victim := c.Nodes[random.IntN(len(c.Nodes))]
		if random.IntN(2) == 0 {
			victim = c.leader(ordersStream)
		}
		what = fmt.Sprintf("round %d:%s without %s", round, what, victim.Name)
		c.must(victim.Kill())
		l.publishProgress(what)
		c.must(victim.Start())
		l.progress(what + " that is back")
		c.healthy()
	}
	l.finish()
}

// TestClusterRemovesPeer takes a replica away from a node, and then a node that is gone out of the cluster:
// the replicas are whole on the other nodes.
func TestClusterRemovesPeer(t *testing.T) {
	c := startNodes(t, 4)
	l := c.startLoad(3)
	l.progress("at the start")
	ctx := c.context(2 * healthLimit)
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	removed := c.replicas(nc, ordersStream)[1]
	c.must(c.request(ctx, nc, "$JS.API.STREAM.PEER.REMOVE."+ordersStream, `{"peer":"`+removed.Name+`"}`))
	waitFor(t, healthLimit, "three replicas without "+removed.Name, func() bool {
		replicas := c.replicas(nc, ordersStream)
		return len(replicas) == 3 && !slices.Contains(replicas, removed)
	})
	c.healthy()
	l.progress("without a replica")

	// A node that never comes back.
	gone := c.replicas(nc, ordersStream)[2]
	c.must(gone.Kill())
	l.publishProgress("without a node")
	admin, err := c.ConnectAdmin(c.Running()[0])
	c.must(err)
	waitFor(t, healthLimit, "removal of a node", func() bool {
		return c.request(ctx, admin, "$JS.API.SERVER.REMOVE", `{"peer":"`+gone.Name+`"}`) == nil
	})
	c.healthy()
	l.progress("after the removal of a node")
	l.finish()
}

// replicas are the nodes that hold a stream, the leader first.
func (c *testCluster) replicas(nc *nats.Conn, stream string) []*cluster.Node {
	c.t.Helper()
	info, err := workload.Info(c.t.Context(), nc, stream)
	if err != nil || info.Cluster == nil {
		return nil
	}
	nodes := []*cluster.Node{c.Named(info.Cluster.Leader)}
	for _, p := range info.Cluster.Replicas {
		nodes = append(nodes, c.Named(p.Name))
	}
	return nodes
}

// request asks the API for something that is answered with success.
func (c *testCluster) request(ctx context.Context, nc *nats.Conn, subject, body string) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, []byte(body))
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	var answer struct {
		Success bool `json:"success"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil || !answer.Success {
		return fmt.Errorf("answer to %s: %s", subject, m.Data)
	}
	return nil
}
