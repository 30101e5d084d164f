package workload

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Worker pulls from a durable consumer and acknowledges each message, asking for the answer that the
// acknowledgement is kept. Several workers may share a consumer.
type Worker struct {
	Stream, Consumer string
	Conn             *nats.Conn
	Shared           *Deliveries
}

// Deliveries is what the workers of one consumer got.
type Deliveries struct {
	// StaleLeaders allows deliveries after a confirmed acknowledgement: a leader that was paused or cut off
	// does not know yet that another has confirmed it.
	StaleLeaders bool

	mu        sync.Mutex
	delivered map[uint64]string    // sequence -> message id
	confirmed map[uint64]time.Time // when the server said that the acknowledgement is kept
	again     []string             // deliveries after that
	changed   []string             // a sequence that came with another message
	count     int
}

// Run pulls until the consumer has nothing left after published was closed, or until ctx is done, which
// is an error.
func (w *Worker) Run(ctx context.Context, published <-chan struct{}) error {
	js, err := jetstream.New(w.Conn)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		done := false
		select {
		case <-published:
			done = true
		default:
		}
		consumer, err := w.lookup(ctx, js)
		if err != nil {
			pause(ctx)
			continue
		}
		// What info says is of before the fetch: an empty fetch alone may be one that went nowhere.
		info := consumer.CachedInfo()
		if done && info.NumPending == 0 && info.NumAckPending == 0 {
			return nil
		}
		w.fetch(ctx, consumer)
	}
	return fmt.Errorf("consumer %s of stream %s did not get to its end: %w", w.Consumer, w.Stream, ctx.Err())
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

func (w *Worker) lookup(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return js.Consumer(ctx, w.Stream, w.Consumer)
}

// fetch takes a batch and acknowledges it.
func (w *Worker) fetch(ctx context.Context, c jetstream.Consumer) {
	asked := time.Now()
	batch, err := c.Fetch(100, jetstream.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		pause(ctx)
		return
	}
	var acks sync.WaitGroup
	defer acks.Wait()
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			continue
		}
		seq := meta.Sequence.Stream
		w.Shared.deliver(seq, m.Headers().Get(nats.MsgIdHdr), asked)
		acks.Go(func() {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if m.DoubleAck(try) == nil {
				w.Shared.confirm(seq)
			}
		})
	}
}

// deliver records a delivery to a pull request that was sent after asked: a message that was on its way
// when its acknowledgement was confirmed is no finding.
func (d *Deliveries) deliver(seq uint64, id string, asked time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.delivered == nil {
		d.delivered, d.confirmed = make(map[uint64]string), make(map[uint64]time.Time)
	}
	d.count++
	if at, ok := d.confirmed[seq]; ok && at.Before(asked) && !d.StaleLeaders {
		d.again = append(d.again, fmt.Sprintf("message %d (%s) came again after its acknowledgement was confirmed", seq, id))
	}
	if before, ok := d.delivered[seq]; ok && before != id {
		d.changed = append(d.changed, fmt.Sprintf("message %d was %s and is %s", seq, before, id))
	}
	d.delivered[seq] = id
}

func (d *Deliveries) confirm(seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.confirmed[seq]; !ok {
		d.confirmed[seq] = time.Now()
	}
}

// Count is how many deliveries there were, repeated ones too.
func (d *Deliveries) Count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// CheckDelivered finds acknowledged messages that no worker got, and those that came again after their
// acknowledgement was confirmed.
func CheckDelivered(what string, d *Deliveries, all []Published) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := findings{limit: 20}
	for _, text := range append(append([]string(nil), d.again...), d.changed...) {
		f.add("%s", text)
	}
	got := make(map[string]uint64)
	for seq, id := range d.delivered {
		if id == "" {
			continue // of no Publisher
		}
		if other, ok := got[id]; ok {
			f.add("%s came as messages %d and %d", id, other, seq)
		}
		got[id] = seq
	}
	for _, p := range all {
		for n, ack := range p.Acked {
			id := fmt.Sprintf("%s-%d", p.Publisher, n)
			if _, ok := got[id]; !ok {
				f.add("%s, acknowledged as %d, was never delivered", id, ack.Seq)
			}
		}
	}
	return f.err(what)
}

// CheckEmpty finds what a work-queue stream still has after its worker got to the end.
func CheckEmpty(c *Content) error {
	f := findings{limit: 5}
	for _, m := range c.Messages {
		f.add("message %d (%s) was acknowledged and is there", m.Seq, m.ID)
	}
	return f.err("stream " + c.Stream + " at leader " + c.Leader)
}
