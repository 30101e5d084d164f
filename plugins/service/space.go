package service

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"millrace/plugins"
)

// Store reads and writes the streams of the account. It is called concurrently, and may block for
// disk I/O and commits.
type Store interface {
	// Publish sends the messages in order. It returns when each that a stream takes is stored
	// durably; a message that no stream takes goes to the subscribers there are. The error is a
	// *PublishError that tells the first message that was not stored; later ones may have been. It is
	// ErrUnavailable if the same may succeed later, such as when another node leads the stream.
	// A duplicate by Nats-Msg-Id is a success. It keeps no slice.
	Publish(ctx context.Context, messages []Outgoing) error

	// Last returns the last message of a stream on a literal subject. The error is ErrNotFound if
	// there is no such stream or message.
	Last(ctx context.Context, stream, subject string) (Stored, error)

	// Scan calls fn with the stored messages of a stream that filter matches, in order, until fn
	// returns an error, which it passes on. fn keeps no slice. The error is ErrNotFound if there is
	// no such stream.
	Scan(ctx context.Context, stream, filter string, fn func(*Stored) error) error

	// EnsureStream creates a stream of the JSON form of a stream configuration, if there is none of
	// that name.
	EnsureStream(ctx context.Context, config []byte) error

	// Spread gives a stream as many replicas as what all nodes read should have, if it has less. It
	// does nothing where there is no such stream, and on all nodes but one.
	Spread(ctx context.Context, stream string) error

	// Subjects returns the subjects of a stream. The error is ErrNotFound if there is no such stream.
	Subjects(ctx context.Context, stream string) ([]string, error)
}

// Consumers manages the consumers of the account. It is called concurrently.
type Consumers interface {
	// EnsureConsumer creates or updates a durable consumer of the JSON form of a consumer
	// configuration. An *Error is passed on to the client.
	EnsureConsumer(ctx context.Context, stream string, config []byte) error

	// DeleteConsumer deletes a consumer. The error is ErrNotFound if there is none.
	DeleteConsumer(ctx context.Context, stream, consumer string) error

	// List returns all durable consumers of the account that have metadata, on whatever node they are.
	List(ctx context.Context) ([]Consumer, error)

	// Feed opens a consumer for reading. What earlier readers had taken and not settled is delivered
	// first. The error is ErrNotFound if there is none, and ErrAway if it is led by another node.
	Feed(ctx context.Context, stream, consumer string) (Feed, error)
}

// Feed reads one consumer. It is used by one goroutine at a time.
type Feed interface {
	// Fetch returns the messages that can be delivered now, at most max and about maxBytes, without
	// waiting for more. That they were delivered is known by then to whoever reads next. They are the caller's. The error is ErrNotFound when the consumer is gone, and ErrAway
	// when it is led by another node.
	Fetch(max, maxBytes int) ([]Delivered, error)

	// Settle tells what becomes of messages. An error means that they may be delivered again.
	Settle(settlements []Settlement) error

	// Ready receives a value, or is closed, when a Fetch after an empty one may be worth it.
	Ready() <-chan struct{}

	// Close ends reading. Messages that are not settled are delivered again after their ack wait.
	Close()
}

// Peers are the services of the same account on the other nodes of a cluster. It is called concurrently.
type Peers interface {
	// Answer answers what the others ask, until stop is called. Both sides of the talk are JSON.
	Answer(fn func(question []byte) json.RawMessage) (stop func(), err error)

	// Ask returns the answers of the others that can be reached, at the latest when ctx ends.
	Ask(ctx context.Context, question json.RawMessage) []json.RawMessage
}

// Bus is the account's core messaging. It is called concurrently.
type Bus interface {
	// Serve answers requests on a subject. Of the nodes of a cluster, one calls fn for a request. fn does not block; Request.Reply may be called later and
	// from any goroutine, once.
	Serve(subject string, fn func(Request)) (stop func(), err error)

	// Publish sends a message to the subscribers there are. It does not block.
	Publish(subject string, data []byte)
}

// Request is one API request. Data is the receiver's.
type Request struct {
	Data  []byte
	Reply func(data []byte)
}

// Outgoing is a message to publish. Header is a raw block or nil.
type Outgoing struct {
	Subject string
	Header  []byte
	Data    []byte
}

// Stored is a message in a stream.
type Stored struct {
	Seq     uint64
	Time    time.Time
	Subject string
	Header  []byte
	Data    []byte
}

// Consumer is a durable consumer and its configuration in the JSON form of the API.
type Consumer struct {
	Stream   string
	Name     string
	Metadata map[string]string
	Config   []byte

	// Away tells that this node does not lead the consumer: a binding runs elsewhere, if it does.
	Away bool
	// Spare tells of one that is Away that this node has a replica of it, and may come to lead it.
	Spare bool
}

// Delivered is a message that a consumer delivered.
type Delivered struct {
	plugins.Message
	Reply string // the ack subject, for a Feed that settles by it
}

// Verb is what a settlement says.
type Verb int

// Verbs of settlements, as the ack protocol has them.
const (
	VerbAck      Verb = iota
	VerbNak           // deliver again after Delay
	VerbTerm          // never deliver again, for Reason
	VerbProgress      // still at work: the ack wait starts again
)

// Settlement is the fate of one delivered message.
type Settlement struct {
	Message *Delivered
	Verb    Verb
	Delay   time.Duration
	Reason  string
}

// AckPayload returns the bytes that say the settlement in the ack protocol of JetStream, for a Feed
// that publishes them to Message.Reply.
func (s *Settlement) AckPayload() []byte {
	switch s.Verb {
	case VerbNak:
		if s.Delay > 0 {
			return []byte(`-NAK {"delay": ` + strconv.FormatInt(int64(s.Delay), 10) + `}`)
		}
		return []byte("-NAK")
	case VerbTerm:
		if s.Reason != "" {
			return []byte("+TERM " + s.Reason)
		}
		return []byte("+TERM")
	case VerbProgress:
		return []byte("+WPI")
	}
	return []byte("+ACK")
}
