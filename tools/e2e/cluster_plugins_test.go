package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/plugins"
	"millrace/plugins/pluginstest"
	"millrace/plugins/service"
	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// withRouter adds a router of the program under test.
func withRouter(o *cluster.Options) { o.Routers = []string{o.Program} }

// pluginCall makes a request of the plugin API. Answers come once; the error is that of the answer.
func (c *testCluster) pluginCall(nc *nats.Conn, verb string, request, answer any) error {
	c.t.Helper()
	data, err := json.Marshal(request)
	c.must(err)
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	c.must(err)
	defer sub.Unsubscribe()
	c.must(nc.PublishRequest(service.APIPrefix+verb, inbox, data))
	m, err := sub.NextMsg(20 * time.Second)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if m, err := sub.NextMsg(300 * time.Millisecond); err == nil {
		c.t.Errorf("%s is answered twice, also with %s", verb, m.Data)
	}
	var failed service.ErrorResponse
	c.must(json.Unmarshal(m.Data, &failed))
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}

// pushPlugin uploads a module and makes it a version of a plugin.
func (c *testCluster) pushPlugin(nc *nats.Conn, name string, wasm []byte) {
	c.t.Helper()
	js, err := jetstream.New(nc)
	c.must(err)
	ctx := c.context(healthLimit)
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: service.ModuleBucket})
	c.must(err)
	digest := plugins.Digest(wasm)
	_, err = store.PutBytes(ctx, digest, wasm)
	c.must(err)
	c.must(c.pluginCall(nc, service.VerbPush, service.PushRequest{Name: name, Digest: digest}, nil))
}

// pluginRuns waits until the plugin's only binding runs, as a client of node is told, and returns where.
func (c *testCluster) pluginRuns(node *cluster.Node, name string) service.BindingInfo {
	c.t.Helper()
	nc, _ := c.client(node)
	defer nc.Close()
	var found service.BindingInfo
	waitFor(c.t, healthLimit, "running plugin "+name, func() bool {
		var info service.PluginInfo
		if err := c.pluginCall(nc, service.VerbInfo, service.Target{Plugin: name}, &info); err != nil || len(info.Bindings) != 1 {
			c.t.Logf("info of %s by %s: %v, %d bindings", name, node.Name, err, len(info.Bindings))
			return false
		}
		found = info.Bindings[0]
		return found.State == service.StateRunning
	})
	return found
}

// TestClusterPluginFollowsItsConsumer uploads and binds a plugin through a router and kills the node that runs
// it, twice, while messages come in: each message has its effects once, on a stream and on a key, in order.
func TestClusterPluginFollowsItsConsumer(t *testing.T) {
	if !cluster.IsMillraced(storageProgram(t)) {
		t.Skip("only millraced runs plugins")
	}
	c := startNodes(t, 3, withRouter)
	router := c.Routers()[0]
	nc, js := c.client(router)
	defer nc.Close()
	ctx := c.context(3 * time.Minute)
	for name, subject := range map[string]string{"ORDERS": "orders.>", "UPPER": "upper.>"} {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Replicas: 3})
		c.must(err)
	}
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "state", Replicas: 3})
	c.must(err)
	c.pushPlugin(nc, "upper", pluginstest.Guest(t, "upper-go"))
	var bound service.BindingsResponse
	c.must(c.pluginCall(nc, service.VerbBind, service.BindRequest{
		Plugin: "upper", Stream: "ORDERS", Publish: []string{"upper.>"}, KV: map[string]string{"state": "rw"},
	}, &bound))
	if len(bound.Bindings) != 1 || bound.Bindings[0].State != service.StateRunning || bound.Bindings[0].Node == "" {
		t.Fatalf("bind is answered with %+v", bound)
	}
	for _, stream := range []string{"OBJ_" + service.ModuleBucket, "KV_" + service.RegistryBucket} {
		waitFor(t, healthLimit, "three replicas of "+stream, func() bool {
			info, err := workload.Info(ctx, nc, stream)
			return err == nil && info.Cluster != nil && len(info.Cluster.Replicas) == 2
		})
	}

	const n = 1500
	var publishing sync.WaitGroup
	feed, stop := context.WithCancel(ctx)
	defer publishing.Wait()
	defer stop()
	publishing.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond) // the last kill is to find some left to do
		defer pace.Stop()
		for i := 0; i < n && feed.Err() == nil; i++ {
			<-pace.C
			for err := error(nil); feed.Err() == nil; { // the id makes repeats one message
				attempt, cancel := context.WithTimeout(feed, 2*time.Second)
				_, err = js.Publish(attempt, "orders.a", fmt.Appendf(nil, "order %d", i), jetstream.WithMsgID(fmt.Sprint(i)))
				cancel()
				if err == nil {
					break
				}
			}
		}
	})
	upper, err := js.Stream(ctx, "UPPER")
	c.must(err)
	outputs := func() uint64 {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second) // a leader that is killed does not answer
		defer cancel()
		info, err := upper.Info(attempt)
		if err != nil {
			return 0
		}
		return info.State.Msgs
	}
	for _, kill := range []uint64{n / 10, n / 2} {
		waitFor(t, healthLimit, fmt.Sprint(kill, " outputs"), func() bool { return outputs() >= kill })
		at := c.Named(c.pluginRuns(router, "upper").Node)
		c.must(at.Kill())
		begun, had := time.Now(), outputs()
		waitFor(t, healthLimit, "outputs after the kill", func() bool { return outputs() >= min(had+50, n) })
		t.Logf("%s was killed; 50 further outputs after %s", at.Name, time.Since(begun).Round(time.Millisecond))
		if next := c.pluginRuns(router, "upper"); next.Node == at.Name {
			t.Errorf("the plugin is said to run on %s, which is dead", at.Name)
		}
		c.must(at.Start())
		c.formed()
	}
	publishing.Wait()
	waitFor(t, healthLimit, "all outputs", func() bool { return outputs() >= n })
	c.healthy()
	where := c.pluginRuns(router, "upper").Node
	for _, node := range c.Nodes {
		if got := c.pluginRuns(node, "upper").Node; got != where {
			t.Errorf("%s says that the plugin runs on %s, not on %s", node.Name, got, where)
		}
	}

	all, err := workload.ReadAll(ctx, nc, "UPPER")
	c.must(err)
	c.must(workload.CheckEqual(all))
	for i, m := range all[0].Messages {
		if want := fmt.Sprintf("ORDER %d", i); string(m.Data) != want {
			t.Fatalf("output %d of %d is %q, not %q", i, len(all[0].Messages), m.Data, want)
		}
	}
	if got := len(all[0].Messages); got != n {
		t.Errorf("%d outputs of %d messages", got, n)
	}
	kv, err := js.KeyValue(ctx, "state")
	c.must(err)
	entry, err := kv.Get(ctx, "orders.a")
	c.must(err)
	if string(entry.Value()) != fmt.Sprint(n) {
		t.Errorf("the plugin has counted %s of %d messages", entry.Value(), n)
	}

	if err := c.pluginCall(nc, service.VerbBind, service.BindRequest{Plugin: "none", Stream: "ORDERS"}, nil); err == nil ||
		!strings.Contains(err.Error(), `plugin "none" not found`) {
		t.Errorf("bind of an unknown plugin: %v", err)
	}
	c.must(c.pluginCall(nc, service.VerbUnbind, service.Target{Plugin: "upper"}, nil))
	c.must(c.pluginCall(nc, service.VerbRemove, service.Target{Plugin: "upper"}, nil))
}
