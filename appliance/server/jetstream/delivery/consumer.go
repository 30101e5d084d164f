// Package delivery runs one consumer of a stream where it is led: it reads messages, delivers them to
// pull requests, a push subject or in-process workers, and takes acknowledgements. The bookkeeping is the
// pure machine of package consumer, in a copy that is ahead of what is committed; this package adds
// clock, goroutine, log and wire forms. The stream engine makes, feeds and ends consumers; this package knows nothing of the JetStream API beyond the consumer's own
// subjects.
package delivery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// Config is what a consumer is made of. Its callbacks run on the consumer's goroutine and must not wait
// for the consumer (Close, Delete, Fetch).
type Config struct {
	Stream  string             // name of the stream
	Name    string             // name of the consumer
	Created time.Time          // when it was created
	Domain  string             // JetStream domain, for advisories; empty: none
	Config  api.ConsumerConfig // validated, with defaults filled in

	Source Source
	Bus    Bus
	Log    Log // nil: the state lives in memory and everything counts as committed at once

	// State is what is committed of the consumer; it belongs to the consumer from then on. nil: nothing.
	State *consumer.Machine
	// Volatile tells that the stream may have lost what was delivered. Otherwise a stream that ends
	// before the last delivery is a replica that is behind.
	Volatile bool

	// MaxMsgBytes is the largest message of the stream and so the burst of a rate limit; 0: 1 MiB.
	MaxMsgBytes int

	// Settled is called with messages that this consumer will not need again, while Consumer.Retain is
	// on, if there is no Log; else the committed machine tells (consumer.Effects). The slice is
	// valid during the call.
	Settled func(seqs []uint64)
	// OnBehind is called when the consumer begins and when it ceases to wait for the stream to get somewhere
	// here. In between it wants to hear of every new message, else of those that its filters match.
	OnBehind func(behind bool)
	// OnLive is called once when a consumer that needs no acknowledgements has delivered what there was when
	// it started. While its filters stay as they are, it need not hear of removals any more but
	// those of messages that they match and those by a purge: it holds nothing, and looks at the head of
	// the stream by itself. nil: nobody cares.
	OnLive func()
	// OnInactive is called once when nobody used the consumer for its inactive threshold; nil:
	// nobody cares.
	OnInactive func()
	// OnDelete is called by Delete when the consumer takes no requests on a subject any more, before those that wait
	// are told; nil: nobody cares.
	OnDelete func(subject string)
	// OnError is called when the source or the log fails; the consumer tries again later. nil: ignored.
	OnError func(err error)
}

func (c *Config) validate() error {
	switch {
	case c.Stream == "" || c.Name == "":
		return errors.New("delivery: stream and consumer need a name")
	case c.Source == nil || c.Bus == nil:
		return fmt.Errorf("delivery: consumer %q has no source or no bus", c.Name)
	case c.Config.AckPolicy > api.AckExplicit:
		return fmt.Errorf("delivery: consumer %q: ack policy %s is not supported", c.Name, c.Config.AckPolicy)
	case c.Config.PriorityPolicy != api.PriorityNone:
		return fmt.Errorf("delivery: consumer %q: priority policy %s is not supported", c.Name, c.Config.PriorityPolicy)
	}
	return nil
}

// Limits of one consumer.
const (
	maxQueuedAcks  = 1 << 18 // acknowledgements not yet looked at; more are dropped, the message comes again
	maxQueuedPulls = 1 << 14 // pull requests not yet looked at; more get 409 Exceeded MaxWaiting
	burst          = 256     // deliveries between two looks at the inbox
	defaultMaxMsg  = 1 << 20

	defaultInactive = 5 * time.Second // inactive threshold of an ephemeral that sets none
)

