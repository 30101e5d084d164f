package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/formation"
	"millrace/raft/transport"
	"millrace/storage/catalog"
)

// Subjects of the messages by which storage nodes found a cluster, in the system account: "all", or the raw
// id of the node that a message is for. So they travel on the routes, with their authentication and
// encryption, also through the one route that a firewall leaves open; a node that is not formed has
// nothing else to talk by. What a user of the system account says there is believed.
const (
	formationSubject = "$MILLRACE.FORM."
	formationAll     = formationSubject + "all"
)

// Times of formation.
const (
	formationTick   = 100 * time.Millisecond
	formationReport = 10 * time.Second // between two lines of the log about what is waited for
	// gossipTime is for how long a node whose routes all lead to routers waits to hear from these of other
	// storage nodes, before it believes that there are none.
	gossipTime = 2 * time.Second
)

// formationInbox bounds the messages that were received and not looked at; more are dropped, and come
// again.
const formationInbox = 256

// Times of the connections between storage nodes, which are of one cluster and mostly of one place: a node that
// was cut off shall be connected again a moment after the network is there. An old connection would wait for
// as long again as the network was down.
const (
	transportPing  = time.Second
	transportDead  = 4 * time.Second
	transportDial  = 2 * time.Second
	transportRetry = time.Second
)

// maxFrame is the size of the largest frame between nodes, in bytes: the largest proposal that the raft
// host takes (64 MiB), and what raft adds.
const maxFrame = 64<<20 + 2<<20

// peering is this node among the storage nodes of its cluster: it drives formation, then tells the
// transport who its peers are.
//
// Invariants:
//  1. What formation wants stored is stored before anything of the same step leaves the node.
//  2. Transport exists from the decision on, with the decision's cluster id.
type peering struct {
	settings    *Cluster
	tls         *broker.ClusterConfig // for its TLS
	catalog     *catalog.Catalog
	log         *slog.Logger
	fatal       func(error)
	raw         uint64 // id of this node
	credentials transport.Credentials
	noSecret    error // why there are none that others have

	broker     *broker.Broker // set by begin
	remembered []string       // addresses of the nodes that were known at the start; set by begin
	changed    chan struct{}  // capacity 1: the mesh may have changed
	inbox      chan []byte
	decided    chan struct{} // closed when member is set
	done       chan struct{} // closed when run has ended
	failure    error         // of run; valid when done is closed
	stop       context.CancelFunc
	wg         sync.WaitGroup

	// Owned by run, and by begin before that.
	machine    *formation.Machine
	reportAt   time.Time
	aloneSince time.Time // since when all routes lead to routers; zero: they do not
	known      knownPeers
	unsecret   bool // that there are no credentials was logged

	mu     sync.Mutex
	member *membership // nil: not decided yet
	closed bool
}

// newPeering reads what is stored, and completes the broker's configuration.
func newPeering(settings *Cluster, cfg *broker.ClusterConfig, c *catalog.Catalog, state formation.State, log *slog.Logger, fatal func(error)) (*peering, error) {
	p := &peering{
		settings: settings, tls: cfg, catalog: c, log: log, fatal: fatal, raw: c.NodeID(),
		changed: make(chan struct{}, 1), inbox: make(chan []byte, formationInbox),
		decided: make(chan struct{}), done: make(chan struct{}), stop: func() {},
	}
	var err error
	if p.known, err = decodePeers(c.Peers()); err != nil {
		return nil, err
	}
	if p.credentials, p.noSecret, err = clusterCredentials(settings); err != nil {
		return nil, err
	}
	p.machine = formation.New(formation.Config{Node: p.raw, Random: randomNumber}, state, 1+len(settings.Routes))
	cfg.Storage = &broker.StorageConfig{
		Node: nodeOf(p.raw), Changed: p.wake, Preamble: transport.Magic, Carry: p.carry,
	}
	if d := p.machine.Decision(); d != nil {
		cfg.Storage.Cluster = d.Cluster
	}
	return p, nil
}

