package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/meta"
)

func (r *request) consumerCreate() (any, *api.Error) {
	c, err := r.decodeCreate()
	if err != nil {
		return nil, err
	}
	s, err := r.current()
	if err != nil {
		return nil, err
	}
	s.creating.Lock()
	return r.createConsumer(s, c)
}

// decodeCreate returns what is to be created. It decodes the request once.
func (r *request) decodeCreate() (*api.CreateConsumerRequest, *api.Error) {
	if r.create != nil {
		return r.create, nil
	}
	var c api.CreateConsumerRequest
	if err := api.Decode(r.body, &c); err != nil {
		return nil, err
	}
	if err := c.Bind(&r.Call); err != nil {
		return nil, err
	}
	r.create = &c
	return r.create, nil
}

// shown gives info the metadata that single answers carry.
func (a *account) shown(info *api.ConsumerInfo) *api.ConsumerInfo {
	n := *info
	cfg := info.Config.Shown(a.engine.cfg.Version)
	n.Config = &cfg
	return &n
}

// created is the answer to a request for a consumer that is led here.
func (r *request) created(info *api.ConsumerInfo) api.ConsumerCreateResponse {
	return api.ConsumerCreateResponse{Response: r.ok(), ConsumerInfo: r.account.shown(info)}
}

// createConsumer creates or, where the action allows it, updates a consumer. The leader of a durable one
// answers. It is called with s.creating, which it unlocks: one create at a time, so that what is checked still holds
// when the consumer starts. Of a durable one it does when the catalogue has it: nobody waits until another one's
// leader answers.
func (r *request) createConsumer(s *Stream, c *api.CreateConsumerRequest) (any, *api.Error) {
	decided := sync.OnceFunc(s.creating.Unlock)
	defer decided()
	s.mu.RLock()
	streamConfig := s.machine.Config()
	s.mu.RUnlock()
	limits := s.account.limitsOf()
	cfg, err := c.Config.Normalize(&streamConfig, &limits, c.Pedantic)
	if err != nil {
		return nil, err
	}
	if cfg.Name != "" {
		if old, missing := s.consumer(cfg.Name); missing == nil {
			return r.updateConsumer(s, old, cfg, c.Action, decided)
		}
	}
	if c.Action == api.ActionUpdate {
		return nil, api.ErrConsumerDoesNotExist
	}
	if n := limits.ConsumersOf(&streamConfig); n > 0 && s.numConsumers() >= n {
		return nil, api.ErrMaximumConsumersLimit
	}
	if err := s.checkWorkQueue(&streamConfig, &cfg); err != nil {
		return nil, err
	}
	if cfg.IsDurable() {
		return r.putConsumer(s, &cfg, meta.ActionCreate, decided)
	}
	name, err := s.startEphemeral(cfg, time.Now().UTC(), func(out delivery.Publisher, info *api.ConsumerInfo) {
		decided()
		r.respondBy(out, r.created(info))
	})
	if err != nil {
		return nil, err
	}
	s.account.advise("CONSUMER.CREATED", s.name, name, "create")
	return answered, nil
}

// putConsumer has the catalogue create or update a durable consumer, calls decided, and has the consumer's leader answer
// the request.
func (r *request) putConsumer(s *Stream, cfg *api.ConsumerConfig, action meta.Action, decided func()) (any, *api.Error) {
	limits := s.account.limitsOf()
	fx, index, err := s.account.engine.catalog.do(&meta.Entry{
		Op: meta.OpPutConsumer, Account: s.account.name, Stream: s.name, Consumer: cfg.Name,
		ConsumerConfig: cfg, Action: action, Limits: &limits,
	})
	if err != nil {
		return nil, err
	}
	decided()
	if fx.Created {
		s.account.advise("CONSUMER.CREATED", s.name, cfg.Name, "create")
	}
	return r.byLeader(fx.Consumer.Group.ID, leaderCall{Kind: callConsumerPut, After: index})
}

// takeConsumerCall answers another node, or this one, as the leader of a consumer.
func (s *Stream) takeConsumerCall(c *consumerEntry, body []byte) (any, *api.Error) {
	var call leaderCall
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, api.ErrBadRequest
	}
	if call.Kind == callIndex {
		c.mu.Lock()
		group := c.group
		c.mu.Unlock()
		if group == nil {
			return nil, api.ErrBadRequest
		}
		return readIndex(group, c.appliedIndex)
	}
	ctx, cancel := context.WithTimeout(s.account.engine.ctx, askWait)
	defer cancel()
	if !s.account.engine.catalog.awaitCarried(ctx, call.After) {
		return nil, api.ErrClusterNotAvail
	}
	// A stream that keeps messages for its consumers keeps what this one wants from here on.
	if call.Kind == callConsumerPut && call.After > 0 && s.retains() && s.awaitTold(ctx, call.After) != nil {
		return nil, api.ErrClusterNotAvail
	}
	info, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	switch call.Kind {
	case callConsumerInfo:
		if !c.confirmed() {
			return nil, api.ErrClusterNotAvail
		}
		return info, nil
	case callConsumerPut:
		return s.account.reply(&call, api.ConsumerCreateResponse{
			Response: api.Response{Type: call.Type}, ConsumerInfo: s.account.shown(info),
		}), nil
	}
	return nil, api.ErrBadRequest
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

