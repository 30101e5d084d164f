package delivery

import (
	"errors"
	"time"
)

// ErrGone is returned by Source.Load when the stream does not hold the message (any more).
var ErrGone = errors.New("delivery: message is gone")

// ErrClosed is given to callbacks of a consumer that was closed before it could do what was asked.
var ErrClosed = errors.New("delivery: consumer is closed")

// ErrNotLeader is returned by a Log that takes no entries from this node, and given to callbacks of a
// consumer that was abandoned before it could do what was asked: it may yet be done, or never.
var ErrNotLeader = errors.New("delivery: not the leader of the consumer")

// Source is the stream that a consumer reads. Its methods are safe for concurrent use and see only
// committed messages. They are called without locks of this package held; Load may read a disk.
type Source interface {
	// Bounds returns the first stored and the last assigned sequence; an empty stream has
	// first = last+1.
	Bounds() (first, last uint64)
	// Next returns the first stored message at or above from that one of filters matches; no
	// filters match everything.
	Next(from uint64, filters []string) (seq uint64, ok bool)
	// Load fills m with the message seq and reuses its buffers; ErrGone when it is not stored. It calls waits
	// before it reads a disk.
	Load(seq uint64, m *Message, waits func()) error
	// Pending returns how many stored messages at or above from the filters match.
	Pending(from uint64, filters []string) uint64
	// Starts answers what deliver policies ask, see StartFinder.
	StartFinder
}

// StartFinder finds where a consumer begins.
type StartFinder interface {
	// LastPerSubject returns, ascending, the last stored message not above upTo of every subject that
	// the filters match.
	LastPerSubject(filters []string, upTo uint64) []uint64
	// TimeToSeq returns the first sequence stored at or after t; last+1 when there is none.
	TimeToSeq(t time.Time) uint64
}

// Message is one stored message.
type Message struct {
	Seq     uint64
	Time    time.Time
	Subject string
	Header  []byte // raw, from "NATS/1.0\r\n" to the empty line; nil: none
	Data    []byte
}

// Bus is the account that a consumer delivers in. Its methods are safe for concurrent use, do not
// block, and copy what they are given before they return: reply and header share a buffer that the
// consumer reuses.
type Bus interface {
	// Publish sends a message and returns how many receivers took it.
	Publish(subject, reply string, header, data []byte) (receivers int)
	// PublishAs sends to the receivers of deliver, who see subject.
	PublishAs(deliver, subject, reply string, header, data []byte) (receivers int)
	// HasInterest reports whether anyone would get a message on subject.
	HasInterest(subject string) bool
	// Subscribe calls handle for every message, on the publisher's goroutine; handle does not block.
	Subscribe(subject, queue string, handle func(Request)) (unsubscribe func(), err error)
	// SubscribeSoon is Subscribe for what is rarely used: other servers may hear of it a moment later.
	SubscribeSoon(subject, queue string, handle func(Request)) (unsubscribe func(), err error)
	// Borrow returns a publisher for one burst, which ends with its Return.
	Borrow() Publisher
	// WatchInterest calls changed whenever a receiver of the literal subject (and queue group, if not
	// empty) appears where none was or the last one leaves, and with what it finds before it returns.
	WatchInterest(subject, queue string, changed func(active bool)) (cancel func())
}

// Publisher publishes as a Bus does, but receivers may get nothing before Push or Return. It is for one
// goroutine at a time.
type Publisher interface {
	Publish(subject, reply string, header, data []byte) (receivers int)
	PublishAs(deliver, subject, reply string, header, data []byte) (receivers int)
	Push()
	Return()
}

// Request is a message that a Bus subscription got. Its bytes are valid during the callback only.
type Request struct {
	Subject, Reply []byte
	Header, Data   []byte
}

// Log is the consumer's own replicated log, from which machines on all its nodes take what is committed.
// Entries commit in the order of the calls and committed functions are called in that order; they do
// not block. After leadership is lost none is called any more.
type Log interface {
	// Propose appends entry, whose bytes then belong to the log. An error means that the entry was
	// not taken and may be offered again. With ErrNotLeader that has a point only if the consumer
	// is not abandoned.
	Propose(entry []byte, committed func()) error
}
