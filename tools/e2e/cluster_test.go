package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// healthLimit bounds what a cluster needs to be whole again without a hand.
const healthLimit = 60 * time.Second

// testCluster is a cluster under test: of millraced, or of the program that MILLRACE_TEST_CLUSTER names.
type testCluster struct {
	*cluster.Cluster
	t     *testing.T
	stock bool // storage nodes are nats-server: it shows what of a test is wrong, and is known to lose some
}

// storageProgram is the program of storage nodes.
func storageProgram(t testing.TB) string {
	t.Helper()
	switch name := os.Getenv("MILLRACE_TEST_CLUSTER"); name {
	case "", "millraced":
		return serverPath
	case "nats-server":
		return peerProgram(t)
	default:
		return name
	}
}

// long skips a test that "make e2e" has no time for.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("MILLRACE_CHAOS") == "" {
		t.Skip("\"make chaos\" runs it")
	}
}

// newCluster writes the files of a cluster, which it does not start. The test is a parallel one then:
// clusters wait more than they work.
func newCluster(t *testing.T, storage int, change ...func(*cluster.Options)) *testCluster {
	t.Helper()
	t.Parallel()
	return makeCluster(t, storage, change...)
}

func makeCluster(t *testing.T, storage int, change ...func(*cluster.Options)) *testCluster {
	t.Helper()
	o := cluster.Options{Program: storageProgram(t), Storage: storage, Dir: t.TempDir()}
	c := &testCluster{t: t, stock: !cluster.IsMillraced(o.Program)}
	if c.stock {
		o.JetStream = []string{"sync_interval: always"} // as ours does
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if c.Cluster, err = cluster.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, n := range c.Nodes {
			if strings.Contains(n.Log.Tail(-1), "DATA RACE") {
				t.Errorf("the race detector found something in %s", n.Name)
			}
			if t.Failed() {
				t.Logf("log of %s:\n%s", n.Name, n.Log.Tail(60))
			}
		}
	})
	return c
}

// startNodes starts a cluster of storage nodes on loopback ports and waits until it is formed.
func startNodes(t *testing.T, storage int, change ...func(*cluster.Options)) *testCluster {
	t.Helper()
	c := newCluster(t, storage, change...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	c.formed()
	return c
}

// inNetwork gives each of n nodes a network namespace of its own.
func inNetwork(t *testing.T, n int) func(*cluster.Options) {
	t.Helper()
	network, err := cluster.NewNetwork(n)
	if errors.Is(err, cluster.ErrNoNetwork) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	return func(o *cluster.Options) { o.Network = network }
}

func (c *testCluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// context ends with the test, or after limit.
func (c *testCluster) context(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), limit, fmt.Errorf("after %s", limit))
	c.t.Cleanup(cancel)
	return ctx
}

func (c *testCluster) formed() {
	c.t.Helper()
	c.must(c.WaitFormed(c.context(healthLimit), 0))
}

func (c *testCluster) healthy() {
	c.t.Helper()
	c.must(c.WaitHealthy(c.context(healthLimit)))
}

// client is a client of one node.
func (c *testCluster) client(n *cluster.Node) (*nats.Conn, jetstream.JetStream) {
	c.t.Helper()
	nc, err := c.Connect(n)
	c.must(err)
	js, err := jetstream.New(nc)
	c.must(err)
	return nc, js
}

// leader is the node that leads a stream.
func (c *testCluster) leader(stream string) *cluster.Node {
	c.t.Helper()
	var leader *cluster.Node
	for _, n := range c.Running() {
		nc, _ := c.client(n)
		waitFor(c.t, healthLimit, "leader of "+stream, func() bool {
			info, err := workload.Info(c.t.Context(), nc, stream)
			if err != nil || info.Cluster == nil {
				return false
			}
			leader = c.Named(info.Cluster.Leader)
			return leader != nil
		})
		nc.Close()
		break
	}
	return leader
}

// followers are the storage nodes but the leader of a stream.
func (c *testCluster) followers(stream string) []*cluster.Node {
	c.t.Helper()
	leader := c.leader(stream)
	return slices.DeleteFunc(slices.Clone(c.Storage()), func(n *cluster.Node) bool { return n == leader })
}

// Streams of the load.
const (
	ordersStream = "ORDERS" // kept
	queueStream  = "QUEUE"  // emptied by workers
	bucketName   = "CONF"
)

// load is clients of all kinds that work while a test hurts the cluster.
type load struct {
	c          *testCluster
	publishers []*workload.Publisher // of ordersStream
	feeders    []*workload.Publisher // of queueStream
	orders     workload.Deliveries
	queue      workload.Deliveries
	bucket     *workload.Bucket

	stopPublish, stopWorkers, stopDrain context.CancelFunc
	publishing, working                 sync.WaitGroup
	published                           chan struct{} // closed when no publisher sends any more
	ended                               atomic.Bool   // by stop
}

