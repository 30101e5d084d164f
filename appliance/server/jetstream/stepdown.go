package jetstream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/membership"
	"millrace/appliance/server/jetstream/meta"
)

// streamStepDown hands the leadership of a stream that is led here to another replica.
func (r *request) streamStepDown() (any, *api.Error) {
	if r.account.engine.cfg.Cluster == "" {
		return nil, api.ErrClusterRequired
	}
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	return r.stepDown(r.account.engine.members.asset(s.spec.ID))
}

// consumerStepDown does so for a durable consumer.
func (r *request) consumerStepDown() (any, *api.Error) {
	if r.account.engine.cfg.Cluster == "" {
		return nil, api.ErrClusterRequired
	}
	_, c, err := r.named()
	if err != nil {
		return nil, err
	}
	return r.stepDown(r.account.engine.members.asset(c.id))
}

// stepDown hands over what is led here. Of what has one replica, there is nobody to hand over to, which is no
// error.
func (r *request) stepDown(a *asset) (any, *api.Error) {
	done := api.SuccessResponse{Response: r.ok(), Success: true}
	if a == nil {
		return done, nil
	}
	m := &r.account.engine.members
	m.mu.Lock()
	several := len(a.want.Members) > 1
	m.mu.Unlock()
	if !several {
		return done, nil
	}
	if err := r.handOver(a.group, a.spec.Replica, a.replica()); err != nil {
		return nil, err
	}
	return done, nil
}

// metaStepDown hands over the leadership of the meta group.
func (r *request) metaStepDown() (any, *api.Error) {
	e := r.account.engine
	if err := r.handOver(e.catalog.group, e.cfg.Replica, nil); err != nil {
		return nil, err
	}
	return api.SuccessResponse{Response: r.ok(), Success: true}, nil
}

// handOver gives the leadership of a group to whom the request asks for.
func (r *request) handOver(group Group, self uint64, s *Stream) *api.Error {
	var q api.StepDownRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return err
	}
	e := r.account.engine
	err := e.handOver(e.ctx, group, self, s, q.Placement)
	if err != nil && err.ErrCode == api.ErrClusterNotLeader.ErrCode {
		return api.ErrClusterNotAvail // another node leads, and has the request too: who tries again finds it
	}
	return err
}

// handOver gives the leadership of a group to another replica, and waits until that leads, so that who asks next
// does not meet the old leader. What the group gives up, because the other one did not know yet that it is a
// voter or was away, is tried again. s is the stream of the group, nil if that is another one.
func (e *Engine) handOver(ctx context.Context, group Group, self uint64, s *Stream, p *api.Placement) *api.Error {
	return e.transferTo(ctx, group, self, s, func(state membership.State) (uint64, *api.Error) { return e.heir(state, p) })
}

// transferTo is handOver to whom a choice among the replicas says.
func (e *Engine) transferTo(ctx context.Context, group Group, self uint64, s *Stream, heir func(membership.State) (uint64, *api.Error)) *api.Error {
	err := e.transfer(ctx, group, self, s, heir)
	if err != nil && s != nil {
		s.goOn()
	}
	return err
}

