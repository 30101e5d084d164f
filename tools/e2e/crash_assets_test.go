package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestCrashKeepsAssets kills the server while clients create, purge and delete streams and
// consumers. After each answer the asset is in the state that the answer confirmed; after an
// operation without an answer it is in the state before or after it, in no other.
func TestCrashKeepsAssets(t *testing.T) {
	const slots, kills = 4, 5
	s := startServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var confirmed, unanswered atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range slots {
		// Without a buffer nothing is sent after a reconnect that was asked for before it.
		_, js := s.jetstream(nats.ReconnectBufSize(-1))
		a := &asset{name: fmt.Sprintf("SLOT%d", i), js: js, confirmed: &confirmed, unanswered: &unanswered}
		wg.Go(func() {
			if err := a.run(ctx, stop); err != nil {
				t.Errorf("%s: %v", a.name, err)
			}
		})
	}
	for i := range kills {
		target := confirmed.Load() + 20 + rand.Int64N(200)
		waitFor(t, time.Minute, fmt.Sprintf("progress after %d kills", i), func() bool {
			return confirmed.Load() >= target || t.Failed()
		})
		s.kill()
		s.start()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d confirmed operations, %d without an answer", confirmed.Load(), unanswered.Load())
}

// asset is one stream name with at most one durable consumer. Its operations run one after the other.
type asset struct {
	name                  string
	js                    jetstream.JetStream
	confirmed, unanswered *atomic.Int64
	state                 assetState
}

// assetState is what a client can see of an asset.
type assetState struct {
	exists, consumer bool
	messages, last   uint64
}

// operation is one request and what it makes of a state.
type operation struct {
	name  string
	do    func(context.Context) error
	after assetState
}

// next chooses an operation that the current state allows.
func (a *asset) next() operation {
	s := a.state
	if !s.exists {
		return operation{"create stream", func(ctx context.Context) error {
			_, err := a.js.CreateStream(ctx, jetstream.StreamConfig{Name: a.name, Subjects: []string{a.name}})
			return err
		}, assetState{exists: true}}
	}
	switch n := rand.IntN(10); {
	case n == 0:
		return operation{"delete stream", func(ctx context.Context) error {
			return a.js.DeleteStream(ctx, a.name)
		}, assetState{}}
	case n == 1:
		s.messages = 0
		return operation{"purge", func(ctx context.Context) error {
			stream, err := a.js.Stream(ctx, a.name)
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		}, s}
	case n < 4 && s.consumer:
		s.consumer = false
		return operation{"delete consumer", func(ctx context.Context) error {
			return a.js.DeleteConsumer(ctx, a.name, "D")
		}, s}
	case n < 4:
		s.consumer = true
		return operation{"create consumer", func(ctx context.Context) error {
			_, err := a.js.CreateConsumer(ctx, a.name, jetstream.ConsumerConfig{Durable: "D", AckPolicy: jetstream.AckExplicitPolicy})
			return err
		}, s}
	default:
		s.messages++
		s.last++
		return operation{"publish", func(ctx context.Context) error {
			_, err := a.js.Publish(ctx, a.name, []byte("x"), jetstream.WithRetryAttempts(0))
			return err
		}, s}
	}
}

func (a *asset) run(ctx context.Context, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return a.check(ctx, a.state, a.state)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		op := a.next()
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := op.do(try)
		cancel()
		if err == nil {
			a.state = op.after
			a.confirmed.Add(1)
			if rand.IntN(5) > 0 {
				continue
			}
			if err := a.check(ctx, a.state, a.state); err != nil {
				return fmt.Errorf("after a confirmed %s: %w", op.name, err)
			}
			continue
		}
		a.unanswered.Add(1)
		if err := a.check(ctx, a.state, op.after); err != nil {
			return fmt.Errorf("after %s without an answer: %w", op.name, err)
		}
	}
}

// check reads the state until the server answers and takes it over if it is one of two.
func (a *asset) check(ctx context.Context, before, after assetState) error {
	for {
		got, err := a.read(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			poll()
			continue
		}
		if got != before && got != after {
			return fmt.Errorf("state is %+v, want %+v or %+v", got, before, after)
		}
		a.state = got
		return nil
	}
}

func (a *asset) read(ctx context.Context) (assetState, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stream, err := a.js.Stream(ctx, a.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return assetState{}, nil
	}
	if err != nil {
		return assetState{}, err
	}
	st := stream.CachedInfo().State
	s := assetState{exists: true, messages: st.Msgs, last: st.LastSeq}
	_, err = stream.Consumer(ctx, "D")
	if err == nil {
		s.consumer = true
	} else if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return assetState{}, err
	}
	return s, nil
}
