package servicetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/appliance/server/subject"
	"millrace/plugins"
	"millrace/plugins/service"
)

// Memory is an account in memory, with as much of streams and consumers as plugins need. A message
// that is not acknowledged is delivered again at once; Delays tells what was asked for.
type Memory struct {
	mu        sync.Mutex
	streams   map[string]*memoryStream
	consumers map[[2]string]*memoryConsumer
	served    map[string]func(service.Request)
	lines     []service.Outgoing // published by the Bus
	delays    []time.Duration    // of naks
	failures  map[string]error   // what the next Publish to a subject returns
	leader    string             // the node that leads all consumers, see MemoryNode
}

type memoryStream struct {
	subjects []string
	messages []service.Stored
	ids      map[string]bool
}

type memoryConsumer struct {
	service.Consumer
	filters    []string
	maxDeliver int
	next       uint64         // stream sequence to look at next
	counts     map[uint64]int // deliveries of what is pending
	again      []uint64       // to deliver again
	seq        uint64
	ready      chan struct{}
	deleted    bool
}

// NewMemory returns an empty account.
func NewMemory() *Memory {
	return &Memory{streams: map[string]*memoryStream{}, consumers: map[[2]string]*memoryConsumer{},
		served: map[string]func(service.Request){}, failures: map[string]error{}}
}

// FailOnce makes the next publication to a subject fail.
func (m *Memory) FailOnce(subject string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures[subject] = err
}

// Delays returns the delays of all naks so far.
func (m *Memory) Delays() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.delays)
}

// Publish implements service.Store.
func (m *Memory) Publish(_ context.Context, messages []service.Outgoing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range messages {
		err := m.failures[messages[i].Subject]
		delete(m.failures, messages[i].Subject)
		if err == nil {
			err = m.storeLocked(&messages[i])
		}
		if err != nil {
			return &service.PublishError{Index: i, Err: err}
		}
	}
	return nil
}

func (m *Memory) storeLocked(o *service.Outgoing) error {
	header := fields(o.Header)
	for name, stream := range m.streams {
		if !slices.ContainsFunc(stream.subjects, func(f string) bool { return subject.Match(f, o.Subject) }) {
			continue
		}
		if id := header["Nats-Msg-Id"]; id != "" {
			if stream.ids[id] {
				return nil
			}
			stream.ids[id] = true
		}
		if expect := header["Nats-Expected-Last-Subject-Sequence"]; expect != "" {
			last, _ := stream.last(o.Subject)
			if want, err := strconv.ParseUint(expect, 10, 64); err != nil || want != last.Seq {
				return fmt.Errorf("%w: %d", service.ErrWrongLastSequence, last.Seq)
			}
		}
		stream.messages = append(stream.messages, service.Stored{Seq: uint64(len(stream.messages) + 1), Time: time.Now(),
			Subject: o.Subject, Header: slices.Clone(o.Header), Data: slices.Clone(o.Data)})
		for key, c := range m.consumers {
			if key[0] == name {
				c.wake()
			}
		}
	}
	return nil
}

func fields(header []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.SplitSeq(string(header), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			all[name] = value
		}
	}
	return all
}

func (s *memoryStream) last(subject string) (service.Stored, bool) {
	for i := len(s.messages) - 1; i >= 0; i-- {
		if s.messages[i].Subject == subject {
			return s.messages[i], true
		}
	}
	return service.Stored{}, false
}

// Last implements service.Store.
func (m *Memory) Last(_ context.Context, stream, subject string) (service.Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil {
		if stored, ok := s.last(subject); ok {
			return stored, nil
		}
	}
	return service.Stored{}, service.ErrNotFound
}

