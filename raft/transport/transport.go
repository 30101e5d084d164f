package transport

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft"
)

// Transport connects a node to its peers: three connections to each, one for a lane. It implements
// raft.Transport.
//
// Invariants:
//  1. A frame is written to at most one connection, and never again.
//  2. A lane reads and writes one connection at a time: the goroutines of the last one have ended
//     before the next one's start.
//  3. Frames of a lane are delivered in the order of their numbers, each number at most once for
//     each incarnation of the sender, across all connections.
//  4. No byte of a payload is looked at, and no memory taken for one, before the other end has proved
//     that it knows the credentials.
//  5. A frame is delivered only if the checksums of its header and its payload fit.
type Transport struct {
	shared

	peers atomic.Pointer[map[uint64]*peer] // replaced under mu; a peer stays for ever, see peer.enabled

	mu        sync.Mutex // before peer.mu
	running   bool       // started and not closed
	closed    bool
	listeners map[net.Listener]struct{}
	pending   []*stranger // oldest first
	evicted   uint64
	refused   map[string]uint64 // accepted and not taken, by reasonOf
}

// shared is what the parts of a transport have in common. All but the wait group, the context and the
// limiter is constant after Start.
type shared struct {
	config   Config // with defaults
	identity identity
	receiver raft.Receiver
	log      *limiter

	ctx  context.Context // ends with the transport
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// stranger is an accepted connection that is not authenticated.
type stranger struct{ nc net.Conn }

// New returns a transport that does nothing before Start.
func New(config Config) (*Transport, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	t := &Transport{listeners: map[net.Listener]struct{}{}, refused: map[string]uint64{}}
	t.config = config
	t.log = newLimiter(config.Logger, time.Minute)
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.identity = identity{
		node: config.Node, incarnation: newIncarnation(), cluster: config.Cluster, maxFrame: uint32(config.MaxFrame),
		key: config.Credentials.key,
	}
	t.peers.Store(&map[uint64]*peer{})
	if err := t.SetPeers(config.Peers); err != nil {
		return nil, fmt.Errorf("config: Peers: %w", err)
	}
	return t, nil
}

// newIncarnation returns a random number that is not 0.
func newIncarnation() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never returns an error
	return max(1, binary.LittleEndian.Uint64(b[:]))
}

// Start begins to connect and to accept. Receiver is told what arrives from then on; it may call Send
// and Room but not Close. Start is called once.
func (t *Transport) Start(receiver raft.Receiver) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.running {
		panic("BUG: transport started twice")
	}
	t.receiver, t.running = receiver, true
	for _, p := range *t.peers.Load() {
		t.startLocked(p)
	}
	return nil
}

// startLocked starts the goroutines of a peer.
func (t *Transport) startLocked(p *peer) {
	for _, l := range p.lanes {
		t.wg.Go(l.run)
	}
}

// Close ends all connections, tells the receiver so, and waits for all goroutines. After it the receiver
// is not called.
func (t *Transport) Close() {
	t.mu.Lock()
	t.running, t.closed = false, true
	t.stop()
	for l := range t.listeners {
		l.Close()
	}
	t.mu.Unlock()
	for _, p := range *t.peers.Load() {
		p.disable(ErrClosed)
	}
	t.wg.Wait()
}

// Send takes over a frame; see raft.Transport. It returns false for a frame that is larger than
// what both nodes take, too.
func (t *Transport) Send(node uint64, lane raft.Lane, parts [][]byte) bool {
	p := (*t.peers.Load())[node]
	return p != nil && p.lanes[lane].queue.push(parts)
}

// Room returns how many bytes a frame may have that Send takes now; see raft.Transport.
func (t *Transport) Room(node uint64, lane raft.Lane) int {
	p := (*t.peers.Load())[node]
	if p == nil {
		return 0
	}
	return p.lanes[lane].queue.room()
}

