package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// putStream has the catalogue create or update a stream and its leader answer the request.
func (r *request) putStream(c *api.StreamConfigRequest, action meta.Action) (any, *api.Error) {
	a := r.account
	limits := a.limitsOf()
	cfg, err := c.Normalize(&limits, c.Pedantic)
	if err != nil {
		return nil, err
	}
	nodes, err := a.place(&cfg)
	if err != nil {
		return nil, err
	}
	fx, index, err := a.engine.catalog.do(&meta.Entry{
		Op: meta.OpPutStream, Account: a.name, Stream: cfg.Name, StreamConfig: &cfg, Action: action, Limits: &limits, Nodes: nodes,
	})
	if err != nil {
		return nil, err
	}
	switch {
	case fx.Created:
		a.advise("STREAM.CREATED", cfg.Name, "", "create")
	case fx.Changed:
		a.advise("STREAM.UPDATED", cfg.Name, "", "modify")
	}
	return r.byLeader(fx.Stream.Group.ID, leaderCall{After: index, Kind: callStreamPut, Created: action == meta.ActionCreate})
}

// place chooses the nodes for a stream: those that have it, if it exists and is not to be elsewhere. Another placement
// moves it off nodes that do not fit; with other replicas in the same update that is refused, as by nats-server.
func (a *account) place(cfg *api.StreamConfig) ([]uint64, *api.Error) {
	e := a.engine
	p := meta.PlacementOf(cfg, e.cfg.UniqueTag)
	if old, ok := e.catalog.stream(a.name, cfg.Name); ok {
		p.Strict = cfg.Placement != nil && !meta.SamePlacement(old.Config.Placement, cfg.Placement)
		if p.Strict && cfg.Replicas != old.Config.Replicas {
			return nil, api.ErrStreamMoveAndScale
		}
		for _, m := range old.Group.Carrying() {
			p.Keep = append(p.Keep, m.Node)
		}
	}
	e.awaitNodes()
	return meta.Place(e.candidates(), p)
}

// awaitNodes waits until the registry has a node. In a cluster that has just begun the first one is about to enter itself.
func (e *Engine) awaitNodes() {
	late, look := time.NewTimer(electionWait), time.NewTicker(lookHeld)
	defer late.Stop()
	defer look.Stop()
	for len(e.catalog.nodes()) == 0 {
		select {
		case <-look.C:
		case <-late.C:
			return
		case <-e.ctx.Done():
			return
		}
	}
}

// deleteStream has the catalogue delete a stream, and waits a little until its leader takes no more.
func (r *request) deleteStream(name string) *api.Error {
	a := r.account
	fx, _, err := a.engine.catalog.do(&meta.Entry{Op: meta.OpDeleteStream, Account: a.name, Stream: name})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.engine.ctx, time.Second)
	defer cancel()
	a.engine.calls.awaitNoLeader(ctx, fx.Stream.Group.ID)
	a.advise("STREAM.DELETED", name, "", "delete")
	return nil
}

// The kinds of calls to the leader of a stream or consumer.
const (
	callStreamPut    = "stream_put"    // the answer to a create or update
	callStreamInfo   = "stream_info"   // a StreamInfo as in lists
	callIndex        = "index"         // up to which entry the leader has applied
	callConsumerPut  = "consumer_put"  // the answer to a create or update
	callConsumerInfo = "consumer_info" // a ConsumerInfo as in lists
	callEphemerals   = "ephemerals"    // nothing: consumers that were led elsewhere, in memory, are taken over
	callPublishes    = "publishes"     // nothing: publishes that came to the last leader are taken
)

// leaderCall is what the leader of a stream or consumer is asked by another node.
type leaderCall struct {
	Kind string `json:"kind"`
	// After is the entry of the catalogue that the answer is to follow; 0: whichever there is.
	After uint64 `json:"after,omitempty"`
	// Type is that of the answer to a client, and Reply its subject; empty: the caller passes it on.
	Type    string `json:"type,omitempty"`
	Reply   string `json:"reply,omitempty"`
	Created bool   `json:"created,omitempty"`
	// Ephemerals go on at the leader of their stream.
	Ephemerals []ephemeral `json:"ephemerals,omitempty"`
	// Passed are publishes that came to the leader of a term, Through that these are all that it kept when that ended.
	Term    uint64   `json:"term,omitempty"`
	Passed  []passed `json:"passed,omitempty"`
	Through bool     `json:"through,omitempty"`
}

// leaderWait bounds the time in which a group has to get a leader that answers, and askWait that for which one of them
// is waited for: what is asked while the leadership changes may get lost.
const (
	leaderWait = 4 * time.Second
	askWait    = time.Second
)

// byLeader has the leader of a group answer the request. It does so itself, so that what it subscribes to
// is known to the client's server before the client has the answer.
func (r *request) byLeader(group uint64, c leaderCall) (any, *api.Error) {
	e := r.account.engine
	c.Type, c.Reply = r.Type, r.reply
	ctx, cancel := context.WithTimeout(e.ctx, leaderWait)
	defer cancel()
	var body json.RawMessage
	switch err := e.tellLeader(ctx, group, c, &body); {
	case err != nil:
		return nil, asAPI(err)
	case r.reply != "":
		return answered, nil
	}
	return body, nil
}

