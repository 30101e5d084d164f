package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestCrashLosesNothing kills the server with SIGKILL again and again while several clients publish
// without waiting for each answer and consumers acknowledge what they get. Of every stream it then
// holds: what was acknowledged is there, once, under the sequence that the acknowledgement named,
// with its content; nothing else is there than what was sent; consumers got all of it and nothing
// again after a confirmed acknowledgement.
func TestCrashLosesNothing(t *testing.T) {
	kills := 8
	if text := os.Getenv("MILLRACE_TEST_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("MILLRACE_TEST_KILLS: %v", err)
		}
		kills = n
	}
	s := startServer(t)
	_, js := s.jetstream()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(kills)*20*time.Second+2*time.Minute)
	defer cancel()

	var acks atomic.Int64
	var wg sync.WaitGroup
	stopPublish, published := make(chan struct{}), make(chan struct{})
	var runs []*crashStream
	for _, c := range []crashStream{
		{name: "PLAIN", publishers: 2},
		{name: "BIG", publishers: 1, padding: 20000},
		{name: "DEDUPE", publishers: 2, retry: true},
		{name: "QUEUE", publishers: 1, retry: true, retention: jetstream.WorkQueuePolicy},
	} {
		c := &c
		c.create(t, ctx, js)
		for i := range c.publishers {
			p := &publisher{id: fmt.Sprintf("%s%d", c.name, i), stream: c, acks: &acks, acked: make(map[string]uint64)}
			c.running = append(c.running, p)
			_, pjs := s.jetstream()
			wg.Go(func() { p.run(ctx, t, pjs, stopPublish) })
		}
		runs = append(runs, c)
	}
	var consuming sync.WaitGroup
	for _, c := range runs {
		_, cjs := s.jetstream()
		consuming.Go(func() { c.consume(ctx, t, cjs, published) })
	}

	for i := range kills {
		target := acks.Load() + 200 + rand.Int64N(1500)
		waitFor(t, time.Minute, fmt.Sprintf("progress after %d kills", i), func() bool { return acks.Load() >= target })
		s.kill()
		s.start()
	}
	close(stopPublish)
	wg.Wait()
	close(published)
	consuming.Wait()
	if t.Failed() {
		return
	}
	// One more restart: what the last process kept in memory only is not there any more.
	s.kill()
	s.start()
	for _, c := range runs {
		c.verify(t, ctx, js)
	}
	t.Logf("%d kills, %d acknowledged messages", kills, acks.Load())
}

// crashStream is one stream of the crash test and what its clients know about it.
type crashStream struct {
	name       string
	publishers int
	padding    int  // upper bound of random bytes added to each message
	retry      bool // publish again, with the same message id, until acknowledged
	retention  jetstream.RetentionPolicy

	running []*publisher

	// Owned by consume until it ends.
	delivered map[uint64]string // sequence -> message id
	confirmed map[uint64]bool   // acknowledged, and the server said so
}

func (c *crashStream) create(t *testing.T, ctx context.Context, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: c.name, Subjects: []string{c.name + ".>"}, Storage: jetstream.FileStorage, Retention: c.retention,
	})
	if err != nil {
		t.Fatalf("create stream %s: %v", c.name, err)
	}
	_, err = js.CreateConsumer(ctx, c.name, jetstream.ConsumerConfig{
		Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * time.Second, MaxAckPending: 1000,
	})
	if err != nil {
		t.Fatalf("create consumer of %s: %v", c.name, err)
	}
}

// content is the payload of a message id: always the same, different for every id.
func (c *crashStream) content(id string) []byte {
	seed := crc32.ChecksumIEEE([]byte(id))
	size := 16
	if c.padding > 0 {
		size = int(seed) % c.padding
	}
	return []byte(id + ":" + strings.Repeat(strconv.FormatUint(uint64(seed), 36), size/6+1))
}

// publisher sends numbered messages and remembers which were acknowledged.
type publisher struct {
	id     string
	stream *crashStream
	acks   *atomic.Int64     // of all publishers
	acked  map[string]uint64 // message id -> sequence
	sent   int
}

