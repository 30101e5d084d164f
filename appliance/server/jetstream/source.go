package jetstream

import (
	"sync"
	"time"

	"millrace/appliance/server/jetstream/delivery"
)

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

// Load fills m with the message seq. It calls waits before it reads the journal.
func (s *source) Load(seq uint64, m *delivery.Message, waits func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, err := s.reader.load(seq, waits)
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

// Borrow returns a publisher for one burst.
func (b deliveryBus) Borrow() delivery.Publisher { return b.Bus.Borrow() }

// SubscribeSoon is Subscribe for what is rarely used.
func (b deliveryBus) SubscribeSoon(subject, queue string, handle func(delivery.Request)) (func(), error) {
	return b.Bus.SubscribeSoon(subject, queue, func(m Msg) { handle(requestOf(m)) })
}

// deliveryBus is an account's bus as a consumer sees it.
type deliveryBus struct{ Bus }

// Subscribe calls handle for every message.
func (b deliveryBus) Subscribe(subject, queue string, handle func(delivery.Request)) (func(), error) {
	return b.Bus.Subscribe(subject, queue, func(m Msg) { handle(requestOf(m)) })
}

func requestOf(m Msg) delivery.Request {
	return delivery.Request{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data}
}
