package e2e

import (
	"context"
	"errors"
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

// Bounds of a fail-over from a node that vanishes, as clients see it. The machines of the tests are busy.
const (
	vanishLimit = 5 * time.Second
	probePause  = 20 * time.Millisecond
	probeWait   = 8 * time.Second // of one request: longer than any fail-over
)

// probes are requests of one kind, one after the other, none of which waits for the others.
type probes struct {
	name string
	ask  func(ctx context.Context, n int) error

	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	list []probe
}

// probe is a request and, if it was answered, when.
type probe struct {
	n              int
	sent, answered time.Time
	err            error
}

// probing starts probes, which end with the test.
func probing(t *testing.T, name string, ask func(ctx context.Context, n int) error) *probes {
	ctx, stop := context.WithCancel(context.Background())
	p := &probes{name: name, ask: ask, stop: stop}
	p.wg.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			p.wg.Go(func() { p.one(n) })
			select {
			case <-ctx.Done():
			case <-time.After(probePause):
			}
		}
	})
	t.Cleanup(p.end)
	return p
}

func (p *probes) one(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), probeWait)
	defer cancel()
	sent := time.Now()
	err := p.ask(ctx, n)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, probe{n, sent, time.Now(), err})
}

// end waits for the probes that are on their way.
func (p *probes) end() {
	p.stop()
	p.wg.Wait()
}

// answeredAfter returns when the first of the probes that were sent after a time was answered.
func (p *probes) answeredAfter(at time.Time) (first time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.list {
		if x.err == nil && x.sent.After(at) && (first.IsZero() || x.answered.Before(first)) {
			first = x.answered
		}
	}
	return first
}

// gap returns the longest time between two times in which no probe was answered.
func (p *probes) gap(from, to time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	times := []time.Time{from, to}
	for _, x := range p.list {
		if x.err == nil && x.answered.After(from) && x.answered.Before(to) {
			times = append(times, x.answered)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for i, t := range times[1:] {
		longest = max(longest, t.Sub(times[i]))
	}
	return longest
}

// report tells how the probes fared that were sent within two seconds before, and after a node vanished:
// when the next one was answered, in which time they were lost, and what became of the others.
func (p *probes) report(cut, until time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lost, refused, late int
	var from, to, longest time.Duration
	var reason error
	var took, when time.Duration
	for _, x := range p.list {
		at := x.sent.Sub(cut)
		if at < -2*time.Second || x.sent.After(until) {
			continue
		}
		took = x.answered.Sub(x.sent)
		switch {
		case x.err == nil:
			longest = max(longest, took)
			if took > time.Second {
				late++
			}
		case errors.Is(x.err, context.DeadlineExceeded) || errors.Is(x.err, nats.ErrTimeout):
			if lost == 0 {
				from = at
			}
			from, to = min(from, at), max(to, at)
			lost++
		default:
			refused, reason, when = refused+1, x.err, at
		}
	}
	text := fmt.Sprintf("%s: lost %d, sent from %s to %s; longest answer %s, %d above 1 s", p.name, lost,
		from.Round(time.Millisecond), to.Round(time.Millisecond), longest.Round(time.Millisecond), late)
	if refused > 0 {
		text += fmt.Sprintf("; refused %d, the last sent at %s, after %s: %v", refused, when.Round(time.Millisecond), took, reason)
	}
	return text
}

// vanishing is a cluster of three nodes with a router, load, and probes at the router and at a node.
type vanishing struct {
	*testCluster
	router *cluster.Node
	probes []*probes
}

const probeStream = "PROBE"

func startVanishing(t *testing.T) *vanishing {
	c := newCluster(t, 3, inNetwork(t, 5), func(o *cluster.Options) {
		o.Routers = []string{o.Program, o.Program}
	})
	if c.stock {
		t.Skip("it takes nats-server longer")
	}
	c.must(c.Start())
	c.formed()
	v := &vanishing{testCluster: c, router: c.Routers()[0]}
	_, js := c.client(v.router)
	_, err := js.CreateStream(c.context(healthLimit), jetstream.StreamConfig{
		Name: probeStream, Subjects: []string{"probe.>"}, Replicas: 3, AllowDirect: true,
	})
	c.must(err)
	_, err = js.Publish(c.context(healthLimit), "probe.first", nil)
	c.must(err)
	return v
}

// publishes starts publishes to the probe stream at a node.
func (v *vanishing) publishes(n *cluster.Node) *probes {
	_, js := v.client(n)
	return v.probe("publish at "+n.Name, func(ctx context.Context, i int) error {
		_, err := js.Publish(ctx, "probe."+n.Name, fmt.Appendf(nil, "%d", i), jetstream.WithRetryAttempts(0),
			jetstream.WithMsgID(fmt.Sprintf("%s-%d", n.Name, i)))
		return err
	})
}

// gets starts direct gets of the probe stream at a node: any replica answers.
func (v *vanishing) gets(n *cluster.Node) *probes {
	nc, _ := v.client(n)
	return v.probe("get at "+n.Name, func(ctx context.Context, _ int) error {
		m, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+probeStream+".probe.first", nil)
		if err == nil && m.Header.Get("Status") != "" {
			err = fmt.Errorf("status %s", m.Header.Get("Status"))
		}
		return err
	})
}

// infos starts requests for the state of the probe stream at a node: its leader answers.
func (v *vanishing) infos(n *cluster.Node) *probes {
	nc, _ := v.client(n)
	return v.probe("info at "+n.Name, func(ctx context.Context, _ int) error {
		_, err := workload.Info(ctx, nc, probeStream)
		return err
	})
}

func (v *vanishing) probe(name string, ask func(ctx context.Context, n int) error) *probes {
	p := probing(v.t, name, ask)
	v.probes = append(v.probes, p)
	return p
}

// recovered waits until the first of each kind of probes sent after the cut is answered, checks the time, and
// tells it.
func (v *vanishing) recovered(what string, cut time.Time) {
	v.t.Helper()
	for _, p := range v.probes {
		waitFor(v.t, healthLimit, what+": "+p.name, func() bool { return !p.answeredAfter(cut).IsZero() })
		took := p.answeredAfter(cut).Sub(cut)
		v.t.Logf("%s: %s: answered after %s", what, p.name, took.Round(time.Millisecond))
		if took > vanishLimit {
			v.t.Errorf("%s: %s: answered after %s", what, p.name, took)
		}
	}
}

// survivor is a storage node that is not the given one.
func (v *vanishing) survivor(gone *cluster.Node) *cluster.Node {
	i := slices.IndexFunc(v.Storage(), func(n *cluster.Node) bool { return n != gone })
	return v.Storage()[i]
}

// deliveries counts the messages of the probe stream that a client of a node is delivered in some way.
type deliveries struct {
	name string

	mu    sync.Mutex
	times []time.Time
}

func (d *deliveries) note() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = append(d.times, time.Now())
}

