package jetstream

import (
	"errors"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// scope is who answers a request.
type scope uint8

const (
	scopeMeta     scope = iota // the leader of the meta group
	scopeStream                // the leader of the stream
	scopeConsumer              // the leader of the consumer
)

// scopeOf tells who answers requests of a kind.
func scopeOf(c *api.Call) scope {
	switch {
	case c.Stream == "":
		return scopeMeta
	case c.Verb == api.VerbStreamCreate, c.Verb == api.VerbStreamUpdate, c.Verb == api.VerbStreamDelete,
		c.Verb == api.VerbStreamPeerRemove, c.Verb == api.VerbStreamCancelMove, c.Verb == api.VerbConsumerPeerRemove, c.Account != "":
		return scopeMeta
	case c.Verb == api.VerbConsumerStepDown, c.Verb == api.VerbConsumerInfo, c.Verb == api.VerbConsumerPause, c.Verb == api.VerbConsumerReset:
		return scopeConsumer
	}
	return scopeStream
}

// verdict is who answers a request.
type verdict struct {
	mine       bool       // this node does
	asMeta     bool       // by the catalogue, as the leader of the meta group
	refusal    *api.Error // all that there is to say
	leaderless bool       // nobody does, if that lasts: the meta group has no leader
	await      uint64     // the group whose leader will answer, when there is one again; 0: none
}

// responsible tells what this node does about a request. For what has no leader, the leader of the group
// above it speaks: that of the stream for its consumers, that of the meta group for streams, and every
// node when that has none.
func (a *account) responsible(call *api.Call) verdict {
	if !a.engine.members.in() || call.Account != "" && call.Account != a.name {
		return verdict{}
	}
	kind := scopeOf(call)
	if kind != scopeMeta {
		if s := a.local(call.Stream); s != nil {
			if v := s.responsible(call, kind); v != (verdict{}) {
				return v
			}
		}
	}
	c := a.engine.catalog
	if !c.leads() {
		return verdict{leaderless: c.leaderless()}
	}
	if kind == scopeMeta {
		return verdict{mine: true, asMeta: true}
	}
	ms, ok := c.stream(a.name, call.Stream)
	if !ok || a.offlineHere(call.Stream, &ms) {
		return verdict{mine: true, asMeta: true} // says that it does not exist, or why it cannot be served
	}
	if c.lost(a.name, call.Stream) {
		return verdict{mine: true, asMeta: true, refusal: api.ErrStreamOfflineReasonF(errLost.Error())}
	}
	if a.engine.calls.led(ms.Group.ID) {
		return verdict{}
	}
	return verdict{await: ms.Group.ID}
}

// responsible tells what this replica of the stream, or of a consumer of it, does about a request.
func (s *Stream) responsible(call *api.Call, kind scope) verdict {
	leads := s.leads()
	if kind == scopeStream {
		return verdict{mine: leads}
	}
	c, missing := s.consumer(call.Consumer)
	switch {
	case missing == nil && c.leads():
		return verdict{mine: true}
	case !leads:
		return verdict{}
	case missing != nil:
		return verdict{mine: true} // says that it does not exist
	case s.account.engine.calls.led(c.id):
		return verdict{}
	}
	return verdict{await: c.id}
}

// errLost is why a stream is offline for ever.
var errLost = errors.New("all nodes with a replica of it were removed from the cluster; it can be deleted")

// offlineHere reports whether a stream's only replica is here and cannot be served.
func (a *account) offlineHere(name string, ms *meta.Stream) bool {
	if len(ms.Group.Members) > 1 {
		return false
	}
	if s := a.local(name); s != nil {
		return s.failure() != nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.offline[name] != nil
}