// Scan implements service.Store.
func (m *Memory) Scan(_ context.Context, stream, filter string, fn func(*service.Stored) error) error {
	m.mu.Lock()
	s := m.streams[stream]
	var messages []service.Stored
	if s != nil {
		messages = slices.Clone(s.messages)
	}
	m.mu.Unlock()
	if s == nil {
		return service.ErrNotFound
	}
	for i := range messages {
		if subject.Match(filter, messages[i].Subject) {
			if err := fn(&messages[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// EnsureStream implements service.Store.
func (m *Memory) EnsureStream(_ context.Context, config []byte) error {
	var c struct {
		Name     string   `json:"name"`
		Subjects []string `json:"subjects"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[c.Name] == nil {
		m.streams[c.Name] = &memoryStream{subjects: c.Subjects, ids: map[string]bool{}}
	}
	return nil
}

// Spread implements service.Store; there is one node.
func (m *Memory) Spread(context.Context, string) error { return nil }

// Subjects implements service.Store.
func (m *Memory) Subjects(_ context.Context, stream string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil {
		return slices.Clone(s.subjects), nil
	}
	return nil, service.ErrNotFound
}

// EnsureConsumer implements service.Consumers.
func (m *Memory) EnsureConsumer(_ context.Context, stream string, config []byte) error {
	var c struct {
		Durable        string            `json:"durable_name"`
		FilterSubject  string            `json:"filter_subject"`
		FilterSubjects []string          `json:"filter_subjects"`
		MaxDeliver     int               `json:"max_deliver"`
		Metadata       map[string]string `json:"metadata"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[stream] == nil {
		return &service.Error{Code: 404, ErrCode: service.CodeStreamNotFound, Description: "stream not found"}
	}
	key := [2]string{stream, c.Durable}
	consumer := m.consumers[key]
	if consumer == nil {
		consumer = &memoryConsumer{next: 1, counts: map[uint64]int{}, ready: make(chan struct{}, 1)}
		m.consumers[key] = consumer
	}
	consumer.Consumer = service.Consumer{Stream: stream, Name: c.Durable, Metadata: c.Metadata, Config: slices.Clone(config)}
	consumer.maxDeliver, consumer.filters = c.MaxDeliver, c.FilterSubjects
	if c.FilterSubject != "" {
		consumer.filters = []string{c.FilterSubject}
	}
	return nil
}

// DeleteConsumer implements service.Consumers.
func (m *Memory) DeleteConsumer(_ context.Context, stream, consumer string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{stream, consumer}
	c := m.consumers[key]
	if c == nil {
		return service.ErrNotFound
	}
	c.deleted = true
	c.wake()
	delete(m.consumers, key)
	return nil
}

// List implements service.Consumers.
func (m *Memory) List(context.Context) ([]service.Consumer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []service.Consumer
	for _, c := range m.consumers {
		if len(c.Metadata) > 0 {
			copied := c.Consumer
			copied.Metadata = maps.Clone(c.Metadata)
			list = append(list, copied)
		}
	}
	return list, nil
}

// Feed implements service.Consumers.
func (m *Memory) Feed(_ context.Context, stream, consumer string) (service.Feed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.consumers[[2]string{stream, consumer}]
	if c == nil {
		return nil, service.ErrNotFound
	}
	return &memoryFeed{m, c}, nil
}

func (c *memoryConsumer) wake() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

type memoryFeed struct {
	*Memory
	consumer *memoryConsumer
}

// Fetch implements service.Feed.
func (f *memoryFeed) Fetch(limit, _ int) ([]service.Delivered, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.consumer
	if c.deleted {
		return nil, service.ErrNotFound
	}
	var delivered []service.Delivered
	deliver := func(stored *service.Stored) {
		c.counts[stored.Seq]++
		c.seq++
		delivered = append(delivered, service.Delivered{Message: plugins.Message{Seq: stored.Seq, ConsumerSeq: c.seq,
			Delivered: uint32(c.counts[stored.Seq]), Time: stored.Time, Subject: stored.Subject,
			Header: slices.Clone(stored.Header), Data: slices.Clone(stored.Data)}})
	}
	stream := f.streams[c.Stream]
	for len(c.again) > 0 && len(delivered) < limit {
		seq := c.again[0]
		c.again = c.again[1:]
		if c.maxDeliver <= 0 || c.counts[seq] < c.maxDeliver {
			deliver(&stream.messages[seq-1])
		}
	}
	for ; c.next <= uint64(len(stream.messages)) && len(delivered) < limit; c.next++ {
		stored := &stream.messages[c.next-1]
		if len(c.filters) == 0 || slices.ContainsFunc(c.filters, func(f string) bool { return subject.Match(f, stored.Subject) }) {
			deliver(stored)
		}
	}
	return delivered, nil
}

// Settle implements service.Feed.
func (f *memoryFeed) Settle(settlements []service.Settlement) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range settlements {
		switch s.Verb {
		case service.VerbNak:
			f.delays = append(f.delays, s.Delay)
			f.consumer.again = append(f.consumer.again, s.Message.Seq)
			f.consumer.wake()
		case service.VerbAck, service.VerbTerm:
			delete(f.consumer.counts, s.Message.Seq)
		}
	}
	return nil
}

// Ready implements service.Feed.
func (f *memoryFeed) Ready() <-chan struct{} { return f.consumer.ready }

// Close implements service.Feed.
func (f *memoryFeed) Close() {}

type memoryBus struct{ *Memory }

// Bus returns the service.Bus.
func (m *Memory) Bus() service.Bus { return memoryBus{m} }

// Serve implements service.Bus.
func (b memoryBus) Serve(subject string, fn func(service.Request)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.served[subject] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.served, subject)
	}, nil
}

// Publish implements service.Bus.
func (b memoryBus) Publish(subject string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, service.Outgoing{Subject: subject, Data: data})
}

// Lines returns the data published by the Bus to a subject.
func (m *Memory) Lines(subject string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for _, o := range m.lines {
		if o.Subject == subject {
			lines = append(lines, string(o.Data))
		}
	}
	return lines
}

// Request sends a request to what is served and waits for the answer.
func (m *Memory) Request(subject string, data []byte) ([]byte, error) {
	m.mu.Lock()
	fn := m.served[subject]
	m.mu.Unlock()
	if fn == nil {
		return nil, fmt.Errorf("no one serves %s", subject)
	}
	reply := make(chan []byte, 1)
	fn(service.Request{Data: data, Reply: func(b []byte) { reply <- b }})
	return <-reply, nil
}