func (r *request) updateConsumer(s *Stream, old *consumerEntry, cfg api.ConsumerConfig, action api.ConsumerAction, decided func()) (any, *api.Error) {
	was := old.Config()
	cfg.PauseUntil = was.PauseUntil // only CONSUMER.PAUSE changes it
	cfg.Name = was.Name             // empty if the server made it up
	same := was.Equal(&cfg)
	switch {
	case action == api.ActionCreate && !same:
		return nil, api.ErrConsumerAlreadyExists
	case same && old.id == 0:
		return r.created(old.Info()), nil
	case same:
		decided()
		return r.byLeader(old.id, leaderCall{Kind: callConsumerPut})
	}
	bound := was.IsPush() && s.account.bus.HasInterest(was.DeliverSubject)
	if err := api.CheckConsumerUpdate(&was, &cfg, bound); err != nil {
		return nil, err
	}
	s.mu.RLock()
	streamConfig := s.machine.Config()
	s.mu.RUnlock()
	if err := s.checkWorkQueue(&streamConfig, &cfg); err != nil {
		return nil, err
	}
	if old.id != 0 {
		return r.putConsumer(s, &cfg, meta.ActionUpdate, decided)
	}
	if err := s.reconfigure(old, cfg); err != nil {
		return nil, err
	}
	return r.created(old.Info()), nil
}

// reconfigure gives a running consumer another configuration.
func (s *Stream) reconfigure(c *consumerEntry, cfg api.ConsumerConfig) *api.Error {
	updated := make(chan error, 1)
	c.Update(cfg, func(err error) { updated <- err })
	if err := await(updated); err != nil {
		return api.ErrConsumerCreateF(err.Error())
	}
	s.mu.Lock()
	s.configureLocked(c, cfg)
	s.mu.Unlock()
	return nil
}

// named returns the consumer that the request's subject names: one that this node leads, or knows as the
// leader of the stream.
func (r *request) named() (*Stream, *consumerEntry, *api.Error) {
	if s := r.account.local(r.Call.Stream); s != nil {
		if c, err := s.consumer(r.Call.Consumer); err == nil && c.leads() {
			return s, c, nil
		}
	}
	s, err := r.stream()
	if err != nil {
		return nil, nil, err
	}
	c, err := s.consumer(r.Call.Consumer)
	if err != nil && s.awaitRead() != nil {
		err = api.ErrClusterNotAvail // another node leads the stream, and may have it
	}
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
	if !c.confirmed() {
		return nil, api.ErrClusterNotAvail
	}
	return api.ConsumerInfoResponse{Response: r.ok(), ConsumerInfo: r.account.shown(c.Info())}, nil
}

// sorted returns the consumers of the request's stream by name.
func (r *request) sorted() ([]*consumerEntry, api.ConsumersRequest, *api.Error) {
	var q api.ConsumersRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, q, err
	}
	s, err := r.current()
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
	response := api.ConsumerListResponse{Response: r.ok(), Paged: paged, Consumers: []*api.ConsumerInfo{}}
	infos := make([]*api.ConsumerInfo, len(page))
	r.account.engine.each(len(page), func(ctx context.Context, i int) {
		infos[i] = r.account.consumerInfo(ctx, page[i])
	})
	for i, info := range infos {
		if info == nil {
			response.Missing = append(response.Missing, page[i].name)
			continue
		}
		response.Consumers = append(response.Consumers, info)
	}
	return response, nil
}

// consumerInfo asks the leader of a consumer; nil if there is none that answers.
func (a *account) consumerInfo(ctx context.Context, c *consumerEntry) *api.ConsumerInfo {
	if c.leads() && c.confirmed() {
		return c.Info()
	}
	var info api.ConsumerInfo
	if a.engine.listed(ctx, c.id, callConsumerInfo, &info) != nil {
		return nil
	}
	return &info
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
	} else if err := s.deleteConsumer(c.name); err != nil {
		return nil, err
	}
	return api.ConsumerDeleteResponse{Response: r.ok(), Success: true}, nil
}

// deleteConsumer has the catalogue delete a durable consumer.
func (s *Stream) deleteConsumer(name string) *api.Error {
	_, _, err := s.account.engine.catalog.do(&meta.Entry{
		Op: meta.OpDeleteConsumer, Account: s.account.name, Stream: s.name, Consumer: name,
	})
	if err == nil {
		s.account.advise("CONSUMER.DELETED", s.name, name, "delete")
	}
	return err
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
	var until *time.Time
	if !q.PauseUntil.IsZero() {
		t := q.PauseUntil.UTC()
		until = &t
	}
	if err := s.pauseConsumer(c, until); err != nil {
		return nil, err
	}
	response := api.ConsumerPauseResponse{Response: r.ok(), PauseUntil: q.PauseUntil}
	if left := time.Until(q.PauseUntil); left > 0 {
		response.Paused, response.PauseRemaining = true, left
	}
	return response, nil
}

// pauseConsumer pauses a consumer that is led here, or resumes it if until is nil.
func (s *Stream) pauseConsumer(c *consumerEntry, until *time.Time) *api.Error {
	if c.id != 0 {
		_, index, err := s.account.engine.catalog.do(&meta.Entry{
			Op: meta.OpPauseConsumer, Account: s.account.name, Stream: s.name, Consumer: c.name, PauseUntil: until,
		})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(s.account.engine.ctx, leaderWait)
		defer cancel()
		s.account.engine.catalog.awaitCarried(ctx, index)
		_, err = c.current(ctx)
		return err
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	cfg := c.Config()
	cfg.PauseUntil = until
	return s.reconfigure(c, cfg)
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
	return api.ConsumerResetResponse{Response: r.ok(), ConsumerInfo: r.account.shown(c.Info()), ResetSeq: next}, nil
}
