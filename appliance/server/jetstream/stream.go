package jetstream

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// Stream is this node's replica of a stream. Every replica keeps the messages and serves the consumers
// that are led here; the leader takes publishes from the account's subjects and drives the group.
//
// Invariants:
//
//  1. Admission, open batch and what is in flight are those of the term in which this replica leads, and
//     end with it: of what was in flight then nobody is told anything, since it is undecided.
//  2. Publishers reach a replica only after its machine has everything of earlier terms, and the consumers
//     there are.
//  3. Until known, which consumers there are and how the stream is configured may have changed, and nobody here
//     was told: everything published is kept, nothing that a consumer might need is removed, and a configuration
//     that the log has stays.
type Stream struct {
	spec    GroupSpec
	name    string
	account *account
	storage api.Storage
	created time.Time
	store   Entries
	log     *slog.Logger
	ackHead []byte // of every PubAck, up to the sequence
	jobs    serial
	opened  chan struct{} // closed when it serves for the first time, or never will

	// Owned by apply.
	burst     Burst
	ackBuffer []byte
	concerned concerned

	creating sync.Mutex   // held over the creation or update of a consumer
	sweeping atomic.Bool  // sweepSoon is under way
	unsure   atomic.Int64 // refusals that wait for the leadership to be confirmed

	// mu guards what follows. It is never held over a call to the group, the bus or a consumer.
	mu        sync.RWMutex
	group     Group // nil before start returns
	machine   *stream.Machine
	applied   uint64            // entry
	assigned  *meta.Stream      // what the catalogue says; nil until its consumers are known, too
	term      uint64            // in which this replica leads; 0: it does not
	serving   bool              // it leads and takes publishes
	known     bool              // the catalogue's word here is not older than the term
	since     time.Time         // when it began to lead
	admission *stream.Admission // of the leader; nil: none
	open      acks              // of the open batch
	delayed   []delayed         // publishes that cannot be admitted yet, in order

	delayedBytes int
	sending      int       // pieces of work that hand consumers in memory over
	leaving      bool      // no publish is admitted: the leadership is being handed over
	sure         int       // of delayed, that no other leader has got
	announced    func()    // ends the announcement of a hand-over
	passing      *passing  // publishes go on to the next leader; nil: none
	arrivals     *arrivals // what came since this replica began to lead; nil: that is a while ago
	spare        []acks
	inflight     []*proposal // given to the group; oldest first
	queue        []*proposal // not yet given to the group
	removals     stream.Remove
	removing     bool
	pumping      bool
	stopped      bool
	freed        uint64        // bytes removed since a snapshot was asked for
	refusing     bool          // the group refused the last entry
	failed       error         // the log holds what cannot be applied
	kept         api.Retention // by which what need not be kept was removed last
	consumers    map[string]*consumerEntry
	audience     audience          // of consumers
	subscribed   map[string]func() // ends the subscription to a subject
	inForce      api.StreamConfig  // by which it has subscribed
	expiry       *time.Timer
	expiryAge    time.Duration  // max_age when expiry was set
	transform    *api.Transform // nil: subjects stay as they are
}

func newStream(a *account, ms meta.Stream, spec GroupSpec) *Stream {
	s := &Stream{
		spec: spec, name: ms.Name, account: a, created: ms.Created, storage: ms.Config.Storage,
		burst: a.bus.Burst(), log: a.engine.cfg.Logger, consumers: map[string]*consumerEntry{}, audience: newAudience(),
		jobs: serial{engine: a.engine}, opened: make(chan struct{}),
	}
	quoted, _ := json.Marshal(ms.Name)
	s.ackHead = append(append([]byte(`{"stream":`), quoted...), `,"seq":`...)
	return s
}

// start runs the stream's group. In a cluster also a stream in memory is in the log of its replicas, or it
// could neither move nor outlive the end of one.
func (s *Stream) start() error {
	if s.storage == api.MemoryStorage && s.account.engine.cfg.Cluster == "" {
		s.machine = stream.NewOn(stream.Storage{Cache: s.account.engine.blocks})
		m := newMemoryGroup(streamMachine{s})
		s.store, s.group = m, m
		m.lead()
		return nil
	}
	s.machine = stream.NewOn(s.indexStorage())
	s.store = s.account.engine.cfg.Log
	group, err := s.account.engine.cfg.Groups.Start(s.spec, streamMachine{s})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.group = group
	s.mu.Unlock()
	s.account.engine.campaign(s.spec, group)
	return nil
}

// assign tells the stream what the catalogue says of it.
func (s *Stream) assign(ms meta.Stream) {
	s.mu.Lock()
	s.assigned = &ms
	s.mu.Unlock()
	s.jobs.add(s.settle)
}

