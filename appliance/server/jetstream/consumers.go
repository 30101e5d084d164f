package jetstream

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/stream"
)

// consumerEntry is a running consumer of a stream.
type consumerEntry struct {
	*delivery.Consumer
	id     uint64 // of its group; 0: the consumer is ephemeral and known to this node only
	name   string
	config api.ConsumerConfig
	filter *stream.Filter // for Matches only, which needs no lock
	log    *consumerLog   // nil: state in memory
}

// startConsumer starts a consumer of the stream: with the group id, whose log is replayed, or in
// memory when id is 0. One without a name gets one. The info is that of its start.
func (s *Stream) startConsumer(id uint64, cfg api.ConsumerConfig, created time.Time) (*api.ConsumerInfo, *api.Error) {
	name := cfg.Name
	if name == "" {
		name = nuid.Next()[14:]
	}
	c := &consumerEntry{id: id, name: name, config: cfg, filter: stream.NewFilter(cfg.Filters()...)}
	conf := delivery.Config{
		Stream: s.name, Name: name, Created: created, Domain: s.account.engine.cfg.Domain, Config: cfg,
		Source:  &source{reader: newReader(s)},
		Bus:     deliveryBus{s.account.bus},
		Settled: s.settled,
		OnError: func(err error) { s.log.Error("consumer", "account", s.account.name, "error", err) },
	}
	if id == 0 {
		conf.OnInactive = func() { s.account.engine.work(func() { s.dropConsumer(c) }) }
	} else {
		conf.OnInactive = func() { s.account.engine.work(func() { s.account.engine.catalog.deleteConsumer(s, c.name) }) }
	}
	if id != 0 && !cfg.MemoryStorage {
		c.log = &consumerLog{store: s.account.engine.cfg.Log, id: id}
		conf.Log = c.log
	}
	var err error
	if c.Consumer, err = delivery.New(conf); err != nil {
		return nil, api.ErrConsumerCreateF(err.Error())
	}
	if c.log != nil {
		if err := c.log.start(s.account.engine.cfg.Groups, c.Consumer); err != nil {
			return nil, api.ErrConsumerCreateF(err.Error())
		}
	}
	s.mu.Lock()
	if s.stopped || s.consumers[name] != nil {
		s.mu.Unlock()
		c.log.stop()
		return nil, api.ErrConsumerNameExist
	}
	s.consumers[name] = c
	c.Retain(s.machine.Config().Retention != api.LimitsPolicy)
	s.mu.Unlock()
	info, err := c.Start()
	if err != nil {
		s.forgetConsumer(c)
		c.log.stop()
		return nil, api.ErrConsumerCreateF(err.Error())
	}
	synced := make(chan error, 1)
	c.Sync(func(err error) { synced <- err })
	if err := await(synced); err != nil {
		s.dropConsumer(c)
		return nil, api.ErrConsumerCreateF(err.Error())
	}
	return info, nil
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

func (s *Stream) forgetConsumer(c *consumerEntry) {
	s.mu.Lock()
	if s.consumers[c.name] == c {
		delete(s.consumers, c.name)
	}
	s.mu.Unlock()
}

// dropConsumer ends a consumer for good on this node and removes what no other consumer wants.
func (s *Stream) dropConsumer(c *consumerEntry) {
	s.forgetConsumer(c)
	s.endConsumer(c)
	s.account.advise("CONSUMER.DELETED", s.name, c.name, "delete")
	s.sweep()
}

// endConsumer ends a consumer and drops its log.
func (s *Stream) endConsumer(c *consumerEntry) {
	c.Delete()
	if c.log != nil {
		c.log.stop()
		if err := s.account.engine.cfg.Groups.Remove(c.id); err != nil {
			s.log.Error("remove consumer group", "stream", s.name, "consumer", c.name, "error", err)
		}
	}
}

// settled removes messages that a consumer is done with, if no other consumer wants them.
func (s *Stream) settled(seqs []uint64) {
	if remove := s.unneeded(seqs); len(remove) > 0 {
		s.remove(remove...)
	}
}

// unneeded returns those of seqs that no consumer needs.
func (s *Stream) unneeded(seqs []uint64) []uint64 {
	all := s.allConsumers()
	return slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return s.needed(seq, all) })
}

func (s *Stream) needed(seq uint64, consumers []*consumerEntry) bool {
	s.mu.RLock()
	subj, ok, err := s.machine.SubjectOf(seq)
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
	}
	if !ok {
		return true // gone, or not known: nothing to remove
	}
	for _, c := range consumers {
		if c.Needs(seq, subj) {
			return true
		}
	}
	return false
}

// sweep removes from an interest or work-queue stream what its consumers have settled or, on an
// interest stream, none wants: after a restart, whose end may have come between a settlement and the
// removal, and when a consumer goes.
func (s *Stream) sweep() { s.settled(s.doubtful()) }

// doubtful returns the messages of an interest or work-queue stream that it may not need any more.
func (s *Stream) doubtful() []uint64 {
	s.mu.RLock()
	seqs, err := s.doubtfulLocked()
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
	}
	return seqs
}

