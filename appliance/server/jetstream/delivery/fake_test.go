package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/subject"
)

// fakeStream is a Source in memory.
type fakeStream struct {
	mu    sync.Mutex
	msgs  map[uint64]Message
	first uint64
	last  uint64
	fail  error // of Load
	loads int
}

func newFakeStream() *fakeStream { return &fakeStream{msgs: map[uint64]Message{}, first: 1} }

func (s *fakeStream) add(subj, data string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.msgs[s.last] = Message{Seq: s.last, Time: time.Now(), Subject: subj, Data: []byte(data)}
	return s.last
}

func (s *fakeStream) remove(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.msgs, seq)
	for s.first <= s.last {
		if _, ok := s.msgs[s.first]; ok {
			break
		}
		s.first++
	}
}

func (s *fakeStream) Bounds() (first, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.last
}

func (s *fakeStream) Next(from uint64, filters []string) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := max(from, s.first); seq <= s.last; seq++ {
		if m, ok := s.msgs[seq]; ok && matches(filters, m.Subject) {
			return seq, true
		}
	}
	return 0, false
}

func (s *fakeStream) Load(seq uint64, m *Message, waits func()) error {
	waits()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if s.fail != nil {
		return s.fail
	}
	stored, ok := s.msgs[seq]
	if !ok {
		return ErrGone
	}
	m.Seq, m.Time, m.Subject = seq, stored.Time, stored.Subject
	m.Header, m.Data = append(m.Header[:0], stored.Header...), append(m.Data[:0], stored.Data...)
	return nil
}

func (s *fakeStream) Pending(from uint64, filters []string) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, m := range s.msgs {
		if seq >= from && matches(filters, m.Subject) {
			n++
		}
	}
	return n
}

func (s *fakeStream) LastPerSubject(filters []string, upTo uint64) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := map[string]uint64{}
	for seq, m := range s.msgs {
		if seq <= upTo && matches(filters, m.Subject) {
			last[m.Subject] = max(last[m.Subject], seq)
		}
	}
	var seqs []uint64
	for _, seq := range last {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}

func (s *fakeStream) TimeToSeq(t time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := s.first; seq <= s.last; seq++ {
		if m, ok := s.msgs[seq]; ok && !m.Time.Before(t) {
			return seq
		}
	}
	return s.last + 1
}

// fakeBus is a Bus whose client is the test: what is sent to a subject in inboxes is kept there.
type fakeBus struct {
	mu       sync.Mutex
	inboxes  map[string][]sent
	handlers map[string]func(Request)
	watchers map[string]func(bool)
	onSend   func(sent)
}

// sent is a message that the consumer sent.
type sent struct {
	to, subject, reply, header, data string
	at                               time.Time
}

// status returns the first header line without the protocol version, "" for a message.
func (m sent) status() string {
	line, _, _ := strings.Cut(m.header, "\r\n")
	if line == "NATS/1.0" {
		return ""
	}
	return strings.TrimPrefix(line, "NATS/1.0 ")
}

func (m sent) field(name string) string {
	for line := range strings.SplitSeq(m.header, "\r\n") {
		if k, v, ok := strings.Cut(line, ": "); ok && k == name {
			return v
		}
	}
	return ""
}

// number returns part i of the reply subject after the consumer's name.
func (m sent) number(i int) uint64 {
	parts := strings.Split(m.reply, ".")
	n, _ := strconv.ParseUint(parts[4+i], 10, 64)
	return n
}

func newFakeBus() *fakeBus {
	return &fakeBus{inboxes: map[string][]sent{}, handlers: map[string]func(Request){}, watchers: map[string]func(bool){}}
}

func (b *fakeBus) Publish(subj, reply string, header, data []byte) int {
	return b.PublishAs(subj, subj, reply, header, data)
}

func (b *fakeBus) PublishAs(deliver, subj, reply string, header, data []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, ok := b.inboxes[deliver]
	if !ok {
		return 0
	}
	m := sent{deliver, strings.Clone(subj), strings.Clone(reply), string(header), string(data), time.Now()}
	if b.onSend != nil {
		b.onSend(m)
		return 1
	}
	b.inboxes[deliver] = append(list, m)
	return 1
}

func (b *fakeBus) Borrow() Publisher { return b }

