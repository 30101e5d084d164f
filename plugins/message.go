package plugins

import (
	"context"
	"time"

	"millrace/plugins/abi"
)

// Message is one message of a stream as a consumer delivers it.
type Message struct {
	Seq         uint64 // sequence in the stream
	ConsumerSeq uint64 // delivery sequence of the consumer
	Delivered   uint32 // 1 at the first delivery
	AfterTrap   bool   // a batch with this message failed, now it runs alone; set by Runner
	Time        time.Time
	Subject     string
	Header      []byte // raw "NATS/1.0\r\n...\r\n\r\n", or empty
	Data        []byte
}

// Effects are what one successful run wants to happen. They are valid until the next run of the
// instance. The duty of the caller, in this order: make the writes (a failed expectation undoes the
// whole run), send the publications, settle the messages.
type Effects struct {
	Writes       []Write       // at most one for each key
	Publications []Publication // in the order of the guest's calls
	Settled      []Settlement  // one for each of the first messages of the batch; the rest runs again
	CPU          time.Duration // fuel used, as time
}

// Publication is one message to send. Subject, header and data are the guest's, checked against the
// grants.
type Publication struct {
	Msg     int // index in the batch of the message it came from, or abi.WholeBatch
	Subject string
	Header  []byte
	Data    []byte
}

// Settlement is the fate of one message. The zero value acknowledges it.
type Settlement struct {
	Kind   abi.Settle
	Delay  time.Duration // of a Nak
	Reason string        // of a Term or DeadLetter
}

// Write is the new state of one key.
type Write struct {
	Msg    int // index in the batch of the last message that wrote it, or abi.WholeBatch
	Bucket string
	Key    string
	Value  []byte
	Delete bool
	Expect int64 // revision that must be the last one, 0 for none; abi.RevisionAny for no condition
}

// KV reads the buckets that guests are granted. Get is called while the guest waits, on the goroutine
// of the run; calls of one instance do not overlap.
type KV interface {
	// Get returns the last revision of a key. A key without one gives the zero Entry, a deleted one an
	// Entry with Deleted set. The error is ErrNoBucket, or any other if the bucket cannot be read now.
	// The caller does not change Value.
	Get(ctx context.Context, bucket, key string) (Entry, error)
}

// Entry is one revision of a key.
type Entry struct {
	Value    []byte
	Revision uint64 // 0: never stored
	Time     time.Time
	Deleted  bool
}

// Access is what a guest may do with a bucket.
type Access string

// Kinds of access.
const (
	Read      Access = "r"
	ReadWrite Access = "rw"
)

// Grants are what the operator allows a guest. Nothing is allowed by default.
type Grants struct {
	Publish []string          // filters of the subjects it may publish to; never those that start with $
	KV      map[string]Access // buckets
}
