package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// The meta group has all nodes of the registry as members. Its leader also looks after the nodes: it takes
// them in, removes them, and gives what they carried to others.

// metaVoters returns the replicas that the meta group is to have: those of the registry, and the founders that have
// not been heard of yet.
func (m *members) metaVoters() []uint64 {
	return voters(m.engine.catalog.nodes(), m.engine.cfg.Founders)
}

// voters returns the members of a meta group, sorted.
func voters(nodes []meta.Node, founders []uint64) []uint64 {
	known := map[uint64]bool{}
	var list []uint64
	for _, n := range nodes {
		known[n.ID] = true
		if !n.Removed {
			list = append(list, n.Replica)
		}
	}
	for _, replica := range founders {
		if !known[meta.NodeOf(replica)] {
			list = append(list, replica)
		}
	}
	slices.Sort(list)
	return list
}

// leadMeta begins to do what the leader of the meta group does. It is one of the engine's metaJobs.
func (m *members) leadMeta() {
	e := m.engine
	m.mu.Lock()
	m.voters = nil
	m.mu.Unlock()
	if len(m.quiet) == 0 {
		if err := m.serveMeta(); err != nil {
			e.cfg.Logger.Error("lead the meta group", "error", err)
			return
		}
		if e.cfg.Cluster != "" {
			m.adviseMetaElected()
			e.cfg.System.Publish(statsAskSubject, "", nil, nil)
		}
	}
	m.wakeUp()
}

// followMeta ends that.
func (m *members) followMeta() {
	for _, stop := range m.quiet {
		stop()
	}
	m.quiet = nil
	m.driver.forget(metaGroup)
}

// serveMeta subscribes to what only the leader of the meta group takes.
func (m *members) serveMeta() error {
	e := m.engine
	add := func(stop func(), err error) error {
		if err == nil {
			m.quiet = append(m.quiet, stop)
		}
		return err
	}
	if err := add(e.calls.serveLeader(metaGroup, e.catalog.takeCall)); err != nil {
		return err
	}
	if e.cfg.Cluster == "" {
		return nil
	}
	if err := add(e.calls.serve(joinSubject, m.takeJoin)); err != nil {
		return err
	}
	if err := add(e.cfg.System.Subscribe(statsSubject, "", m.stats.take)); err != nil {
		return err
	}
	for _, subject := range systemSubjects {
		if err := add(e.cfg.System.Subscribe(subject, "", e.systemRequest)); err != nil {
			return err
		}
	}
	return nil
}

// lookAfterNodes drives the meta group to the members that the registry wants for it.
func (m *members) lookAfterNodes() {
	want := m.metaVoters()
	m.mu.Lock()
	rest := slices.Equal(m.voters, want)
	m.mu.Unlock()
	if rest {
		return
	}
	if _, driven := m.driver.progress(metaGroup); driven {
		return // it asks for the target at every step
	}
	m.driver.watch(&move{
		id: metaGroup, group: m.engine.catalog.group, self: m.engine.cfg.Replica, each: true,
		target: m.metaVoters,
		arrived: func(target []uint64) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.voters = slices.Sorted(slices.Values(target))
			return true
		},
	})
}

// lookForSelf notes that this node was removed. One that was away then is not told by the catalogue, which goes on
// without it, so it asks.
func (m *members) lookForSelf() {
	e := m.engine
	if e.cfg.Cluster != "" && !m.out.Load() && e.registered() && !e.catalog.leads() && e.catalog.leaderless() {
		if refused, _ := e.askToJoin(); refused != nil {
			m.refused(refused)
		}
	}
	if n, ok := e.catalog.node(e.cfg.Node); ok && n.Removed && !m.out.Swap(true) {
		e.cfg.Logger.Error("this node was removed from the cluster; it serves no streams any more. To let this server in again as a new one, empty its store",
			"node", peerID(n.ID), "name", n.Name)
	}
}

// leave gives up what a node leads that was removed: leadership goes to others, and streams that are on no node of the
// cluster take nothing more, since nobody will have what is in them. Replicas of others stay, as voters that may be needed, until
// they are moved away.
func (m *members) leave() {
	for _, a := range m.all() {
		m.mu.Lock()
		members, leads := a.want.Members, a.term != 0
		m.mu.Unlock()
		alone := !slices.ContainsFunc(members, func(o meta.Member) bool {
			n, known := m.engine.catalog.node(o.Node)
			return o.Node != m.engine.cfg.Node && !(known && n.Removed)
		})
		switch {
		case !alone && leads:
			m.engine.leave(a, "this node was removed from the cluster", 0)
		case !alone || a.consumer != "":
		default:
			s := a.account.local(a.stream)
			if s == nil {
				continue
			}
			m.engine.cfg.Logger.Error("stream is not served any more: it has replicas only on nodes that were removed from the cluster",
				"account", a.account.name, "stream", a.stream)
			a.account.forget(s)
			s.shutdown()
			a.account.setOffline(a.stream, errNotIn)
		}
	}
}

// removeNode puts a node out of the registry. What it carries goes to others as repair finds room for it.
func (m *members) removeNode(n meta.Node) *api.Error {
	c := m.engine.catalog
	if !slices.ContainsFunc(c.nodes(), func(o meta.Node) bool { return !o.Removed && o.ID != n.ID }) {
		return api.ErrClusterNoPeersF("the last storage node of a cluster cannot be removed")
	}
	if _, known := c.node(n.ID); !known { // a founder that never came
		n.Name = peerID(n.ID)
		if _, _, err := c.do(&meta.Entry{Op: meta.OpPutNode, Node: &n}); err != nil {
			return err
		}
	}
	if _, _, err := c.do(&meta.Entry{Op: meta.OpRemoveNode, Node: &n}); err != nil {
		return err
	}
	m.engine.cfg.Logger.Warn("node is removed from the cluster", "name", n.Name, "node", peerID(n.ID))
	m.adviseRemoved(n.ID, n.Name)
	m.wakeUp()
	return nil
}

// repairsAtOnce bounds how many groups are given new places before the state of the cluster is looked at
// again.
const repairsAtOnce = 64

// repair gives new places to the replicas of nodes that were removed.
func (m *members) repair() {
	e := m.engine
	candidates := e.candidates()
	e.catalog.mu.Lock()
	list := e.catalog.machine.Repairs(candidates, e.cfg.UniqueTag, repairsAtOnce)
	e.catalog.mu.Unlock()
	for i := range list {
		if !e.catalog.leads() || e.ctx.Err() != nil {
			return
		}
		if _, _, err := e.catalog.do(&list[i]); err != nil {
			e.cfg.Logger.Warn("no new place for the replicas of a removed node", "account", list[i].Account,
				"stream", list[i].Stream, "consumer", list[i].Consumer, "error", err)
		}
	}
	if len(list) == repairsAtOnce {
		m.wakeUp()
	}
}

// placeEntry says where a stream shall be.
func placeEntry(ms meta.Stream, nodes []uint64) *meta.Entry {
	return &meta.Entry{Op: meta.OpPlace, Account: ms.Account, Stream: ms.Name, Nodes: nodes}
}
