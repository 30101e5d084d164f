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
	if err := r.handOver(a.group, a.spec.Replica); err != nil {
		return nil, err
	}
	return done, nil
}

// metaStepDown hands over the leadership of the meta group.
func (r *request) metaStepDown() (any, *api.Error) {
	e := r.account.engine
	if err := r.handOver(e.catalog.group, e.cfg.Replica); err != nil {
		return nil, err
	}
	return api.SuccessResponse{Response: r.ok(), Success: true}, nil
}

// handOver gives the leadership of a group to whom the request asks for.
func (r *request) handOver(group Group, self uint64) *api.Error {
	var q api.StepDownRequest
	if err := api.DecodeOptional(r.body, &q); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.account.engine.ctx, infoWait)
	defer cancel()
	s, err := group.Status(ctx)
	if err != nil {
		return api.ErrRaftGeneralF(err.Error())
	}
	if s.Lead != self {
		return api.ErrClusterNotLeader
	}
	to, refusal := r.account.engine.heir(membershipState(&s, self), q.Placement)
	if refusal != nil {
		return refusal
	}
	group.TransferLeader(to)
	return awaitHandOver(ctx, group, self)
}

// awaitHandOver waits until another replica leads, so that who asks next does not meet the old leader.
func awaitHandOver(ctx context.Context, group Group, self uint64) *api.Error {
	const every = 2 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		if lead, _ := group.Leader(); lead != self && lead != 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return api.ErrRaftGeneralF("the leadership was not handed over in time")
		}
	}
}

// heir chooses who leads next. Only who has caught up can.
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
	to := membership.Heir(s, func(id uint64) bool {
		if p.Cluster != "" && p.Cluster != e.cfg.Cluster || !e.online(meta.NodeOf(id)) {
			return false
		}
		tags := e.nodeTags(meta.NodeOf(id))
		return !slices.ContainsFunc(p.Tags, func(tag string) bool { return !slices.Contains(tags, tag) })
	})
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