func (d *deliveries) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.times)
}

// goOn returns the end of the first pause of more than a while in what came after a time, that time if there was none
// for longer than a fail-over takes, and zero if the pause lasts.
func (d *deliveries) goOn(after time.Time) (at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	const pause = 200 * time.Millisecond
	last := after
	for _, x := range d.times {
		switch {
		case x.Before(after):
		case x.Sub(last) > pause:
			return x
		default:
			last = x
		}
	}
	if last.Sub(after) > vanishLimit && time.Since(last) <= pause {
		return after // what it follows is led elsewhere
	}
	return time.Time{}
}

// watched has a client of a node follow the probe stream by a durable consumer, by an ordered one, and a
// bucket by a watcher; another client writes to the bucket.
func (v *vanishing) watched(n *cluster.Node) []*deliveries {
	ctx := v.context(2 * healthLimit)
	_, js := v.client(n)
	pull, ordered, watcher := &deliveries{name: "durable consumer"}, &deliveries{name: "ordered consumer"}, &deliveries{name: "watcher"}
	c, err := js.CreateConsumer(ctx, probeStream, jetstream.ConsumerConfig{
		Durable: "probe", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * time.Second, MaxAckPending: 1000,
	})
	v.must(err)
	following, err := c.Consume(func(m jetstream.Msg) {
		pull.note()
		m.Ack()
	})
	v.must(err)
	v.t.Cleanup(following.Stop)
	o, err := js.OrderedConsumer(ctx, probeStream, jetstream.OrderedConsumerConfig{})
	v.must(err)
	following, err = o.Consume(func(jetstream.Msg) { ordered.note() })
	v.must(err)
	v.t.Cleanup(following.Stop)

	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "WATCHED", Replicas: 3})
	v.must(err)
	w, err := kv.WatchAll(ctx)
	v.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range w.Updates() {
			watcher.note()
		}
	})
	v.t.Cleanup(func() {
		w.Stop()
		wg.Wait()
	})
	v.probe("put at "+n.Name, func(ctx context.Context, i int) error {
		_, err := kv.Put(ctx, fmt.Sprint("key", i%10), nil)
		return err
	})
	return []*deliveries{pull, ordered, watcher}
}

