// Package node builds one Millrace node out of its parts: broker, stream engine, raft host, journal
// and plugin host meet here and nowhere else. Commands call it; it reads configuration files and opens
// what they name.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/api"
	"millrace/plugins/service"
	"millrace/raft"
	"millrace/storage/catalog"
)

// serverVersion is what INFO tells clients; they gate features on it, so it is the version of
// nats-server whose behaviour this node has.
const serverVersion = "2.15.0"

// The reply subjects of deliveries: what they begin with, and how many tokens they have at least.
const (
	ackPrefix = "$JS.ACK."
	ackTokens = 9 // $JS.ACK.stream.consumer.deliveries.sequence.delivery.time.pending
)

// Pull requests stay with the leader of their consumer. Clients are told as by a leader that stands back.
const (
	pullPrefix = "$JS.API.CONSUMER.MSG.NEXT."
	pullsOver  = "NATS/1.0 409 Leadership Change\r\n\r\n"
)

// Node is a running node.
type Node struct {
	settings *Settings
	log      *slog.Logger
	broker   *broker.Broker
	listener net.Listener
	catalog  *catalog.Catalog                 // nil without JetStream
	peering  *peering                         // nil without JetStream, and without a cluster
	store    *store                           // nil without JetStream, and in a cluster before it is formed
	engine   *jetstream.Engine                // nil like store
	serving  atomic.Pointer[jetstream.Engine] // engine, for those who ask meanwhile
	plugins  []*service.Service
	box      *box        // nil but on a box
	ready    atomic.Bool // all that was to be started has been
	failed   atomic.Bool // something was given to fatal
	fatal    chan error
	wg       sync.WaitGroup

	stopForming context.CancelFunc // ends what forming waits for; nil: nothing
	forming     sync.WaitGroup     // of the start of streams that waits for the cluster
}

// closeTime is how long a start that failed waits for what it had opened.
const closeTime = 5 * time.Second

// Start starts a node: it recovers what is stored and then accepts clients. It returns early when ctx
// ends or the store fails meanwhile. After an error the process should end: parts of the node may
// still run.
func Start(ctx context.Context, s *Settings, log *slog.Logger) (*Node, error) {
	n := &Node{settings: s, log: log, fatal: make(chan error, 4)}
	return n, n.startUntil(ctx, n.start)
}

// startUntil runs start until it returns, ctx ends or something fatal happens, and closes what a
// failed start has opened.
func (n *Node) startUntil(ctx context.Context, start func() error) error {
	started := make(chan error, 1)
	go func() {
		err := start()
		if err != nil {
			err = errors.Join(err, n.closeWithin(closeTime))
		}
		started <- err
	}()
	select {
	case err := <-started:
		return err
	case err := <-n.fatal:
		return err
	case <-ctx.Done():
		return fmt.Errorf("start: %w", context.Cause(ctx))
	}
}

// closeWithin closes the node, or leaves it to the end of the process when that takes longer than d.
func (n *Node) closeWithin(d time.Duration) error {
	closed := make(chan error, 1)
	go func() { closed <- n.Close(context.Background()) }()
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case err := <-closed:
		return err
	case <-late.C:
		return fmt.Errorf("the node did not close within %s", d)
	}
}

