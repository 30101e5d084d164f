package service

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/plugins"
)

// BindRequest binds a plugin to a durable consumer, which it creates or, if that carries a binding of
// the same plugin already, changes.
type BindRequest struct {
	Plugin     string            `json:"plugin"`
	Version    int               `json:"version,omitempty"` // default: the newest
	Stream     string            `json:"stream"`
	Consumer   string            `json:"consumer,omitempty"` // default: the plugin's name
	Filter     string            `json:"filter,omitempty"`
	Filters    []string          `json:"filters,omitempty"` // with Filter none: the whole stream
	Publish    []string          `json:"publish,omitempty"` // subjects it may publish to
	KV         map[string]string `json:"kv,omitempty"`      // bucket: "r" or "rw"
	Config     json.RawMessage   `json:"config,omitempty"`  // a JSON string is passed on as its text
	Batch      int               `json:"batch,omitempty"`   // default 256
	Tick       string            `json:"tick,omitempty"`    // interval of cpi_on_tick, such as "1s"
	DeadLetter string            `json:"dead_letter,omitempty"`
	MaxDeliver int               `json:"max_deliver,omitempty"` // default 5, -1 for no limit
	Deliver    string            `json:"deliver,omitempty"`     // deliver policy: all (default), new or last
	Memory     int64             `json:"memory,omitempty"`      // bytes
}

// spec makes the binding that the request asks for.
func (r *BindRequest) spec() (*spec, error) {
	sp := &spec{stream: r.Stream, consumer: r.Consumer, plugin: r.Plugin, version: r.Version, filters: r.Filters,
		publish: r.Publish, kv: map[string]plugins.Access{}, batch: r.Batch, deadLetter: r.DeadLetter,
		memory: r.Memory, maxDeliver: r.MaxDeliver, deliverPolicy: r.Deliver, id: rand.Text()[:8]}
	if r.Filter != "" {
		sp.filters = append([]string{r.Filter}, r.Filters...)
	}
	if sp.consumer == "" {
		sp.consumer = r.Plugin
	}
	if sp.batch == 0 {
		sp.batch = defaultBatch
	}
	if sp.maxDeliver == 0 {
		sp.maxDeliver = defaultMaxDeliver
	}
	switch sp.deliverPolicy {
	case "":
		sp.deliverPolicy = "all"
	case "all", "new", "last":
	default:
		return nil, badRequest("deliver %q: must be all, new or last", r.Deliver)
	}
	for bucket, access := range r.KV {
		sp.kv[bucket] = plugins.Access(access)
	}
	if r.Tick != "" {
		var err error
		if sp.tick, err = time.ParseDuration(r.Tick); err != nil {
			return nil, badRequest("tick: %v", err)
		}
	}
	sp.config = string(r.Config)
	if text := ""; json.Unmarshal(r.Config, &text) == nil {
		sp.config = text
	}
	if r.Stream == "" {
		return nil, badRequest("stream is missing")
	}
	return sp, sp.validate()
}

func (s *Service) bind(ctx context.Context, r *BindRequest) (any, error) {
	sp, err := r.spec()
	if err != nil {
		return nil, err
	}
	rec, err := s.registry.get(ctx, r.Plugin)
	if err != nil {
		return nil, err
	}
	latest := rec.latest()
	if latest == nil {
		return nil, pluginNotFound(r.Plugin)
	}
	if sp.version == 0 {
		sp.version = latest.Version
	}
	if err := s.checkLoop(ctx, sp); err != nil {
		return nil, err
	}
	for bucket := range sp.kv {
		if _, err := s.config.Store.Subjects(ctx, "KV_"+bucket); errors.Is(err, ErrNotFound) {
			return nil, &Error{404, CodeBucketNotFound, fmt.Sprintf("KV bucket %q not found", bucket)}
		} else if err != nil {
			return nil, fmt.Errorf("look up bucket %s: %w", bucket, err)
		}
	}
	if err := s.adopt(ctx, sp); err != nil {
		return nil, err
	}
	m, err := s.moduleOf(ctx, sp)
	if err != nil {
		return nil, err
	}
	defer s.release(m)
	if err := s.tryStart(ctx, m, sp.instance()); err != nil {
		return nil, pluginError(sp.plugin, err)
	}
	config, err := sp.consumerConfig()
	if err != nil {
		return nil, fmt.Errorf("encode consumer configuration: %w", err)
	}
	if err := s.config.Consumers.EnsureConsumer(ctx, sp.stream, config); err != nil {
		return nil, err
	}
	s.config.Logger.Info("plugin bound", "plugin", sp.plugin, "version", sp.version, "stream", sp.stream,
		"consumer", sp.consumer)
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	return s.begun(ctx, &Target{sp.plugin, sp.stream, sp.consumer}), nil
}

