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
	reply        string            // subject of the answer
	answer       func(body []byte) // takes the answer of a request without reply
	header, body []byte
	create       *api.CreateConsumerRequest // decoded from body; nil: not yet
}

// publisher is what an answer is sent with.
type publisher interface {
	Publish(subject, reply string, header, data []byte) int
}

// request takes an API request. In a cluster every storage node gets it, and the one that is responsible answers;
// the others are left alone when it is known here, where the client is, which one that is.
func (a *account) request(m Msg) (settled bool) {
	call, v := a.called(m)
	if v == (verdict{}) {
		return m.Own && a.pass(&call, m)
	}
	settled = m.Own && v.mine && a.surely(&call)
	a.take(call, v, m, settled && m.Last)
	return settled
}

// requestHere is request on subjects that are subscribed to where they are answered.
func (a *account) requestHere(m Msg) {
	if call, v := a.called(m); v != (verdict{}) {
		a.take(call, v, m, false)
	}
}

// called returns what is called for and who answers. Unknown calls nobody does, as with nats-server.
func (a *account) called(m Msg) (api.Call, verdict) {
	call, ok := api.ParseCall(string(m.Subject))
	if !ok || len(m.Reply) == 0 {
		return api.Call{}, verdict{}
	}
	return call, a.responsible(&call)
}

// take has a request answered, at once if inPlace is set and that waits for nothing, else on a worker.
func (a *account) take(call api.Call, v verdict, m Msg, inPlace bool) {
	r := &request{
		Call: call, account: a, verdict: v, reply: string(m.Reply),
		header: append([]byte(nil), m.Header...), body: append([]byte(nil), m.Data...),
	}
	if v.await != 0 {
		r.await(string(m.Subject), v.await)
		return
	}
	if changes(call.Verb) && !a.taken.first(string(m.Subject), r.reply, m.Header) {
		return
	}
	a.requests.Add(1)
	waiting := a.engine.lanes[requests].len()
	switch {
	case waiting >= maxRequests:
		r.respond(api.Response{Type: call.Type, Error: api.ErrInsufficientResources})
	case v.leaderless:
		r.refuse()
	case inPlace && waiting == 0 && r.serveInPlace():
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
	if r.refusal == nil && !r.levelServed() {
		r.refusal = api.ErrRequiredApiLevel
	}
	if r.refusal != nil {
		r.fail(r.refusal)
		return
	}
	r.finish(r.handle())
}

// levelServed reports whether this node serves the API level that the request requires, if it does (ADR-44).
func (r *request) levelServed() bool {
	return api.LevelServed(string(wire.Header(r.header, stream.HeaderRequiredAPILevel)))
}

// finish answers the request.
func (r *request) finish(response any, err *api.Error) {
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

func (r *request) respond(v any) { r.respondBy(r.account.bus, v) }

func (r *request) respondBy(out publisher, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: encode API response: " + err.Error())
	}
	if r.answer != nil {
		r.answer(body)
		return
	}
	out.Publish(r.reply, "", nil, body)
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