func (e *Engine) transfer(ctx context.Context, group Group, self uint64, stream *Stream, heir func(membership.State) (uint64, *api.Error)) *api.Error {
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	const every = 5 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	refusal, begun := api.ErrRaftGeneralF("the leadership was not handed over in time"), false
	for {
		s, err := group.Status(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return refusal
		case err != nil:
			return api.ErrRaftGeneralF(err.Error())
		case s.Lead != self && !begun:
			return api.ErrClusterNotLeader
		case s.Lead != self && s.Lead != 0:
			return nil
		case s.Lead == self && s.Transferring == 0:
			to, no := heir(membershipState(&s, self))
			if no == nil {
				begun = true
				if stream != nil {
					stream.quiesce(ctx)
				}
				group.TransferLeader(to)
			} else {
				refusal = no
				group.LeaseRead(func(error) {}) // in a group that slept the leader may not know yet who is there
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return refusal
		}
	}
}

// handOverWait bounds the time that a hand-over may take, with that in which the other replicas are asked: a
// little more than an election timeout, after which a group gives one up.
const handOverWait = 2500 * time.Millisecond

// retryFailed is when a replica that failed and leads tries again to hand over.
const retryFailed = 5 * time.Second

// leaveFull hands over what is led here when the disk of this node is full and that of another may not be. It does
// not wait.
func (e *Engine) leaveFull(group uint64) { e.leave(e.members.asset(group), "the disk is full", 0) }

// leaveFailed hands over what is led here by a replica that can be served no more, while others can. It goes on until
// somebody else leads, and does not wait.
func (e *Engine) leaveFailed(group uint64) {
	e.leave(e.members.asset(group), "the replica here has failed", retryFailed)
}

// leaveUnread hands over what is led here of a stream of which a message can be read no more: another replica may
// have it, and this one goes on. It does not wait.
func (e *Engine) leaveUnread(s *Stream) {
	const why = "a stored message cannot be read here"
	e.leave(e.members.asset(s.spec.ID), why, 0)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.consumers {
		e.leave(e.members.asset(c.id), why, 0)
	}
}

// leave hands over what is led here, and if nobody takes it over tries again after a pause, if that is not 0. It does
// so once at a time, not at all without an asset, and does not wait.
func (e *Engine) leave(a *asset, why string, again time.Duration) {
	if a == nil || !a.leaving.CompareAndSwap(false, true) {
		return
	}
	e.work(chores, func() {
		e.members.mu.Lock()
		several := len(a.want.Members) > 1
		e.members.mu.Unlock()
		err := api.ErrClusterNoPeersF("there is no other replica")
		if several {
			err = e.handOver(e.ctx, a.group, a.spec.Replica, a.replica(), nil)
		}
		if err == nil {
			e.cfg.Logger.Warn("leadership handed over: "+why, "account", a.account.name, "stream", a.stream, "consumer", a.consumer)
		}
		switch {
		case again == 0:
			time.AfterFunc(time.Second, func() { a.leaving.Store(false) })
		case err == nil || err.ErrCode == api.ErrClusterNotLeader.ErrCode || !several:
			a.leaving.Store(false) // it comes back when this replica is elected
		default:
			time.AfterFunc(again, func() {
				a.leaving.Store(false)
				if e.ctx.Err() == nil && e.members.asset(a.spec.ID) == a {
					e.leave(a, why, again)
				}
			})
		}
	})
}

// replica returns the stream of which this is the group, nil for a consumer.
func (a *asset) replica() *Stream {
	if a.consumer != "" {
		return nil
	}
	return a.account.local(a.stream)
}

// heir chooses who leads next. Only who has caught up can, and who has just started only if nobody else can.
func (e *Engine) heir(s membership.State, p *api.Placement) (uint64, *api.Error) {
	if p == nil {
		p = &api.Placement{}
	}
	noPeers := func(format string, args ...any) *api.Error {
		return api.ErrClusterNoPeersF(fmt.Sprintf(format, args...))
	}
	if p.Preferred != "" {
		i := slices.IndexFunc(s.Voters, func(id uint64) bool { return e.nodeName(meta.NodeOf(id)) == p.Preferred })
		switch {
		case i < 0:
			return 0, noPeers("preferred server %q not known", p.Preferred)
		case s.Voters[i] == s.Self:
			return 0, noPeers("preferred server %q is already leader", p.Preferred)
		}
		if membership.Heir(s, func(id uint64) bool { return id == s.Voters[i] }) == 0 {
			return 0, noPeers("preferred server %q is not current", p.Preferred)
		}
		return s.Voters[i], nil
	}
	may := func(id uint64) bool {
		if p.Cluster != "" && p.Cluster != e.cfg.Cluster || !e.online(meta.NodeOf(id)) {
			return false
		}
		if n, known := e.catalog.node(meta.NodeOf(id)); known && n.Removed {
			return false
		}
		tags := e.nodeTags(meta.NodeOf(id))
		return !slices.ContainsFunc(p.Tags, func(tag string) bool { return !slices.Contains(tags, tag) })
	}
	to := membership.Heir(s, func(id uint64) bool { return may(id) && e.settled(meta.NodeOf(id)) })
	if to == 0 {
		to = membership.Heir(s, may)
	}
	if to == 0 {
		return 0, noPeers("no replacement peer connected")
	}
	return to, nil
}

// nodeTags returns the tags of a node.
func (e *Engine) nodeTags(node uint64) []string {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	n, _ := e.catalog.machine.Node(node)
	return n.Tags
}

// nodeNamed returns the node of the registry with that name or peer id. A name counts before an id, and a node
// that was removed does not count.
func (e *Engine) nodeNamed(peer string) (meta.Node, bool) {
	e.catalog.mu.Lock()
	nodes := e.catalog.machine.Nodes()
	e.catalog.mu.Unlock()
	for _, same := range []func(meta.Node) bool{
		func(n meta.Node) bool { return n.Name == peer },
		func(n meta.Node) bool { return peerID(n.ID) == peer },
	} {
		if i := slices.IndexFunc(nodes, func(n meta.Node) bool { return !n.Removed && same(n) }); i >= 0 {
			return nodes[i], true
		}
	}
	return meta.Node{}, false
}