// leads reports whether this replica leads the stream and serves it.
func (s *Stream) leads() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.serving
}

// alone reports whether the stream has no other replica.
func (s *Stream) alone() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.assigned != nil && len(s.assigned.Group.Members) == 1 && s.assigned.Group.Target == nil
}

// lead follows the leadership of the group, which calls it.
func (s *Stream) lead(term uint64, ready bool) {
	s.mu.Lock()
	waiting := append(s.inflight, s.queue...)
	s.inflight, s.queue, s.open = nil, nil, acks{}
	if s.leaving && len(waiting) > 0 {
		s.log.Warn("leadership was handed over before all was decided", "account", s.account.name, "stream", s.name, "entries", len(waiting))
	}
	var leaves *passing
	if s.leaving || len(s.delayed) > 0 {
		leaves = &passing{term: s.term, list: s.delayed, sure: s.sure, bytes: s.delayedBytes, tail: s.leaving}
		s.passing = leaves
		s.account.engine.sending.Add(1)
	}
	s.delayed, s.delayedBytes, s.leaving, s.sure, s.arrivals = nil, 0, false, 0, nil
	s.removals, s.removing, s.refusing = stream.Remove{}, false, false
	s.term, s.serving, s.admission, s.known = 0, false, nil, false
	if ready && s.failed == nil && !s.stopped {
		s.term, s.since = term, time.Now()
		s.known = s.account.engine.cfg.Cluster == ""
		s.admission = stream.NewAdmission(s.machine, s.wantedLocked)
		s.arrivals = s.arrivalsLocked()
	}
	if ready && s.failed != nil {
		s.account.engine.leaveFailed(s.spec.ID)
	}
	s.mu.Unlock()
	s.jobs.add(func() {
		for _, p := range waiting {
			if p.done != nil {
				p.done(stream.Effects{}, api.ErrClusterNotAvail)
			}
		}
		s.settle()
		if leaves != nil {
			s.passOn(leaves)
		}
		s.learn()
	})
}

// learn has the stream settle again when the catalogue here has all that was decided before this replica began
// to lead.
func (s *Stream) learn() {
	s.mu.RLock()
	term, known := s.term, s.known
	s.mu.RUnlock()
	if term == 0 || known {
		return
	}
	s.account.engine.catalog.learners.add(func() {
		s.whenFollowed(time.Now().Add(sendWait), func() {
			s.mu.Lock()
			mine := s.term == term
			s.known = s.known || mine
			s.mu.Unlock()
			if mine {
				s.jobs.add(s.settle)
			}
		})
	})
}

// whenFollowed calls fn when the last leader of a stream that keeps messages for its consumers has handed over all of
// those that are in memory, or at a time. It does not wait.
func (s *Stream) whenFollowed(latest time.Time, fn func()) {
	const every = 10 * time.Millisecond
	if s.retains() && s.follows() && time.Now().Before(latest) {
		time.AfterFunc(every, func() { s.whenFollowed(latest, fn) })
		return
	}
	fn()
}

// retryConfig is when a configuration that the log has refused is offered again.
const retryConfig = 100 * time.Millisecond

// settle makes the stream serve, or not, as its leadership and the catalogue want it. It is one of jobs.
func (s *Stream) settle() {
	s.mu.RLock()
	term, ms, stopped, serving := s.term, s.assigned, s.stopped || s.failed != nil, s.serving
	config := s.machine.Config()
	stale := !s.known && config.Name != ""
	tail := s.passing != nil && s.passing.tail
	s.mu.RUnlock()
	if !stopped {
		s.tellMembers()
	}
	switch {
	case stopped:
	case term == 0 && tail:
		s.unsubscribe(s.takes)
		s.leaveEphemerals()
	case term == 0:
		s.unsubscribe(nil)
		s.leaveEphemerals()
	case ms == nil:
	case !stale && !config.Equal(ms.Config):
		if !serving {
			s.unsubscribe(nil)
		}
		s.propose(configuring(s.now(), ms.Config), func(_ stream.Effects, err *api.Error) {
			if err == nil {
				s.jobs.add(func() { s.serve(term) })
				return
			}
			time.AfterFunc(retryConfig, func() { s.jobs.add(s.settle) })
		})
	default:
		s.serve(term)
	}
}

// serve takes publishes from now on, with the configuration as it is.
func (s *Stream) serve(term uint64) {
	if !s.leads() {
		s.awaitPassed(term)
	}
	if err := s.subscribe(); err != nil {
		s.log.Error("stream takes no messages", "stream", s.name, "account", s.account.name, "error", err)
		return
	}
	s.mu.Lock()
	first := s.term == term && term != 0 && !s.serving
	if first {
		s.serving = true
		s.openedLocked()
	}
	lost := s.term != term
	s.mu.Unlock()
	switch {
	case lost:
		s.jobs.add(s.settle)
		return
	case !first:
		s.retain()
		s.schedule()
		return
	}
	s.retain()
	s.schedule()
}