func (n *Node) start() error {
	cfg, err := n.settings.brokerConfig()
	if err != nil {
		return err
	}
	cfg.Version = serverVersion
	cfg.APILevel = api.Level
	cfg.ReservedReplies = []string{ackPrefix, "_R_"}
	cfg.CarrierReply = broker.CarrierReply{Prefix: ackPrefix, Tokens: ackTokens}
	cfg.Standing = broker.StandingRequests{Prefix: pullPrefix, Over: pullsOver, Ended: jetstream.PullsEnded}
	cfg.Logger = n.log
	if n.settings.JetStream.Enabled {
		if err := n.openCatalog(&cfg); err != nil {
			return err
		}
	}
	if n.broker, err = broker.New(cfg); err != nil {
		return err
	}
	if err := n.broker.ServeServerRequestLater("HEALTHZ", func(request []byte, done func(any, error)) {
		n.wg.Go(func() { done(n.health(request)) })
	}); err != nil {
		return err
	}
	if !n.settings.JetStream.Enabled {
		if err := n.broker.ServeServerRequestLater("JSZ", n.noStreams); err != nil {
			return err
		}
	}
	if n.settings.BoxSocket != "" { // first: the box may want to know why the rest takes long
		if n.box, err = startBox(n.settings.BoxSocket, n.broker, n.health); err != nil {
			return err
		}
	}
	if n.settings.JetStream.Enabled {
		if err := n.startStreams(); err != nil {
			return err
		}
	}
	addr := net.JoinHostPort(n.settings.Host, strconv.Itoa(n.settings.Port))
	if n.listener, err = net.Listen("tcp", addr); err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	if cl := n.settings.Cluster; cl != nil {
		routes, err := net.Listen("tcp", net.JoinHostPort(cl.Host, strconv.Itoa(cl.Port)))
		if err != nil {
			return fmt.Errorf("listen for routes of the cluster: %w", err)
		}
		if err := n.broker.JoinCluster(routes, n.listener.Addr()); err != nil {
			return err
		}
		if n.peering != nil {
			n.peering.joined()
		}
		n.log.Info("routes", "url", "nats://"+routes.Addr().String(), "cluster", n.broker.Cluster())
	}
	n.wg.Go(func() {
		if err := n.broker.Serve(n.listener); err != nil && !errors.Is(err, broker.ErrClosed) {
			n.fail(fmt.Errorf("accept clients on %s: %w", n.listener.Addr(), err))
		}
	})
	if p := n.settings.PidFile; p != "" {
		if err := os.WriteFile(p, []byte(strconv.Itoa(os.Getpid())), 0o640); err != nil {
			return fmt.Errorf("write pid_file: %w", err)
		}
	}
	n.ready.Store(true)
	n.log.Info("ready", "url", "nats://"+n.listener.Addr().String(), "server", n.broker.Name(), "version", Version())
	return nil
}

// startStreams recovers what is stored and serves it: at once on a node that is alone or has founded its
// cluster by itself. Elsewhere it returns while that is waited for; until then requests to streams find
// nobody.
func (n *Node) startStreams() error {
	ctx, cancel := context.WithCancel(context.Background())
	n.stopForming = cancel
	if n.peering != nil {
		if err := n.peering.begin(n.broker); err != nil {
			return err
		}
		select {
		case <-n.peering.decided:
		default:
			n.forming.Go(func() {
				if err := n.serveStreams(ctx); err != nil && ctx.Err() == nil {
					n.fail(err)
				}
			})
			return nil
		}
	}
	return n.serveStreams(ctx)
}

