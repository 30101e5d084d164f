package jetstream

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
)

// info describes the stream. Deleted sequences are listed if details is set. What an index that cannot be
// read would tell is missing.
func (s *Stream) info(details bool) *api.StreamInfo {
	s.mu.RLock()
	info := &api.StreamInfo{
		Config: s.machine.Config(), Created: s.created,
		Domain: s.account.engine.cfg.Domain, TimeStamp: time.Now().UTC(),
	}
	var err error
	info.State, err = s.machine.State(details)
	info.State.Consumers = len(s.consumers)
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
	}
	info.Cluster = s.account.engine.clusterInfo(s.spec.ID)
	return info
}

// shown is info with the metadata that single answers carry.
func (s *Stream) shown(details bool) *api.StreamInfo {
	info := s.info(details)
	info.Config = info.Config.Shown(s.account.engine.cfg.Version)
	return info
}

func (r *request) streamConfig() (api.StreamConfigRequest, *api.Error) {
	var c api.StreamConfigRequest
	return c, api.Decode(r.body, &c)
}

func (r *request) streamCreate() (any, *api.Error) {
	c, err := r.streamConfig()
	if err != nil {
		return nil, err
	}
	if c.Name != r.Call.Stream {
		return nil, api.ErrStreamMismatch
	}
	if err := c.CheckCreate(); err != nil {
		return nil, err
	}
	return r.putStream(&c, meta.ActionCreate)
}

func (r *request) streamUpdate() (any, *api.Error) {
	c, err := r.streamConfig()
	if err != nil {
		return nil, err
	}
	limits := r.account.limitsOf()
	if _, err := c.Normalize(&limits, c.Pedantic); err != nil {
		return nil, err
	}
	if c.Name != r.Call.Stream {
		return nil, api.ErrStreamMismatch
	}
	return r.putStream(&c, meta.ActionUpdate)
}

func (r *request) streamDelete() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	if err := r.deleteStream(r.Call.Stream); err != nil {
		return nil, err
	}
	return api.StreamDeleteResponse{Response: r.ok(), Success: true}, nil
}

func (r *request) streamInfo() (any, *api.Error) {
	var q api.StreamInfoRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	s, err := r.current()
	if err != nil {
		return nil, err
	}
	response := api.StreamInfoResponse{Response: r.ok(), StreamInfo: s.shown(q.DeletedDetails)}
	if q.SubjectsFilter == "" {
		return response, nil
	}
	type count struct {
		name     string
		messages uint64
	}
	var all []count
	s.mu.RLock()
	s.machine.Subjects(q.SubjectsFilter, func(name string, n uint64) { all = append(all, count{name, n}) })
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b count) int { return cmp.Compare(a.name, b.name) })
	if len(all) == 0 {
		return response, nil
	}
	page, paged := api.Page(all, q.Offset, api.SubjectsPage)
	response.Paged = paged
	response.Offset = max(q.Offset, 0)
	response.State.Subjects = make(map[string]uint64, len(page))
	for _, c := range page {
		response.State.Subjects[c.name] = c.messages
	}
	return response, nil
}

func (r *request) streamNames() (any, *api.Error) {
	var q api.StreamNamesRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	page, paged := api.Page(r.account.listed(q.Subject), q.Offset, api.NamesPage)
	var names []string // null if there are none
	for _, ms := range page {
		names = append(names, ms.Name)
	}
	return api.StreamNamesResponse{Response: r.ok(), Paged: paged, Streams: names}, nil
}

// listed returns the account's streams with a subject that overlaps filter, by name.
func (a *account) listed(filter string) []meta.Stream {
	c := a.engine.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Streams(a.name, filter)
}

func (r *request) streamList() (any, *api.Error) {
	var q api.StreamNamesRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	page, paged := api.Page(r.account.listed(q.Subject), q.Offset, api.ListPage)
	response := api.StreamListResponse{Response: r.ok(), Paged: paged, Streams: []*api.StreamInfo{}}
	infos := make([]*api.StreamInfo, len(page))
	r.account.engine.each(len(page), func(ctx context.Context, i int) {
		infos[i] = r.account.streamInfo(ctx, page[i])
	})
	for i, info := range infos {
		if info == nil {
			response.Missing = append(response.Missing, page[i].Name)
			continue
		}
		response.Streams = append(response.Streams, info)
	}
	return response, nil
}

// streamInfo asks the leader of a stream; nil if there is none that answers.
func (a *account) streamInfo(ctx context.Context, ms meta.Stream) *api.StreamInfo {
	if s := a.local(ms.Name); s != nil && s.leads() && s.awaitRead() == nil {
		return s.info(false)
	}
	var info api.StreamInfo
	if a.engine.listed(ctx, ms.Group.ID, callStreamInfo, &info) != nil {
		return nil
	}
	return &info
}

// listed asks the leader of a group for what is listed of it. One that is not heard for a moment, or changes, is not
// missing; but a list does not wait for long for those that have none.
func (e *Engine) listed(ctx context.Context, group uint64, kind string, info any) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	return e.tellLeader(ctx, group, leaderCall{Kind: kind}, info)
}

// each calls fn for every i below n, several at a time, with a context that bounds them all.
func (e *Engine) each(n int, fn func(ctx context.Context, i int)) {
	const atOnce = 16
	ctx, cancel := context.WithTimeout(e.ctx, gatherWait)
	defer cancel()
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := range next {
				fn(ctx, i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func (r *request) streamPurge() (any, *api.Error) {
	var q api.StreamPurgeRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	cfg := s.machine.Config()
	s.mu.RUnlock()
	switch {
	case cfg.Sealed:
		return nil, api.ErrStreamSealed
	case cfg.DenyPurge:
		return nil, api.ErrStreamPurgeFailedF("stream purge not permitted")
	case q.Sequence == math.MaxUint64:
		return nil, api.ErrBadRequest
	case q.Subject != "" && !subject.Valid(q.Subject):
		return nil, api.ErrBadRequest
	}
	purge := purging(s.now(), stream.Purge{Filter: q.Subject, Seq: q.Sequence, Keep: q.Keep})
	if q.Subject == "" || q.Subject == ">" {
		purge.ahead = q.Sequence
	}
	fx, err := s.do(purge)
	if err != nil {
		return nil, err
	}
	return api.StreamPurgeResponse{Response: r.ok(), Success: true, Purged: fx.Purged}, nil
}