// Consumer is a running consumer. Its methods are safe for concurrent use.
//
// One goroutine at a time, run, owns the state; there is none while nothing is due. The others post to the inbox
// and wake it.
type Consumer struct {
	cfg     Config
	prefix  string // of acknowledgement subjects: "$JS.ACK.<stream>.<consumer>."
	inbox   inbox
	ready   chan struct{}
	quit    chan struct{}
	hungry  atomic.Bool // run waits for messages of the stream
	arrived atomic.Bool // the stream has new messages
	stale   atomic.Bool // messages that were not delivered yet left the stream

	retained atomic.Bool // what is settled is reported
	rang     atomic.Bool // the timer has
	turns    turns
	wg       sync.WaitGroup // of run
	unsubs   []func()       // set by Start
	stop     sync.Once
	life     sync.Mutex // held by Start; guards ended
	ended    bool
	how      ending // set before quit is closed

	// mu orders changes by run with readers on other goroutines; run itself reads without it. It is
	// never held while a callback, the source, the bus or the log is called.
	mu      sync.Mutex
	m       *consumer.Machine
	conf    *api.ConsumerConfig // replaced, never changed
	filters []string
	waiting requestQueue
	skip    []uint64 // last-per-subject start: what is still to be delivered, ascending
	active  bool     // push: the deliver subject has interest

	// Owned by run.
	taken inbox // from inbox
	timer *time.Timer
	armed time.Time // when timer rings; zero: it does not
	pushState
	commitState
	unlisted    bool      // skip is not known: the stream does not reach up to the horizon here
	out         Publisher // of the deliveries of one step; else nil
	outBytes    int       // published since the last Push; 0 without out
	loadWaits   func()    // pushOut
	behind      bool      // the message that is due for redelivery has not arrived here
	waits       bool      // last told to OnBehind
	live        bool      // OnLive was called
	cursor      uint64    // no undelivered match below
	backlog     backlog
	msg         Message
	replyBuf    []byte
	headerBuf   []byte
	exceeded    []consumer.Message
	effects     consumer.Effects
	now         time.Time // of the step
	resumeAt    time.Time // rate limit, replay pace, failed load: no delivery before; zero: none
	rate        rateLimit
	replay      replayPace
	sampling    int // percent
	lastActive  time.Time
	inactiveAt  time.Time     // next look at the inactivity; zero: none
	inactive    time.Duration // threshold with jitter; 0: none
	pausedUntil time.Time     // a pause in force; zero: none
	workers     bool          // an in-process worker asked for more than there was
}

// New returns a consumer that does not run yet.
func New(cfg Config) (*Consumer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.MaxMsgBytes <= 0 {
		cfg.MaxMsgBytes = defaultMaxMsg
	}
	conf := cfg.Config.Clone()
	c := &Consumer{
		cfg:    cfg,
		prefix: "$JS.ACK." + cfg.Stream + "." + cfg.Name + ".",
		ready:  make(chan struct{}, 1),
		quit:   make(chan struct{}),
		m:      cfg.State,
	}
	if c.m == nil {
		c.m = consumer.New()
	}
	c.onCommit, c.led, c.loadWaits = c.entryCommitted, true, c.pushOut
	c.setConf(&conf)
	return c, nil
}

// setConf takes a configuration over, which becomes the consumer's; the caller is run or runs before it.
func (c *Consumer) setConf(conf *api.ConsumerConfig) {
	if conf.InactiveThreshold <= 0 && !conf.IsDurable() {
		conf.InactiveThreshold = defaultInactive
	}
	c.mu.Lock()
	c.conf = conf
	c.filters = conf.Filters()
	c.mu.Unlock()

	c.rate.set(conf.RateLimit, c.cfg.MaxMsgBytes)
	c.sampling, _ = strconv.Atoi(strings.TrimSuffix(conf.SampleFrequency, "%"))
	c.inactive = conf.InactiveThreshold
	if c.inactive > 0 && !conf.IsPush() {
		// A client pulls in a rhythm; the jitter keeps its consumers from ending all at once.
		c.inactive += 100*time.Millisecond + time.Duration(rand.Int64N(int64(900*time.Millisecond)))
	}
}