func (b *fakeBus) Return() {}

func (b *fakeBus) Push() {}

func (b *fakeBus) SubscribeSoon(subj, queue string, handle func(Request)) (func(), error) {
	return b.Subscribe(subj, queue, handle)
}

func (b *fakeBus) HasInterest(subj string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.inboxes[subj]
	return ok
}

func (b *fakeBus) Subscribe(subj, _ string, handle func(Request)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers[subj] = handle
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.handlers, subj)
	}, nil
}

func (b *fakeBus) WatchInterest(subj, _ string, changed func(bool)) func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[subj] = changed
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, subj)
	}
}

// listen makes interest in subj; ignore ends it.
func (b *fakeBus) listen(subj string) { b.interest(subj, true) }

func (b *fakeBus) ignore(subj string) { b.interest(subj, false) }

func (b *fakeBus) interest(subj string, on bool) {
	b.mu.Lock()
	if on {
		b.inboxes[subj] = slices.Clone(b.inboxes[subj])
	} else {
		delete(b.inboxes, subj)
	}
	changed := b.watchers[subj]
	b.mu.Unlock()
	if changed != nil {
		changed(on)
	}
}

// take returns what arrived for subj since the last call.
func (b *fakeBus) take(subj string) []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.inboxes[subj]
	if list != nil {
		b.inboxes[subj] = []sent{}
	}
	return list
}

// send publishes as a client does; false: no one is subscribed.
func (b *fakeBus) send(subj, reply, data string) bool {
	b.mu.Lock()
	var handle func(Request)
	for filter, h := range b.handlers {
		if subject.Match(filter, subj) {
			handle = h
		}
	}
	b.mu.Unlock()
	if handle == nil {
		return false
	}
	payload := []byte(data)
	handle(Request{Subject: []byte(subj), Reply: []byte(reply), Data: payload})
	for i := range payload {
		payload[i] = '#' // the bytes are only borrowed
	}
	return true
}

// fakeLog is a Log that commits when told to, or at once, and the machine that takes what is committed.
type fakeLog struct {
	mu      sync.Mutex
	manual  bool
	fail    error
	entries [][]byte // committed
	waiting []proposed
	offers  int

	machine *consumer.Machine
	effects consumer.Effects // of all entries
}

type proposed struct {
	entry     []byte
	committed func()
}

func newFakeLog() *fakeLog { return &fakeLog{machine: consumer.New()} }

func (l *fakeLog) Propose(entry []byte, committed func()) error {
	l.mu.Lock()
	l.offers++
	if err := l.fail; err != nil {
		l.mu.Unlock()
		return err
	}
	l.waiting = append(l.waiting, proposed{bytes.Clone(entry), committed})
	manual := l.manual
	l.mu.Unlock()
	if !manual {
		l.commit()
	}
	return nil
}

// commit commits everything proposed.
func (l *fakeLog) commit() { l.commitSome(1 << 30) }

// commitSome commits the n oldest entries.
func (l *fakeLog) commitSome(n int) {
	for ; n > 0; n-- {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.mu.Unlock()
			return
		}
		p := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.entries = append(l.entries, p.entry)
		if err := l.machine.Apply(p.entry, &l.effects); err != nil {
			panic(err)
		}
		l.mu.Unlock()
		p.committed()
	}
}

// forget loses what is proposed and not committed, as a leader may that is one no more.
func (l *fakeLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = nil
}

// state returns a copy of the committed machine.
func (l *fakeLog) state() *consumer.Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.Clone()
}

// settled returns what is settled by committed entries.
func (l *fakeLog) settled() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.effects.Settled)
}

func (l *fakeLog) offered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.offers
}

func (l *fakeLog) setFail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

func (l *fakeLog) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

var errTest = errors.New("test")

// bench is a consumer "C" of stream "S" with everything around it.
type bench struct {
	*testing.T
	*Consumer
	stream *fakeStream
	bus    *fakeBus
	log    *fakeLog
	info   *api.ConsumerInfo // of the start
	lossy  bool              // Config.Volatile

	mu    sync.Mutex
	calls calls
}

// calls is what the callbacks of Config got.
type calls struct {
	settled []uint64
	errs    []error
	idle    int
	behind  []bool
	live    int
}

