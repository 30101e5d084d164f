// Package jetstream is the stream engine: it runs the stream and consumer machines below it on
// groups and a log that it is handed, takes publishes and API requests from the accounts' subject
// spaces, and delivers. It knows neither connections nor files; appliance/node connects it.
package jetstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/storage/index"
)

// Msg is a message as the bus hands it over. Its slices are borrowed for the call.
type Msg struct {
	Subject, Reply []byte
	Header, Data   []byte // Header is the raw block with its version line; nil if there is none
	Own            bool   // a client of this node has published it, whose goroutine the receiver runs on
	Last           bool   // and nothing else of that client waits for the receiver
}

// Bus is the subject space of one account. All methods are safe for concurrent use and copy what
// they keep.
type Bus interface {
	// Subscribe calls fn on the publisher's goroutine for every message; fn must not block.
	Subscribe(subject, queue string, fn func(Msg)) (unsubscribe func(), err error)
	// SubscribeSoon is Subscribe for what is rarely used: other nodes may hear of its begin and end a moment
	// later.
	SubscribeSoon(subject, queue string, fn func(Msg)) (unsubscribe func(), err error)
	// SubscribeEach is Subscribe for what each node of a cluster subscribes to and one of them is to answer: the
	// others do not get what was published on this one when fn returns true.
	SubscribeEach(subject string, fn func(Msg) (settled bool)) (unsubscribe func(), err error)
	// Publish returns the number of receivers.
	Publish(subject, reply string, header, data []byte) int
	// Burst returns a publisher for many messages at once, for one goroutine at a time.
	Burst() Burst
	// Borrow returns a publisher for one burst, which ends with Return.
	Borrow() Burst
	// PublishAs delivers to those who subscribe to deliver a message that reads subject.
	PublishAs(deliver, subject, reply string, header, data []byte) int
	// HasInterest reports whether a message to subject would be received.
	HasInterest(subject string) bool
	// WatchInterest calls fn at every change of the interest in a literal subject, by members of
	// queue if that is set, and with what it finds before it returns.
	WatchInterest(subject, queue string, fn func(active bool)) (cancel func())
}

// Burst publishes as a Bus does; receivers may get nothing before Flush.
type Burst interface {
	Publish(subject, reply string, header, data []byte) int
	PublishAs(deliver, subject, reply string, header, data []byte) int
	// Push has what was published sent while the burst goes on.
	Push()
	Flush()
	// Return flushes a publisher that was borrowed and gives it back.
	Return()
}

// Config is what an engine is built from. All fields without a stated default are required.
type Config struct {
	Groups  Groups
	Log     Log
	Bus     func(account string) Bus
	System  Bus // of the system account, on which the nodes of a cluster talk
	Logger  *slog.Logger
	Version string // shown in the metadata of assets

	// Node is this node's id, and Replica that of its replica of the meta group; see package meta.
	Node, Replica uint64
	// Name is the server's, and Tags what placement knows it by.
	Name string
	Tags []string
	// Founders are the replicas with which the meta group began.
	Founders []uint64
	// UniqueTag is the tag in which the nodes of a stream differ, such as "az:"; empty: none.
	UniqueTag string
	// Cluster is the cluster's name; empty: this node is alone.
	Cluster string
	// ServerID is the server's id, which is another one at each start.
	ServerID string
	// Online reports whether another node can be reached. nil: there is none.
	Online func(node uint64) bool
	// Heard returns when another node was last heard of, the zero time if never. nil: never.
	Heard func(node uint64) time.Time
	// Fatal ends the process: the node cannot go on.
	Fatal func(error)

	// Accounts that may use streams, with their limits.
	Accounts map[string]api.AccountLimits
	// Domain is the JetStream domain; empty: none.
	Domain string
	// MaxStore and MaxMemory are the bytes that streams may hold; 0: no limit.
	MaxStore, MaxMemory int64
	// DiskRoom returns the bytes that the disks of this node have for streams, with those in use; false: that is not
	// known. nil: it never is.
	DiskRoom func() (bytes int64, known bool)
	// IndexCache is how many bytes of the streams' message indexes are kept at hand; 0: 64 MiB.
	IndexCache int
	// Limits bounds what streams and consumers may ask for; Account is filled in per account.
	Limits api.Limits
}