// openedLocked tells who waits for the stream to serve.
func (s *Stream) openedLocked() {
	select {
	case <-s.opened:
	default:
		close(s.opened)
	}
}

// failure returns why the replica is offline, nil if it is not.
func (s *Stream) failure() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failed
}

func (s *Stream) now() time.Time { return time.Now() }

// takes reports whether a subject that this replica subscribes to is one of the stream's.
func (s *Stream) takes(subj string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Contains(s.machine.Config().Subjects, subj)
}

// unsubscribe gives all subjects up, but for those that keep, if not nil, reports true for.
func (s *Stream) unsubscribe(keep func(subj string) bool) {
	s.mu.Lock()
	subscribed := s.subscribed
	s.subscribed, s.inForce = nil, api.StreamConfig{}
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	s.mu.Unlock()
	kept := map[string]func(){}
	for subj, stop := range subscribed {
		if keep != nil && keep(subj) {
			kept[subj] = stop
			continue
		}
		stop()
	}
	if len(kept) == 0 {
		return
	}
	s.mu.Lock()
	stopped := s.stopped && s.passing == nil
	if !stopped {
		s.subscribed = kept
	}
	s.mu.Unlock()
	if stopped { // since then
		for _, stop := range kept {
			stop()
		}
	}
}

// subscribe makes the configured subjects the stream's own in the account; publishes arrive from then on.
// Subjects that it has already are left alone, so that no message is taken twice or missed.
func (s *Stream) subscribe() error {
	s.mu.Lock()
	cfg := s.machine.Config()
	old := s.subscribed
	err := s.transformLocked(&cfg)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	wanted := map[string]func(Msg){}
	for _, subj := range cfg.Subjects { // also if sealed: publishers are told
		wanted[subj] = s.publish
	}
	called := leaderSubject(s.spec.ID)
	wanted[called] = nil // last: it says that the stream serves
	direct := api.Prefix + "DIRECT.GET." + s.name
	if cfg.AllowDirect {
		wanted[direct], wanted[direct+".>"] = s.account.requestHere, s.account.requestHere
	}
	now := map[string]func(){}
	for subj, stop := range old {
		if _, keep := wanted[subj]; keep {
			now[subj] = stop
		} else {
			stop()
		}
	}
	for subj, fn := range wanted {
		if now[subj] != nil || subj == called {
			continue
		}
		queue := ""
		if strings.HasPrefix(subj, direct) {
			queue = "_sys_"
		}
		if now[subj], err = s.account.bus.Subscribe(subj, queue, fn); err != nil {
			delete(now, subj)
			break
		}
	}
	if err == nil && now[called] == nil {
		if now[called], err = s.account.engine.calls.serveLeader(s.spec.ID, s.takeCall); err != nil {
			delete(now, called)
		}
	}
	s.mu.Lock()
	s.subscribed = now
	if err == nil {
		s.inForce = cfg
	}
	s.mu.Unlock()
	return err
}

// transformLocked prepares the mapping of subjects.
func (s *Stream) transformLocked(cfg *api.StreamConfig) (err error) {
	s.transform = nil
	if t := cfg.SubjectTransform; t != nil && t.Destination != "" {
		s.transform, err = api.ParseTransform(t.Source, t.Destination)
	}
	return err
}

// acknowledge sends the PubAcks of a committed batch, and the refusals that waited for it.
func (s *Stream) acknowledge(a *acks) {
	replies := string(a.replies) // one allocation for all reply subjects
	for _, k := range a.list {
		s.ackBuffer = s.appendAck(s.ackBuffer[:0], k.seq, k.duplicate)
		s.burst.Publish(replies[k.start:k.end], "", nil, s.ackBuffer)
	}
	for _, r := range a.refused {
		s.burst.Publish(r.reply, "", nil, r.body)
	}
	s.burst.Flush()
}

// maxUnsure bounds the refusals of a stream that wait for its leadership to be confirmed; of more nobody is told.
const maxUnsure = 1 << 14

// whileLeading calls tell, which refuses publishes, if this replica still leads, mostly before it returns. Who
// was deposed and does not know it yet refuses by a state that is old, and what it refuses the next leader may
// have stored: then that one's answer counts, and nothing is said here. An ack needs none of this, it comes from
// what is committed.
func (s *Stream) whileLeading(tell func()) {
	if s.unsure.Add(1) > maxUnsure {
		s.unsure.Add(-1)
		return
	}
	s.leading().LeaseRead(func(err error) {
		s.unsure.Add(-1)
		if err == nil {
			tell()
		}
	})
}

