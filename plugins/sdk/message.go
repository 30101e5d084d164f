package sdk

import (
	"fmt"
	"strings"
	"time"

	"millrace/plugins/abi"
)

// Message is one message of the stream.
type Message struct {
	Subject     string
	Header      []byte // raw header block, empty if there is none; Value reads it
	Data        []byte // may be changed in place
	Seq         uint64 // in the stream
	ConsumerSeq uint64 // delivery sequence of the consumer
	Delivered   int    // 1 = first try
	Time        time.Time
	Alone       bool // a batch with this message failed before, so it runs alone

	index int32
}

// Publish sends a message on behalf of m: it is undone if m is settled in any other way than Ack.
// The header is a raw block, as NewHeader makes it, or nil.
func (m *Message) Publish(subject string, header, data []byte) error {
	return publish(m.index, subject, header, data)
}

// Ack marks the message as done, which returning nil does too.
func (m *Message) Ack() error { return m.settle(abi.Ack, 0, "") }

// Nak asks for the message again after the delay.
func (m *Message) Nak(delay time.Duration) error { return m.settle(abi.Nak, delay, "") }

// Term gives the message up.
func (m *Message) Term(reason string) error { return m.settle(abi.Term, 0, reason) }

// DeadLetter copies the message to the dead-letter subject of the binding and gives it up.
func (m *Message) DeadLetter(reason string) error { return m.settle(abi.DeadLetter, 0, reason) }

func (m *Message) settle(kind abi.Settle, delay time.Duration, reason string) error {
	return result(hostSettle(m.index, int32(kind), int64(delay), reason), "settle message of", m.Subject)
}

// Value returns the first value of a header field, or "".
func (m *Message) Value(name string) string {
	for line := range strings.SplitSeq(string(m.Header), "\r\n") {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(field, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// NewHeader makes a header block of names and values in turn.
func NewHeader(pairs ...string) []byte {
	b := []byte("NATS/1.0\r\n")
	for i := 0; i+1 < len(pairs); i += 2 {
		b = fmt.Appendf(b, "%s: %s\r\n", pairs[i], pairs[i+1])
	}
	return append(b, "\r\n"...)
}

// Bucket is a KV bucket that the binding grants.
type Bucket string

// Entry is a value in a bucket.
type Entry struct {
	Value    []byte
	Revision uint64 // as stored before the batch, also after a write in the batch
	Time     time.Time
}

// Errors of a bucket.
const (
	ErrNotFound = abi.NotFound // the key has no value
	ErrConflict = abi.Conflict // the key has another revision
)

// Get returns the value of a key, the writes of this batch included. The error is ErrNotFound for a
// key without one.
func (b Bucket) Get(key string) (Entry, error) {
	value := make([]byte, 512)
	var meta [2]uint64
	for {
		vp, vl := bytesOf(value)
		n := hostKVGet(string(b), key, vp, vl, &meta)
		if err := result(n, "get", key); err != nil {
			return Entry{}, err
		}
		if int(n) <= len(value) {
			return Entry{value[:n], meta[0], time.Unix(0, int64(meta[1]))}, nil
		}
		value = make([]byte, n)
	}
}

// Put writes a value on behalf of m, or of the whole batch if m is nil.
func (b Bucket) Put(m *Message, key string, value []byte) error {
	return b.write(m, key, value, abi.RevisionAny)
}

// Create writes a value if the key has none. The error is ErrConflict if it has.
func (b Bucket) Create(m *Message, key string, value []byte) error {
	return b.write(m, key, value, abi.RevisionCreate)
}

// Update writes a value if the key's revision is the given one. The error is ErrConflict if it is not.
func (b Bucket) Update(m *Message, key string, value []byte, revision uint64) error {
	return b.write(m, key, value, int64(revision))
}

// Delete deletes a key.
func (b Bucket) Delete(m *Message, key string) error {
	return result(hostKVDelete(m.tag(), string(b), key, abi.RevisionAny), "delete", key)
}

func (b Bucket) write(m *Message, key string, value []byte, revision int64) error {
	vp, vl := bytesOf(value)
	return result(hostKVPut(m.tag(), string(b), key, vp, vl, revision), "put", key)
}

func (m *Message) tag() int32 {
	if m == nil {
		return abi.WholeBatch
	}
	return m.index
}
