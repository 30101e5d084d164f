package jetstream

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// Stream runs one stream: it takes publishes from the account's subjects, drives the stream's
// group, and serves readers.
type Stream struct {
	id      uint64 // of its group
	name    string
	account *account
	storage api.Storage
	created time.Time
	group   Group
	store   Entries
	log     *slog.Logger
	ackHead []byte // of every PubAck, up to the sequence

	// Owned by apply.
	burst     Burst
	ackBuffer []byte

	creating sync.Mutex // held over the creation or update of a consumer

	// mu guards what follows. It is never held over a call to the group, the bus or a consumer.
	mu         sync.RWMutex
	machine    *stream.Machine
	admission  *stream.Admission // nil while the log is replayed
	open       acks              // of the open batch
	spare      []acks
	inflight   []*proposal // given to the group; oldest first
	queue      []*proposal // not yet given to the group
	removals   stream.Remove
	removing   bool
	pumping    bool
	stopped    bool
	freed      uint64 // bytes removed since a snapshot was asked for
	refusing   bool   // the group refused the last entry
	failed     error  // the log holds what cannot be applied
	consumers  map[string]*consumerEntry
	subscribed map[string]func() // ends the subscription to a subject
	expiry     *time.Timer
	transform  *api.Transform // nil: subjects stay as they are
}

func newStream(a *account, ms meta.Stream) *Stream {
	s := &Stream{
		id: ms.Group, name: ms.Name, account: a, created: ms.Created, storage: ms.Config.Storage,
		burst: a.bus.Burst(), log: a.engine.cfg.Logger, consumers: map[string]*consumerEntry{},
	}
	storage := stream.Storage{Cache: a.engine.blocks}
	if s.storage != api.MemoryStorage {
		storage = s.indexStorage()
	}
	s.machine = stream.NewOn(storage)
	quoted, _ := json.Marshal(ms.Name)
	s.ackHead = append(append([]byte(`{"stream":`), quoted...), `,"seq":`...)
	return s
}