// inFlight is how many messages of one publisher wait for their acknowledgement at most.
const inFlight = 256

type pendingMsg struct {
	id     string
	msg    *nats.Msg
	future jetstream.PubAckFuture
}

func (p *publisher) run(ctx context.Context, t *testing.T, js jetstream.JetStream, stop <-chan struct{}) {
	waiting := make(chan pendingMsg, inFlight)
	var wg sync.WaitGroup
	wg.Go(func() {
		for m := range waiting {
			p.collect(ctx, t, js, m)
		}
	})
	defer wg.Wait()
	defer close(waiting)
	for ctx.Err() == nil {
		select {
		case <-stop:
			return
		default:
		}
		p.sent++
		id := fmt.Sprintf("%s-%d", p.id, p.sent)
		msg := &nats.Msg{Subject: p.stream.name + ".x." + p.id, Data: p.stream.content(id), Header: nats.Header{"Test-Id": {id}}}
		if p.stream.retry {
			msg.Header.Set(nats.MsgIdHdr, id)
		}
		future, err := js.PublishMsgAsync(msg)
		if err != nil {
			future = nil // the connection is down and its buffer is full
		}
		waiting <- pendingMsg{id, msg, future}
	}
}

// collect waits for one acknowledgement. A message without one may be stored or not.
func (p *publisher) collect(ctx context.Context, t *testing.T, js jetstream.JetStream, m pendingMsg) {
	if m.future != nil {
		select {
		case ack := <-m.future.Ok():
			p.record(t, m.id, ack.Sequence)
			return
		case <-m.future.Err():
		case <-ctx.Done():
			return
		}
	}
	for p.stream.retry && ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		again := nats.NewMsg(m.msg.Subject)
		again.Data = m.msg.Data
		again.Header.Set("Test-Id", m.id)
		again.Header.Set(nats.MsgIdHdr, m.id)
		ack, err := js.PublishMsg(try, again, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			p.record(t, m.id, ack.Sequence)
			return
		}
		poll()
	}
}

func (p *publisher) record(t *testing.T, id string, seq uint64) {
	if seq == 0 {
		t.Errorf("%s: acknowledged with sequence 0", id)
	}
	p.acked[id] = seq
	p.acks.Add(1)
}

// consume takes and acknowledges everything until the publishers are done and nothing is left.
func (c *crashStream) consume(ctx context.Context, t *testing.T, js jetstream.JetStream, published <-chan struct{}) {
	c.delivered, c.confirmed = make(map[uint64]string), make(map[uint64]bool)
	for ctx.Err() == nil {
		select {
		case <-published:
			if c.consumed(ctx, js) {
				return
			}
		default:
		}
		cons, err := c.worker(ctx, js)
		if err != nil {
			poll()
			continue
		}
		c.fetch(ctx, t, cons)
	}
	t.Errorf("%s: consumer did not get to the end: %d delivered, %d confirmed", c.name, len(c.delivered), len(c.confirmed))
}

// worker looks the consumer up. The request is lost when the server is killed, so that it has a short
// limit of its own.
func (c *crashStream) worker(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return js.Consumer(ctx, c.name, "worker")
}

// consumed reports whether the consumer has nothing to deliver and nothing that waits for an ack.
func (c *crashStream) consumed(ctx context.Context, js jetstream.JetStream) bool {
	cons, err := c.worker(ctx, js)
	if err != nil {
		return false
	}
	info := cons.CachedInfo()
	return info.NumPending == 0 && info.NumAckPending == 0
}

