package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster/workload"
)

// TestClusterWatchersFollowLeaders has a watcher of a bucket and an ordered consumer, which are in the memory of their
// stream's leader, while that steps down and while its node is stopped cleanly: they are the same ones after it, have
// missed nothing, and their clients never had to notice.
func TestClusterWatchersFollowLeaders(t *testing.T) {
	c := startNodes(t, 3)
	if c.stock {
		t.Skip("nats-server has them anywhere")
	}
	ctx := c.context(2 * healthLimit)
	nc, js := c.client(c.Nodes[0])
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "WATCHED", Replicas: 3})
	c.must(err)
	const stream = "KV_WATCHED"
	leadStream(c, stream, 1)

	var wg sync.WaitGroup
	w, err := kv.WatchAll(ctx)
	c.must(err)
	watched := &deliveries{name: "watcher"}
	var revisions []uint64
	wg.Go(func() {
		for e := range w.Updates() {
			if e != nil { // nil: that is all there is
				watched.note()
				revisions = append(revisions, e.Revision())
			}
		}
	})
	o, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	c.must(err)
	ordered := &deliveries{name: "ordered consumer"}
	var metas []*jetstream.MsgMetadata
	following, err := o.Consume(func(m jetstream.Msg) {
		ordered.note()
		meta, err := m.Metadata()
		if err != nil {
			t.Error(err)
			return
		}
		metas = append(metas, meta)
	})
	c.must(err)

	writing, stop := context.WithCancel(ctx)
	wg.Go(func() {
		for writing.Err() == nil {
			try, cancel := context.WithTimeout(writing, time.Second)
			kv.Put(try, "key", nil) // of those that fail some are stored
			cancel()
		}
	})
	names := func() []string {
		s, err := js.Stream(ctx, stream)
		c.must(err)
		var list []string
		for name := range s.ConsumerNames(ctx).Name() {
			list = append(list, name)
		}
		slices.Sort(list)
		return list
	}
	goesOn := func(what string) {
		t.Helper()
		for _, d := range []*deliveries{watched, ordered} {
			before := d.count()
			waitFor(t, healthLimit, d.name+" goes on: "+what, func() bool { return d.count() > before+20 })
		}
	}
	goesOn("at the start")
	before := names()
	if len(before) != 2 {
		t.Fatalf("consumers %q, want two", before)
	}
	leadStream(c, stream, 2)
	goesOn("after a step-down")
	if now := names(); !slices.Equal(now, before) {
		t.Errorf("after a step-down: consumers %q, were %q", now, before)
	}
	c.must(c.Nodes[2].Stop())
	goesOn("after its leader was stopped")
	if now := names(); !slices.Equal(now, before) {
		t.Errorf("after its leader was stopped: consumers %q, were %q", now, before)
	}
	stop()
	following.Drain()
	<-following.Closed()
	c.must(w.Stop())
	nc.Close()
	wg.Wait()
	if !slices.IsSorted(revisions) || len(slices.Compact(slices.Clone(revisions))) != len(revisions) {
		t.Errorf("the watcher got revisions out of order, or twice: %v", revisions)
	}
	for i, m := range metas {
		if m.Sequence.Consumer != uint64(i+1) || m.Consumer != metas[0].Consumer {
			t.Fatalf("delivery %d is number %d of consumer %s", i+1, m.Sequence.Consumer, m.Consumer)
		}
	}
}

// leadStream has a node lead a stream.
func leadStream(c *testCluster, stream string, node int) {
	nc, _ := c.client(c.Nodes[0])
	defer nc.Close()
	waitFor(c.t, healthLimit, stream+" led by "+c.Nodes[node].Name, func() bool {
		if c.leader(stream) == c.Nodes[node] {
			return true
		}
		workload.StepDown(c.context(healthLimit), nc, stream, c.Nodes[node].Name) // who is not current yet is asked again
		return false
	})
}
