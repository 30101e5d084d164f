package jetstream

import (
	"encoding/json"
	"time"

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

// request takes an API request off the publisher's goroutine. In a cluster every storage node gets it,
// and the one that is responsible answers.
func (a *account) request(m Msg) {
	call, ok := api.ParseCall(string(m.Subject))
	if !ok || len(m.Reply) == 0 {
		return // unknown calls are not answered, as by nats-server
	}
	v := a.responsible(&call)
	if v == (verdict{}) {
		return
	}
	reply := string(m.Reply)
	r := &request{
		Call: call, account: a, reply: reply, answer: func(body []byte) { a.bus.Publish(reply, "", nil, body) },
		header: append([]byte(nil), m.Header...), body: append([]byte(nil), m.Data...),
	}
	if v.await != 0 {
		r.await(string(m.Subject), v.await)
		return
	}
	a.requests.Add(1)
	switch {
	case a.engine.jobs.len() >= maxRequests:
		r.respond(api.Response{Type: call.Type, Error: api.ErrInsufficientResources})
	case v.refusal != nil:
		a.engine.work(func() { r.fail(v.refusal) })
	default:
		a.engine.work(r.serve)
	}
}

// electionWait is how long a request waits for a group to have a leader again.
const electionWait = 3 * time.Second

// await sends the request once more when somebody leads a group, and refuses it when nobody does in time. It
// does not wait.
func (r *request) await(subject string, group uint64) {
	a := r.account
	a.engine.calls.whenLed(group, electionWait, func(led bool) {
		if led {
			a.bus.Publish(subject, r.reply, r.header, r.body)
			return
		}
		a.requests.Add(1)
		r.fail(api.ErrClusterNotAvail)
	})
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
		api.VerbAccountInfo:             (*request).accountInfo,
		api.VerbStreamCreate:            (*request).streamCreate,
		api.VerbStreamUpdate:            (*request).streamUpdate,
		api.VerbStreamDelete:            (*request).streamDelete,
		api.VerbStreamInfo:              (*request).streamInfo,
		api.VerbStreamNames:             (*request).streamNames,
		api.VerbStreamList:              (*request).streamList,
		api.VerbStreamPurge:             (*request).streamPurge,
		api.VerbMsgGet:                  (*request).msgGet,
		api.VerbMsgDelete:               (*request).msgDelete,
		api.VerbConsumerCreate:          (*request).consumerCreate,
		api.VerbDurableCreate:           (*request).consumerCreate,
		api.VerbConsumerInfo:            (*request).consumerInfo,
		api.VerbConsumerNames:           (*request).consumerNames,
		api.VerbConsumerList:            (*request).consumerList,
		api.VerbConsumerDelete:          (*request).consumerDelete,
		api.VerbConsumerPause:           (*request).consumerPause,
		api.VerbConsumerReset:           (*request).consumerReset,
		api.VerbStreamStepDown:          (*request).streamStepDown,
		api.VerbStreamPeerRemove:        (*request).streamPeerRemove,
		api.VerbStreamCancelMove:        (*request).streamCancelMove,
		api.VerbConsumerStepDown:        (*request).consumerStepDown,
		api.VerbAccountStreamMove:       (*request).accountStreamMove,
		api.VerbAccountStreamCancelMove: (*request).accountStreamCancelMove,
		api.VerbMetaStepDown:            (*request).metaStepDown,
		api.VerbServerRemove:            (*request).serverRemove,
		api.VerbServerEvacuate:          (*request).serverEvacuate,
		api.VerbUnserved:                func(r *request) (any, *api.Error) { return nil, r.Refusal },
	}
	response, err := handlers[r.Verb](r)
	switch {
	case err != nil:
		r.fail(err)
	case response != answered:
		r.respond(response)
	}
}

// answered is the response of a request that another node has answered.
var answered any = struct{ answered bool }{true}

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
