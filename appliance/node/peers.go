package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"millrace/appliance/server/broker"
	"millrace/raft/transport"
)

// knownPeers is where the other storage nodes of the cluster were last. It is stored, so that a node that
// starts while its routes are down, or that knows others by gossip only, reaches them all the same.
type knownPeers []knownPeer

type knownPeer struct {
	Node      string   `json:"node"` // canonical id, 16 hexadecimal digits
	Name      string   `json:"name"` // of the server, for people
	Addresses []string `json:"addresses"`
}

// storedPeers is the document in the catalog, version 1.
type storedPeers struct {
	Version int        `json:"version"`
	Peers   knownPeers `json:"peers"`
}

const peersVersion = 1

// maxKnownPeers bounds what is remembered; a cluster has fewer.
const maxKnownPeers = 256

func (k knownPeers) encode() []byte {
	doc, err := json.Marshal(storedPeers{peersVersion, k})
	if err != nil {
		panic("BUG: marshal of peers: " + err.Error())
	}
	return doc
}

// decodePeers reads what encode returned; no bytes are no peers.
func decodePeers(b []byte) (knownPeers, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var doc storedPeers
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read stored peers: %w", err)
	}
	if doc.Version != peersVersion {
		return nil, fmt.Errorf("read stored peers: version %d, this program reads %d", doc.Version, peersVersion)
	}
	for _, p := range doc.Peers {
		if _, err := p.node(); err != nil {
			return nil, fmt.Errorf("read stored peers: %w", err)
		}
	}
	return doc.Peers, nil
}

func (p knownPeer) node() (uint64, error) {
	n, err := strconv.ParseUint(p.Node, 16, 64)
	if err == nil && n == 0 {
		err = errors.New("node 0")
	}
	return n, err
}

// learn returns k with what the mesh shows of nodes of a cluster. An address belongs to the node that was
// seen at it last: a node without any is forgotten.
func (k knownPeers) learn(mesh broker.StorageMesh, cluster [16]byte) knownPeers {
	var next knownPeers
	taken := map[string]bool{}
	seen := map[string]bool{}
	for _, peer := range mesh.Peers {
		if peer.Cluster != cluster || len(next) == maxKnownPeers {
			continue
		}
		id := fmt.Sprintf("%016x", peer.Node)
		seen[id] = true
		next = append(next, knownPeer{id, peer.ServerName, slices.Clone(peer.Addresses)})
		for _, a := range peer.Addresses {
			taken[a] = true
		}
	}
	for _, old := range k {
		old.Addresses = slices.DeleteFunc(slices.Clone(old.Addresses), func(a string) bool { return taken[a] })
		if !seen[old.Node] && len(old.Addresses) > 0 && len(next) < maxKnownPeers {
			next = append(next, old)
		}
	}
	slices.SortFunc(next, func(x, y knownPeer) int { return strings.Compare(x.Node, y.Node) })
	return next
}

// update tells the transport who its peers are, and stores where they are.
func (p *peering) update(mesh broker.StorageMesh) error {
	p.mu.Lock()
	m := p.member
	p.mu.Unlock()
	if m == nil {
		return nil
	}
	before := p.known.encode()
	p.known = p.known.learn(mesh, m.Cluster)
	if doc := p.known.encode(); string(doc) != string(before) {
		if err := p.catalog.PutPeers(doc); err != nil {
			return err
		}
	}
	peers := map[uint64][]string{}
	for _, k := range p.known {
		id, err := k.node()
		if err == nil && id != m.Node {
			peers[id] = k.Addresses
		}
	}
	p.withheld() // complains
	return m.Transport.SetPeers(peers)
}

// clusterCredentials returns what storage nodes prove to each other: what routes show, which is the user and
// the password of the cluster's authorization, or nothing when that has none. Of a password that is
// configured as a hash the password itself is needed, since a hash that is proved by were as good as the
// password, and is no secret: it is taken from the route that has it and fits the hash. Without one
// missing says why, and the credentials are such that nobody else has them.
func clusterCredentials(c *Cluster) (credentials transport.Credentials, missing, err error) {
	if c.User == "" {
		return transport.Public(), nil, nil
	}
	pass := c.Password
	if _, err := bcrypt.Cost([]byte(pass)); err == nil {
		pass = passwordOf(c)
	}
	if pass != "" {
		credentials, err = transport.Password(c.User, pass)
		return credentials, nil, err
	}
	missing = errors.New("cluster.authorization.pass is a hash, and storage nodes have to prove to each other that they know the password: " +
		"configure the password itself, or a route such as nats://user:password@host:6222")
	var secret [32]byte
	rand.Read(secret[:]) // never returns an error
	credentials, err = transport.Secret(secret[:])
	return credentials, missing, err
}

// passwordOf returns the password of a route that fits the configured hash, empty if there is none.
func passwordOf(c *Cluster) string {
	for _, text := range c.Routes {
		u, err := url.Parse(text)
		if err != nil || u.User == nil || u.User.Username() != c.User {
			continue
		}
		if pass, _ := u.User.Password(); bcrypt.CompareHashAndPassword([]byte(c.Password), []byte(pass)) == nil {
			return pass
		}
	}
	return ""
}