// seen returns the calls so far.
func (b *bench) seen() calls {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := calls{slices.Clone(b.calls.settled), slices.Clone(b.calls.errs), b.calls.idle, slices.Clone(b.calls.behind), b.calls.live}
	if b.log != nil {
		if len(seen.settled) > 0 {
			b.Errorf("settled %v by a consumer with a log", seen.settled)
		}
		seen.settled = b.log.settled()
	}
	return seen
}

func (b *bench) note(add func(*calls)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	add(&b.calls)
}

// inBubble runs test in a synctest bubble with a stream that has n messages "a", "b", "c", "a", ….
func inBubble(t *testing.T, n int, test func(t *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, stream: newFakeStream(), bus: newFakeBus(), log: newFakeLog()}
		for i := range n {
			b.stream.add(string(rune('a'+i%3)), fmt.Sprint("m", i+1))
		}
		defer func() {
			if b.Consumer != nil {
				b.Close()
			}
		}()
		test(b)
	})
}

// start starts a durable pull consumer with conf, whose zero fields get the defaults of the API.
func (b *bench) start(conf api.ConsumerConfig) {
	b.Helper()
	b.make(conf)
	info, err := b.Start()
	if err != nil {
		b.Fatal(err)
	}
	b.info = info
	synctest.Wait()
}

func (b *bench) make(conf api.ConsumerConfig) {
	b.Helper()
	if conf.Durable == "" && conf.InactiveThreshold == 0 {
		conf.Durable = "C"
	}
	conf.Name = "C"
	if conf.AckWait == 0 && conf.AckPolicy != api.AckNone {
		conf.AckWait = 30 * time.Second
	}
	if conf.MaxWaiting == 0 && !conf.IsPush() {
		conf.MaxWaiting = 512
	}
	config := Config{Stream: "S", Name: "C", Config: conf, Source: b.stream, Bus: b.bus,
		Settled:    func(seqs []uint64) { b.note(func(c *calls) { c.settled = append(c.settled, seqs...) }) },
		OnBehind:   func(on bool) { b.note(func(c *calls) { c.behind = append(c.behind, on) }) },
		OnLive:     func() { b.note(func(c *calls) { c.live++ }) },
		OnInactive: func() { b.note(func(c *calls) { c.idle++ }) },
		OnError:    func(err error) { b.note(func(c *calls) { c.errs = append(c.errs, err) }) },
	}
	config.Volatile = b.lossy
	if b.log != nil {
		config.Log, config.State = b.log, b.log.state()
	}
	c, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	c.Retain(true)
	b.Consumer = c
}

// restart replaces the consumer by a new one that starts from what is committed.
func (b *bench) restart(conf api.ConsumerConfig) {
	b.Helper()
	b.make(conf)
	if _, err := b.Start(); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

// publish stores a message and tells the consumer.
func (b *bench) publish(subj string) uint64 {
	seq := b.stream.add(subj, "new")
	b.NewMessages()
	synctest.Wait()
	return seq
}

// pull sends a request from inbox and returns what it gets at once.
func (b *bench) pull(inbox, request string) []sent {
	b.Helper()
	if !b.bus.HasInterest(inbox) {
		b.bus.listen(inbox)
	}
	if !b.bus.send("$JS.API.CONSUMER.MSG.NEXT.S.C", inbox, request) {
		b.Fatal("no one takes pull requests")
	}
	synctest.Wait()
	return b.bus.take(inbox)
}

// ack sends verb to the reply subject of m and waits until the consumer is idle.
func (b *bench) ack(m sent, verb string) {
	b.Helper()
	if !b.bus.send(m.reply, "", verb) {
		b.Fatalf("no one takes %s", m.reply)
	}
	synctest.Wait()
}

// after lets d pass on the bubble's clock.
func (b *bench) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// want compares a short form of list: "seq:deliveries" for messages, the status for others.
func (b *bench) want(list []sent, want ...string) {
	b.Helper()
	got := []string{}
	for _, m := range list {
		if s := m.status(); s != "" {
			got = append(got, s)
			continue
		}
		s := fmt.Sprint(m.number(1))
		if n := m.number(0); n > 1 {
			s += fmt.Sprint("x", n)
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		b.Errorf("got %q, want %q", got, want)
	}
}
