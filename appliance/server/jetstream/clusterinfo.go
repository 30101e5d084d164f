package jetstream

import (
	"cmp"
	"context"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/membership"
	"millrace/appliance/server/jetstream/meta"
)

// infoWait bounds the time for which an answer waits for the state of a group.
const infoWait = 500 * time.Millisecond

// groupView is what this node knows of a group of several nodes, for people.
type groupView struct {
	status GroupStatus // zero if the group did not tell in time
	self   uint64      // this node's replica; 0: none
	seats  []seat      // all replicas there are and are to be
}

// seat is one replica of a group.
type seat struct {
	replica uint64
	pending bool // it is to become a member
}

// view asks a group for its state. members are the replicas it has by the catalogue.
func (e *Engine) view(group Group, self uint64, members, target []uint64) groupView {
	v := groupView{self: self}
	for _, id := range members {
		v.seats = append(v.seats, seat{replica: id})
	}
	for _, id := range target {
		if !slices.Contains(members, id) {
			v.seats = append(v.seats, seat{replica: id, pending: true})
		}
	}
	if group == nil {
		return v
	}
	ctx, cancel := context.WithTimeout(e.ctx, infoWait)
	defer cancel()
	s, err := group.Status(ctx)
	if err != nil {
		s.Lead, s.Term = group.Leader()
	}
	v.status = s
	return v
}

// nodeName returns the name of a node.
func (e *Engine) nodeName(node uint64) string {
	if node == e.cfg.Node {
		return e.cfg.Name
	}
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	if n, ok := e.catalog.machine.Node(node); ok {
		return n.Name
	}
	return ""
}

// silence returns for how long nothing was heard from a node; 0 for this one, or if it was never heard of.
func (e *Engine) silence(node uint64) time.Duration {
	if node == e.cfg.Node || e.cfg.Heard == nil {
		return 0
	}
	if t := e.cfg.Heard(node); !t.IsZero() {
		return max(0, time.Since(t))
	}
	return 0
}

// peer describes one replica as far as the view knows.
func (e *Engine) peer(v *groupView, s seat) *api.PeerInfo {
	node := meta.NodeOf(s.replica)
	p := &api.PeerInfo{Name: e.nodeName(node), Peer: peerID(node), Offline: !e.online(node), Active: e.silence(node), Pending: s.pending}
	if p.Name == "" {
		p.Name = "Server name unknown at this time (peerID: " + p.Peer + ")"
	}
	st := &v.status
	i := slices.IndexFunc(st.Progress, func(r ReplicaProgress) bool { return r.Replica == s.replica })
	switch {
	case s.replica == v.self:
		p.Current = st.Lead != 0 && st.Applied+membership.Slack >= st.Commit
		p.Lag = st.Commit - min(st.Applied, st.Commit)
	case i >= 0:
		p.Lag = st.Commit - min(st.Progress[i].Match, st.Commit)
		p.Current = !p.Offline && st.Progress[i].Active && p.Lag <= membership.Slack
	case s.replica == st.Lead:
		p.Current = !p.Offline
	}
	return p
}

// peers describes the replicas of a group but one, by the names of their nodes.
func (e *Engine) peers(v *groupView, but uint64) []*api.PeerInfo {
	var list []*api.PeerInfo
	for _, s := range v.seats {
		if s.replica != but {
			list = append(list, e.peer(v, s))
		}
	}
	slices.SortFunc(list, func(a, b *api.PeerInfo) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Peer, b.Peer)) })
	return list
}

// replicaIDs returns the replicas of members.
func replicaIDs(members []meta.Member) []uint64 {
	var ids []uint64
	for _, m := range members {
		ids = append(ids, m.Replica)
	}
	return ids
}

// clusterInfo tells where the stream or consumer of a group is that has a replica here; nil for a node without a
// cluster. What has no group is here.
func (e *Engine) clusterInfo(group uint64) *api.ClusterInfo {
	if e.cfg.Cluster == "" {
		return nil
	}
	if a := e.members.asset(group); a != nil {
		return a.clusterInfo()
	}
	return &api.ClusterInfo{Name: e.cfg.Cluster, Leader: e.cfg.Name}
}

// clusterInfo tells where a stream or durable consumer is.
func (a *asset) clusterInfo() *api.ClusterInfo {
	e := a.account.engine
	e.members.mu.Lock()
	want, since := a.want, a.since
	e.members.mu.Unlock()
	info := &api.ClusterInfo{Name: e.cfg.Cluster}
	if len(want.Members) == 1 && len(want.Target) == 0 {
		info.Leader = e.nodeName(want.Members[0].Node)
		return info
	}
	v := e.view(a.group, a.spec.Replica, replicaIDs(want.Members), replicaIDs(want.Target))
	info.RaftGroup, info.SystemAcc, info.TrafficAcc = groupName(a.kind(), &want, a.memory), true, systemAccount
	if v.status.Lead != 0 {
		info.Leader = e.nodeName(meta.NodeOf(v.status.Lead))
	}
	if v.status.Lead == a.spec.Replica && !since.IsZero() {
		t := since.UTC()
		info.LeaderSince = &t
	}
	info.Replicas = e.peers(&v, v.status.Lead)
	if len(want.Target) > 0 {
		info.Desired = a.desired(&want)
	}
	return info
}

// desired tells where the group is on its way to.
func (a *asset) desired(want *meta.Group) *api.Desired {
	e := a.account.engine
	d := &api.Desired{Name: e.cfg.Cluster}
	for _, m := range want.Target {
		d.Replicas = append(d.Replicas, &api.DesiredPeer{Name: e.nodeName(m.Node), Offline: !e.online(m.Node), Peer: peerID(m.Node)})
	}
	if p, ok := e.members.driver.progress(want.ID); ok {
		d.Created, d.Status = p.since.UTC(), &api.DesiredStatus{Description: p.why, Type: desiredType(p.kind)}
	}
	return d
}

// desiredType is how the API sorts what a move waits for.
func desiredType(r membership.Reason) string {
	switch r {
	case membership.Behind:
		return api.DesiredCatchup
	case membership.NoQuorum:
		return api.DesiredQuorum
	}
	return api.DesiredMembership
}