// startLoad makes streams of the given number of replicas and starts clients of the given nodes, which
// go to others when theirs is gone.
func (c *testCluster) startLoad(replicas int, nodes ...*cluster.Node) *load {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.Storage()
	}
	l := &load{c: c, bucket: &workload.Bucket{Name: bucketName}, published: make(chan struct{})}
	l.createStreams(replicas, nodes[0])

	i := 0
	connect := func() *nats.Conn {
		nc, err := c.ConnectAny(nodes[i%len(nodes)])
		c.must(err)
		i++
		return nc
	}
	for k := range 3 {
		p := &workload.Publisher{ID: fmt.Sprint("P", k), Subject: "orders", Conn: connect(), Window: 1, Pause: 10 * time.Millisecond}
		if k == 2 {
			p.Window, p.Padding, p.Pause = 16, 2000, 100*time.Millisecond
		}
		l.publishers = append(l.publishers, p)
	}
	for k := range 2 {
		l.feeders = append(l.feeders, &workload.Publisher{
			ID: fmt.Sprint("Q", k), Subject: "queue", Conn: connect(), Window: 8, Pause: 100 * time.Millisecond,
		})
	}
	l.run(connect)
	c.t.Cleanup(l.stop)
	return l
}

func (l *load) createStreams(replicas int, at *cluster.Node) {
	c := l.c
	c.t.Helper()
	nc, js := c.client(at)
	defer nc.Close()
	ctx := c.context(healthLimit)
	for _, s := range []jetstream.StreamConfig{
		{Name: ordersStream, Subjects: []string{"orders.>"}, Replicas: replicas},
		{Name: queueStream, Subjects: []string{"queue.>"}, Replicas: replicas, Retention: jetstream.WorkQueuePolicy},
	} {
		_, err := js.CreateStream(ctx, s)
		c.must(err)
		_, err = js.CreateConsumer(ctx, s.Name, jetstream.ConsumerConfig{
			Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Second, MaxAckPending: 1000,
		})
		c.must(err)
	}
	c.must(l.bucket.Create(ctx, js, replicas))
}

// run starts all clients.
func (l *load) run(connect func() *nats.Conn) {
	t := l.c.t
	ctx, stop := context.WithCancel(context.Background())
	drain, stopDrain := context.WithCancel(context.Background())
	work, stopWorkers := context.WithCancel(context.Background())
	l.stopPublish, l.stopDrain, l.stopWorkers = stop, stopDrain, stopWorkers
	report := func(err error) {
		if err != nil && !l.ended.Load() {
			t.Error(err)
		}
	}
	for _, p := range slices.Concat(l.publishers, l.feeders) {
		l.publishing.Go(func() { report(p.Run(ctx, drain)) })
	}
	for k := range 3 {
		nc := connect()
		l.publishing.Go(func() { report(l.bucket.Run(ctx, nc, k)) })
	}
	for _, w := range []*workload.Worker{
		{Stream: ordersStream, Consumer: "worker", Conn: connect(), Shared: &l.orders},
		{Stream: queueStream, Consumer: "worker", Conn: connect(), Shared: &l.queue},
		{Stream: queueStream, Consumer: "worker", Conn: connect(), Shared: &l.queue},
	} {
		l.working.Go(func() { report(w.Run(work, l.published)) })
	}
}

// staleLeaders says that the test has leaders that do not know yet that they are none.
func (l *load) staleLeaders() { l.orders.StaleLeaders, l.queue.StaleLeaders = true, true }

// stop ends all clients at once, with what they have got done.
func (l *load) stop() {
	l.ended.Store(true)
	l.stopPublish()
	l.stopDrain()
	l.stopWorkers()
	l.publishing.Wait()
	l.working.Wait()
}

// progress waits until clients of every kind get on.
func (l *load) progress(what string) {
	l.c.t.Helper()
	publishers := slices.Concat(l.publishers, l.feeders)
	before := []int{l.orders.Count(), l.queue.Count(), l.bucket.Writes()}
	acks := make([]int, len(publishers))
	for i, p := range publishers {
		acks[i] = p.Acks()
	}
	begun := time.Now()
	waitFor(l.c.t, healthLimit, "progress: "+what, func() bool {
		for i, n := range []int{l.orders.Count(), l.queue.Count(), l.bucket.Writes()} {
			if n < before[i]+5 {
				return false
			}
		}
		for i, p := range publishers {
			if p.Acks() < acks[i]+20 {
				return false
			}
		}
		return true
	})
	l.c.t.Logf("%s: all get on after %s", what, time.Since(begun).Round(10*time.Millisecond))
}

