package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// requester sends publishes without an id, each once, and waits for its answer: what gets none is an error.
type requester struct {
	name string
	nc   *nats.Conn

	acked  map[string]bool
	errors []error
}

// run publishes until ctx ends, several at a time.
func (r *requester) run(ctx context.Context, subject string) {
	const atOnce = 4
	r.acked = map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for lane := range atOnce {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprintf("%s-%d-%d", r.name, lane, n)
				sent := time.Now()
				err := r.one(subject, body)
				mu.Lock()
				if r.acked[body] = err == nil; err != nil {
					r.errors = append(r.errors, fmt.Errorf("%s, sent at %s: %w", body, sent.Format(time.StampMilli), err))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func (r *requester) one(subject, body string) error {
	m, err := r.nc.Request(subject, []byte(body), probeWait)
	if err != nil {
		return err
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return err
	case ack.Error != nil:
		return ack.Error
	case ack.Seq == 0:
		return fmt.Errorf("no sequence in %s", m.Data)
	}
	return nil
}

// TestClusterHandsPublishesOver moves the leader of a stream from node to node, by requests, with its replica, and by clean
// stops: no publish of clients elsewhere gets lost, refused, or stored twice, though none has an id and none is sent again.
func TestClusterHandsPublishesOver(t *testing.T) {
	stock := peerProgram(t)
	c := newCluster(t, 4, func(o *cluster.Options) { o.Routers = []string{o.Program, stock} })
	if c.stock {
		t.Skip("nats-server moves its leaders in another way")
	}
	c.must(c.Start())
	c.formed()
	nc, js := c.client(c.Routers()[0])
	ctx := c.context(4 * time.Minute)
	const stream = "HANDED"
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"handed.>"}, Replicas: 3})
	c.must(err)

	publishing, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var all []*requester
	for _, n := range c.Routers() {
		conn, _ := c.client(n)
		r := &requester{name: n.Name, nc: conn}
		all = append(all, r)
		wg.Go(func() { r.run(publishing, "handed."+n.Name) })
	}
	const rounds = 20
	for range rounds {
		_, err := workload.StepDown(ctx, nc, stream, "")
		c.must(err)
	}
	for range 2 { // the replica of the leader moves
		n := c.leader(stream)
		c.must(c.request(ctx, nc, "$JS.API.STREAM.PEER.REMOVE."+stream, fmt.Sprintf(`{"peer":%q}`, n.Name)))
		waitFor(t, healthLimit, "replicas without "+n.Name, func() bool {
			replicas := c.replicas(nc, stream)
			return len(replicas) == 3 && !slices.Contains(replicas, n)
		})
	}
	for range 3 {
		n := c.leader(stream)
		c.must(n.Stop())
		c.must(n.Start())
		c.healthy()
		c.routed(n)
	}
	stop()
	wg.Wait()

	content, err := workload.Read(ctx, nc, stream)
	c.must(err)
	there := map[string]int{}
	for _, m := range content.Messages {
		there[string(m.Data)]++
	}
	for _, r := range all {
		t.Logf("%s: %d publishes, %d errors", r.name, len(r.acked), len(r.errors))
		for _, err := range r.errors {
			t.Error(err)
		}
		for body, acked := range r.acked {
			if n := there[body]; n > 1 || acked && n != 1 {
				t.Errorf("%s, acknowledged: %t, is there %d times", body, acked, n)
			}
		}
	}
}

// routed waits until a node has a route to every other server: routers dial when they like.
func (c *testCluster) routed(n *cluster.Node) {
	c.t.Helper()
	admin, err := c.ConnectAdmin(n)
	c.must(err)
	defer admin.Close()
	waitFor(c.t, healthLimit, "routes of "+n.Name, func() bool {
		m, err := admin.Request("$SYS.REQ.SERVER.PING.ROUTEZ", fmt.Appendf(nil, `{"server_name":%q}`, n.Name), clusterTimeout)
		if err != nil {
			return false
		}
		var answer struct {
			Data struct {
				Routes []struct {
					Name string `json:"remote_name"`
				} `json:"routes"`
			} `json:"data"`
		}
		c.must(json.Unmarshal(m.Data, &answer))
		names := map[string]bool{}
		for _, r := range answer.Data.Routes {
			names[r.Name] = true
		}
		return len(names) == len(c.Running())-1
	})
}
