package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/wire"
)

// systemAccount is what the calls of the system account are accounted to.
const systemAccount = "$SYS"

// systemSubjects are the calls of the system account. Only the leader of the meta group takes them, so that
// without one there are no responders, as with nats-server.
var systemSubjects = []string{
	"$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$JS.API.SERVER.EVACUATE",
	"$JS.API.ACCOUNT.STREAM.MOVE.*.*", "$JS.API.ACCOUNT.STREAM.CANCEL_MOVE.*.*",
}

// headerImported is what a nats-server that is a router adds to the requests $JS.API.> of clients of all accounts, which it
// passes to the system account too.
const headerImported = "Nats-Request-Info"

// systemRequest takes an API request of the system account off the publisher's goroutine. Who is no user of that is not
// answered, as by nats-server.
func (e *Engine) systemRequest(m Msg) {
	call, ok := api.ParseCall(string(m.Subject))
	if !ok || len(m.Reply) == 0 || len(wire.Header(m.Header, headerImported)) > 0 {
		return
	}
	e.system.requests.Add(1)
	r := &request{
		Call: call, account: e.system, reply: string(m.Reply),
		header: append([]byte(nil), m.Header...), body: append([]byte(nil), m.Data...),
	}
	if e.lanes[requests].len() >= maxRequests {
		r.respond(api.Response{Type: call.Type, Error: api.ErrInsufficientResources})
		return
	}
	e.work(requests, r.serve)
}

// serverRemove puts a node out of the cluster for ever: it comes back only as a new one.
func (r *request) serverRemove() (any, *api.Error) {
	n, err := r.namedServer()
	if err != nil {
		return nil, err
	}
	if err := r.account.engine.members.removeNode(n); err != nil {
		return nil, err
	}
	return api.SuccessResponse{Response: r.ok(), Success: true}, nil
}

// namedServer returns the node that SERVER.REMOVE or SERVER.EVACUATE names. A founder that never came may be named
// by its peer id.
func (r *request) namedServer() (meta.Node, *api.Error) {
	e := r.account.engine
	if api.CheckEmpty(r.body) == nil {
		return meta.Node{}, api.ErrBadRequest
	}
	var q api.ServerRequest
	if err := api.Decode(r.body, &q); err != nil {
		return meta.Node{}, err
	}
	for _, n := range e.catalog.nodes() {
		if !n.Removed && (q.Peer != "" && peerID(n.ID) == q.Peer || q.Peer == "" && n.Name == q.Server) {
			return n, nil
		}
	}
	for _, replica := range e.cfg.Founders {
		if node := meta.NodeOf(replica); q.Peer != "" && peerID(node) == q.Peer {
			if _, known := e.catalog.node(node); !known {
				return meta.Node{ID: node, Replica: replica}, nil
			}
		}
	}
	return meta.Node{}, api.ErrClusterServerNotMember
}

// serverEvacuate moves what a node carries to others; the node stays.
func (r *request) serverEvacuate() (any, *api.Error) {
	e := r.account.engine
	n, err := r.namedServer()
	if err != nil {
		return nil, err
	}
	failed := 0
	for _, ms := range e.catalog.allStreams() {
		if !carries(&ms.Group, n.ID) {
			continue
		}
		if _, err := e.moveStream(ms, n.ID, nil); err != nil {
			failed++
			e.cfg.Logger.Warn("stream cannot leave a node", "account", ms.Account, "stream", ms.Name, "node", n.Name, "error", err)
		}
	}
	if failed > 0 {
		return nil, api.ErrPeerRemap
	}
	return api.SuccessResponse{Response: r.ok(), Success: true}, nil
}

// carries reports whether a node has a replica of a group, or is to have one.
func carries(g *meta.Group, node uint64) bool {
	return slices.ContainsFunc(g.Carrying(), func(m meta.Member) bool { return m.Node == node })
}

// peer returns the node that a request to remove or evacuate a peer names.
func (r *request) peer() (string, *api.Error) {
	if r.account.engine.cfg.Cluster == "" {
		return "", api.ErrClusterRequired
	}
	if api.CheckEmpty(r.body) == nil {
		return "", api.ErrBadRequest
	}
	var q api.PeerRequest
	if err := api.Decode(r.body, &q); err != nil {
		return "", err
	}
	if q.Peer == "" {
		return "", api.ErrBadRequest
	}
	return q.Peer, nil
}

// streamPeerRemove moves the replica of a stream that a node has to another one.
func (r *request) streamPeerRemove() (any, *api.Error) {
	e := r.account.engine
	peer, err := r.peer()
	if err != nil {
		return nil, err
	}
	ms, ok := e.catalog.stream(r.account.name, r.Call.Stream)
	if !ok {
		return nil, api.ErrStreamNotFound
	}
	n, known := e.nodeNamed(peer)
	if !known || !carries(&ms.Group, n.ID) {
		return nil, api.ErrClusterPeerNotMember
	}
	_, err = e.moveStream(ms, n.ID, nil)
	return r.remapped(err)
}

// remapped is the answer to a request that gives a replica another place, by the error of giving it.
func (r *request) remapped(err *api.Error) (any, *api.Error) {
	switch {
	case err == nil:
		return api.SuccessResponse{Response: r.ok(), Success: true}, nil
	case err.Is(api.ErrClusterNotAvail):
		return nil, err
	}
	return nil, api.ErrPeerRemap
}