// start replays the stream's log and, if it is empty, gives it its configuration.
func (s *Stream) start(config api.StreamConfig) error {
	var err error
	if config.Storage == api.MemoryStorage {
		m := newMemoryGroup(s.apply)
		s.group, s.store = m, m
	} else {
		s.store = s.account.engine.cfg.Log
		if s.group, err = s.account.engine.cfg.Groups.Start(s.id, streamMachine{s}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if err := s.failed; err != nil {
		s.mu.Unlock()
		return err
	}
	s.admission = stream.NewAdmission(s.machine, s.wantedLocked)
	fresh := s.machine.Config().Name == ""
	s.mu.Unlock()
	if fresh {
		if _, err := s.do(stream.EncodeConfig(s.now(), config)); err != nil {
			return err
		}
	}
	return s.subscribe()
}

func (s *Stream) now() time.Time { return time.Now() }

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
	direct := api.Prefix + "DIRECT.GET." + s.name
	if cfg.AllowDirect {
		wanted[direct], wanted[direct+".>"] = s.account.request, s.account.request
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
		if now[subj] != nil {
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
	s.mu.Lock()
	s.subscribed = now
	s.mu.Unlock()
	s.schedule()
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

// publish takes a message that a client has sent to one of the stream's subjects. It runs on the
// publisher's goroutine and borrows m.
func (s *Stream) publish(m Msg) {
	s.mu.Lock()
	var err *api.Error
	var v stream.Verdict
	switch {
	case s.stopped:
		s.mu.Unlock()
		return
	case s.failed != nil:
		err = api.ErrStreamStoreFailedF(s.failed.Error())
	case s.admission.Pending() > maxInFlightBytes:
		err = api.ErrStreamTooManyRequests
	default:
		if err = s.account.full(s.storage); err != nil {
			break
		}
		subj := m.Subject
		if s.transform != nil {
			if mapped, ok := s.transform.Apply(string(subj)); ok {
				subj = []byte(mapped)
			}
		}
		v, err = s.admission.Admit(s.now(), stream.Publish{Subject: subj, Header: m.Header, Data: m.Data})
	}
	reply := m.Reply
	if s.machine.Config().NoAck {
		reply = nil
	}
	stored := false
	if err == nil {
		if _, last := s.machine.Bounds(); v.Duplicate && v.Seq <= last {
			stored = true
		} else {
			s.awaitLocked(reply, v)
		}
	}
	ready := s.readyLocked()
	s.mu.Unlock()
	switch {
	case err != nil:
		if len(reply) > 0 {
			s.account.bus.Publish(string(reply), "", nil, s.refusal(err))
		}
	case stored:
		if len(reply) > 0 {
			s.account.bus.Publish(string(reply), "", nil, s.appendAck(nil, v.Seq, true))
		}
	case ready:
		s.pump()
	}
}

// awaitLocked lets reply wait for the batch that holds v, or for one after it.
func (s *Stream) awaitLocked(reply []byte, v stream.Verdict) {
	if n, _ := s.admission.Open(); n == 0 { // it repeats a message that is in flight already
		for i := len(s.inflight) - 1; i >= 0; i-- {
			if p := s.inflight[i]; p.messages {
				p.acks.add(reply, v)
				return
			}
		}
	}
	s.open.add(reply, v)
}

// acknowledge sends the PubAcks of a committed batch.
func (s *Stream) acknowledge(a *acks) {
	replies := string(a.replies) // one allocation for all reply subjects
	for _, k := range a.list {
		s.ackBuffer = s.appendAck(s.ackBuffer[:0], k.seq, k.duplicate)
		s.burst.Publish(replies[k.start:k.end], "", nil, s.ackBuffer)
	}
	s.burst.Flush()
}

// answer sends the same answer to every publisher of a batch.
func (s *Stream) answer(a *acks, body []byte) {
	replies := string(a.replies)
	for _, k := range a.list {
		s.account.bus.Publish(replies[k.start:k.end], "", nil, body)
	}
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

// notify tells consumers and timers what an entry has changed.
func (s *Stream) notify(fx stream.Effects) {
	for _, c := range s.allConsumers() {
		if fx.HeadMoved {
			c.HeadMoved(fx.Head, fx.ByPurge)
		}
		for _, seq := range fx.Removed {
			c.Removed(seq)
		}
		if fx.Last > 0 {
			c.NewMessages()
		}
	}
	if fx.Last > 0 || fx.HeadMoved {
		s.schedule()
	}
}

// schedule sets the timer of the next expiry by max_age, if none is set.
func (s *Stream) schedule() {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := s.machine.Config().MaxAge
	if age <= 0 || s.expiry != nil || s.stopped {
		return
	}
	oldest, ok, err := s.machine.Oldest()
	if err != nil {
		s.failLocked(fmt.Errorf("read the index of stream %q: %w", s.name, err))
	}
	if !ok {
		return
	}
	const atMost = 250 * time.Millisecond // one entry removes all that expired meanwhile
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
	if age > 0 && !s.stopped {
		upto, err = s.machine.OlderThan(now.Add(-age))
	}
	s.mu.Unlock()
	if err != nil {
		s.damaged(err)
		return
	}
	if upto > 0 {
		s.propose(stream.EncodeRemove(now, stream.Remove{Upto: upto}), func(stream.Effects, *api.Error) { s.schedule() })
		return
	}
	s.schedule()
}

// wantedLocked reports whether a consumer's filter takes subj.
func (s *Stream) wantedLocked(subj string) bool {
	for _, c := range s.consumers {
		if c.filter.Matches(subj) {
			return true
		}
	}
	return false
}

// delete ends the stream and its consumers and drops their logs.
func (s *Stream) delete() {
	s.refuseMore()
	for _, c := range s.allConsumers() {
		s.forgetConsumer(c)
		s.endConsumer(c)
		s.account.advise("CONSUMER.DELETED", s.name, c.name, "delete")
	}
	s.close()
	_, bytes := s.machine.Usage()
	s.account.book(s.storage, -int64(bytes))
	if s.storage == api.MemoryStorage {
		return
	}
	if err := s.account.engine.cfg.Groups.Remove(s.id); err != nil {
		s.log.Error("remove stream group", "stream", s.name, "account", s.account.name, "error", err)
	}
}

// refuseMore takes no more publishes, proposals and consumers.
func (s *Stream) refuseMore() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
}

// close ends the stream; its log stays. What waits for the group is answered with an error.
func (s *Stream) close() {
	s.mu.Lock()
	s.stopped = true
	subscribed := s.subscribed
	s.subscribed = nil
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.mu.Unlock()
	for _, stop := range subscribed {
		stop()
	}
	if s.group != nil {
		s.group.Stop()
	}
	s.mu.Lock()
	s.machine.Close()
	waiting := append(s.inflight, s.queue...)
	s.inflight, s.queue = nil, nil
	s.mu.Unlock()
	for _, p := range waiting {
		if p.done != nil {
			p.done(stream.Effects{}, api.ErrStreamNotFound)
		}
	}
}