const defaultIndexCache = 64 << 20

// Engine serves the streams of one node.
type Engine struct {
	cfg      Config
	ctx      context.Context // ends with the engine
	cancel   context.CancelFunc
	catalog  *catalog
	calls    *calls
	blocks   *index.Cache // of the streams' message indexes
	accounts map[string]*account
	lanes    lanes
	used     usage
	sending  atomic.Int64 // streams whose consumers in memory, or publishers, are sent to other nodes at the moment
	wg       sync.WaitGroup

	members   members
	system    *account // takes the calls of the system account
	stopUsage func()
	stopStats func()
	metaJobs  serial
}

// usage counts the bytes that streams hold, by storage.
type usage struct{ file, memory atomic.Int64 }

func (u *usage) of(storage api.Storage) *atomic.Int64 {
	if storage == api.MemoryStorage {
		return &u.memory
	}
	return &u.file
}

// book notes bytes that a stream has taken or given back.
func (a *account) book(storage api.Storage, bytes int64) {
	a.used.of(storage).Add(bytes)
	a.engine.used.of(storage).Add(bytes)
}

// full refuses a publish when the account or the server holds as much as it may.
func (a *account) full(storage api.Storage) *api.Error {
	most, server := a.limits.MaxStore, a.engine.cfg.MaxStore
	if storage == api.MemoryStorage {
		most, server = a.limits.MaxMemory, a.engine.cfg.MaxMemory
	}
	switch {
	case most >= 0 && a.used.of(storage).Load() >= most:
		return api.ErrAccountResourcesExceeded
	case server > 0 && a.engine.used.of(storage).Load() >= server:
		return api.ErrInsufficientResources
	}
	return nil
}

// account is the part of the engine that one account sees.
type account struct {
	engine *Engine
	name   string
	bus    Bus
	limits api.AccountLimits
	cancel []func()

	requests atomic.Uint64
	failures atomic.Uint64
	used     usage

	captured atomic.Pointer[captured]
	held     atomic.Int32 // requests that wait for a leader of the catalogue
	taken    taken

	mu       sync.RWMutex
	streams  map[string]*Stream
	offline  map[string]error                   // streams of the catalogue that cannot be served, and why
	watchers []func(metadata map[string]string) // told of durable consumers
}

// apiSubjects are the requests that the engine itself answers. Pulls and direct gets go to the
// consumer or stream that subscribes to them, so that a request to one that does not exist finds no
// responders.
var apiSubjects = []string{
	"$JS.API.INFO", "$JS.API.STREAM.>",
	"$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>", "$JS.API.CONSUMER.INFO.>",
	"$JS.API.CONSUMER.NAMES.>", "$JS.API.CONSUMER.LIST.>", "$JS.API.CONSUMER.DELETE.>",
	"$JS.API.CONSUMER.PAUSE.>", "$JS.API.CONSUMER.RESET.>", "$JS.API.CONSUMER.UNPIN.>",
	"$JS.API.CONSUMER.LEADER.>", "$JS.API.CONSUMER.PEER.>",
	"$JS.API.ACCOUNT.STREAM.>",
}

// maxRequests bounds the API requests that wait for a worker; more are refused.
const maxRequests = 10_000

