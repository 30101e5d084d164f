package broker

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"millrace/appliance/server/wire"
)

// StorageConfig is what a server with streams tells the other servers of its cluster, and how it hears of
// them. Its functions may be called by any goroutine, and must neither block nor call the Broker.
type StorageConfig struct {
	// Node is the id of this server among those with streams, not 0.
	Node uint64
	// Cluster is the id of the cluster of streams that this server belongs to; zero: of none yet, see
	// Broker.FormCluster.
	Cluster [16]byte
	// Changed is called when Broker.StorageMesh may return something new. nil: nobody is told.
	Changed func()
	// Preamble is how connections begin that are for Carry, after the INFO line. Its first byte is not
	// ASCII. Empty: there are none.
	Preamble string
	// Carry takes over a connection to the cluster port that begins with the first byte of Preamble, with
	// TLS up if routes have it. It returns soon, and owns the connection.
	Carry func(net.Conn)
}

// StoragePeer is another server with streams that this one has met since its start.
type StoragePeer struct {
	Node       uint64   // its id; the same after a restart
	ServerName string   // no two present servers of a cluster have the same
	ServerID   string   // new for each process
	Cluster    [16]byte // the cluster of streams that it belongs to; zero: to none yet
	Addresses  []string // host:port of its cluster port, the likeliest first
	Connected  bool     // there is a route
}

// StorageMesh is what a server knows of the servers with streams in its cluster.
type StorageMesh struct {
	Peers []StoragePeer // by Node

	// Of the configured routes: how many lead to servers without streams, how many to this server, and
	// of how many it is not known where they lead. The others lead to Peers.
	Routers, Selves, Unknown int
}

// lead is where a configured route led last.
type lead struct {
	self    bool
	server  string // name
	streams bool   // it has some
}