// TestClusterNodeVanishes pulls the cable of the leader of a stream: no connection is closed, what is sent
// to it is gone. Clients at a router and at another node go on.
func TestClusterNodeVanishes(t *testing.T) {
	v := startVanishing(t)
	gone := v.leader(probeStream)
	other := v.survivor(gone)
	for _, n := range []*cluster.Node{v.router, other} {
		v.publishes(n)
		v.gets(n)
		v.infos(n)
	}
	streams := v.watched(v.router)
	// The leader of the durable consumer is to vanish too, with the pull requests that it has.
	nc, _ := v.client(v.router)
	if name, err := workload.StepDownConsumer(v.context(healthLimit), nc, probeStream, "probe", gone.Name); err != nil || name != gone.Name {
		t.Logf("the consumer is led by %s: %v", name, err)
	}
	v.wait(time.Second)
	cut := time.Now()
	v.Vanish(gone)
	v.recovered(gone.Name+" vanishes", cut)
	v.wait(4 * time.Second)
	until := time.Now()
	for _, d := range streams {
		waitFor(t, healthLimit, d.name+" goes on", func() bool { return !d.goOn(cut).IsZero() })
		took := d.goOn(cut).Sub(cut)
		t.Logf("%s goes on after %s", d.name, took.Round(time.Millisecond))
		if d == streams[0] && took > vanishLimit {
			t.Errorf("the durable consumer goes on after %s", took)
		}
	}
	v.wait(probeWait)
	v.Return(gone)
	back := time.Now()
	v.healthy()
	t.Logf("healthy %s after the return", time.Since(back).Round(10*time.Millisecond))
	for _, p := range v.probes {
		p.end()
		t.Log(p.report(cut, until))
	}
}

func (v *vanishing) wait(d time.Duration) {
	select {
	case <-v.t.Context().Done():
	case <-time.After(d):
	}
}

// TestClusterNodesVanish takes away one node after the other under load, each of which comes back: nothing that
// was acknowledged is lost, nothing is there twice, and all replicas are equal.
func TestClusterNodesVanish(t *testing.T) {
	v := startVanishing(t)
	l := v.startLoad(3, v.Routers()...)
	l.staleLeaders()
	l.progress("at the start")
	for _, x := range []struct {
		what string
		node func() *cluster.Node
		cut  bool // the power, not the cable
		hurt func(what string)
	}{
		{"the leader of the stream", func() *cluster.Node { return v.leader(ordersStream) }, false, l.progress},
		{"the leader of the consumer", v.consumerLeader, true, l.progress},
		{"the leader of the meta group", v.metaLeader, true, func(what string) {
			v.created(what)
			l.progress(what)
		}},
		{"a router", func() *cluster.Node { return v.Routers()[1] }, false, l.publishProgress},
		{"a router", func() *cluster.Node { return v.Routers()[0] }, true, l.publishProgress},
	} {
		n := x.node()
		what := fmt.Sprintf("without %s, %s", x.what, n.Name)
		begun := time.Now()
		v.Vanish(n)
		if x.cut {
			v.must(n.Kill())
		}
		l.nextAck(what, begun, n)
		x.hurt(what)
		v.wait(vanishLimit) // longer than connections live
		v.Return(n)
		if x.cut {
			v.must(n.Start())
		}
		l.progress("again with " + n.Name)
	}
	l.finish()
}

// nextAck waits until a publisher has an acknowledgement of what it sent after begun, and checks the time.
// Clients of the node that is gone find out by their own pings, and are not looked at.
func (l *load) nextAck(what string, begun time.Time, gone *cluster.Node) {
	l.c.t.Helper()
	// An acknowledgement may have been on its way; the second is of a message that was sent after it.
	p := l.ofOthers(gone)[0]
	before := p.Acks()
	waitFor(l.c.t, healthLimit, "acknowledgements: "+what, func() bool { return p.Acks() >= before+2 })
	took := time.Since(begun)
	l.c.t.Logf("%s: acknowledged after %s", what, took.Round(time.Millisecond))
	if took > vanishLimit {
		l.c.t.Errorf("%s: acknowledged after %s", what, took)
	}
}

// created waits until a stream can be made: the meta group has a leader.
func (v *vanishing) created(what string) {
	v.t.Helper()
	begun := time.Now()
	_, js := v.client(v.Running()[0])
	waitFor(v.t, healthLimit, "a new stream: "+what, func() bool {
		ctx, cancel := context.WithTimeout(v.t.Context(), time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CREATED"})
		return err == nil
	})
	v.t.Logf("%s: a stream is made after %s more", what, time.Since(begun).Round(time.Millisecond))
	v.must(js.DeleteStream(v.context(healthLimit), "CREATED"))
}

// consumerLeader is the node that leads the consumer of the queue.
func (v *vanishing) consumerLeader() *cluster.Node {
	v.t.Helper()
	_, js := v.client(v.Running()[0])
	var leader *cluster.Node
	waitFor(v.t, healthLimit, "leader of the consumer", func() bool {
		c, err := js.Consumer(v.context(clusterTimeout), queueStream, "worker")
		if err == nil {
			leader = v.Named(c.CachedInfo().Cluster.Leader)
		}
		return leader != nil
	})
	return leader
}