// Start begins to serve. A node that is alone has recovered all its streams when it returns; one of a
// cluster does so when enough others are there.
func Start(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg, accounts: map[string]*account{}, blocks: index.NewCache(cmp.Or(cfg.IndexCache, defaultIndexCache))}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.lanes.init()
	e.metaJobs.engine = e
	e.members.init(e)
	e.system = &account{engine: e, name: systemAccount, bus: cfg.System}
	for name, limits := range cfg.Accounts {
		e.accounts[name] = &account{
			engine: e, name: name, bus: cfg.Bus(name), limits: limits,
			streams: map[string]*Stream{}, offline: map[string]error{},
		}
	}
	e.lanes.start(&e.wg)
	if err := e.start(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Engine) start() error {
	var err error
	if e.calls, err = startCalls(e, e.cfg.System); err != nil {
		return fmt.Errorf("subscribe to answers of other nodes: %w", err)
	}
	if err = startCatalog(e); err != nil {
		return fmt.Errorf("start the catalogue of streams: %w", err)
	}
	if e.cfg.Cluster == "" {
		if err = e.awaitReady(); err != nil {
			return fmt.Errorf("start the catalogue of streams: %w", err)
		}
		if err := e.register(); err != nil {
			return fmt.Errorf("enter this node in the catalogue: %w", err)
		}
	} else {
		e.wg.Go(func() { e.register() })
	}
	e.wg.Go(e.members.run)
	e.wg.Go(e.tellSettled)
	if e.stopStats, err = e.cfg.System.Subscribe(statsAskSubject, "", func(Msg) {
		e.work(turns, func() { e.members.stats.tell(e, true) })
	}); err != nil {
		return fmt.Errorf("subscribe to %s: %w", statsAskSubject, err)
	}
	if e.stopUsage, err = e.calls.serve(usageSubject, e.answerUsage); err != nil {
		return fmt.Errorf("subscribe to %s: %w", usageSubject, err)
	}
	for _, a := range e.accounts {
		if d := e.cfg.Domain; d != "" {
			if err := a.serveDomain(d); err != nil {
				return fmt.Errorf("subscribe to the domain %s in account %q: %w", d, a.name, err)
			}
		}
		for _, subj := range apiSubjects {
			stop, err := a.bus.SubscribeEach(subj, a.request)
			if err != nil {
				return fmt.Errorf("subscribe to %s in account %q: %w", subj, a.name, err)
			}
			a.cancel = append(a.cancel, stop)
		}
	}
	return nil
}

// awaitReady waits until everything of the start is carried out.
func (e *Engine) awaitReady() error {
	if err := e.cfg.Groups.Await(e.catalog.ready); err != nil {
		return err
	}
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	return e.catalog.failed
}

// Close stops serving. What is stored stays; nothing that was acknowledged is lost.
func (e *Engine) Close() {
	for _, a := range e.accounts {
		for _, stop := range a.cancel {
			stop()
		}
	}
	e.cancel()
	e.members.close()
	if e.catalog != nil {
		e.catalog.close()
	}
	for _, a := range e.accounts {
		for _, s := range a.all() {
			s.shutdown()
		}
	}
	for _, stop := range []func(){e.stopUsage, e.stopStats} {
		if stop != nil {
			stop()
		}
	}
	if e.calls != nil {
		e.calls.stop()
	}
	e.lanes.close()
	e.wg.Wait()
}

// Streams returns the number of streams of all accounts that have a replica here.
func (e *Engine) Streams() int {
	n := 0
	for _, a := range e.accounts {
		n += len(a.all())
	}
	return n
}

// stream returns a stream that this node leads.
func (a *account) stream(name string) (*Stream, *api.Error) {
	a.mu.RLock()
	s, offline := a.streams[name], a.offline[name]
	a.mu.RUnlock()
	if s != nil {
		if s.leads() {
			return s, nil
		}
		offline = s.failure()
	}
	switch {
	case offline != nil:
		return nil, api.ErrStreamOfflineReasonF(offline.Error())
	}
	if _, ok := a.engine.catalog.stream(a.name, name); ok {
		return nil, api.ErrClusterNotAvail
	}
	return nil, api.ErrStreamNotFound
}

// local returns this node's replica of a stream, nil if there is none.
func (a *account) local(name string) *Stream {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.streams[name]
}

// start runs this node's replica of a stream.
func (a *account) start(ms meta.Stream, spec GroupSpec) (*Stream, error) {
	s := newStream(a, ms, spec)
	if err := s.start(); err != nil {
		s.close()
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams[ms.Name] = s
	return s, nil
}

// forget takes a replica off the list.
func (a *account) forget(s *Stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams[s.name] == s {
		delete(a.streams, s.name)
	}
}

// setOffline notes why a stream cannot be served here; nil: it can, or is not here.
func (a *account) setOffline(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		delete(a.offline, name)
		return
	}
	a.offline[name] = err
}

// all returns the account's streams in no order.
func (a *account) all() []*Stream {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]*Stream, 0, len(a.streams))
	for _, s := range a.streams {
		all = append(all, s)
	}
	return all
}
