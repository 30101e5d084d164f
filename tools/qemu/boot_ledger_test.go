//go:build qemu

package qemu

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// long skips a test that takes minutes unless `make boot-long` runs it.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("MILLRACE_BOOT_LONG") == "" {
		t.Skip("takes some minutes: MILLRACE_BOOT_LONG=1 runs it")
	}
}

// fleetConn is a client of a fleet.
type fleetConn struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// fleetClient connects to one of the machines at urls, and to another or anew when that one is gone.
func fleetClient(t *testing.T, urls ...string) *fleetConn {
	t.Helper()
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.Timeout(5*time.Second), nats.PingInterval(3*time.Second), nats.MaxPingsOutstanding(2), nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		t.Fatal(err)
	}
	return &fleetConn{nc, js}
}

// testFleet makes a fleet of the image that testConfig has, with machines of 512 MiB and one processor, that ends with the
// test. It starts none of them.
func testFleet(t *testing.T, c fleetConfig) *fleet {
	t.Helper()
	box := testConfig(t, "")
	c.Board, c.Image, c.Dir, c.Logger = box.Board, box.Image, t.TempDir(), box.Logger
	c.MemoryMiB, c.CPUs, c.DataBytes = 512, 1, 1<<30
	f, err := newFleet(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	for _, m := range f.machines {
		m.cfg.BootTimeout = bootTimeout
	}
	return f
}

// ledger is what was published to a stream and acknowledged.
type ledger struct {
	t      *testing.T
	stream string
	news   chan struct{} // has room for one

	mu      sync.Mutex
	acked   map[uint64]uint64 // number of a message to its sequence
	ran     time.Duration     // how long publishing went on, without the times in which this process stood still
	last    time.Time         // of the last acknowledgement
	lastRan time.Duration     // ran, then
	gaps    []gap
}

// gap is a time without acknowledgements.
type gap struct {
	from time.Time
	took time.Duration // of ledger.ran: a test that is held up sees no acknowledgements, and they are not late
}

const (
	// longGap is from when on a gap is noted.
	longGap = 500 * time.Millisecond

	// maxPending is how many messages may wait for their acknowledgement.
	maxPending = 500

	// A message that was not acknowledged is tried again after a pause that doubles from the one to the other.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// newLedger makes a stream of that name, as soon as the cluster can.
func newLedger(ctx context.Context, t *testing.T, js jetstream.JetStream, stream string, replicas int) *ledger {
	t.Helper()
	for {
		once, cancel := context.WithTimeout(ctx, apiTimeout)
		_, err := js.CreateOrUpdateStream(once, jetstream.StreamConfig{
			Name: stream, Subjects: []string{stream + ".>"}, Replicas: replicas, Duplicates: time.Hour,
		})
		cancel()
		if err == nil {
			return &ledger{t: t, stream: stream, news: make(chan struct{}, 1), acked: make(map[uint64]uint64)}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("create stream %s: %v, last: %v", stream, ctx.Err(), err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// begin publishes a new message every so often, by turns over clients, until stop is called or the test ends. One that is
// not acknowledged does not keep the next from being sent: so a time without acknowledgements is one in which the
// cluster took nothing.
func (l *ledger) begin(ctx context.Context, t *testing.T, every time.Duration, clients ...*fleetConn) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		pending := make(chan struct{}, maxPending)
		for n := uint64(1); ctx.Err() == nil; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return
			case pending <- struct{}{}:
			}
			wg.Go(func() {
				l.publish(ctx, n, clients)
				<-pending
			})
		}
	})
	wg.Go(func() { l.clock(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// clock keeps ran until ctx ends.
func (l *ledger) clock(ctx context.Context) {
	const every = 50 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		l.mu.Lock()
		l.ran += min(now.Sub(last), 5*every)
		l.mu.Unlock()
		last = now
	}
}

// publish publishes message n, with its number as message id, until it is acknowledged or ctx ends. A cluster without a leader
// answers at once, so the pauses between tries grow: hundreds that wait and try ten times a second are more than an emulated
// cluster can refuse, and it would never get to elect a leader.
func (l *ledger) publish(ctx context.Context, n uint64, clients []*fleetConn) {
	pause := firstPause
	for turn := n; ctx.Err() == nil; turn++ {
		if c := clients[turn%uint64(len(clients))]; c.nc.IsConnected() {
			once, cancel := context.WithTimeout(ctx, 10*time.Second)
			ack, err := c.js.Publish(once, l.stream+".x", fmt.Appendf(nil, "message %d", n),
				jetstream.WithMsgID(fmt.Sprint(n)), jetstream.WithRetryAttempts(0))
			cancel()
			if err == nil {
				l.note(n, ack.Sequence)
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// note enters an acknowledgement.
func (l *ledger) note(n, sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[n] = sequence
	now := time.Now()
	if took := l.ran - l.lastRan; !l.last.IsZero() && took >= longGap {
		l.gaps = append(l.gaps, gap{l.last, took})
		l.t.Logf("stream %s: nothing acknowledged for %.2f s", l.stream, took.Seconds())
	}
	l.last, l.lastRan = now, l.ran
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// more waits until that many more are acknowledged.
func (l *ledger) more(ctx context.Context, t *testing.T, count int) {
	t.Helper()
	began, from := time.Now(), l.len()
	for first := time.Duration(0); l.len() < from+count; {
		select {
		case <-l.news:
			if first == 0 && l.len() > from {
				first = time.Since(began)
				t.Logf("next acknowledged message after %.1f s", first.Seconds())
			}
		case <-ctx.Done():
			t.Fatalf("%d messages acknowledged, want %d more than %d: %v", l.len(), count, from, ctx.Err())
		}
	}
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// check reads the stream and looks that what was acknowledged is there, once.
func (l *ledger) check(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	numbers := make(map[string]int)
	for seq, m := range readAll(ctx, t, js, l.stream) {
		id := m.Headers().Get(nats.MsgIdHdr)
		if numbers[id]++; string(m.Data()) != "message "+id {
			t.Errorf("stream %s: sequence %d has id %s and holds %q", l.stream, seq, id, m.Data())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for _, n := range slices.Sorted(maps.Keys(l.acked)) {
		switch numbers[fmt.Sprint(n)] {
		case 0:
			if lost++; lost <= 10 {
				t.Errorf("stream %s: message %d, acknowledged with sequence %d, is lost", l.stream, n, l.acked[n])
			}
		case 1:
		default:
			t.Errorf("stream %s: message %d is there %d times", l.stream, n, numbers[fmt.Sprint(n)])
		}
	}
	t.Logf("stream %s: %d messages acknowledged, %d lost; it holds %d", l.stream, len(l.acked), lost, len(numbers))
}

// readAll reads a stream from its first to its last message. A cluster may refuse for a while: that is tried again.
func readAll(ctx context.Context, t *testing.T, js jetstream.JetStream, stream string) map[uint64]jetstream.Msg {
	t.Helper()
	for {
		all, err := readOnce(ctx, js, stream)
		if err == nil {
			return all
		}
		t.Logf("read stream %s: %v", stream, err)
		select {
		case <-ctx.Done():
			t.Fatalf("read stream %s: %v, last: %v", stream, ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}

// readOnce reads a stream up to what was its last message at the beginning.
func readOnce(ctx context.Context, js jetstream.JetStream, stream string) (map[uint64]jetstream.Msg, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	last := s.CachedInfo().State.LastSeq
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	messages, err := c.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	all := make(map[uint64]jetstream.Msg)
	for seq := uint64(0); seq < last; {
		once, cancel := context.WithTimeout(ctx, time.Minute)
		m, err := messages.Next(jetstream.NextContext(once))
		cancel()
		if err != nil {
			return nil, fmt.Errorf("after sequence %d of %d: %w", seq, last, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		seq = meta.Sequence.Stream
		all[seq] = m
	}
	return all, nil
}
