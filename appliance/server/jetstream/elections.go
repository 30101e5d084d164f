package jetstream

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
)

// electionAdvisory tells who leads a group, or that nobody does. Field names and types are those of
// nats-server.
type electionAdvisory struct {
	Type     string          `json:"type"`
	ID       string          `json:"id"`
	Time     time.Time       `json:"timestamp"`
	Account  string          `json:"account,omitempty"` // in the system account alone
	Stream   string          `json:"stream,omitempty"`
	Consumer string          `json:"consumer,omitempty"`
	Leader   string          `json:"leader,omitempty"`
	Replicas []*api.PeerInfo `json:"replicas"`
	Cluster  string          `json:"cluster,omitempty"` // of the meta group
	Domain   string          `json:"domain,omitempty"`
}

// removedAdvisory tells that a server was removed from the cluster.
type removedAdvisory struct {
	Type     string    `json:"type"`
	ID       string    `json:"id"`
	Time     time.Time `json:"timestamp"`
	Server   string    `json:"server"`
	ServerID string    `json:"server_id"`
	Cluster  string    `json:"cluster"`
	Domain   string    `json:"domain,omitempty"`
}

const advisoryType = "io.nats.jetstream.advisory.v1."

// adviseElected tells that this replica was elected.
func (m *members) adviseElected(a *asset) {
	e := m.engine
	m.mu.Lock()
	want := a.want
	m.mu.Unlock()
	v := e.view(a.group, a.spec.Replica, replicaIDs(want.Members), replicaIDs(want.Target))
	m.adviseElection(a, "LEADER_ELECTED", "leader_elected", electionAdvisory{Leader: e.cfg.Name, Replicas: e.peers(&v, 0)})
}

// adviseQuorumLost tells that a group has no leader.
func (m *members) adviseQuorumLost(a *asset) {
	e := m.engine
	m.mu.Lock()
	want := a.want
	m.mu.Unlock()
	v := e.view(a.group, a.spec.Replica, replicaIDs(want.Members), replicaIDs(want.Target))
	m.adviseElection(a, "QUORUM_LOST", "quorum_lost", electionAdvisory{Replicas: e.peers(&v, 0)})
}

// adviseElection publishes an advisory about a stream or consumer in its account, and in the system account.
func (m *members) adviseElection(a *asset, what, typ string, adv electionAdvisory) {
	e := m.engine
	adv.ID, adv.Time, adv.Stream, adv.Consumer, adv.Domain = nuid.Next(), time.Now().UTC(), a.stream, a.consumer, e.cfg.Domain
	subject := "$JS.EVENT.ADVISORY.STREAM." + what + "." + a.stream
	adv.Type = advisoryType + "stream_" + typ
	if a.consumer != "" {
		subject = "$JS.EVENT.ADVISORY.CONSUMER." + what + "." + a.stream + "." + a.consumer
		adv.Type = advisoryType + "consumer_" + typ
	}
	a.account.bus.Publish(subject, "", nil, encodeAdvisory(adv))
	adv.Account = a.account.name
	e.cfg.System.Publish(subject, "", nil, encodeAdvisory(adv))
}

// adviseMetaElected tells that this node leads the meta group.
func (m *members) adviseMetaElected() {
	e := m.engine
	v := e.metaView()
	e.cfg.System.Publish("$JS.EVENT.ADVISORY.DOMAIN.LEADER_ELECTED", "", nil, encodeAdvisory(electionAdvisory{
		Type: advisoryType + "domain_leader_elected", ID: nuid.Next(), Time: time.Now().UTC(), Leader: e.cfg.Name,
		Replicas: e.peers(&v, 0), Cluster: e.cfg.Cluster, Domain: e.cfg.Domain,
	}))
}

// adviseRemoved tells that a node was removed from the cluster.
func (m *members) adviseRemoved(node uint64, name string) {
	e := m.engine
	e.cfg.System.Publish("$JS.EVENT.ADVISORY.SERVER.REMOVED", "", nil, encodeAdvisory(removedAdvisory{
		Type: advisoryType + "server_removed", ID: nuid.Next(), Time: time.Now().UTC(), Server: name, ServerID: peerID(node),
		Cluster: e.cfg.Cluster, Domain: e.cfg.Domain,
	}))
}

func encodeAdvisory(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: encode advisory: " + err.Error())
	}
	return body
}

// quorumLostAfter is for how long a group has no leader before people are told.
const quorumLostAfter = 10 * time.Second

// lookForLeaders finds groups that have no leader. While all nodes can be reached, and every group had a leader
// the last time, it looks at none.
func (m *members) lookForLeaders(now time.Time) {
	if m.engine.cfg.Cluster == "" || !m.mayLackLeaders() {
		return
	}
	for _, a := range m.all() {
		m.mu.Lock()
		several := len(a.want.Members) > 1
		m.mu.Unlock()
		lead := a.spec.Replica
		if several {
			lead, _ = a.group.Leader()
		}
		m.mu.Lock()
		tell := false
		switch {
		case lead != 0:
			a.silent, a.told = time.Time{}, false
		case a.silent.IsZero():
			a.silent = now
		case now.Sub(a.silent) >= quorumLostAfter && !a.told:
			a.told = true
			tell = m.speaksLocked(a)
		}
		m.mu.Unlock()
		if tell {
			m.engine.cfg.Logger.Warn("group has no quorum", "group", a.spec.ID, "account", a.account.name,
				"stream", a.stream, "consumer", a.consumer)
			m.adviseQuorumLost(a)
		}
	}
}

// mayLackLeaders reports whether a node is gone, or a group had no leader the last time.
func (m *members) mayLackLeaders() bool {
	e := m.engine
	e.catalog.mu.Lock()
	nodes := e.catalog.machine.Nodes()
	e.catalog.mu.Unlock()
	for _, n := range nodes {
		if !n.Removed && !e.online(n.ID) {
			return true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.assets {
		if !a.silent.IsZero() {
			return true
		}
	}
	return false
}

// speaksLocked reports whether this node is the one of a group's nodes that tells about it: the first that
// can be reached.
func (m *members) speaksLocked(a *asset) bool {
	for _, member := range a.want.Members {
		if member.Node < m.engine.cfg.Node && m.engine.online(member.Node) {
			return false
		}
	}
	return true
}
