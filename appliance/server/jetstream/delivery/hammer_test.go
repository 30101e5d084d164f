package delivery

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// arrayStream is a Source of n equal messages that costs next to nothing.
type arrayStream struct {
	last atomic.Uint64
	data []byte
}

func (s *arrayStream) Bounds() (first, last uint64) { return 1, s.last.Load() }

func (s *arrayStream) Next(from uint64, _ []string) (uint64, bool) {
	return from, from <= s.last.Load()
}

func (s *arrayStream) Load(seq uint64, m *Message, _ func()) error {
	m.Seq, m.Subject, m.Data = seq, "orders.new", append(m.Data[:0], s.data...)
	return nil
}

func (s *arrayStream) Pending(from uint64, _ []string) uint64 {
	return s.last.Load() + 1 - min(from, s.last.Load()+1)
}

func (s *arrayStream) LastPerSubject([]string, uint64) []uint64 { return nil }

func (s *arrayStream) TimeToSeq(time.Time) uint64 { return 1 }

// ackingBus answers every delivery at once with an acknowledgement, and a used up request with another.
type ackingBus struct {
	*fakeBus
	acks, pulls func(Request)
	batch       int
	got         int
	limit       int
	done        chan struct{}
	subject     []byte
	reply       []byte
	request     []byte
}

func (b *ackingBus) Borrow() Publisher { return b }

func (b *ackingBus) HasInterest(string) bool { return true }

func (b *ackingBus) Subscribe(subj, _ string, handle func(Request)) (func(), error) {
	if subj == "$JS.ACK.S.C.*.*.*.*.*" {
		b.acks = handle
	} else {
		b.pulls = handle
	}
	return func() {}, nil
}

func (b *ackingBus) PublishAs(_, _, reply string, _, _ []byte) int {
	b.subject = append(b.subject[:0], reply...)
	if b.acks != nil {
		b.acks(Request{Subject: b.subject})
	}
	if b.got++; b.got%b.batch == 0 {
		b.pulls(Request{Reply: b.reply, Data: b.request})
	}
	if b.got == b.limit {
		close(b.done)
	}
	return 1
}

func newAckingBus(batch int) *ackingBus {
	return &ackingBus{fakeBus: newFakeBus(), batch: batch, done: make(chan struct{}), reply: []byte("_INBOX.x"),
		request: fmt.Appendf(nil, `{"batch":%d}`, batch)}
}