// refuseAll refuses everything that waits for a batch.
func (s *Stream) refuseAll(a acks, body []byte) {
	if len(a.list) == 0 && len(a.refused) == 0 {
		return
	}
	s.whileLeading(func() {
		replies := string(a.replies)
		for _, k := range a.list {
			s.account.bus.Publish(replies[k.start:k.end], "", nil, body)
		}
		for _, r := range a.refused { // by what was not stored
			s.account.bus.Publish(r.reply, "", nil, body)
		}
	})
}

func (s *Stream) appendAck(b []byte, seq uint64, duplicate bool) []byte {
	b = append(b, s.ackHead...)
	b = strconv.AppendUint(b, seq, 10)
	if d := s.account.engine.cfg.Domain; d != "" {
		b = append(append(append(b, `,"domain":"`...), d...), '"')
	}
	if duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, '}')
}

// refusal is the PubAck of a refused publish.
func (s *Stream) refusal(err *api.Error) []byte {
	b, _ := json.Marshal(api.PubAckResponse{
		Error:  err,
		PubAck: &api.PubAck{Stream: s.name, Domain: s.account.engine.cfg.Domain},
	})
	return b
}

// schedule sets the timer of the next expiry by max_age, if none is set for that age or a lower one.
func (s *Stream) schedule() {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := s.machine.Config().MaxAge
	if age <= 0 || s.expiry != nil && s.expiryAge <= age || s.stopped || s.term == 0 {
		return
	}
	oldest, ok, err := s.machine.Oldest()
	if err != nil {
		s.failLocked(fmt.Errorf("read the index of stream %q: %w", s.name, err))
	}
	if !ok {
		return
	}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	const atMost = 250 * time.Millisecond // one entry removes all that expired meanwhile
	s.expiryAge = age
	s.expiry = time.AfterFunc(max(time.Until(oldest.Add(age)), atMost), s.expire)
}

// expire proposes the removal of what is older than max_age.
func (s *Stream) expire() {
	s.mu.Lock()
	s.expiry = nil
	now := s.now()
	age := s.machine.Config().MaxAge
	var upto uint64
	var err error
	if age > 0 && !s.stopped && s.term != 0 {
		upto, err = s.machine.OlderThan(now.Add(-age))
	}
	s.mu.Unlock()
	if err != nil {
		s.damaged(err)
		return
	}
	if upto > 0 {
		s.propose(removing(now, stream.Remove{Upto: upto}), func(stream.Effects, *api.Error) { s.schedule() })
		return
	}
	s.schedule()
}

// wantedLocked reports whether a consumer's filter takes subj, or may do so.
func (s *Stream) wantedLocked(subj string) bool { return !s.known || s.audience.wants(subj) }

// delete ends the stream and its consumers and drops their logs.
func (s *Stream) delete() {
	leads := s.leads()
	s.refuseMore()
	for _, c := range s.allConsumers() {
		s.forgetConsumer(c)
		s.endConsumer(c, (*delivery.Consumer).Delete)
		if leads {
			s.account.advise("CONSUMER.DELETED", s.name, c.name, "delete")
		}
	}
	s.close()
	_, bytes := s.machine.Usage()
	s.account.book(s.storage, -int64(bytes))
	if _, memory := s.group.(*memoryGroup); memory {
		return
	}
	if err := s.account.engine.cfg.Groups.Remove(s.spec); err != nil {
		s.log.Error("remove stream group", "stream", s.name, "account", s.account.name, "error", err)
	}
}

// refuseMore takes no more publishes, proposals and consumers.
func (s *Stream) refuseMore() {
	s.mu.Lock()
	s.stopped, s.serving = true, false
	s.mu.Unlock()
}

// close ends the stream; its log stays. What waits for the group is answered with an error.
func (s *Stream) close() {
	s.refuseMore()
	s.mu.RLock()
	group := s.group
	s.mu.RUnlock()
	s.account.engine.members.forget(s.spec.ID, group)
	s.mu.RLock()
	tail := s.passing != nil && s.passing.tail && s.account.engine.ctx.Err() == nil
	s.mu.RUnlock()
	if tail { // a replica that left its node: others send to it for a moment yet, and what it passes on ends that
		s.unsubscribe(s.takes)
	} else {
		s.unsubscribe(nil)
	}
	if group != nil {
		group.Stop()
	}
	s.mu.Lock()
	s.machine.Close()
	waiting := append(s.inflight, s.queue...)
	s.inflight, s.queue, s.serving, s.term = nil, nil, false, 0
	s.openedLocked()
	s.mu.Unlock()
	for _, p := range waiting {
		if p.done != nil {
			p.done(stream.Effects{}, api.ErrStreamNotFound)
		}
	}
}
