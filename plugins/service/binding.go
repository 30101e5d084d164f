package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"millrace/plugins"
	"millrace/plugins/abi"
)

// Stats count what a binding did since the process took it over.
type Stats struct {
	Messages     uint64            `json:"messages"` // settled
	Batches      uint64            `json:"batches"`
	Acks         uint64            `json:"acks"`
	Naks         uint64            `json:"naks"`
	Terms        uint64            `json:"terms"`
	DeadLetters  uint64            `json:"dead_letters"`
	Publications uint64            `json:"publications"`
	Writes       uint64            `json:"writes"`
	Traps        map[string]uint64 `json:"traps,omitempty"` // failures of single messages, by kind
	Starts       int               `json:"starts"`          // instances
	CPU          time.Duration     `json:"cpu_ns"`          // of runs that succeeded
	Memory       int64             `json:"memory"`          // bytes
	LastError    string            `json:"last_error,omitempty"`
	LastErrorAt  *time.Time        `json:"last_error_at,omitempty"`
}

// stats are the counters of a binding; they outlive its restarts.
type stats struct {
	mu      sync.Mutex
	counts  Stats
	metrics map[string]int64
}

func (st *stats) update(f func(*Stats)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(&st.counts)
}

func (st *stats) metric(name string, kind abi.MetricKind, value int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if kind == abi.Counter {
		value += st.metrics[name]
	}
	st.metrics[name] = value
}

// binding runs one plugin on one consumer.
type binding struct {
	service *Service
	spec    *spec
	module  *loadedModule
	stats   *stats
	away    bool // this node does not lead the consumer: the binding is only known here
	cancel  context.CancelFunc
	done    chan struct{}
	ended   atomic.Bool // does not run though it should; the next sync starts it again

	// Owned by run.
	failing map[uint64]bool // messages that failed since one succeeded

	mu     sync.Mutex
	state  string
	reason string
}

func newBinding(s *Service, sp *spec) *binding {
	return &binding{service: s, spec: sp, failing: map[uint64]bool{},
		stats: &stats{counts: Stats{Traps: map[string]uint64{}}, metrics: map[string]int64{}}}
}

func (b *binding) setState(state, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.reason = state, reason
}

func (b *binding) describe() BindingInfo {
	sp := b.spec
	info := BindingInfo{Plugin: sp.plugin, Version: sp.version, Stream: sp.stream, Consumer: sp.consumer,
		Filters: sp.filters, Publish: sp.publish, Batch: sp.batch, DeadLetter: sp.deadLetter,
		MaxDeliver: sp.maxDeliver, KV: map[string]string{}}
	for bucket, access := range sp.kv {
		info.KV[bucket] = string(access)
	}
	if sp.tick > 0 {
		info.Tick = sp.tick.String()
	}
	if !b.away {
		info.Node = b.service.config.Node
	}
	b.mu.Lock()
	info.State, info.Reason = b.state, b.reason
	b.mu.Unlock()
	b.stats.mu.Lock()
	defer b.stats.mu.Unlock()
	info.Stats = b.stats.counts
	info.Stats.Traps = maps.Clone(info.Stats.Traps)
	info.Metrics = maps.Clone(b.stats.metrics)
	return info
}

const (
	fetchBytes    = 1 << 20          // payload of a batch, about
	reopenDelay   = time.Second      // after an error of the feed or the streams
	commitTimeout = 20 * time.Second // of the publications of one batch
)

// run consumes until the context ends, the consumer is gone or led elsewhere, or the breaker opens. It tells
// whether it ended because the consumer is led elsewhere.
func (b *binding) run(ctx context.Context) (away bool) {
	for ctx.Err() == nil {
		err := b.consume(ctx)
		switch {
		case ctx.Err() != nil, errors.Is(err, errPaused):
			return false
		case errors.Is(err, ErrAway):
			b.setState(StateStarting, "")
			return true
		case errors.Is(err, ErrNotFound):
			b.setState(StateErrored, err.Error())
			return false
		}
		if start, ok := errors.AsType[*plugins.StartError](err); ok {
			b.pause(ctx, start.Error())
			return false
		}
		b.note(err)
		b.service.config.Logger.Warn("run plugin", "plugin", b.spec.plugin, "stream", b.spec.stream,
			"consumer", b.spec.consumer, "err", err)
		select {
		case <-time.After(reopenDelay):
		case <-ctx.Done():
		}
	}
	return false
}

func (b *binding) note(err error) {
	now := time.Now().UTC()
	b.stats.update(func(s *Stats) { s.LastError, s.LastErrorAt = err.Error(), &now })
}