func benchmarkPull(b *testing.B, log Log) {
	stream := &arrayStream{data: make([]byte, 128)}
	stream.last.Store(1 << 40)
	bus := newAckingBus(1000)
	bus.limit = b.N
	c, err := New(Config{Stream: "S", Name: "C", Source: stream, Bus: bus, Log: log, Config: api.ConsumerConfig{Durable: "C",
		AckPolicy: api.AckExplicit, AckWait: time.Minute, MaxAckPending: 10000, MaxWaiting: 512}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	bus.pulls(Request{Reply: bus.reply, Data: bus.request})
	<-bus.done
	b.StopTimer()
	c.Close()
}

func BenchmarkPullAckMemory(b *testing.B) { benchmarkPull(b, nil) }

func BenchmarkPullAckLog(b *testing.B) { benchmarkPull(b, discardLog{}) }

// discardLog commits at once and keeps nothing.
type discardLog struct{}

func (discardLog) Propose(_ []byte, committed func()) error {
	committed()
	return nil
}

// The steady state of a pull consumer allocates per request and per entry, not per message.
func TestPullDoesNotAllocatePerMessage(t *testing.T) {
	r := testing.Benchmark(func(b *testing.B) { benchmarkPull(b, discardLog{}) })
	if r.N > 10_000 && r.AllocsPerOp() > 0 {
		t.Errorf("%d allocations per message", r.AllocsPerOp())
	}
}

// TestHammer publishes, pulls, acknowledges, refuses, removes and asks for the state at once; at the
// end every message that was not removed is acknowledged, and nothing is left.
func TestHammer(t *testing.T) {
	const messages, pullers = 3000, 4
	stream, bus := newFakeStream(), newFakeBus()
	log := newFakeLog()
	c, err := New(Config{Stream: "S", Name: "C", Source: stream, Bus: bus, Log: log, Config: api.ConsumerConfig{Durable: "C",
		AckPolicy: api.AckExplicit, AckWait: 50 * time.Millisecond, MaxAckPending: 200, MaxWaiting: 512}})
	if err != nil {
		t.Fatal(err)
	}
	c.Retain(true)
	if _, err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var acked atomic.Int64
	var pulls [pullers]atomic.Int64 // messages asked for and not yet got
	bus.onSend = func(m sent) {
		// Runs under the lock of the bus, which is not needed to hand an ack to the consumer.
		pulls[m.to[0]-'0'].Add(-1) // also if its ack is lost
		verb := "+ACK"
		switch rand.IntN(10) {
		case 0:
			verb = "-NAK"
		case 1:
			return // lost
		}
		if m.reply != "" {
			bus.handlers["$JS.ACK.S.C.*.*.*.*.*"](Request{Subject: []byte(m.reply), Data: []byte(verb)})
			acked.Add(1)
		}
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	removed := map[uint64]bool{}
	wg.Go(func() {
		for i := range messages {
			seq := stream.add(fmt.Sprint("s", i%7), "x")
			c.NewMessages()
			if i%50 == 0 {
				stream.remove(seq)
				c.Removed(seq)
				removed[seq] = true
			}
		}
	})
	for i := range pullers {
		inbox := fmt.Sprint(i)
		bus.listen(inbox)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if pulls[i].Load() < 100 {
					pulls[i].Add(50)
					c.onPull(Request{Reply: []byte(inbox), Data: []byte("50")})
				}
				info := c.Info()
				if info.AckFloor.Stream > info.Delivered.Stream || info.NumAckPending > 200 {
					t.Errorf("info %+v", info)
				}
			}
		})
	}
	deadline := time.After(30 * time.Second)
	for done := false; !done; {
		select {
		case <-deadline:
			t.Fatalf("not done: %+v", c.Info())
		case <-time.After(5 * time.Millisecond):
			info := c.Info()
			done = info.Delivered.Stream >= messages-1 && info.NumAckPending == 0 && info.NumPending == 0
		}
	}
	close(stop)
	wg.Wait()
	c.Close()
	if got, want := log.state().Snapshot(), c.m.Snapshot(); !bytes.Equal(got, want) {
		t.Error("what is committed in the end is not what was decided")
	}
	settled := map[uint64]bool{}
	for _, seq := range log.settled() {
		settled[seq] = true
	}
	for seq := range uint64(messages) {
		if !settled[seq+1] && !removed[seq+1] && c.Needs(seq+1, "s1") {
			t.Errorf("message %d is not settled", seq+1)
		}
	}
}

// TestNumPendingNeverDrifts compares the number that every delivery carries with a count.
func TestNumPendingNeverDrifts(t *testing.T) {
	for seed := range uint64(30) {
		inBubble(t, 0, func(t *bench) {
			rng := rand.New(rand.NewPCG(seed, 2))
			conf := explicit
			conf.MaxAckPending = -1
			if seed%3 > 0 {
				conf.FilterSubjects = []string{"a", "b"}[:seed%3]
			}
			if seed%2 == 0 {
				conf.DeliverPolicy = api.DeliverLastPerSubject
			}
			for range 200 {
				t.stream.add(string(rune('a'+rng.IntN(3))), "x")
			}
			t.start(conf)
			for range 300 {
				for range rng.IntN(3) {
					t.publish(string(rune('a' + rng.IntN(3))))
				}
				if _, last := t.stream.Bounds(); rng.IntN(3) == 0 {
					seq := 1 + rng.Uint64N(last)
					t.stream.remove(seq)
					t.Removed(seq)
					synctest.Wait()
				}
				for _, m := range t.pull("in", `{"batch":1,"no_wait":true}`) {
					if m.status() != "" {
						continue
					}
					left := t.skip
					want := uint64(len(left))
					from := max(m.number(1), t.m.Horizon()) + 1
					want += t.stream.Pending(from, conf.Filters())
					if got := m.number(4); got != want || t.Info().NumPending != want {
						t.Fatalf("seed %d: message %d says %d pending, there are %d", seed, m.number(1), got, want)
					}
					if !slices.IsSorted(left) {
						t.Fatal("list is not sorted")
					}
				}
			}
		})
	}
}
