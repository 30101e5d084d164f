package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"millrace/plugins"
)

// Config configures a Service.
type Config struct {
	Runtime   *plugins.Runtime
	Store     Store
	Consumers Consumers
	Bus       Bus
	Peers     Peers          // nil: there are no other nodes
	Node      string         // name of this one, for clients
	Logger    *slog.Logger   // nil: nothing is logged
	Limits    plugins.Limits // of every instance; a binding may ask for less or more memory

	// Backoff are the delays after the first, second, ... failure of a message. Default: 100ms, 1s,
	// 10s, 60s. The last one repeats.
	Backoff []time.Duration

	// Breaker is the number of different messages in a row whose failure pauses a binding. Default 5.
	Breaker int

	// Resync is the interval at which consumers are looked through for bindings that were changed by
	// others, and what all nodes read is spread. Default 30s.
	Resync time.Duration

	// Republish is the pause before a stream is tried again that cannot take an output now. Default 250ms.
	Republish time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.Backoff) == 0 {
		c.Backoff = []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute}
	}
	if c.Breaker <= 0 {
		c.Breaker = 5
	}
	if c.Resync <= 0 {
		c.Resync = 30 * time.Second
	}
	if c.Republish <= 0 {
		c.Republish = 250 * time.Millisecond
	}
	return c
}

// queued is the number of API requests that may wait; more are answered with CodeBusy.
const queued = 64

// Service runs the plugins of one account.
type Service struct {
	config   Config
	registry registry
	work     chan func(context.Context)
	changed  chan struct{}   // something about the consumers has changed
	ctx      context.Context // of the loop and the bindings
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	stops    []func()

	// Owned by loop.
	bindings map[bindingKey]*binding
	modules  map[string]*loadedModule // by digest
	unready  bool                     // the last sync left something that is to be tried again

	mu   sync.Mutex
	here []*binding            // those that this node leads
	logs map[string]*pluginLog // by plugin
}

type bindingKey struct{ stream, consumer string }

// loadedModule is a compiled module and the number of bindings that use it.
type loadedModule struct {
	*plugins.Module
	users int
}

// Open starts to serve the API and to run the bindings there are.
func Open(config Config) (*Service, error) {
	s := &Service{
		config: config.withDefaults(), registry: registry{config.Store},
		work: make(chan func(context.Context), queued), changed: make(chan struct{}, 1),
		bindings: map[bindingKey]*binding{}, modules: map[string]*loadedModule{}, logs: map[string]*pluginLog{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.loop)
	if config.Peers != nil {
		stop, err := config.Peers.Answer(s.answerPeer)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("answer other nodes: %w", err)
		}
		s.stops = append(s.stops, stop)
	}
	for verb, handle := range s.handlers() {
		stop, err := config.Bus.Serve(APIPrefix+verb, func(r Request) { s.enqueue(r, handle) })
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("serve %s: %w", APIPrefix+verb, err)
		}
		s.stops = append(s.stops, stop)
	}
	return s, nil
}

// Close stops serving and ends all guests. Messages at work are delivered again.
func (s *Service) Close() {
	for _, stop := range s.stops {
		stop()
	}
	s.cancel()
	s.wg.Wait()
}

// Sync looks for bindings among the consumers and starts, changes and stops what runs accordingly. It
// is to be called when consumers were changed other than through the API of the service. The error is
// plugins.ErrClosed after Close.
func (s *Service) Sync(ctx context.Context) error { return s.inLoop(ctx, s.sync) }

// inLoop runs f in the loop and waits for it.
func (s *Service) inLoop(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case s.work <- func(ctx context.Context) { done <- f(ctx) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return plugins.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return plugins.ErrClosed
	}
}

// Changed makes the service look through the consumers soon, such as when this node begins or ceases to lead
// one. It does not wait, and however often it is called meanwhile, they are looked through once.
func (s *Service) Changed() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// firstRetry is the pause before what could not be started is tried again; it doubles up to Config.Resync.
const firstRetry = 500 * time.Millisecond

func (s *Service) loop() {
	ticker, retry := time.NewTicker(s.config.Resync), time.NewTimer(firstRetry)
	defer ticker.Stop()
	defer retry.Stop()
	pause := firstRetry
	s.resync()
	for {
		select {
		case f := <-s.work:
			f(s.ctx)
		case <-s.changed:
			pause = firstRetry
			s.resync()
			retry.Reset(pause)
		case <-retry.C:
			if s.unready {
				s.resync()
				pause = min(2*pause, s.config.Resync)
				retry.Reset(pause)
			}
		case <-ticker.C:
			s.resync()
			s.spread(s.ctx)
			retry.Reset(pause)
		case <-s.ctx.Done():
			for _, b := range s.bindings {
				s.stop(b)
			}
			return
		}
	}
}

func (s *Service) resync() {
	if err := s.sync(s.ctx); err != nil && s.ctx.Err() == nil {
		s.config.Logger.Warn("look for plugin bindings", "err", err)
	}
}