// publishProgress waits until one of the publishers gets on.
func (l *load) publishProgress(what string) {
	l.c.t.Helper()
	before := l.acks()
	waitFor(l.c.t, healthLimit, "acknowledged publishes: "+what, func() bool { return l.acks() > before+20 })
}

func (l *load) acks() (n int) {
	for _, p := range slices.Concat(l.publishers, l.feeders) {
		n += p.Acks()
	}
	return n
}

// silence waits until no publisher has had anything acknowledged for a while.
func (l *load) silence(while time.Duration) {
	l.c.t.Helper()
	l.silenceOf(while, slices.Concat(l.publishers, l.feeders))
}

func (l *load) silenceOf(while time.Duration, publishers []*workload.Publisher) {
	l.c.t.Helper()
	if len(publishers) == 0 {
		l.c.t.Fatal("no publishers to be silent")
	}
	waitFor(l.c.t, healthLimit, "end of acknowledgements", func() bool {
		return !slices.ContainsFunc(publishers, func(p *workload.Publisher) bool { return time.Since(p.LastAck()) < while })
	})
}

// finish ends the clients and checks everything: nothing that was acknowledged is lost, nothing is there
// twice, all is in order, all replicas are equal, and the cluster is whole.
func (l *load) finish() {
	l.c.t.Helper()
	if err := l.verify(); err != nil {
		l.c.t.Error(err)
	}
}

// verify is finish, for a test that wants to know what was found.
func (l *load) verify() error {
	c := l.c
	c.t.Helper()
	l.stopPublish()
	drained := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { l.publishing.Wait(); close(drained) })
	select {
	case <-drained:
	case <-time.After(healthLimit):
		c.t.Errorf("publishes are not acknowledged %s after the last was sent", healthLimit)
	}
	l.stopDrain()
	wg.Wait()
	c.healthy()
	close(l.published)
	worked := make(chan struct{})
	wg.Go(func() { l.working.Wait(); close(worked) })
	select {
	case <-worked:
	case <-time.After(healthLimit):
	}
	l.stopWorkers() // those that run complain now
	wg.Wait()
	if c.t.Failed() {
		return nil
	}
	begun := time.Now()
	err := l.check()
	c.t.Logf("%d publishes, %d deliveries, %d writes of keys; checked in %s", l.acks(), l.orders.Count()+l.queue.Count(), l.bucket.Writes(),
		time.Since(begun).Round(10*time.Millisecond))
	return err
}

// check reads each replica.
func (l *load) check() error {
	c := l.c
	orders, feed := published(l.publishers), published(l.feeders)
	errs := []error{
		workload.CheckDelivered("consumer of "+ordersStream, &l.orders, orders),
		workload.CheckDelivered("consumer of "+queueStream, &l.queue, feed),
	}
	nc, _ := c.client(c.Running()[0])
	ctx := c.context(2 * time.Minute)
	for stream, check := range map[string]func(*workload.Content) error{
		ordersStream:       func(s *workload.Content) error { return workload.CheckPublished(s, orders) },
		queueStream:        workload.CheckEmpty,
		"KV_" + bucketName: l.bucket.Check,
	} {
		all, err := workload.ReadAll(ctx, nc, stream)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, workload.CheckEqual(all), check(all[0]))
	}
	errs = append(errs, c.WaitHealthy(ctx))
	return errors.Join(errs...)
}

func published(publishers []*workload.Publisher) (all []workload.Published) {
	for _, p := range publishers {
		all = append(all, p.Published())
	}
	return all
}

// tolerate reports what was found: as an error, but for what nats-server is known to lose.
func (c *testCluster) tolerate(why string, err error) {
	c.t.Helper()
	switch {
	case err == nil:
	case c.stock:
		c.t.Logf("nats-server, %s: %v", why, err)
	default:
		c.t.Error(err)
	}
}

// publishing runs a publisher until stop is called, which waits for what is on its way.
func publishing(t *testing.T, p *workload.Publisher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	drain, giveUp := context.WithTimeout(context.Background(), healthLimit)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx, drain); err != nil {
			t.Error(err)
		}
	})
	end := func() {
		cancel()
		wg.Wait()
		giveUp()
	}
	t.Cleanup(func() {
		giveUp()
		end()
	})
	return end
}

// storeOf is the folder of a node's store, before there is a node.
func storeOf(o *cluster.Options, i int) string {
	return filepath.Join(o.Dir, fmt.Sprintf("n%d", i+1), "store")
}
