package jetstream

import (
	"cmp"
	"math"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
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
	s, err := r.account.engine.catalog.createStream(r.account, &c)
	if err != nil {
		return nil, err
	}
	return api.StreamCreateResponse{Response: r.ok(), StreamInfo: s.shown(false), DidCreate: true}, nil
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
	s, err := r.account.engine.catalog.updateStream(r.account, &c)
	if err != nil {
		return nil, err
	}
	return api.StreamUpdateResponse{Response: r.ok(), StreamInfo: s.shown(false)}, nil
}

func (r *request) streamDelete() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	if err := r.account.engine.catalog.deleteStream(r.account, r.Call.Stream); err != nil {
		return nil, err
	}
	return api.StreamDeleteResponse{Response: r.ok(), Success: true}, nil
}

func (r *request) streamInfo() (any, *api.Error) {
	var q api.StreamInfoRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	s, err := r.stream()
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

// matching returns the account's streams with a subject that overlaps filter, by name.
func (a *account) matching(filter string) []*Stream {
	all := a.all()
	if filter != "" {
		all = slices.DeleteFunc(all, func(s *Stream) bool {
			s.mu.RLock()
			defer s.mu.RUnlock()
			return !slices.ContainsFunc(s.machine.Config().Subjects, func(subj string) bool {
				return subject.Overlap(subj, filter)
			})
		})
	}
	slices.SortFunc(all, func(x, y *Stream) int { return cmp.Compare(x.name, y.name) })
	return all
}

func (r *request) streamNames() (any, *api.Error) {
	var q api.StreamNamesRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	page, paged := api.Page(r.account.matching(q.Subject), q.Offset, api.NamesPage)
	var names []string // null if there are none
	for _, s := range page {
		names = append(names, s.name)
	}
	return api.StreamNamesResponse{Response: r.ok(), Paged: paged, Streams: names}, nil
}

func (r *request) streamList() (any, *api.Error) {
	var q api.StreamNamesRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return nil, err
	}
	page, paged := api.Page(r.account.matching(q.Subject), q.Offset, api.ListPage)
	infos := make([]*api.StreamInfo, len(page))
	for i, s := range page {
		infos[i] = s.info(false)
	}
	return api.StreamListResponse{Response: r.ok(), Paged: paged, Streams: infos}, nil
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
	var ahead uint64
	if q.Subject == "" || q.Subject == ">" {
		ahead = q.Sequence
	}
	fx, err := s.doAhead(stream.EncodePurge(s.now(), stream.Purge{Filter: q.Subject, Seq: q.Sequence, Keep: q.Keep}), ahead)
	if err != nil {
		return nil, err
	}
	return api.StreamPurgeResponse{Response: r.ok(), Success: true, Purged: fx.Purged}, nil
}
