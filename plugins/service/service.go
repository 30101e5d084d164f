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
	Logger    *slog.Logger   // nil: nothing is logged
	Limits    plugins.Limits // of every instance; a binding may ask for less or more memory

	// Backoff are the delays after the first, second, ... failure of a message. Default: 100ms, 1s,
	// 10s, 60s. The last one repeats.
	Backoff []time.Duration

	// Breaker is the number of different messages in a row whose failure pauses a binding. Default 5.
	Breaker int

	// Resync is the interval at which consumers are looked through for bindings that were changed by
	// others. Default 30s.
	Resync time.Duration
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
	return c
}

// queued is the number of API requests that may wait; more are answered with CodeBusy.
const queued = 64

// Service runs the plugins of one account.
type Service struct {
	config   Config
	registry registry
	work     chan func(context.Context)
	ctx      context.Context // of the loop and the bindings
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	stops    []func()

	// Owned by loop.
	bindings map[bindingKey]*binding
	modules  map[string]*loadedModule // by digest

	mu   sync.Mutex
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
		work:     make(chan func(context.Context), queued),
		bindings: map[bindingKey]*binding{}, modules: map[string]*loadedModule{}, logs: map[string]*pluginLog{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.loop)
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
func (s *Service) Sync(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case s.work <- func(ctx context.Context) { done <- s.sync(ctx) }:
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

func (s *Service) loop() {
	ticker := time.NewTicker(s.config.Resync)
	defer ticker.Stop()
	s.resync()
	for {
		select {
		case f := <-s.work:
			f(s.ctx)
		case <-ticker.C:
			s.resync()
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
	for i := range consumers {
		c := &consumers[i]
		if !isBinding(c) {
			continue
		}
		key := bindingKey{c.Stream, c.Name}
		wanted[key] = true
		spec, specErr := parseSpec(c)
		old := s.bindings[key]
		if old != nil && !old.ended.Load() && reflect.DeepEqual(*old.spec, *spec) {
			continue
		}
		b := newBinding(s, spec)
		if old != nil {
			s.stop(old)
			if old.spec.id == spec.id {
				b.stats = old.stats
			}
		}
		s.bindings[key] = b
		s.start(ctx, b, specErr)
	}
	for key, b := range s.bindings {
		if !wanted[key] {
			s.stop(b)
			delete(s.bindings, key)
		}
	}
	return nil
}

// start begins to run a binding. One that cannot run now is shown as errored and tried again at the
// next sync.
func (s *Service) start(ctx context.Context, b *binding, err error) {
	if b.spec.state != "" {
		b.setState(b.spec.state, b.spec.reason)
		return
	}
	if err == nil {
		b.module, err = s.moduleOf(ctx, b.spec)
	}
	if err == nil {
		err = s.checkLoop(ctx, b.spec)
	}
	if err != nil {
		b.ended.Store(true)
		b.setState(StateErrored, err.Error())
		s.config.Logger.Warn("start plugin", "plugin", b.spec.plugin, "stream", b.spec.stream,
			"consumer", b.spec.consumer, "err", err)
		return
	}
	b.setState(StateRunning, "")
	var run context.Context
	run, b.cancel = context.WithCancel(s.ctx)
	b.done = make(chan struct{})
	s.wg.Go(func() {
		defer close(b.done)
		b.run(run)
		b.ended.Store(true)
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
