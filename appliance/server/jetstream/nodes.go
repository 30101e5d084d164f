package jetstream

import (
	"slices"
	"strconv"
	"time"

	"millrace/appliance/server/jetstream/meta"
)

// online reports whether a storage node can be reached.
func (e *Engine) online(node uint64) bool {
	return node == e.cfg.Node || e.cfg.Online != nil && e.cfg.Online(node)
}

// settleTime is how long a node needs after its start until every server of the cluster has a route to it: servers dial
// again about once a second. A leader without one hears nothing of the clients there, and they not of it.
const settleTime = 3 * time.Second

// settledSubject is where a node subscribes, without listening, when it is there for settleTime.
func settledSubject(node uint64) string { return "$MILLRACE.SETTLED." + strconv.FormatUint(node, 10) }

// tellSettled tells other nodes when this one is settled, until the engine ends.
func (e *Engine) tellSettled() {
	select {
	case <-time.After(settleTime):
	case <-e.ctx.Done():
		return
	}
	stop, err := e.cfg.System.Subscribe(settledSubject(e.cfg.Node), "", func(Msg) {})
	if err != nil {
		e.cfg.Logger.Warn("other nodes take this one for new", "error", err)
		return
	}
	<-e.ctx.Done()
	stop()
}

// settled reports whether a node can be reached by all servers of the cluster, as far as can be told.
func (e *Engine) settled(node uint64) bool { return e.cfg.System.HasInterest(settledSubject(node)) }

// NodeHeard is called when a storage node can be reached that could not before: what waits for a place may get one
// there. It does not wait.
func (e *Engine) NodeHeard() { e.members.wakeUp() }

// candidates returns the nodes that may get replicas, with what placement looks at.
func (e *Engine) candidates() []meta.Candidate {
	c := e.catalog
	c.mu.Lock()
	nodes, carried := c.machine.Nodes(), c.machine.Carried()
	c.mu.Unlock()
	var list []meta.Candidate
	for _, n := range nodes {
		if n.Removed {
			continue
		}
		candidate := meta.Candidate{
			Node: n.ID, Name: n.Name, Cluster: e.cfg.Cluster, Tags: n.Tags, Online: e.online(n.ID), Replicas: carried[n.ID],
			StoreFree: meta.UnknownRoom, MemoryFree: meta.UnknownRoom,
		}
		if room, ok := e.members.stats.room(e, n.ID); ok {
			candidate.StoreFree, candidate.MemoryFree = room.StoreFree, room.MemoryFree
		}
		list = append(list, candidate)
	}
	return list
}

// self is this node as the registry has it.
func (e *Engine) self() meta.Node {
	return meta.Node{ID: e.cfg.Node, Replica: e.cfg.Replica, Name: e.cfg.Name, Tags: e.cfg.Tags}
}

// node returns a node of the registry.
func (c *catalog) node(id uint64) (meta.Node, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Node(id)
}

// nodes returns the registry, with those who were removed.
func (c *catalog) nodes() []meta.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Nodes()
}

// sameNode reports whether the registry has a node as it says it is.
func sameNode(have, is meta.Node) bool {
	return !have.Removed && have.Name == is.Name && slices.Equal(have.Tags, is.Tags)
}

// registered reports whether the registry has this node as it is.
func (e *Engine) registered() bool {
	n, ok := e.catalog.node(e.cfg.Node)
	return ok && sameNode(n, e.self())
}

// founder reports whether this node is one of those with which the cluster began.
func (e *Engine) founder() bool { return slices.Contains(e.cfg.Founders, e.cfg.Replica) }

// metaLed follows the leadership of the meta group; term 0: this node does not lead. It does not wait.
func (e *Engine) metaLed(c *catalog, term uint64) {
	e.metaJobs.add(func() {
		<-c.started
		c.mu.Lock()
		current := c.term
		c.mu.Unlock()
		switch {
		case current != term:
		case term == 0:
			e.members.followMeta()
		default:
			e.members.leadMeta()
		}
	})
}
