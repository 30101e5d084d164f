package jetstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// consumerEntry is a consumer of a stream as this node has it: a replica of a durable one, or an ephemeral
// one, which is in memory where the stream is led. On a node that is alone a durable one may be in memory,
// too; it then leads for ever.
//
// Invariants:
//
//  1. committed is what its group has committed, and nothing else.
//  2. Messages are delivered by at most one delivery.Consumer, which began with a copy of committed in the
//     term in which this node leads, and proposes in no other.
//  3. What is removed from the stream is decided by committed.
type consumerEntry struct {
	stream  *Stream
	name    string
	created time.Time
	id      uint64    // of its group; 0: the consumer is ephemeral and known to this node only
	spec    GroupSpec // of this replica; zero: there is no group
	jobs    serial

	// Guarded by stream.mu.
	config  api.ConsumerConfig // replaced, never changed
	version int                // of config, counted here
	filter  *stream.Filter     // for Matches only, which needs no lock
	// The filter is not the one of its start any more.
	refiltered bool

	led atomic.Pointer[delivery.Consumer] // delivers while this node leads; else nil

	life    sync.Mutex  // held to begin, change and end deliveries; before mu
	running *leadership // of led; nil: nothing runs
	quiet   func()      // ends the subscription of the leader; nil: there is none
	told    int         // version of the configuration that led was told

	mu        sync.Mutex        // guards what follows; never held over a call to group, stream, bus or deliveries
	group     Group             // nil: not started yet, or none
	assigned  meta.Group        // where the catalogue has it
	committed *consumer.Machine // nil: the state is in memory, of led
	complete  bool              // committed has what was committed when the replica started
	doubted   bool              // something was needed only because it is not complete
	applied   uint64            // entry
	effects   consumer.Effects
	want      *leadership       // of the term in which this node leads; nil: it does not
	serving   bool              // led has its place in the stream, and that is committed
	inForce   int               // version of the configuration that led works with
	refused   error             // why that version is not taken
	first     *api.ConsumerInfo // of the start of a new consumer, for who asks first
	changed   chan struct{}     // closed when serving, inForce or stopped change
	retained  bool              // the stream wants to know what is settled
	unsettled []uint64          // settled, and the stream does not know
	settling  bool              // it is about to be told
	logged    int               // bytes of entries since the last state
	stateSize int               // bytes of the last state
	failed    error             // the log holds what cannot be applied, or is lost
	stopped   bool
}

func (s *Stream) newConsumer(id uint64, cfg api.ConsumerConfig, created time.Time) *consumerEntry {
	name := cfg.Name
	if name == "" {
		name = nuid.Next()[14:]
	}
	return &consumerEntry{
		stream: s, id: id, name: name, created: created, jobs: serial{engine: s.account.engine},
		config: cfg, filter: stream.NewFilter(cfg.Filters()...), changed: make(chan struct{}),
	}
}

// deliveryConfig is what deliveries are made from, but for the state and its log.
func (c *consumerEntry) deliveryConfig(cfg api.ConsumerConfig) delivery.Config {
	s := c.stream
	conf := delivery.Config{
		Stream: s.name, Name: c.name, Created: c.created, Domain: s.account.engine.cfg.Domain, Config: cfg,
		Source:  &source{reader: newReader(s)},
		Bus:     deliveryBus{s.account.bus},
		OnError: func(err error) { s.log.Error("consumer", "account", s.account.name, "error", err) },
	}
	conf.OnDelete = s.account.pullsEnded
	conf.OnBehind = func(on bool) { s.noteBehind(c, on) }
	if c.id == 0 {
		conf.OnLive = func() { s.noteLive(c) }
		conf.OnInactive = func() { s.account.engine.work(chores, func() { s.dropConsumer(c) }) }
	} else {
		conf.OnInactive = func() { s.account.engine.work(chores, func() { s.deleteConsumer(c.name) }) }
	}
	_, conf.Volatile = s.store.(*memoryGroup)
	return conf
}

// bringConsumer brings this node's replica of a durable consumer in line with the catalogue: it is started,
// told its configuration, or ended. It does not wait for a leader.
func (s *Stream) bringConsumer(name string, mc meta.Consumer, exists bool) error {
	member, here := mc.Group.Replica(s.account.engine.cfg.Node)
	here = here && exists
	c, missing := s.consumer(name)
	switch {
	case missing != nil:
	case exists && c.id == mc.Group.ID && (!here || c.spec.Replica != member.Replica): // it is led elsewhere
		s.forgetConsumer(c)
		s.endConsumer(c, (*delivery.Consumer).Abandon)
	case here && c.id != mc.Group.ID, !here && c.id != 0:
		s.dropConsumer(c)
	case here:
		c.setConfig(*mc.Config)
		c.assign(mc.Group)
		return nil
	}
	if !here {
		return nil
	}
	return s.startConsumer(mc, GroupSpec{
		ID: mc.Group.ID, Log: mc.Group.LogOf(member), Replica: member.Replica, Began: mc.Group.Began,
	})
}