func randomNumber() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never returns an error
	return binary.LittleEndian.Uint64(b[:])
}

// wake lets run look at the mesh.
func (p *peering) wake() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// carry takes a connection of another node for the transport. Before the decision there is none; the
// other end tries again.
func (p *peering) carry(nc net.Conn) {
	p.mu.Lock()
	m := p.member
	p.mu.Unlock()
	if m == nil {
		nc.Close()
		return
	}
	m.Transport.Accept(nc)
}

// begin starts formation; the broker has no routes yet. When it returns, a node that need not ask others
// has decided.
func (p *peering) begin(b *broker.Broker) error {
	p.broker = b
	receive := func(m *broker.Msg) {
		select {
		case p.inbox <- bytes.Clone(m.Data):
		default:
		}
	}
	for _, subject := range []string{formationAll, formationSubject + fmt.Sprintf("%016x", p.raw)} {
		if _, err := b.SystemAccount().Subscribe(subject, "", receive); err != nil {
			return fmt.Errorf("form cluster: %w", err)
		}
	}
	segments, err := p.catalog.Segments()
	if err != nil {
		return fmt.Errorf("form cluster: %w", err)
	}
	now := time.Now()
	p.reportAt = now.Add(formationReport)
	switch {
	case p.machine.Decision() != nil:
		err = p.settle(*p.machine.Decision())
	case len(segments) > 0:
		p.log.Info("the store has data of a node on its own: it founds a cluster")
		err = p.carryOut(p.machine.Found(now))
	default:
		err = p.look(now)
	}
	if err != nil {
		return err
	}
	for _, k := range p.known {
		p.remembered = append(p.remembered, k.Addresses...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.wg.Go(func() {
		defer close(p.done)
		if p.failure = p.run(ctx); p.failure != nil {
			p.fatal(p.failure)
		}
	})
	return nil
}

// joined is called when the broker is in the mesh: nodes that this one knew by gossip only may not be told
// of again, if those that would are down.
func (p *peering) joined() { p.broker.Meet(p.remembered) }

// run drives formation, and after it answers those who are not formed and keeps the peers.
func (p *peering) run(ctx context.Context) error {
	tick := time.NewTicker(formationTick)
	defer tick.Stop()
	ticks := tick.C
	for {
		if p.machine.Decision() != nil {
			ticks = nil // there is nothing to wait for
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
			err = p.look(time.Now())
		case now := <-ticks:
			err = p.look(now)
			p.report(now)
		case raw := <-p.inbox:
			err = p.receive(raw)
		}
		if err != nil {
			return err
		}
	}
}

// receive takes a message of another node.
func (p *peering) receive(raw []byte) error {
	msg, err := formation.DecodeMessage(raw)
	if err != nil {
		p.log.Warn("message about the founding of the cluster", "error", err)
		return nil
	}
	if p.withheld() {
		return nil
	}
	return p.carryOut(p.machine.Receive(time.Now(), msg))
}

// look takes from the broker who is there, and lets time pass.
func (p *peering) look(now time.Time) error {
	mesh := p.broker.StorageMesh()
	if p.machine.Decision() == nil && !p.withheld() {
		if err := p.carryOut(p.machine.See(now, p.size(now, mesh))); err != nil {
			return err
		}
		for _, peer := range mesh.Peers {
			if peer.Connected && peer.Cluster != [16]byte{} {
				if err := p.carryOut(p.machine.Join(now, peer.Cluster)); err != nil {
					return err
				}
			}
		}
	}
	return p.update(mesh)
}

// size is the number of storage nodes that there may be, this one included; see Machine.See.
func (p *peering) size(now time.Time, mesh broker.StorageMesh) int {
	size := 1 + len(mesh.Peers) + mesh.Unknown
	if size > 1 || mesh.Routers == 0 {
		p.aloneSince = time.Time{}
		return size
	}
	if p.aloneSince.IsZero() {
		p.aloneSince = now
	}
	if now.Sub(p.aloneSince) < gossipTime {
		return 2
	}
	return size
}

// withheld reports whether this node takes no part in founding a cluster with others, because it could not
// talk to them afterwards.
func (p *peering) withheld() bool {
	if p.noSecret == nil || len(p.broker.StorageMesh().Peers) == 0 {
		return false
	}
	if !p.unsecret {
		p.unsecret = true
		p.log.Error("this node cannot share streams with the other storage nodes", "error", p.noSecret)
	}
	return p.machine.Decision() == nil
}

// carryOut does what a step of formation leads to. An error leaves it unknown what is stored: the process has
// to end.
func (p *peering) carryOut(eff formation.Effects) error {
	if eff.Persist != nil {
		if err := p.catalog.PutFormation(eff.Persist.Encode()); err != nil {
			return fmt.Errorf("form cluster: %w", err)
		}
	}
	for _, msg := range eff.Send {
		subject := formationAll
		if msg.To != 0 {
			subject = formationSubject + fmt.Sprintf("%016x", msg.To)
		}
		p.broker.SystemAccount().Publish(subject, "", nil, msg.Encode())
	}
	if eff.Decided != nil {
		return p.settle(*eff.Decided)
	}
	return nil
}

// settle acts on the decision, which is stored.
func (p *peering) settle(v formation.Value) error {
	t, err := transport.New(transport.Config{
		Node: nodeOf(p.raw), Cluster: v.Cluster, Credentials: p.credentials,
		ClientTLS: p.tls.TLS, ServerTLS: p.tls.TLS, Dial: p.broker.DialCluster, MaxFrame: maxFrame, Logger: p.log,
		PingInterval: transportPing, DeadAfter: transportDead, DialTimeout: transportDial, BackoffMax: transportRetry,
	})
	if err != nil {
		return fmt.Errorf("form cluster: %w", err)
	}
	m := &membership{
		Node: nodeOf(p.raw), Cluster: v.Cluster, Founders: slices.Clone(v.Founders), Transport: t,
	}
	if err := p.broker.FormCluster(v.Cluster); err != nil {
		return err
	}
	p.mu.Lock()
	p.member = m
	p.mu.Unlock()
	close(p.decided)
	var founders []string
	for _, f := range v.Founders {
		founders = append(founders, fmt.Sprintf("%016x", f))
	}
	p.log.Info("cluster of streams", "id", hex.EncodeToString(v.Cluster[:]), "node", fmt.Sprintf("%016x", m.Node), "founders", founders)
	return p.update(p.broker.StorageMesh())
}

// report logs now and then what this node waits for.
func (p *peering) report(now time.Time) {
	if now.Before(p.reportAt) || p.machine.Decision() != nil {
		return
	}
	p.reportAt = now.Add(formationReport)
	s := p.machine.Status(now)
	if s.Joins != [16]byte{} {
		p.log.Warn("streams are not served yet: this node waits for a node of its cluster; if that is gone for good, empty the store, "+
			"in which there is nothing yet", "id", hex.EncodeToString(s.Joins[:]))
		return
	}
	p.log.Warn("streams are not served yet: the cluster waits for storage nodes", "present", s.Present, "needed", s.Needed, "expected", s.Size)
}

// await returns the decision when it is there.
func (p *peering) await(ctx context.Context) (*membership, error) {
	select {
	case <-p.decided:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.member, nil
	case <-p.done:
		return nil, errors.Join(errors.New("form cluster: the node ends"), p.failure)
	case <-ctx.Done():
		return nil, fmt.Errorf("form cluster: %w", context.Cause(ctx))
	}
}

// close ends formation and the transport.
func (p *peering) close() {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
	p.mu.Lock()
	m := p.member
	p.mu.Unlock()
	if m != nil && !closed {
		m.Transport.Close()
	}
}