// SetPeers replaces the peers and their addresses. Connections to those that stay are kept; those to
// others are closed. A peer without addresses may connect to this node and is never called. The
// error is ErrPeer, and then nothing has changed.
func (t *Transport) SetPeers(peers map[uint64][]string) error {
	for node := range peers {
		if err := t.checkPeer(node); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, addresses := range peers {
		t.addLocked(node, addresses)
	}
	for node, p := range *t.peers.Load() {
		if _, ok := peers[node]; !ok {
			p.disable(errRemoved)
		}
	}
	return nil
}

// AddPeer adds a peer or replaces its addresses. The error is ErrPeer.
func (t *Transport) AddPeer(node uint64, addresses []string) error {
	if err := t.checkPeer(node); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(node, addresses)
	return nil
}

// RemovePeer closes the connections to a peer and takes none from it any more. It does not wait: a last
// frame may still be on its way to the receiver.
func (t *Transport) RemovePeer(node uint64) {
	if p := (*t.peers.Load())[node]; p != nil {
		p.disable(errRemoved)
	}
}

func (t *Transport) checkPeer(node uint64) error {
	if node == 0 || node == t.config.Node {
		return fmt.Errorf("%w: %d at node %d", ErrPeer, node, t.config.Node)
	}
	return nil
}

func (t *Transport) addLocked(node uint64, addresses []string) {
	if t.closed {
		return
	}
	old := *t.peers.Load()
	p := old[node]
	if p == nil {
		p = newPeer(&t.shared, node)
		peers := maps.Clone(old)
		peers[node] = p
		t.peers.Store(&peers)
		if t.running {
			t.startLocked(p)
		}
	}
	p.enable(slices.Clone(addresses))
}

// find returns a peer that connections are taken from, or nil.
func (t *Transport) find(node uint64) *peer {
	if p := (*t.peers.Load())[node]; p != nil && p.isEnabled() {
		return p
	}
	return nil
}

// Accept takes over a connection that begins with Magic, or with TLS when Config.ServerTLS is set and it
// is not a TLS connection yet. It returns at once; what becomes of the connection is logged.
func (t *Transport) Accept(nc net.Conn) {
	t.mu.Lock()
	if !t.running {
		t.mu.Unlock()
		closeNow(nc)
		return
	}
	var oldest *stranger
	if len(t.pending) >= t.config.MaxHandshakes {
		oldest = t.pending[0]
		t.pending = slices.Delete(t.pending, 0, 1)
		t.evicted++
	}
	s := &stranger{nc}
	t.pending = append(t.pending, s)
	t.wg.Go(func() { t.handshake(s) })
	t.mu.Unlock()
	if oldest != nil {
		closeNow(oldest.nc)
		t.log.warn("evicted", "transport: refused connection", "remote", remote(oldest.nc), "reason", errEvicted)
	}
}

// handshake authenticates an accepted connection.
func (t *Transport) handshake(s *stranger) {
	nc := s.nc
	h, err := t.welcome(nc, t.find)
	reason := reasonOf(err)
	t.mu.Lock()
	i := slices.Index(t.pending, s)
	if i >= 0 {
		t.pending = slices.Delete(t.pending, i, i+1)
	}
	silent := err == nil || i < 0 || t.ctx.Err() != nil // i < 0: evicted
	if !silent {
		t.refused[reason]++
	}
	t.mu.Unlock()
	if silent {
		return
	}
	if errors.Is(err, ErrDuplicate) {
		t.config.Logger.Debug("transport: refused connection", "remote", remote(nc), "node", h.node, "lane", h.lane, "reason", err)
		return
	}
	key := fmt.Sprintf("refuse %d %s", h.node, reason)
	t.log.warn(key, "transport: refused connection", "remote", remote(nc), "node", h.node, "reason", err)
}

// Serve accepts connections from a listener until Close, which closes the listener and makes Serve
// return nil. It is for a port of its own; one that is shared calls Accept.
func (t *Transport) Serve(listener net.Listener) error {
	t.mu.Lock()
	if !t.running {
		t.mu.Unlock()
		listener.Close()
		return ErrClosed
	}
	t.listeners[listener] = struct{}{}
	t.mu.Unlock()
	defer func() {
		listener.Close()
		t.mu.Lock()
		delete(t.listeners, listener)
		t.mu.Unlock()
	}()
	for {
		nc, err := listener.Accept()
		switch {
		case err == nil:
			t.Accept(nc)
		case t.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // such as no file descriptors: give it time
			t.log.warn("accept", "transport: accept", "listener", listener.Addr(), "reason", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-t.ctx.Done():
				return nil
			}
		}
	}
}

// remote returns the address of the other end, or nil of a connection without one.
func remote(nc net.Conn) any {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return nil
}