// consumerPeerRemove moves the replica of a durable consumer that a node has to another node of its stream.
func (r *request) consumerPeerRemove() (any, *api.Error) {
	e := r.account.engine
	peer, err := r.peer()
	if err != nil {
		return nil, err
	}
	ms, ok := e.catalog.stream(r.account.name, r.Call.Stream)
	mc, is := e.catalog.consumer(r.account.name, r.Call.Stream, r.Call.Consumer)
	switch {
	case !ok:
		return nil, api.ErrStreamNotFound
	case !is:
		return nil, api.ErrConsumerNotFound
	}
	n, known := e.nodeNamed(peer)
	if !known || !carries(&mc.Group, n.ID) {
		return nil, api.ErrClusterPeerNotMember
	}
	var nodes []uint64
	for _, m := range mc.Group.Carrying() {
		if m.Node != n.ID {
			nodes = append(nodes, m.Node)
		}
	}
	i := slices.IndexFunc(ms.Group.Carrying(), func(m meta.Member) bool { return !carries(&mc.Group, m.Node) && e.online(m.Node) })
	if i < 0 {
		return nil, api.ErrPeerRemap
	}
	entry := placeEntry(ms, append(nodes, ms.Group.Carrying()[i].Node))
	entry.Consumer = mc.Name
	_, _, err = e.catalog.do(entry)
	return r.remapped(err)
}

// moveStream gives a stream a place on another node instead of one of its nodes; 0: any. The new one has to have
// tags besides those of the stream.
func (e *Engine) moveStream(ms meta.Stream, from uint64, tags []string) (meta.Effects, *api.Error) {
	p := meta.PlacementOf(ms.Config, e.cfg.UniqueTag)
	p.Tags = append(slices.Clone(p.Tags), tags...)
	members := ms.Group.Carrying()
	if from == 0 {
		from = members[0].Node
	}
	p.Avoid = []uint64{from}
	for _, m := range members {
		if m.Node != from {
			p.Keep = append(p.Keep, m.Node)
		}
	}
	nodes, err := meta.Place(e.candidates(), p)
	if err != nil {
		return meta.Effects{}, err
	}
	fx, _, err := e.catalog.do(placeEntry(ms, nodes))
	return fx, err
}

// streamCancelMove has a stream stay where it was.
func (r *request) streamCancelMove() (any, *api.Error) {
	e := r.account.engine
	if e.cfg.Cluster == "" {
		return nil, api.ErrClusterRequired
	}
	return r.cancelMove(r.account.name)
}

func (r *request) cancelMove(account string) (any, *api.Error) {
	e := r.account.engine
	ms, ok := e.catalog.stream(account, r.Call.Stream)
	switch {
	case !ok:
		return nil, api.ErrStreamNotFound
	case len(ms.Group.Target) == 0:
		return nil, api.ErrStreamReconfigureNotInProgress
	}
	var nodes []uint64
	for _, m := range ms.Group.Members {
		nodes = append(nodes, m.Node)
	}
	if _, _, err := e.catalog.do(placeEntry(ms, nodes)); err != nil {
		return nil, err
	}
	return api.SuccessResponse{Response: r.ok(), Success: true}, nil
}

// inAccount returns the account that a request of the system account, or of that account, names.
func (r *request) inAccount() (*account, *api.Error) {
	if a := r.account.engine.accounts[r.Call.Account]; a != nil {
		return a, nil
	}
	return nil, api.ErrNoAccount
}

// accountStreamMove moves one replica of a stream to another node.
func (r *request) accountStreamMove() (any, *api.Error) {
	e := r.account.engine
	if e.cfg.Cluster == "" {
		return nil, api.ErrClusterRequired
	}
	var q api.StreamMoveRequest
	if err := api.Decode(r.body, &q); err != nil {
		return nil, err
	}
	a, err := r.inAccount()
	if err != nil {
		return nil, err
	}
	ms, ok := e.catalog.stream(a.name, r.Call.Stream)
	switch {
	case !ok:
		return nil, api.ErrStreamNotFound
	case q.Cluster != "" && q.Cluster != e.cfg.Cluster, q.Domain != "" && q.Domain != e.cfg.Domain:
		return nil, api.ErrClusterNoPeersF("no suitable peers for placement")
	}
	from := uint64(0)
	if q.Server != "" {
		n, known := e.nodeNamed(q.Server)
		switch {
		case !known:
			return nil, api.ErrClusterServerNotMember
		case !carries(&ms.Group, n.ID):
			return nil, api.ErrClusterPeerNotMember
		}
		from = n.ID
	}
	if len(ms.Group.Target) > 0 {
		return nil, api.ErrStreamReconfigureInProgress
	}
	if _, err := e.moveStream(ms, from, q.Tags); err != nil {
		return nil, err
	}
	moved := &request{Call: r.Call, account: a}
	response, err := moved.byLeader(ms.Group.ID, leaderCall{Kind: callStreamPut})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// accountStreamCancelMove has a stream of the named account stay where it was.
func (r *request) accountStreamCancelMove() (any, *api.Error) {
	if r.account.engine.cfg.Cluster == "" {
		return nil, api.ErrClusterRequired
	}
	a, err := r.inAccount()
	if err != nil {
		return nil, err
	}
	return r.cancelMove(a.name)
}

// allStreams returns the streams of all accounts.
func (c *catalog) allStreams() []meta.Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []meta.Stream
	for _, account := range c.machine.Accounts() {
		list = append(list, c.machine.Streams(account, "")...)
	}
	return list
}
