package workload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// writesPerKey is how many writes a key gets before the next one is begun: the bucket keeps all of them,
// and histories of a key stay short enough to check.
const writesPerKey = 25

// keysAtOnce is how many keys clients compete for.
const keysAtOnce = 3

// bucketHistory is the history of the bucket, the most that there is: more than the writes of a key.
const bucketHistory = 64

// Bucket is a key-value bucket that clients compete for. Clients read a key and write it with the
// revision that they read; each value is written once.
type Bucket struct {
	Name string

	mu     sync.Mutex
	begun  time.Time
	ops    []*operation
	writes map[string]int // key -> attempts
	open   []string       // keys in use
	keys   int            // that there are
}

// operation is one write.
type operation struct {
	client   int
	key      string
	value    string
	expected uint64 // revision that the key must have; 0: it must not exist
	call     time.Duration
	ret      time.Duration // when it was answered; 0: not
	revision uint64        // of an answer that it was done
	refused  bool          // the answer said that the revision is another
}

// Create makes the bucket.
func (b *Bucket) Create(ctx context.Context, js jetstream.JetStream, replicas int) error {
	b.begun, b.writes = time.Now(), make(map[string]int)
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: b.Name, History: bucketHistory, Replicas: replicas})
	return err
}

// Run reads and writes as one client until ctx is done.
func (b *Bucket) Run(ctx context.Context, nc *nats.Conn, client int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for n := 1; ctx.Err() == nil; n++ {
		key := b.pick()
		op := &operation{client: client, key: key, value: fmt.Sprintf("%d-%d", client, n)}
		kv, err := b.lookup(ctx, js)
		if err != nil || !b.read(ctx, kv, op) {
			pause(ctx)
			continue
		}
		b.write(ctx, kv, op)
	}
	return nil
}

// pick returns a key that has room for a write.
func (b *Bucket) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.open) < keysAtOnce {
		b.keys++
		b.open = append(b.open, fmt.Sprintf("key%d", b.keys))
	}
	i := rand.IntN(len(b.open))
	key := b.open[i]
	if b.writes[key]++; b.writes[key] >= writesPerKey {
		b.open = append(b.open[:i:i], b.open[i+1:]...)
	}
	return key
}

func (b *Bucket) lookup(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return js.KeyValue(ctx, b.Name)
}

// read finds the revision of the key. It may be an old one: any replica answers.
func (b *Bucket) read(ctx context.Context, kv jetstream.KeyValue, op *operation) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	switch e, err := kv.Get(ctx, op.key); {
	case err == nil:
		op.expected = e.Revision()
		return true
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return true
	}
	return false
}

func (b *Bucket) write(ctx context.Context, kv jetstream.KeyValue, op *operation) {
	try, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	op.call = time.Since(b.begun)
	b.mu.Lock()
	b.ops = append(b.ops, op)
	b.mu.Unlock()
	revision, err := kv.Update(try, op.key, []byte(op.value), op.expected)
	now := time.Since(b.begun)
	b.mu.Lock()
	defer b.mu.Unlock()
	var api *jetstream.APIError
	switch {
	case err == nil:
		op.revision, op.ret = revision, now
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		op.refused, op.ret = true, now
	}
}

// Writes is how many writes were answered with a revision.
func (b *Bucket) Writes() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, op := range b.ops {
		if op.revision != 0 {
			n++
		}
	}
	return n
}

// Check holds the history of the clients against what the stream of the bucket has:
//
//   - what was answered with a revision is there, with this revision;
//   - what was refused is not there, and nothing is there twice or was never written;
//   - each write followed the revision that it expected;
//   - there is an order of the writes of each key in which one copy would have answered so, and which no
//     client can tell from what it saw (porcupine).
//
// It is called after Run has ended.
func (b *Bucket) Check(c *Content) error {
	f := findings{limit: 20}
	byValue := make(map[string]*operation)
	for _, op := range b.ops {
		byValue[op.value] = op
	}
	stored := make(map[string]uint64)   // value -> revision
	previous := make(map[string]uint64) // key -> revision
	for _, m := range c.Messages {
		key := strings.TrimPrefix(m.Subject, "$KV."+b.Name+".")
		value := string(m.Data)
		op := byValue[value]
		switch first := stored[value]; {
		case op == nil || op.key != key:
			f.add("revision %d of key %s has value %q, which nobody wrote there", m.Seq, key, value)
		case first != 0:
			f.add("value %q of key %s has revisions %d and %d", value, key, first, m.Seq)
		case op.refused:
			f.add("value %q of key %s was refused and is there, as revision %d", value, key, m.Seq)
		case op.expected != previous[key]:
			f.add("value %q of key %s expected revision %d and was written over revision %d", value, key, op.expected, previous[key])
		}
		stored[value] = m.Seq
		previous[key] = m.Seq
	}
	byKey := make(map[string][]porcupine.Operation)
	for _, op := range b.ops {
		revision := stored[op.value]
		if op.revision != 0 && op.revision != revision {
			f.add("value %q of key %s was written as revision %d; the stream has it as %d (0: not)", op.value, op.key, op.revision, revision)
		}
		if revision == 0 && op.revision == 0 {
			continue // it never happened. A refusal may be because of a write that was lost later
		}
		ret := int64(op.ret)
		if op.ret == 0 {
			ret = math.MaxInt64
		}
		byKey[op.key] = append(byKey[op.key], porcupine.Operation{
			ClientId: op.client, Input: op, Output: max(revision, op.revision), Call: int64(op.call), Return: ret,
		})
	}
	for key, ops := range byKey {
		switch porcupine.CheckOperationsTimeout(register, ops, 10*time.Second) {
		case porcupine.Illegal:
			f.add("key %s: %d writes have no order in which one copy would answer so", key, len(ops))
		case porcupine.Unknown:
			f.add("key %s: %d writes were not checked in time", key, len(ops))
		}
	}
	return f.err("bucket " + b.Name + " at leader " + c.Leader)
}

// register is porcupine's model of one key: its state is the revision. A write gets the output as its
// revision, which grows.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		now, op, revision := state.(uint64), input.(*operation), output.(uint64)
		return op.expected == now && revision > now, revision
	},
}
