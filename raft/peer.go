package raft

import (
	"slices"
	"sync"
	"time"
)

// PeerState is what a host thinks of another node.
type PeerState uint8

// The states of a peer.
const (
	PeerDead    PeerState = iota // no heartbeat for Config.DeadAfter, or none yet
	PeerSuspect                  // none for Config.SuspectAfter
	PeerAlive
)

// String returns the name of a state.
func (s PeerState) String() string { return [...]string{"dead", "suspect", "alive"}[s] }

// PeerInfo describes another node.
type PeerInfo struct {
	Node      uint64
	State     PeerState
	Connected bool
	DiskOK    bool      // its store answered a write lately, or has none to answer
	Heard     time.Time // when the last heartbeat came
}

// peer is another node. The promises are explained in DESIGN.md, "Leases".
//
// Invariants:
//
//  1. promised and hostile change together under mu: a promise that was given is never broken before
//     it ran out, and what breaks it afterwards changes hostile, and with it the stamp of all later ones.
//  2. heldUntil is measured from the sending of the heartbeat that the promise answers.
type peer struct {
	node  uint64
	index int // among the host's peers

	mu          sync.Mutex // taken with no other lock held
	connected   bool
	state       PeerState
	diskOK      bool
	heard       time.Time
	heeded      time.Duration // heard, in the host's attention
	patience    patience
	incarnation uint64 // of its host, 0: not heard of
	echo        uint64 // sending time of its last heartbeat, to be sent back
	promised    time.Time
	hostile     uint64 // how often a promise to it was broken after it had run out
	heldStamp   uint64 // of its promise to us
	heldUntil   time.Time

	refused   map[*Group]struct{} // whose entries the transport did not take
	unknown   time.Time           // when OnUnknownGroup was called
	digesting bool                // digests are being sent
	digested  GroupID             // the next one is after this group
}

// clockNumerator and clockDenominator: a clock may run 10 % too fast, another one 10 % too slow.
const (
	clockNumerator   = 9
	clockDenominator = 11
)

// stamp names the promise which this node gives to the peer, for all nodes and all time.
func (p *peer) stamp(self uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return self + p.hostile
}

// defy asks whether this node may act against a leader that lives on the peer, in its life with that
// incarnation. false: this node has promised not to.
func (p *peer) defy(now time.Time, incarnation uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.incarnation == incarnation && now.Before(p.promised) {
		return false
	}
	p.hostile++
	return true
}

// promises reports whether a promise to the peer is valid, which defy would not break.
func (p *peer) promises(now time.Time, incarnation uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.incarnation == incarnation && now.Before(p.promised)
}

// holds reports whether the peer's promise with that stamp is valid.
func (p *peer) holds(now time.Time, stamp uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return stamp != 0 && p.heldStamp == stamp && now.Before(p.heldUntil)
}

func (p *peer) currentState() PeerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// info returns what is known of the peer.
func (p *peer) info() PeerInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PeerInfo{Node: p.node, State: p.state, Connected: p.connected, DiskOK: p.diskOK, Heard: p.heard}
}

// peers are the other nodes that this one has heard of or has groups with, in the order in which it
// did. None is ever forgotten: a cluster has few.
type peers struct {
	mu    sync.RWMutex // taken with no other lock held
	nodes map[uint64]*peer
	list  []*peer
}

// of returns the peer of a node, a new one if need be.
func (ps *peers) of(node uint64) *peer {
	ps.mu.RLock()
	p := ps.nodes[node]
	ps.mu.RUnlock()
	if p != nil {
		return p
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p = ps.nodes[node]; p == nil {
		p = &peer{node: node, index: len(ps.list)}
		ps.nodes[node] = p
		ps.list = append(slices.Clip(ps.list), p)
	}
	return p
}

// all returns the peers; the slice does not change.
func (ps *peers) all() []*peer {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return ps.list
}

// Peers returns the other nodes that the host knows, sorted.
func (h *Host) Peers() []PeerInfo {
	var infos []PeerInfo
	for _, p := range h.peers.all() {
		infos = append(infos, p.info())
	}
	slices.SortFunc(infos, func(a, b PeerInfo) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return infos
}
