package jetstream

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

func (r *request) consumerCreate() (any, *api.Error) {
	var c api.CreateConsumerRequest
	if err := api.Decode(r.body, &c); err != nil {
		return nil, err
	}
	if err := c.Bind(&r.Call); err != nil {
		return nil, err
	}
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	info, err := s.createConsumer(&c)
	if err != nil {
		return nil, err
	}
	return api.ConsumerCreateResponse{Response: r.ok(), ConsumerInfo: r.shown(info)}, nil
}

// shown gives info the metadata that single answers carry.
func (r *request) shown(info *api.ConsumerInfo) *api.ConsumerInfo {
	n := *info
	cfg := info.Config.Shown(r.account.engine.cfg.Version)
	n.Config = &cfg
	return &n
}

// createConsumer creates or, where the action allows it, updates a consumer.
func (s *Stream) createConsumer(c *api.CreateConsumerRequest) (*api.ConsumerInfo, *api.Error) {
	s.mu.RLock()
	streamConfig := s.machine.Config()
	s.mu.RUnlock()
	limits := s.account.limitsOf()
	cfg, err := c.Config.Normalize(&streamConfig, &limits, c.Pedantic)
	if err != nil {
		return nil, err
	}
	// One create at a time, so that what is checked still holds when the consumer starts.
	s.creating.Lock()
	defer s.creating.Unlock()
	if cfg.Name != "" {
		if old, missing := s.consumer(cfg.Name); missing == nil {
			return s.updateConsumer(old, cfg, c.Action)
		}
	}
	if c.Action == api.ActionUpdate {
		return nil, api.ErrConsumerDoesNotExist
	}
	if n := limits.ConsumersOf(&streamConfig); n > 0 && len(s.allConsumers()) >= n {
		return nil, api.ErrMaximumConsumersLimit
	}
	if err := s.checkWorkQueue(&streamConfig, &cfg); err != nil {
		return nil, err
	}
	var info *api.ConsumerInfo
	if cfg.IsDurable() {
		info, err = s.account.engine.catalog.createConsumer(s, cfg)
	} else {
		info, err = s.startConsumer(0, cfg, time.Now().UTC())
	}
	if err == nil {
		s.account.advise("CONSUMER.CREATED", s.name, info.Name, "create")
	}
	return info, err
}

// checkWorkQueue refuses a consumer of a work queue that overlaps another one.
func (s *Stream) checkWorkQueue(streamConfig *api.StreamConfig, cfg *api.ConsumerConfig) *api.Error {
	if streamConfig.Retention != api.WorkQueuePolicy {
		return nil
	}
	return api.CheckWorkQueue(cfg, maps.All(s.consumerConfigs()))
}

// consumerConfigs returns the configurations of the stream's consumers by name.
func (s *Stream) consumerConfigs() map[string]*api.ConsumerConfig {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make(map[string]*api.ConsumerConfig, len(s.consumers))
	for name, c := range s.consumers {
		cfg := c.config
		all[name] = &cfg
	}
	return all
}

func (s *Stream) updateConsumer(old *consumerEntry, cfg api.ConsumerConfig, action api.ConsumerAction) (*api.ConsumerInfo, *api.Error) {
	cfg.PauseUntil = old.config.PauseUntil // only CONSUMER.PAUSE changes it
	cfg.Name = old.config.Name             // empty if the server made it up
	same := old.config.Equal(&cfg)
	switch {
	case action == api.ActionCreate && !same:
		return nil, api.ErrConsumerAlreadyExists
	case same:
		return old.Info(), nil
	}
	bound := old.config.IsPush() && s.account.bus.HasInterest(old.config.DeliverSubject)
	if err := api.CheckConsumerUpdate(&old.config, &cfg, bound); err != nil {
		return nil, err
	}
	s.mu.RLock()
	streamConfig := s.machine.Config()
	s.mu.RUnlock()
	if err := s.checkWorkQueue(&streamConfig, &cfg); err != nil {
		return nil, err
	}
	if old.id != 0 {
		if err := s.account.engine.catalog.updateConsumer(s, cfg); err != nil {
			return nil, err
		}
	}
	if err := s.reconfigure(old, cfg); err != nil {
		return nil, err
	}
	return old.Info(), nil
}