// StorageMesh returns what is known of the other servers with streams.
func (b *Broker) StorageMesh() StorageMesh {
	m := b.mesh
	if m == nil {
		return StorageMesh{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var view StorageMesh
	for _, p := range m.storage {
		peer := *p
		peer.Addresses = slices.Clone(p.Addresses)
		view.Peers = append(view.Peers, peer)
	}
	slices.SortFunc(view.Peers, func(x, y StoragePeer) int { return cmp.Compare(x.Node, y.Node) })
	counted := make(map[string]bool)
	for _, text := range m.cfg.Routes {
		u, err := parseRoute(text)
		if err != nil || counted[strings.ToLower(u.Host)] {
			continue // JoinCluster refuses it, or it is there twice
		}
		counted[strings.ToLower(u.Host)] = true
		l, known := m.leads[strings.ToLower(u.Host)]
		switch {
		case !known:
			view.Unknown++
		case l.self:
			view.Selves++
		case !l.streams:
			view.Routers++
		case m.storage[l.server] == nil:
			view.Unknown++ // it was refused, or has refused this server
		}
	}
	return view
}

// FormCluster tells the other servers that this one now belongs to a cluster of streams, and refuses
// those that belong to another one. The broker must have a ClusterConfig.Storage without a Cluster.
func (b *Broker) FormCluster(id [16]byte) error {
	m := b.mesh
	if m == nil || m.cfg.Storage == nil || id == [16]byte{} {
		return errors.New("form cluster: this server has no streams in a cluster, or the id is zero")
	}
	m.mu.Lock()
	if m.formed != [16]byte{} {
		same := m.formed == id
		m.mu.Unlock()
		if !same {
			return fmt.Errorf("form cluster %x: this server belongs to %x", id, m.formed)
		}
		return nil
	}
	m.formed = id
	refused := make(map[*route]error)
	for _, r := range m.routes {
		m.tellLocked(r)
		if err := m.examineLocked(r); err != nil {
			refused[r] = err
		}
	}
	m.mu.Unlock()
	for r, err := range refused {
		r.fail(err, false)
	}
	return nil
}

// tellLocked sends a peer of ours INFO, unless it has heard what this server belongs to already.
func (m *mesh) tellLocked(r *route) {
	r.mu.Lock()
	heard := r.told == m.formed || r.streams == nil
	r.mu.Unlock()
	if !heard {
		info := m.infoLocked()
		info.GossipMode, info.Compression = gossipDefault, r.mode
		r.send(wire.AppendInfo(nil, &info))
		m.toldLocked(r)
	}
}

// toldLocked notes that r was, or will be at once, sent what infoLocked returns.
func (m *mesh) toldLocked(r *route) {
	r.mu.Lock()
	r.told = m.formed
	r.mu.Unlock()
}

// streams is what a server of ours says about itself in INFO.
type streams struct {
	node    uint64   // 0: it has none
	cluster [16]byte // zero: none yet
}

// infoOfStreams returns the field of INFO.
func (m *mesh) infoOfStreams() *wire.MillraceInfo {
	s := m.cfg.Storage
	if s == nil {
		return &wire.MillraceInfo{}
	}
	info := &wire.MillraceInfo{Node: fmt.Sprintf("%016x", s.Node)}
	if m.formed != [16]byte{} {
		info.Cluster = hex.EncodeToString(m.formed[:])
	}
	return info
}

// readStreams reads the field of INFO of a peer; nil: it is not a server of ours.
func readStreams(info *wire.MillraceInfo) (*streams, error) {
	if info == nil {
		return nil, nil
	}
	s := &streams{}
	var err error
	if info.Node != "" {
		if s.node, err = strconv.ParseUint(info.Node, 16, 64); err != nil || s.node == 0 {
			return nil, fmt.Errorf("millrace.node %q is no node id", info.Node)
		}
	}
	if info.Cluster != "" {
		id, err := hex.DecodeString(info.Cluster)
		if err != nil || len(id) != len(s.cluster) || s.node == 0 {
			return nil, fmt.Errorf("millrace.cluster %q of node %q is no cluster id", info.Cluster, info.Node)
		}
		s.cluster = [16]byte(id)
	}
	return s, nil
}

// examineStreamsLocked refuses a peer whose streams cannot be in one cluster with those of the servers
// that this one has routes with, itself included.
func (m *mesh) examineStreamsLocked(r *route) error {
	name := r.info.ServerName
	r.mu.Lock()
	theirs := r.streams
	r.mu.Unlock()
	if theirs == nil || theirs.node == 0 {
		if !r.info.JetStream {
			return nil
		}
		return newCloseError(closedForeignStreams, fmt.Sprintf(
			"JetStream of server %q refused: it is no Millrace storage node, so it cannot share streams with this cluster; "+
				"nothing that it has stored is touched (without jetstream it can join as a router)", name), "")
	}
	check := func(holder string, node uint64, cluster [16]byte) error {
		switch {
		case node == theirs.node:
			return newCloseError(closedSameStore, fmt.Sprintf(
				"server %q refused: it has the same node id %016x as server %q, so one of the two stores is a copy of the other; "+
					"nothing that either has stored is touched", name, node, holder), "")
		case cluster != [16]byte{} && theirs.cluster != [16]byte{} && cluster != theirs.cluster:
			return newCloseError(closedOtherCluster, fmt.Sprintf(
				"server %q refused: its data belongs to the cluster with the id %x, that of server %q to %x; "+
					"nothing that either has stored is touched", name, theirs.cluster, holder, cluster), "")
		}
		return nil
	}
	if s := m.cfg.Storage; s != nil {
		if err := check(m.b.cfg.ServerName, s.Node, m.formed); err != nil {
			return err
		}
	}
	for id, other := range m.routes {
		// The same name with another id is the same server, restarted.
		if id == r.info.ServerID || other.name == name {
			continue
		}
		other.mu.Lock()
		s := other.streams
		other.mu.Unlock()
		if s == nil || s.node == 0 {
			continue
		}
		if err := check(other.name, s.node, s.cluster); err != nil {
			return err
		}
	}
	return nil
}

// hearStreams takes from a later INFO of a peer that it belongs to a cluster of streams now.
func (m *mesh) hearStreams(r *route, info *wire.Info) error {
	s, err := readStreams(info.Millrace)
	if err != nil {
		return newCloseError(closedProtocol, wire.TextUnknownOp, err.Error())
	}
	if s == nil {
		return nil
	}
	m.mu.Lock()
	r.mu.Lock()
	changed := r.streams != nil && *r.streams != *s && r.streams.node == s.node
	if changed {
		r.streams = s
	}
	r.mu.Unlock()
	if !changed {
		m.mu.Unlock()
		return nil
	}
	if err = m.examineLocked(r); err == nil && m.routes[r.info.ServerID] == r {
		m.noteLocked(r)
	}
	m.mu.Unlock()
	m.changed()
	return err
}

// noteLocked notes a peer with which there is a route.
func (m *mesh) noteLocked(r *route) {
	name := r.info.ServerName
	r.mu.Lock()
	s := r.streams
	r.mu.Unlock()
	if s == nil || s.node == 0 {
		delete(m.storage, name) // it had streams under this name, and has none any more
		return
	}
	for old, p := range m.storage {
		if p.Node == s.node && old != name {
			delete(m.storage, old) // it has another name now
		}
	}
	p := m.storage[name]
	if p == nil || p.Node != s.node {
		p = &StoragePeer{Node: s.node, ServerName: name}
		m.storage[name] = p
	}
	p.ServerID, p.Cluster, p.Connected = r.info.ServerID, s.cluster, true
	var addresses []string
	if r.url != nil {
		addresses = append(addresses, r.url.Host)
	}
	if u, err := parseRoute(r.info.IP); err == nil {
		addresses = append(addresses, u.Host)
	}
	for _, a := range append(addresses, p.Addresses...) {
		if !slices.Contains(addresses, a) && len(addresses) < maxPeerAddresses {
			addresses = append(addresses, a)
		}
	}
	p.Addresses = slices.Compact(addresses)
}

// maxPeerAddresses bounds the addresses of a peer that are remembered.
const maxPeerAddresses = 4

// lostLocked notes that there is no route any more with the server of that name and id.
func (m *mesh) lostLocked(name, id string) {
	if p := m.storage[name]; p != nil && p.ServerID == id {
		p.Connected = false
	}
}

// leadsTo notes where a configured route leads.
func (m *mesh) leadsTo(u *url.URL, l lead) {
	if !m.configured(u) {
		return
	}
	host := strings.ToLower(u.Host)
	m.mu.Lock()
	changed := m.leads[host] != l
	m.leads[host] = l
	m.mu.Unlock()
	if changed {
		m.changed()
	}
}

// changed tells that StorageMesh may return something new.
func (m *mesh) changed() {
	if s := m.cfg.Storage; s != nil && s.Changed != nil {
		s.Changed()
	}
}