// Start gives a new consumer its place in the stream, which should hold here all that it holds anywhere,
// and begins to deliver. It returns the state from before the first delivery, which is what a create
// request is answered with. After an error the consumer is ended with Abandon.
func (c *Consumer) Start() (*api.ConsumerInfo, error) {
	c.life.Lock()
	defer c.life.Unlock()
	info, err := c.prepare()
	if err == nil {
		c.start()
	}
	return info, err
}

// StartWith is Start for a consumer that a client waits for: what there is to deliver, up to a burst, is sent
// with what answer publishes, after it, before StartWith returns. The client is woken once, and nobody else.
func (c *Consumer) StartWith(answer func(out Publisher, info *api.ConsumerInfo)) error {
	c.life.Lock()
	defer c.life.Unlock()
	info, err := c.prepare()
	if err != nil {
		return err
	}
	c.begin() // life keeps the consumer from ending meanwhile
	c.out = c.cfg.Bus.Borrow()
	answer(c.out, info)
	more := c.step(&c.taken)
	c.sendOut()
	if !more {
		c.arm()
	}
	if more || !c.rest() {
		c.wg.Go(c.run)
	}
	return nil
}

// prepare makes a consumer ready to run and returns its state; it needs life.
func (c *Consumer) prepare() (*api.ConsumerInfo, error) {
	if c.ended {
		return nil, ErrClosed
	}
	c.now = time.Now()
	c.lastActive = c.now
	c.place()

	type way = func(subject, queue string, handle func(Request)) (func(), error)
	subscribe := func(how way, subject string, handle func(Request)) error {
		unsubscribe, err := how(subject, "", handle)
		if err != nil {
			return fmt.Errorf("subscribe consumer %q to %q: %w", c.cfg.Name, subject, err)
		}
		c.unsubs = append(c.unsubs, unsubscribe)
		return nil
	}
	name := c.cfg.Stream + "." + c.cfg.Name
	pulled := c.cfg.Bus.Subscribe
	if c.conf.IsPush() {
		pulled = c.cfg.Bus.SubscribeSoon // who pulls from it is told that it is the wrong kind
	}
	err := subscribe(pulled, c.pullSubject(), c.onPull)
	if err == nil && c.conf.AckPolicy != api.AckNone {
		err = subscribe(c.cfg.Bus.Subscribe, c.prefix+"*.*.*.*.*", c.onAck)
	}
	if err == nil && c.conf.FlowControl {
		// The receiver gets a request on the way by which its server hears of this.
		err = subscribe(c.cfg.Bus.SubscribeSoon, "$JS.FC."+name+".>", c.onFlowControl)
	}
	if err != nil {
		c.unsubscribe()
		return nil, err
	}
	if c.conf.IsPush() {
		c.watch()
	} else {
		c.inactiveIn(c.inactive)
	}
	c.updatePause()
	info := c.Info()
	select {
	case c.ready <- struct{}{}: // a worker's first Fetch finds out
	default:
	}
	return info, nil
}

// Sync calls done once everything that was decided before the call is committed; done does not block.
// A consumer must not be announced to a client before its start is synced.
func (c *Consumer) Sync(done func(error)) {
	c.post(func() { c.await(waiter{done: done}) }, done)
}

// NewMessages tells that the stream has new messages that the filters match, or others while the consumer is
// behind (see Config.OnBehind). It is cheap when nobody waits for them.
func (c *Consumer) NewMessages() {
	c.arrived.Store(true)
	if c.hungry.Load() {
		c.wake()
	}
}

// Removed tells that messages left the stream, for whatever reason.
func (c *Consumer) Removed(seqs ...uint64) {
	var concern []uint64
	undelivered := false
	c.mu.Lock()
	delivered, horizon := c.m.Delivered().Stream, c.m.Horizon()
	for _, seq := range seqs {
		undelivered = undelivered || seq > delivered
		if seq <= horizon || seq <= delivered && c.m.Holds(seq) {
			concern = append(concern, seq)
		}
	}
	c.mu.Unlock()

	if undelivered {
		c.stale.Store(true)
	}
	if len(concern) > 0 {
		c.inbox.remove(concern)
		c.wake()
	}
}

