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
	account *account
	verdict
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
		Call: call, account: a, verdict: v, reply: reply, answer: func(body []byte) { a.bus.Publish(reply, "", nil, body) },
		header: append([]byte(nil), m.Header...), body: append([]byte(nil), m.Data...),
	}
	if v.await != 0 {
		r.await(string(m.Subject), v.await)
		return
	}
	if changes(call.Verb) && !a.taken.first(string(m.Subject), reply, m.Header) {
		return
	}
	a.requests.Add(1)
	switch {
	case a.engine.lanes[requests].len() >= maxRequests:
		r.respond(api.Response{Type: call.Type, Error: api.ErrInsufficientResources})
	case v.leaderless:
		r.refuse()
	default:
		a.engine.work(requests, r.serve)
	}
}

// refuseAfter is how long a node waits before it says that the cluster has no leader. One that comes back
// after it was cut off gets requests before it hears of the leader, and must not answer before that does.
const refuseAfter = 2 * time.Second

// refuse answers that there is no leader, unless there is one by then. It does not wait.
func (r *request) refuse() {
	time.AfterFunc(refuseAfter, func() {
		if e := r.account.engine; e.catalog.leaderless() {
			e.work(requests, func() { r.fail(api.ErrClusterNotAvail) })
		}
	})
}

// electionWait is how long a request waits for a group to have a leader again.
const electionWait = 3 * time.Second

// await sends the request once more when somebody leads a group, and refuses it when nobody does in time. It
// does not wait.
func (r *request) await(subject string, group uint64) {
	a := r.account
	a.engine.calls.whenLed(group, electionWait, func(led bool) {
		if led {
			a.bus.Publish(subject, r.reply, sentAgain(r.header), r.body)
			return
		}
		a.requests.Add(1)
		r.fail(api.ErrClusterNotAvail)
	})
}

// serve answers the request.
func (r *request) serve() {
	if r.Verb == api.VerbDirectGet {
		r.directGet()
		return
	}
	// Another node may lead the meta group, and know more, before this one hears of it.
	if r.asMeta && leaseRead(r.account.engine.catalog.group) != nil {
		r.refusal = api.ErrClusterNotAvail
	}
	if r.refusal != nil {
		r.fail(r.refusal)
		return
	}
	if !api.LevelServed(string(wire.Header(r.header, stream.HeaderRequiredAPILevel))) {
		r.fail(api.ErrRequiredApiLevel)
		return
	}
	response, err := r.handle()
	switch {
	case err != nil:
		r.fail(err)
	case response != answered:
		r.respond(response)
	}
}

// handle carries the request out.
func (r *request) handle() (any, *api.Error) {
	switch r.Verb {
	case api.VerbAccountInfo:
		return r.accountInfo()
	case api.VerbStreamCreate:
		return r.streamCreate()
	case api.VerbStreamUpdate:
		return r.streamUpdate()
	case api.VerbStreamDelete:
		return r.streamDelete()
	case api.VerbStreamInfo:
		return r.streamInfo()
	case api.VerbStreamNames:
		return r.streamNames()
	case api.VerbStreamList:
		return r.streamList()
	case api.VerbStreamPurge:
		return r.streamPurge()
	case api.VerbMsgGet:
		return r.msgGet()
	case api.VerbMsgDelete:
		return r.msgDelete()
	case api.VerbConsumerCreate, api.VerbDurableCreate:
		return r.consumerCreate()
	case api.VerbConsumerInfo:
		return r.consumerInfo()
	case api.VerbConsumerNames:
		return r.consumerNames()
	case api.VerbConsumerList:
		return r.consumerList()
	case api.VerbConsumerDelete:
		return r.consumerDelete()
	case api.VerbConsumerPause:
		return r.consumerPause()
	case api.VerbConsumerReset:
		return r.consumerReset()
	case api.VerbStreamStepDown:
		return r.streamStepDown()
	case api.VerbStreamPeerRemove:
		return r.streamPeerRemove()
	case api.VerbConsumerPeerRemove:
		return r.consumerPeerRemove()
	case api.VerbStreamCancelMove:
		return r.streamCancelMove()
	case api.VerbConsumerStepDown:
		return r.consumerStepDown()
	case api.VerbAccountStreamMove:
		return r.accountStreamMove()
	case api.VerbAccountStreamCancelMove:
		return r.accountStreamCancelMove()
	case api.VerbMetaStepDown:
		return r.metaStepDown()
	case api.VerbServerRemove:
		return r.serverRemove()
	case api.VerbServerEvacuate:
		return r.serverEvacuate()
	}
	return nil, r.Refusal // of VerbUnserved
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

// current is stream for what is answered by what the stream holds: its replica here has all that was
// acknowledged before, also by a leader that it does not know of yet.
func (r *request) current() (*Stream, *api.Error) {
	s, err := r.stream()
	if err == nil && s.awaitRead() != nil {
		return nil, api.ErrClusterNotAvail
	}
	return s, err
}