// serveStreams starts the engine once the node knows its cluster.
func (n *Node) serveStreams(ctx context.Context) error {
	m, err := n.formCluster(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if n.store, err = openStore(n.catalog, n.settings.JetStream, n.log, n.fail); err != nil {
		return err
	}
	if err := n.store.startHost(m.Transport, n.peerChanged, n.log); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	if n.engine, err = jetstream.Start(n.engineConfig(m)); err != nil {
		return err
	}
	n.serving.Store(n.engine)
	if err := n.engine.ServeServer(n.broker.ServeServerRequestLater); err != nil {
		return err
	}
	if err := n.startPlugins(); err != nil {
		return err
	}
	if m.Transport != nil {
		n.log.Info("storage node", "cluster", n.broker.Cluster(), "store", n.settings.JetStream.StoreDir)
		return nil
	}
	n.log.Info("streams recovered", "store", n.settings.JetStream.StoreDir,
		"streams", n.engine.Streams(), "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// clusterName returns the name of the cluster, empty for a node without one.
func (n *Node) clusterName() string {
	if n.settings.Cluster == nil {
		return ""
	}
	return n.broker.Cluster()
}

// heard returns when another storage node was last heard of, the zero time if never.
func (n *Node) heard(node uint64) time.Time {
	for _, p := range n.store.host.Peers() {
		if p.Node == node {
			return p.Heard
		}
	}
	return time.Time{}
}

// online reports whether another storage node is heard of.
func (n *Node) online(node uint64) bool {
	for _, p := range n.store.host.Peers() {
		if p.Node == node {
			return p.State == raft.PeerAlive
		}
	}
	return false
}

// peerChanged is told of the state of another storage node.
func (n *Node) peerChanged(_ uint64, state raft.PeerState) {
	if e := n.serving.Load(); e != nil && state == raft.PeerAlive {
		e.NodeHeard()
	}
}

// Addr is the address on which the node accepts clients.
func (n *Node) Addr() net.Addr { return n.listener.Addr() }

// Fatal delivers the reason why the node must end: after a failed write nothing it says could be
// believed.
func (n *Node) Fatal() <-chan error { return n.fatal }

func (n *Node) fail(err error) {
	n.failed.Store(true)
	select {
	case n.fatal <- err:
	default: // one reason is enough
	}
}

// LameDuck accepts no more clients, tells those connected, and closes them one after the other over
// the configured time. It returns when all are gone or ctx ends. First of all others lead what was led here.
func (n *Node) LameDuck(ctx context.Context) {
	n.leave()
	n.broker.LameDuck(ctx, n.settings.LameDuckDuration, n.settings.LameDuckGracePeriod)
}

// leave has others lead what is led here, unless this node can no longer be trusted.
func (n *Node) leave() {
	if e := n.serving.Load(); e != nil && !n.failed.Load() {
		e.Leave()
	}
}

// Close stops the node, after others lead what was led here if there are any. Every acknowledged message is on disk
// before it was acknowledged, so nothing is lost however short ctx is.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	n.ready.Store(false)
	n.leave()
	if n.box != nil {
		n.box.close()
	}
	if n.stopForming != nil {
		n.stopForming()
		n.forming.Wait()
	}
	for _, s := range n.plugins {
		s.Close()
	}
	if n.engine != nil {
		n.engine.Close()
	}
	if n.peering != nil {
		n.peering.close()
	}
	if n.broker != nil {
		n.broker.Shutdown()
	}
	n.wg.Wait()
	if n.store != nil {
		errs = append(errs, n.store.close())
	} else if n.catalog != nil {
		errs = append(errs, n.catalog.Close())
	}
	if p := n.settings.PidFile; p != "" && n.listener != nil {
		errs = append(errs, os.Remove(p))
	}
	return errors.Join(errs...)
}

// engineConfig connects the stream engine with the broker's accounts and the node's store.
func (n *Node) engineConfig(m *membership) jetstream.Config {
	js := n.settings.JetStream
	cfg := jetstream.Config{
		System: bus{n.broker.SystemAccount()}, Node: m.Node, Replica: n.catalog.NodeID(), Founders: m.Founders,
		Name: n.broker.Name(), ServerID: n.broker.ID(), Tags: n.settings.Tags, UniqueTag: js.UniqueTag,
		Cluster: n.clusterName(), Online: n.online, Heard: n.heard, Fatal: n.fail,
		Groups: n.store.groups, Log: repairedLog{n.store.journal, n.store.groups, n.log}, Logger: n.log, Version: serverVersion,
		Bus:      func(account string) jetstream.Bus { return bus{n.broker.Account(account)} },
		Accounts: map[string]api.AccountLimits{},
		Domain:   js.Domain,
		MaxStore: max(js.MaxStore, 0), MaxMemory: max(js.MaxMemory, 0), DiskRoom: n.store.room,
		Limits: api.Limits{
			DuplicateWindow: js.Duplicates, MaxAckPending: js.MaxAckPending, MaxRequestBatch: js.MaxRequestBatch,
			MaxConsumers: api.DefaultMaxConsumers, MaxStore: max(js.MaxStore, 0), MaxMemory: max(js.MaxMemory, 0),
		},
	}
	for _, a := range n.settings.Accounts {
		if j := a.JetStream; j != nil && a.Name != n.settings.SystemAccount {
			cfg.Accounts[a.Name] = api.AccountLimits{
				MaxMemory: j.MaxMemory, MaxStore: j.MaxStore, MaxStreams: j.MaxStreams, MaxConsumers: j.MaxConsumers,
				MaxAckPending: j.MaxAckPending, MemoryMaxStreamBytes: j.MemoryMaxStreamBytes,
				StoreMaxStreamBytes: j.StoreMaxStreamBytes, MaxBytesRequired: j.MaxBytesRequired,
			}
		}
	}
	return cfg
}