// fetch takes one batch and acknowledges it, all messages at the same time.
func (c *crashStream) fetch(ctx context.Context, t *testing.T, cons jetstream.Consumer) {
	batch, err := cons.Fetch(100, jetstream.FetchMaxWait(time.Second))
	if err != nil {
		poll()
		return
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			t.Errorf("%s: metadata of a delivery: %v", c.name, err)
			continue
		}
		seq := meta.Sequence.Stream
		mu.Lock()
		if c.confirmed[seq] && isMillraced() { // nats-server answers before it writes
			t.Errorf("%s: message %d was delivered again after its confirmed acknowledgement", c.name, seq)
		}
		c.delivered[seq] = m.Headers().Get("Test-Id")
		mu.Unlock()
		wg.Go(func() {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if err := m.DoubleAck(try); err == nil {
				mu.Lock()
				c.confirmed[seq] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// verify reads the whole stream and compares it with what its clients know.
func (c *crashStream) verify(t *testing.T, ctx context.Context, js jetstream.JetStream) {
	t.Helper()
	acked := make(map[string]uint64)
	sent := 0
	for _, p := range c.running {
		sent += p.sent
		for id, seq := range p.acked {
			acked[id] = seq
		}
	}
	if len(acked) == 0 {
		t.Errorf("%s: nothing was acknowledged", c.name)
	}
	byID := make(map[string]bool)
	for _, id := range c.delivered {
		byID[id] = true
	}
	for id := range acked {
		if !byID[id] {
			t.Errorf("%s: acknowledged message %s was never delivered", c.name, id)
		}
	}
	stream, err := js.Stream(ctx, c.name)
	if err != nil {
		t.Fatalf("open stream %s: %v", c.name, err)
	}
	state := stream.CachedInfo().State
	if c.retention == jetstream.WorkQueuePolicy {
		if state.Msgs != 0 {
			t.Errorf("%s: %d messages are left after all were acknowledged", c.name, state.Msgs)
		}
		return
	}
	if state.Msgs != state.LastSeq || state.FirstSeq != 1 {
		t.Errorf("%s: %d messages from %d to %d, want no gap", c.name, state.Msgs, state.FirstSeq, state.LastSeq)
	}
	if int(state.Msgs) > sent {
		t.Errorf("%s: %d messages, only %d were sent", c.name, state.Msgs, sent)
	}
	stored := c.readAll(t, ctx, stream, state.LastSeq)
	for id, seq := range acked {
		if got, ok := stored[id]; !ok {
			t.Errorf("%s: acknowledged message %s (sequence %d) is lost", c.name, id, seq)
		} else if got != seq {
			t.Errorf("%s: %s was acknowledged as %d and is stored as %d", c.name, id, seq, got)
		}
	}
	for seq := uint64(1); seq <= state.LastSeq; seq++ {
		if _, ok := c.delivered[seq]; !ok {
			t.Errorf("%s: message %d was never delivered", c.name, seq)
		}
	}
}

// readAll returns message id -> sequence of a stream after looking at every message.
func (c *crashStream) readAll(t *testing.T, ctx context.Context, stream jetstream.Stream, last uint64) map[string]uint64 {
	t.Helper()
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatalf("read %s: %v", c.name, err)
	}
	messages, err := cons.Messages()
	if err != nil {
		t.Fatalf("read %s: %v", c.name, err)
	}
	defer messages.Stop()
	stored := make(map[string]uint64)
	order := make(map[string]int) // publisher -> last number
	for want := uint64(1); want <= last; want++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("read %s at %d: %v", c.name, want, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(errors.Join(fmt.Errorf("read %s at %d", c.name, want), err))
		}
		if meta.Sequence.Stream != want {
			t.Fatalf("%s: read message %d, want %d", c.name, meta.Sequence.Stream, want)
		}
		id := m.Headers().Get("Test-Id")
		if first, ok := stored[id]; ok {
			t.Errorf("%s: %s is stored twice, as %d and %d", c.name, id, first, want)
		}
		stored[id] = want
		if string(m.Data()) != string(c.content(id)) {
			t.Errorf("%s: message %d (%s) has another content than was sent", c.name, want, id)
		}
		name, number, _ := strings.Cut(id, "-")
		n, err := strconv.Atoi(number)
		if err != nil || m.Subject() != c.name+".x."+name {
			t.Errorf("%s: message %d with id %q has subject %q", c.name, want, id, m.Subject())
		}
		if !c.retry && n <= order[name] {
			t.Errorf("%s: %s is stored after %s-%d", c.name, id, name, order[name])
		}
		order[name] = n
	}
	return stored
}