// startConsumer starts this node's replica of a durable consumer. In a cluster also one in memory is in the
// log of its replicas, or it could neither move nor outlive the end of one.
func (s *Stream) startConsumer(mc meta.Consumer, spec GroupSpec) error {
	c := s.newConsumer(mc.Group.ID, *mc.Config, mc.Created)
	c.spec, c.retained, c.assigned = spec, s.retains(), mc.Group
	memory := mc.Config.MemoryStorage && s.account.engine.cfg.Cluster == ""
	if memory {
		c.want = &leadership{entry: c}
	} else {
		c.committed = consumer.New()
	}
	s.mu.Lock()
	taken := s.stopped || s.consumers[c.name] != nil
	if !taken {
		s.enterLocked(c)
	}
	s.mu.Unlock()
	if taken {
		return fmt.Errorf("start consumer %q: %w", c.name, ErrStopped)
	}
	if !memory {
		group, err := s.account.engine.cfg.Groups.Start(spec, consumerReplica{c})
		if err != nil {
			s.forgetConsumer(c)
			return err
		}
		c.mu.Lock()
		c.group = group
		c.mu.Unlock()
		s.account.engine.campaign(spec, group)
		if c.retained {
			c.catchUp(firstCatchUp)
		}
	}
	c.jobs.add(c.follow)
	c.watched()
	return nil
}

// dropOthers ends durable consumers that are not listed.
func (s *Stream) dropOthers(list []meta.Consumer) {
	for _, c := range s.allConsumers() {
		if c.id != 0 && !slices.ContainsFunc(list, func(mc meta.Consumer) bool { return mc.Group.ID == c.id }) {
			s.dropConsumer(c)
		}
	}
}

func (s *Stream) consumer(name string) (*consumerEntry, *api.Error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.consumers[name]; c != nil {
		return c, nil
	}
	return nil, api.ErrConsumerNotFound
}

// allConsumers returns the stream's consumers in no order.
func (s *Stream) allConsumers() []*consumerEntry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*consumerEntry, 0, len(s.consumers))
	for _, c := range s.consumers {
		all = append(all, c)
	}
	return all
}

func (s *Stream) numConsumers() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.consumers)
}

// PullsEnded is the subject of the system account on which it is told that a consumer was deleted: requests for its
// messages need wait for nobody.
const PullsEnded = "$MILLRACE.PULLS.ENDED"

// pullsEnded tells all servers that nobody takes pull requests on a subject any more.
func (a *account) pullsEnded(subject string) {
	if a.engine.cfg.Cluster == "" {
		return
	}
	body, err := json.Marshal(map[string]string{"account": a.name, "subject": subject})
	if err != nil {
		panic("BUG: encode the end of a consumer: " + err.Error())
	}
	a.engine.cfg.System.Publish(PullsEnded, "", nil, body)
}

func (s *Stream) forgetConsumer(c *consumerEntry) {
	s.mu.Lock()
	if s.consumers[c.name] == c {
		s.leaveLocked(c)
	}
	s.mu.Unlock()
}

// dropConsumer ends a consumer for good on this node and removes what no other consumer wants.
func (s *Stream) dropConsumer(c *consumerEntry) {
	s.forgetConsumer(c)
	s.endConsumer(c, (*delivery.Consumer).Delete)
	if c.id == 0 {
		s.account.advise("CONSUMER.DELETED", s.name, c.name, "delete")
	}
	if s.leads() {
		s.sweep()
	}
}

// endConsumer ends a consumer, by a method of delivery.Consumer, and drops its log.
func (s *Stream) endConsumer(c *consumerEntry, how func(*delivery.Consumer)) {
	c.end(how)
	if c.committed == nil {
		return
	}
	if err := s.account.engine.cfg.Groups.Remove(c.spec); err != nil {
		s.log.Error("remove consumer group", "stream", s.name, "consumer", c.name, "error", err)
	}
}

// end ends what runs, by a method of delivery.Consumer, and the group; the log stays.
func (c *consumerEntry) end(how func(*delivery.Consumer)) {
	c.mu.Lock()
	c.stopped, c.want, c.serving = true, nil, false
	c.changedLocked()
	group := c.group
	c.mu.Unlock()
	if c.id != 0 {
		c.stream.account.engine.members.forget(c.id, group)
	}
	c.life.Lock()
	if c.quiet != nil {
		c.quiet()
		c.quiet = nil
	}
	if d := c.led.Swap(nil); d != nil {
		how(d)
	}
	c.running = nil
	c.life.Unlock()
	c.watched()
	if group != nil {
		group.Stop()
	}
}

// shutdown ends the stream and its consumers; their logs stay.
func (s *Stream) shutdown() {
	s.refuseMore()
	for _, c := range s.allConsumers() {
		c.end((*delivery.Consumer).Close)
	}
	s.close()
}

// Config returns the configuration, which for a durable consumer is that of the catalogue.
func (c *consumerEntry) Config() api.ConsumerConfig {
	c.stream.mu.RLock()
	defer c.stream.mu.RUnlock()
	return c.config.Clone()
}

// setConfig notes another configuration; a leader is told of it. It does not wait.
func (c *consumerEntry) setConfig(cfg api.ConsumerConfig) {
	s := c.stream
	s.mu.Lock()
	same, was := c.config.Equal(&cfg), c.config.Metadata
	filters := slices.Equal(c.config.Filters(), cfg.Filters())
	if !same {
		s.configureLocked(c, cfg)
		c.version++
	}
	s.mu.Unlock()
	if same {
		return
	}
	c.jobs.add(c.follow)
	s.account.consumersChanged(was)
	c.watched()
	if !filters && s.retains() {
		s.sweepSoon()
	}
}

// assign notes where the catalogue has the consumer. It does not wait.
func (c *consumerEntry) assign(g meta.Group) {
	c.mu.Lock()
	c.assigned = g
	c.mu.Unlock()
	c.jobs.add(c.follow)
}

// commitWait bounds how long a request waits for a consumer's log, which offers a refused entry again and
// again: those who wait must not hold up everybody else's requests.
const commitWait = 2 * time.Second

var errCommitWait = fmt.Errorf("not committed within %v, the log takes no entries", commitWait)

// await returns what a consumer answers, or an error if it does not in time.
func await(done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-time.After(commitWait):
		return errCommitWait
	}
}