// tellLeader has the leader of a group answer a call. One that leads no more, or is not ready, is not the last that is
// asked.
func (e *Engine) tellLeader(ctx context.Context, group uint64, c leaderCall, answer any) error {
	for {
		err := e.calls.awaitLeader(ctx, group)
		if err == nil {
			err = e.askLeader(ctx, group, c, answer)
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, errNoLeader) && !errors.Is(err, api.ErrClusterNotAvail) && !errors.Is(err, errAskWait) {
			return err
		}
		select {
		case <-time.After(retryLeader):
		case <-ctx.Done():
		}
	}
}

// errAskWait is returned by askLeader when no answer came in time.
var errAskWait = fmt.Errorf("jetstream: no answer from the leader within %v", askWait)

// askLeader asks the leader of a group once.
func (e *Engine) askLeader(ctx context.Context, group uint64, c leaderCall, answer any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askWait, errAskWait)
	defer cancel()
	return e.calls.call(ctx, leaderSubject(group), c, answer)
}

// retryLeader is the pause before the next leader of a group is asked.
const retryLeader = 10 * time.Millisecond

// reply gives a leader's answer to the client, or to the node that asked.
func (a *account) reply(c *leaderCall, response any) any {
	if c.Reply == "" {
		return response
	}
	body, err := json.Marshal(response)
	if err != nil {
		panic("BUG: encode API response: " + err.Error())
	}
	a.bus.Publish(c.Reply, "", nil, body)
	return nil
}

// takeCall answers another node, or this one, as the leader of the stream.
func (s *Stream) takeCall(body []byte) (any, *api.Error) {
	var c leaderCall
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, api.ErrBadRequest
	}
	e := s.account.engine
	ctx, cancel := context.WithTimeout(e.ctx, askWait)
	defer cancel()
	if c.Kind == callIndex {
		if c.After > 0 && !e.catalog.awaitCarried(ctx, c.After) {
			return nil, api.ErrClusterNotAvail
		}
		return readIndex(s.leading(), s.appliedIndex)
	}
	switch c.Kind {
	case callPublishes:
		return nil, s.takePassed(&c)
	case callEphemerals: // without which it is not current
		return nil, s.takeEphemerals(c.Ephemerals)
	}
	if !e.catalog.awaitCarried(ctx, c.After) || !s.awaitCurrent(ctx) {
		return nil, api.ErrClusterNotAvail
	}
	ok := api.Response{Type: c.Type}
	switch {
	case c.Kind == callStreamInfo && s.awaitRead() != nil:
		return nil, api.ErrClusterNotAvail
	case c.Kind == callStreamInfo:
		return s.info(false), nil
	case c.Kind != callStreamPut:
		return nil, api.ErrBadRequest
	case c.Created:
		return s.account.reply(&c, api.StreamCreateResponse{Response: ok, StreamInfo: s.shown(false), DidCreate: true}), nil
	}
	return s.account.reply(&c, api.StreamUpdateResponse{Response: ok, StreamInfo: s.shown(false)}), nil
}

// appliedIndex returns the entry that was applied last.
func (s *Stream) appliedIndex() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied
}

// awaitWhole waits until this replica has everything that the stream had acknowledged before the call.
func (s *Stream) awaitWhole(ctx context.Context) error {
	if s.leads() {
		return s.awaitRead()
	}
	return s.account.engine.awaitIndex(ctx, s.spec.ID, s.appliedIndex)
}

// awaitTold waits until the stream's leader, whoever that is, knows what an entry of the catalogue says of its
// consumers. It is carried out on this node. Who leads later asks for it by itself, see [Stream.learn].
func (s *Stream) awaitTold(ctx context.Context, entry uint64) error {
	if s.leads() {
		return s.awaitRead()
	}
	var index uint64
	return s.account.engine.calls.call(ctx, leaderSubject(s.spec.ID), leaderCall{Kind: callIndex, After: entry}, &index)
}

// leading returns the group.
func (s *Stream) leading() Group {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.group
}

// readIndex returns what the leader of a group has applied, when that is all that was committed.
func readIndex(group Group, applied func() uint64) (any, *api.Error) {
	if leaseRead(group) != nil {
		return nil, api.ErrClusterNotAvail
	}
	return applied(), nil
}

// awaitIndex waits until a replica has applied what its group's leader has.
func (e *Engine) awaitIndex(ctx context.Context, group uint64, applied func() uint64) error {
	var index uint64
	if err := e.calls.call(ctx, leaderSubject(group), leaderCall{Kind: callIndex}, &index); err != nil {
		return err
	}
	const every = 2 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for applied() < index {
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// awaitCurrent waits until the stream serves with the configuration that the catalogue has. It returns false
// when ctx ends before, or this node does not lead the stream any more.
func (s *Stream) awaitCurrent(ctx context.Context) bool {
	const every = 2 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		s.mu.RLock()
		current := s.serving && s.assigned != nil && s.inForce.Equal(s.assigned.Config) && s.kept == s.inForce.Retention
		lost := s.term == 0 || s.stopped
		s.mu.RUnlock()
		if current || lost {
			return current
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
}