func (s *Stream) doubtfulLocked() ([]uint64, error) {
	retention := s.machine.Config().Retention
	all := stream.NewFilter()
	var seqs []uint64
	if retention == api.LimitsPolicy || s.stopped {
		return nil, nil
	}
	for from := uint64(0); ; {
		seq, ok, err := s.machine.Next(from, all)
		if err != nil || !ok {
			return seqs, err
		}
		subj, _, err := s.machine.SubjectOf(seq)
		if err != nil {
			return seqs, err
		}
		if retention == api.InterestPolicy || s.wantedLocked(subj) {
			seqs = append(seqs, seq)
		}
		from = seq + 1
	}
}

// retain tells the consumers whether the stream keeps messages for them, after its retention may have
// changed, and removes what it need not keep any more before it returns.
func (s *Stream) retain() *api.Error {
	s.mu.RLock()
	on := s.machine.Config().Retention != api.LimitsPolicy
	s.mu.RUnlock()
	for _, c := range s.allConsumers() {
		c.Retain(on)
	}
	const entry = 1 << 14 // removals
	for seqs := range slices.Chunk(s.unneeded(s.doubtful()), entry) {
		if _, err := s.do(stream.EncodeRemove(s.now(), stream.Remove{Seqs: seqs})); err != nil {
			return err
		}
	}
	return nil
}

// shutdown ends the stream and its consumers; their logs stay.
func (s *Stream) shutdown() {
	s.refuseMore()
	for _, c := range s.allConsumers() {
		c.Close()
		c.log.stop()
	}
	s.close()
}

// consumerLog is the log of one consumer on its group.
type consumerLog struct {
	store Log
	id    uint64
	group Group

	mu      sync.Mutex
	replay  *delivery.Consumer // until the log is replayed
	failed  error
	waiting []func(index uint64) // for entries in flight, in order
}

func (l *consumerLog) start(groups Groups, c *delivery.Consumer) error {
	l.replay = c
	group, err := groups.Start(l.id, applyFunc(l.apply))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.group, l.replay = group, nil
	return l.failed
}

func (l *consumerLog) stop() {
	if l != nil && l.group != nil {
		l.group.Stop()
	}
}

func (l *consumerLog) apply(index uint64, entry []byte) {
	l.mu.Lock()
	if c := l.replay; c != nil {
		if err := c.Replay(entry); err != nil && l.failed == nil {
			l.failed = fmt.Errorf("%s: %w", l.store.Place(l.id, index), err)
		}
		l.mu.Unlock()
		return
	}
	var committed func(uint64)
	if len(l.waiting) > 0 {
		committed, l.waiting = l.waiting[0], l.waiting[1:]
	}
	l.mu.Unlock()
	if committed != nil {
		committed(index)
	}
}

// Propose appends an entry; the consumer calls it from one goroutine.
func (l *consumerLog) Propose(entry []byte, committed func()) error {
	return l.propose(entry, func(uint64) { committed() })
}

// Checkpoint appends an entry that stands for all before it, which are then released.
func (l *consumerLog) Checkpoint(entry []byte, committed func()) error {
	return l.propose(entry, func(index uint64) {
		l.store.Release(l.id, index-1)
		committed()
	})
}

func (l *consumerLog) propose(entry []byte, committed func(index uint64)) error {
	l.mu.Lock()
	l.waiting = append(l.waiting, committed)
	l.mu.Unlock()
	err := l.group.ProposeControl(entry)
	if err != nil {
		l.mu.Lock()
		l.waiting = l.waiting[:len(l.waiting)-1]
		l.mu.Unlock()
	}
	return err
}

// source shows a stream to one of its consumers.
type source struct {
	mu     sync.Mutex // guards reader's window and filter
	reader *reader
}

// Bounds returns the stream's first and last sequence.
func (s *source) Bounds() (first, last uint64) { return s.reader.Bounds() }

// Next returns the first message at or after from that one of filters matches.
func (s *source) Next(from uint64, filters []string) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq, ok := s.reader.Next(from, filters)
	if !ok {
		s.reader.forget()
	}
	return seq, ok
}

// Pending returns the number of messages at or after from that one of filters matches.
func (s *source) Pending(from uint64, filters []string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reader.Pending(from, filters)
}

// LastPerSubject returns the newest message at or before upTo of each subject, ascending.
func (s *source) LastPerSubject(filters []string, upTo uint64) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reader.LastPerSubject(filters, upTo)
}

// TimeToSeq returns the first message stored at or after t, or the sequence after the last.
func (s *source) TimeToSeq(t time.Time) uint64 { return s.reader.TimeToSeq(t) }

// Load fills m with the message seq.
func (s *source) Load(seq uint64, m *delivery.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, err := s.reader.load(seq)
	if err == ErrNotStored {
		return delivery.ErrGone
	}
	if err != nil {
		return err
	}
	m.Seq, m.Time = seq, stored.Time
	if m.Subject != string(stored.Subject) {
		m.Subject = string(stored.Subject)
	}
	m.Header = append(m.Header[:0], stored.Header...)
	m.Data = append(m.Data[:0], stored.Data...)
	return nil
}

// deliveryBus is an account's bus as a consumer sees it.
type deliveryBus struct{ Bus }

// Subscribe calls handle for every message.
func (b deliveryBus) Subscribe(subject, queue string, handle func(delivery.Request)) (func(), error) {
	return b.Bus.Subscribe(subject, queue, func(m Msg) { handle(delivery.Request(m)) })
}