// pause opens the circuit breaker: the state goes into the consumer's metadata, so that it holds on
// whatever node runs the binding next.
func (b *binding) pause(ctx context.Context, reason string) {
	b.setState(StateErrored, reason)
	b.service.log(b.spec, abi.Error, "paused: "+reason)
	persist := func(ctx context.Context) {
		err := b.service.setState(ctx, b.spec.stream, b.spec.consumer, StateErrored, reason)
		if err == nil {
			err = b.service.sync(ctx)
		}
		if err != nil {
			b.service.config.Logger.Error("pause plugin", "plugin", b.spec.plugin, "err", err)
		}
	}
	select {
	case b.service.work <- persist:
	case <-ctx.Done():
	}
}

// consume opens the feed and processes batches until something is wrong.
func (b *binding) consume(ctx context.Context) error {
	feed, err := b.service.config.Consumers.Feed(ctx, b.spec.stream, b.spec.consumer)
	if err != nil {
		return fmt.Errorf("open consumer %s of stream %s: %w", b.spec.consumer, b.spec.stream, err)
	}
	defer feed.Close()
	runner := plugins.NewRunner(b.module.Module, b.instance())
	defer runner.Close()
	var tick <-chan time.Time
	if b.spec.tick > 0 && b.module.Ticks {
		ticker := time.NewTicker(b.spec.tick)
		defer ticker.Stop()
		tick = ticker.C
	}
	size := b.spec.batch
	for ctx.Err() == nil {
		delivered, err := feed.Fetch(size, fetchBytes)
		if err != nil {
			return fmt.Errorf("fetch from consumer %s of stream %s: %w", b.spec.consumer, b.spec.stream, err)
		}
		select {
		case <-tick: // also under load
			err = b.onTick(ctx, runner, feed)
		default:
		}
		if len(delivered) > 0 {
			c := &commit{binding: b, ctx: ctx, feed: feed, rest: delivered, at: time.Now()}
			for len(c.rest) > 0 && err == nil {
				err = c.process(runner, together(c.rest))
				size = b.nextSize(size, c)
			}
			if err != nil {
				c.giveBack()
			}
		} else if err == nil {
			select {
			case <-feed.Ready():
			case <-tick:
				err = b.onTick(ctx, runner, feed)
			case <-ctx.Done():
			}
		}
		b.stats.update(func(s *Stats) { s.Memory = runner.MemoryBytes() })
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// together returns how many messages from the first on may run as one batch. One that was delivered
// before runs alone: effects of its earlier run may be stored, with those of messages after it, and what the
// guest reads then has them already. Alone, all that it writes anew is recognised as a repeat, and nothing
// new is built on top of it.
func together(messages []Delivered) int {
	n := 0
	for n < len(messages) && messages[n].Delivered <= 1 {
		n++
	}
	return max(n, 1)
}

// nextSize halves the batch when it was too much for the guest at once, though each message alone was
// not, and lets it grow again.
func (b *binding) nextSize(size int, c *commit) int {
	if c.count > 1 && c.singles == c.count && c.failures == 0 {
		return max(1, c.count/2)
	}
	return min(b.spec.batch, 2*size)
}

func (b *binding) instance() plugins.InstanceConfig {
	config := b.spec.instance()
	config.Limits = b.service.limits(b.spec.memory)
	config.KV = buckets{b.service.config.Store}
	config.Log = func(level abi.Level, text string) { b.service.log(b.spec, level, text) }
	config.Metric = b.stats.metric
	return config
}

func (b *binding) onTick(ctx context.Context, runner *plugins.Runner, feed Feed) error {
	err := runner.Tick(ctx, &commit{binding: b, ctx: ctx, feed: feed, at: time.Now()})
	if _, start := errors.AsType[*plugins.StartError](err); start {
		return err
	}
	if trap, ok := errors.AsType[*plugins.TrapError](err); ok && trap.Kind != plugins.TrapCanceled {
		err := fmt.Errorf("plugin %s: tick: %w", b.spec.plugin, trap)
		b.note(err)
		b.service.log(b.spec, abi.Error, err.Error())
		return nil
	}
	return err
}

// buckets reads KV buckets, which are streams by ADR-8.
type buckets struct{ store Store }

// Get implements plugins.KV.
func (b buckets) Get(ctx context.Context, bucket, key string) (plugins.Entry, error) {
	m, err := b.store.Last(ctx, "KV_"+bucket, kvSubject(bucket, key))
	if errors.Is(err, ErrNotFound) {
		return plugins.Entry{}, nil
	}
	if err != nil {
		return plugins.Entry{}, fmt.Errorf("read key %s of bucket %s: %w", key, bucket, err)
	}
	deleted := headerValue(m.Header, "KV-Operation") != "" || headerValue(m.Header, "Nats-Marker-Reason") != ""
	return plugins.Entry{Value: m.Data, Revision: m.Seq, Time: m.Time, Deleted: deleted}, nil
}

func kvSubject(bucket, key string) string { return "$KV." + bucket + "." + key }
