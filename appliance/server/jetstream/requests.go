package jetstream

import (
	"encoding/json"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/wire"
)

// request is one API request, owned.
type request struct {
	api.Call
	account      *account
	reply        string // of a direct get
	answer       func(body []byte)
	header, body []byte
}

// request takes an API request off the publisher's goroutine.
func (a *account) request(m Msg) {
	call, ok := api.ParseCall(string(m.Subject))
	if !ok || len(m.Reply) == 0 {
		return // unknown calls are not answered, as by nats-server
	}
	a.requests.Add(1)
	reply := string(m.Reply)
	r := &request{
		Call: call, account: a, reply: reply, answer: func(body []byte) { a.bus.Publish(reply, "", nil, body) },
		header: append([]byte(nil), m.Header...), body: append([]byte(nil), m.Data...),
	}
	if a.engine.jobs.len() >= maxRequests {
		r.respond(api.Response{Type: call.Type, Error: api.ErrInsufficientResources})
		return
	}
	a.engine.work(r.serve)
}

func (r *request) serve() {
	if r.Verb == api.VerbDirectGet {
		r.directGet()
		return
	}
	if !api.LevelServed(string(wire.Header(r.header, stream.HeaderRequiredAPILevel))) {
		r.fail(api.ErrRequiredApiLevel)
		return
	}
	handlers := map[api.Verb]func(*request) (any, *api.Error){
		api.VerbAccountInfo:    (*request).accountInfo,
		api.VerbStreamCreate:   (*request).streamCreate,
		api.VerbStreamUpdate:   (*request).streamUpdate,
		api.VerbStreamDelete:   (*request).streamDelete,
		api.VerbStreamInfo:     (*request).streamInfo,
		api.VerbStreamNames:    (*request).streamNames,
		api.VerbStreamList:     (*request).streamList,
		api.VerbStreamPurge:    (*request).streamPurge,
		api.VerbMsgGet:         (*request).msgGet,
		api.VerbMsgDelete:      (*request).msgDelete,
		api.VerbConsumerCreate: (*request).consumerCreate,
		api.VerbDurableCreate:  (*request).consumerCreate,
		api.VerbConsumerInfo:   (*request).consumerInfo,
		api.VerbConsumerNames:  (*request).consumerNames,
		api.VerbConsumerList:   (*request).consumerList,
		api.VerbConsumerDelete: (*request).consumerDelete,
		api.VerbConsumerPause:  (*request).consumerPause,
		api.VerbConsumerReset:  (*request).consumerReset,
		api.VerbUnserved:       func(r *request) (any, *api.Error) { return nil, r.Refusal },
	}
	response, err := handlers[r.Verb](r)
	if err != nil {
		r.fail(err)
		return
	}
	r.respond(response)
}

// ok is the envelope of a good answer.
func (r *request) ok() api.Response { return api.Response{Type: r.Type} }

func (r *request) fail(err *api.Error) {
	r.account.failures.Add(1)
	r.respond(r.failed(api.Response{Type: r.Type, Error: err}))
}

// failed returns the answer of an error. Fields that are always there hold their zero value.
func (r *request) failed(e api.Response) any {
	switch r.Verb {
	case api.VerbStreamInfo:
		return api.StreamInfoResponse{Response: e}
	case api.VerbStreamNames:
		return api.StreamNamesResponse{Response: e}
	case api.VerbStreamList:
		return api.StreamListResponse{Response: e, Streams: []*api.StreamInfo{}}
	case api.VerbStreamPurge:
		return api.StreamPurgeResponse{Response: e}
	case api.VerbConsumerNames:
		return api.ConsumerNamesResponse{Response: e, Consumers: []string{}}
	case api.VerbConsumerList:
		return api.ConsumerListResponse{Response: e, Consumers: []*api.ConsumerInfo{}}
	case api.VerbConsumerPause:
		return api.ConsumerPauseResponse{Response: e}
	case api.VerbConsumerReset:
		return api.ConsumerResetResponse{Response: e}
	}
	return e
}

func (r *request) respond(v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: encode API response: " + err.Error())
	}
	r.answer(body)
}

func (r *request) stream() (*Stream, *api.Error) { return r.account.stream(r.Call.Stream) }

func (r *request) accountInfo() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	a := r.account
	stats := &api.AccountStats{
		Domain: a.engine.cfg.Domain,
		API:    api.APIStats{Level: api.Level, Total: a.requests.Load(), Errors: a.failures.Load()},
	}
	stats.Limits = a.limits
	for _, s := range a.all() {
		s.mu.RLock()
		_, bytes := s.machine.Usage()
		cfg := s.machine.Config()
		stats.Consumers += len(s.consumers)
		s.mu.RUnlock()
		stats.Streams++
		reserved := uint64(max(0, cfg.MaxBytes))
		if cfg.Storage == api.MemoryStorage {
			stats.Memory += bytes
			stats.ReservedMemory += reserved
		} else {
			stats.Store += bytes
			stats.ReservedStore += reserved
		}
	}
	return api.AccountInfoResponse{Response: r.ok(), AccountStats: stats}, nil
}