// reconfigure gives a running consumer another configuration.
func (s *Stream) reconfigure(c *consumerEntry, cfg api.ConsumerConfig) *api.Error {
	updated := make(chan error, 1)
	c.Update(cfg, func(err error) { updated <- err })
	if err := await(updated); err != nil {
		return api.ErrConsumerCreateF(err.Error())
	}
	s.mu.Lock()
	c.config, c.filter = cfg, stream.NewFilter(cfg.Filters()...)
	s.mu.Unlock()
	return nil
}

// named returns the consumer that the request's subject names.
func (r *request) named() (*Stream, *consumerEntry, *api.Error) {
	s, err := r.stream()
	if err != nil {
		return nil, nil, err
	}
	c, err := s.consumer(r.Call.Consumer)
	return s, c, err
}

func (r *request) consumerInfo() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	_, c, err := r.named()
	if err != nil {
		return nil, err
	}
	return api.ConsumerInfoResponse{Response: r.ok(), ConsumerInfo: r.shown(c.Info())}, nil
}

// sorted returns the consumers of the request's stream by name.
func (r *request) sorted() ([]*consumerEntry, api.ConsumersRequest, *api.Error) {
	var q api.ConsumersRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, q, err
	}
	s, err := r.stream()
	if err != nil {
		return nil, q, err
	}
	all := s.allConsumers()
	slices.SortFunc(all, func(a, b *consumerEntry) int { return cmp.Compare(a.name, b.name) })
	return all, q, nil
}

func (r *request) consumerNames() (any, *api.Error) {
	all, q, err := r.sorted()
	if err != nil {
		return nil, err
	}
	page, paged := api.Page(all, q.Offset, api.NamesPage)
	names := make([]string, len(page))
	for i, c := range page {
		names[i] = c.name
	}
	return api.ConsumerNamesResponse{Response: r.ok(), Paged: paged, Consumers: names}, nil
}

func (r *request) consumerList() (any, *api.Error) {
	all, q, err := r.sorted()
	if err != nil {
		return nil, err
	}
	page, paged := api.Page(all, q.Offset, api.ListPage)
	infos := make([]*api.ConsumerInfo, len(page))
	for i, c := range page {
		infos[i] = c.Info()
	}
	return api.ConsumerListResponse{Response: r.ok(), Paged: paged, Consumers: infos}, nil
}

func (r *request) consumerDelete() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	s, c, err := r.named()
	if err != nil {
		return nil, err
	}
	if c.id == 0 {
		s.dropConsumer(c)
	} else if err := r.account.engine.catalog.deleteConsumer(s, c.name); err != nil {
		return nil, err
	}
	return api.ConsumerDeleteResponse{Response: r.ok(), Success: true}, nil
}

func (r *request) consumerPause() (any, *api.Error) {
	var q api.ConsumerPauseRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	s, c, err := r.named()
	if err != nil {
		return nil, err
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	s.mu.RLock()
	cfg := c.config.Clone()
	s.mu.RUnlock()
	cfg.PauseUntil = nil
	if !q.PauseUntil.IsZero() {
		until := q.PauseUntil.UTC()
		cfg.PauseUntil = &until
	}
	if c.id != 0 {
		if err := r.account.engine.catalog.pauseConsumer(s, c.name, cfg.PauseUntil); err != nil {
			return nil, err
		}
	}
	if err := s.reconfigure(c, cfg); err != nil {
		return nil, err
	}
	response := api.ConsumerPauseResponse{Response: r.ok(), PauseUntil: q.PauseUntil}
	if left := time.Until(q.PauseUntil); left > 0 {
		response.Paused, response.PauseRemaining = true, left
	}
	return response, nil
}

func (r *request) consumerReset() (any, *api.Error) {
	var q api.ConsumerResetRequest
	if err := api.Decode(r.body, &q); err != nil {
		return nil, err
	}
	_, c, err := r.named()
	if err != nil {
		return nil, err
	}
	var next uint64
	reset := make(chan error, 1)
	c.Reset(q.Seq, func(seq uint64, err error) {
		next = seq
		reset <- err
	})
	if err := await(reset); err != nil {
		return nil, api.ErrConsumerInvalidResetF(err.Error())
	}
	return api.ConsumerResetResponse{Response: r.ok(), ConsumerInfo: r.shown(c.Info()), ResetSeq: next}, nil
}