// adopt takes over what an existing consumer of the same plugin cannot change, and refuses a consumer
// that is not this plugin's.
func (s *Service) adopt(ctx context.Context, sp *spec) error {
	c, err := s.consumer(ctx, sp.stream, sp.consumer)
	if c == nil || err != nil {
		return err
	}
	if owner := c.Metadata[keyPlugin]; owner != sp.plugin {
		description := fmt.Sprintf("consumer %s of stream %s exists and is not a plugin's", sp.consumer, sp.stream)
		if owner != "" {
			description = fmt.Sprintf("consumer %s of stream %s is bound to plugin %s", sp.consumer, sp.stream, owner)
		}
		return &Error{409, CodeConsumerInUse, description}
	}
	old, err := parseSpec(c)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", c.Name, err)
	}
	sp.id, sp.deliverPolicy = old.id, old.deliverPolicy
	return nil
}

// consumer returns a consumer, or nil.
func (s *Service) consumer(ctx context.Context, stream, name string) (*Consumer, error) {
	consumers, err := s.config.Consumers.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	i := slices.IndexFunc(consumers, func(c Consumer) bool { return c.Stream == stream && c.Name == name })
	if i < 0 {
		return nil, nil
	}
	return &consumers[i], nil
}

// instance returns what an instance of the binding is given, but for its connections.
func (s *spec) instance() plugins.InstanceConfig {
	return plugins.InstanceConfig{Stream: s.stream, Config: []byte(s.config),
		Grants: plugins.Grants{Publish: s.publish, KV: s.kv}, Limits: plugins.Limits{MemoryBytes: s.memory}}
}

func (s *Service) unbind(ctx context.Context, t *Target) (any, error) {
	bound, err := s.targets(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(bound) > 1 {
		return nil, badRequest("plugin %q has %d bindings: name the stream and consumer", t.Plugin, len(bound))
	}
	response := describeAll(bound, s.elsewhere(ctx))
	sp := bound[0].spec
	err = s.config.Consumers.DeleteConsumer(ctx, sp.stream, sp.consumer)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	return response, s.sync(ctx)
}

// change sets the state of the bindings of a target in their consumers' metadata.
func (s *Service) change(ctx context.Context, t *Target, state string) (any, error) {
	bound, err := s.targets(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, b := range bound {
		if err := s.setState(ctx, b.spec.stream, b.spec.consumer, state, ""); err != nil {
			return nil, err
		}
	}
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	return s.begun(ctx, t), nil
}

// targets returns the bindings of a target, at least one.
func (s *Service) targets(ctx context.Context, t *Target) ([]*binding, error) {
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	bound := s.matching(t)
	if len(bound) > 0 {
		return bound, nil
	}
	if rec, err := s.registry.get(ctx, t.Plugin); err != nil {
		return nil, err
	} else if len(rec.Versions) == 0 {
		return nil, pluginNotFound(t.Plugin)
	}
	return nil, &Error{404, CodeBindingNotFound, fmt.Sprintf("plugin %q has no such binding", t.Plugin)}
}

// setState writes the state of a binding into its consumer's metadata; all else stays as it is.
func (s *Service) setState(ctx context.Context, stream, name, state, reason string) error {
	c, err := s.consumer(ctx, stream, name)
	if err != nil || c == nil {
		return err
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return fmt.Errorf("decode configuration of consumer %s: %w", name, err)
	}
	metadata := maps.Clone(c.Metadata)
	for key, value := range map[string]string{keyState: state, keyReason: reason} {
		if delete(metadata, key); value != "" {
			metadata[key] = value
		}
	}
	if config["metadata"], err = json.Marshal(metadata); err != nil {
		return fmt.Errorf("encode metadata of consumer %s: %w", name, err)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode configuration of consumer %s: %w", name, err)
	}
	return s.config.Consumers.EnsureConsumer(ctx, stream, b)
}

// describeAll describes bindings, those of other nodes by what these told.
func describeAll(bindings []*binding, elsewhere map[bindingKey]BindingInfo) *BindingsResponse {
	r := &BindingsResponse{Bindings: []BindingInfo{}}
	for _, b := range bindings {
		info := b.describe()
		told, ok := elsewhere[bindingKey{b.spec.stream, b.spec.consumer}]
		if ok && b.away && b.spec.state == "" && told.Version == info.Version {
			info = told
		}
		r.Bindings = append(r.Bindings, info)
	}
	return r
}