// HeadMoved tells that many messages left the stream: all below first, and possibly others. They went
// by a purge or by deletion and the limits; of the latter the consumer tells its subscribers.
func (c *Consumer) HeadMoved(first uint64, byPurge bool) {
	c.stale.Store(true)
	c.inbox.purge(first, byPurge)
	c.wake()
}

// Retain tells whether the stream keeps messages for its consumers (interest and work-queue retention)
// and so wants to hear of those that are settled, soon. What was settled before is not reported.
func (c *Consumer) Retain(on bool) { c.retained.Store(on) }

// Needs reports whether this consumer may still deliver the message or awaits its acknowledgement:
// interest and work-queue streams keep messages that a consumer needs. With a Log, what is committed is
// to be asked in its place.
func (c *Consumer) Needs(seq uint64, subj string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return matches(c.filters, subj) && c.m.Needs(seq)
}

// ending tells why a consumer ends.
type ending uint8

const (
	closed ending = iota
	deleted
	abandoned
)

// status is what waiting pull requests are told.
func (e ending) status() string {
	return [...]string{closed: "409 Server Shutdown", deleted: "409 Consumer Deleted", abandoned: "409 Leadership Change"}[e]
}

// err is what callbacks get that wait.
func (e ending) err() error {
	if e == abandoned {
		return ErrNotLeader
	}
	return ErrClosed
}

// Close ends the consumer and waits for its goroutine. Waiting pull requests are told that the server
// shuts down. What was decided is proposed to the log.
func (c *Consumer) Close() { c.end(closed) }

// Delete ends the consumer for good: as Close, but waiting pull requests are told that it is deleted, and
// nothing more is proposed.
func (c *Consumer) Delete() { c.end(deleted) }

// Abandon ends the consumer here because another node leads it, or will: waiting pull requests are told so,
// who waits for a commit is not told of it, and nothing more is proposed.
func (c *Consumer) Abandon() { c.end(abandoned) }

// State returns what a consumer that has ended, and has no Log, had decided; it belongs to the caller.
func (c *Consumer) State() *consumer.Machine { return c.m }

func (c *Consumer) end(how ending) {
	c.stop.Do(func() {
		c.life.Lock()
		c.ended = true
		c.life.Unlock()
		c.unsubscribe()
		if how == deleted && c.cfg.OnDelete != nil && !c.conf.IsPush() {
			c.cfg.OnDelete(c.pullSubject())
		}
		c.how = how
		close(c.quit)
		c.halt()
		c.shutdown()
	})
}

// pullSubject is where the consumer is asked for messages.
func (c *Consumer) pullSubject() string {
	return "$JS.API.CONSUMER.MSG.NEXT." + c.cfg.Stream + "." + c.cfg.Name
}

func (c *Consumer) unsubscribe() {
	for _, unsubscribe := range c.unsubs {
		unsubscribe()
	}
	c.unsubs = nil
}

func (c *Consumer) fail(err error) {
	if c.cfg.OnError != nil {
		c.cfg.OnError(fmt.Errorf("consumer %q of stream %q: %w", c.cfg.Name, c.cfg.Stream, err))
	}
}

// do decides an operation: it is applied at once and goes into the open entry of the log.
func (c *Consumer) do(op consumer.Op) {
	c.effects.Settled = c.effects.Settled[:0]
	c.mu.Lock()
	err := c.m.Step(c.now, op, &c.effects)
	c.mu.Unlock()
	if err != nil {
		panic("BUG: delivery: " + err.Error())
	}
	switch {
	case c.cfg.Log != nil:
		c.batch.Add(c.now, op)
		c.settles = c.settles || len(c.effects.Settled) > 0 && c.retained.Load()
	case c.retained.Load():
		c.open.settled = append(c.open.settled, c.effects.Settled...)
	}
}