// sync makes the bindings that run equal to those in the consumers' metadata. Called by loop.
func (s *Service) sync(ctx context.Context) error {
	consumers, err := s.config.Consumers.List(ctx)
	if err != nil {
		return fmt.Errorf("list consumers: %w", err)
	}
	wanted := map[bindingKey]bool{}
	s.unready = false
	defer s.show()
	for i := range consumers {
		c := &consumers[i]
		if !isBinding(c) {
			continue
		}
		key := bindingKey{c.Stream, c.Name}
		wanted[key] = true
		spec, specErr := parseSpec(c)
		old := s.bindings[key]
		if old != nil && !old.ended.Load() && old.away == c.Away && reflect.DeepEqual(*old.spec, *spec) {
			continue
		}
		b := newBinding(s, spec)
		b.away = c.Away
		err := specErr
		if err == nil && spec.state == "" && (!c.Away || c.Spare) {
			err = s.prepare(ctx, b, old) // before the old one gives the module back
		}
		if old != nil {
			s.stop(old)
			if old.spec.id == spec.id {
				b.stats = old.stats
			}
		}
		s.bindings[key] = b
		s.start(b, err)
	}
	for key, b := range s.bindings {
		if !wanted[key] {
			s.stop(b)
			delete(s.bindings, key)
		}
	}
	return nil
}

// show notes which bindings are this node's, for those who do not wait for the loop.
func (s *Service) show() {
	var here []*binding
	for _, b := range s.bindings {
		if !b.away {
			here = append(here, b)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.here = here
}

// prepare loads the module of a binding. A node that only may come to run it does so, too: when it has to, it
// needs nobody.
func (s *Service) prepare(ctx context.Context, b, old *binding) error {
	if old != nil && old.module != nil && old.spec.plugin == b.spec.plugin && old.spec.version == b.spec.version {
		b.module = old.module
		b.module.users++
		return nil
	}
	var err error
	b.module, err = s.moduleOf(ctx, b.spec)
	return err
}

// start begins to run a binding, if this node leads its consumer. One that cannot run now is shown as errored
// and tried again.
func (s *Service) start(b *binding, err error) {
	if b.spec.state != "" {
		b.setState(b.spec.state, b.spec.reason)
		return
	}
	if err == nil && !b.away {
		err = s.checkLoop(s.ctx, b.spec)
	}
	if err != nil {
		s.unready = true
		b.ended.Store(true)
		b.setState(StateErrored, err.Error())
		if b.away {
			b.setState(StateStarting, "") // not this node's to judge
		}
		s.config.Logger.Warn("start plugin", "plugin", b.spec.plugin, "stream", b.spec.stream,
			"consumer", b.spec.consumer, "err", err)
		return
	}
	if b.away {
		b.setState(StateStarting, "")
		return
	}
	b.setState(StateRunning, "")
	s.config.Logger.Info("plugin runs", "plugin", b.spec.plugin, "version", b.spec.version, "stream", b.spec.stream,
		"consumer", b.spec.consumer)
	var run context.Context
	run, b.cancel = context.WithCancel(s.ctx)
	b.done = make(chan struct{})
	s.wg.Go(func() {
		defer close(b.done)
		away := b.run(run)
		b.ended.Store(true)
		if away {
			s.Changed() // it may be led here again by now, and nobody else would say so
		}
	})
}

func (s *Service) stop(b *binding) {
	if b.cancel != nil {
		b.cancel()
		<-b.done
	}
	s.release(b.module)
	b.module = nil
}

func (s *Service) checkLoop(ctx context.Context, spec *spec) error {
	subjects, err := s.config.Store.Subjects(ctx, spec.stream)
	if errors.Is(err, ErrNotFound) {
		return &Error{404, CodeStreamNotFound, fmt.Sprintf("stream %q not found", spec.stream)}
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", spec.stream, err)
	}
	return spec.checkLoop(subjects)
}

// moduleOf returns the compiled module of a binding; release gives it back.
func (s *Service) moduleOf(ctx context.Context, spec *spec) (*loadedModule, error) {
	rec, err := s.registry.get(ctx, spec.plugin)
	if err != nil {
		return nil, err
	}
	v := rec.version(spec.version)
	if v == nil {
		return nil, &Error{404, CodePluginNotFound, fmt.Sprintf("plugin %q has no version %d", spec.plugin, spec.version)}
	}
	return s.load(ctx, v.Digest)
}

func (s *Service) load(ctx context.Context, digest string) (*loadedModule, error) {
	m := s.modules[digest]
	if m == nil {
		wasm, err := s.registry.module(ctx, digest)
		if err != nil {
			return nil, err
		}
		compiled, err := s.config.Runtime.Compile(ctx, wasm)
		if err != nil {
			return nil, err
		}
		m = &loadedModule{Module: compiled}
		s.modules[digest] = m
	}
	m.users++
	return m, nil
}

func (s *Service) release(m *loadedModule) {
	if m == nil {
		return
	}
	if m.users--; m.users > 0 {
		return
	}
	delete(s.modules, m.Digest)
	if err := m.Close(); err != nil {
		s.config.Logger.Warn("close plugin module", "digest", m.Digest, "err", err)
	}
}
