package workload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is one stored message.
type Message struct {
	Seq     uint64
	Subject string
	ID      string // its message id
	Header  []byte
	Data    []byte
	Time    time.Time
}

// Content is all that a stream holds.
type Content struct {
	Stream   string
	Leader   string // that told it
	State    jetstream.StreamState
	Messages []Message // by sequence
	Hash     [sha256.Size]byte
}

// readers is how many requests for messages are on their way at once.
const readers = 64

// Read asks the leader of a stream for all it holds. Nobody writes to the stream meanwhile.
func Read(ctx context.Context, nc *nats.Conn, stream string) (*Content, error) {
	info, err := Info(ctx, nc, stream)
	if err != nil {
		return nil, err
	}
	c := &Content{Stream: stream, State: info.State}
	if info.Cluster != nil {
		c.Leader = info.Cluster.Leader
	}
	first, last := info.State.FirstSeq, info.State.LastSeq
	if last < first {
		c.hash()
		return c, nil
	}
	all := make([]*Message, last-first+1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			for i := r; i < len(all) && ctx.Err() == nil; i += readers {
				var err error
				if all[i], err = get(ctx, nc, stream, first+uint64(i)); err != nil {
					cancel(err) // the first counts
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, m := range all {
		if m != nil {
			c.Messages = append(c.Messages, *m)
		}
	}
	if len(c.Messages) != int(info.State.Msgs) {
		return nil, fmt.Errorf("stream %s at %s: %d messages can be read, its state says %d", stream, c.Leader, len(c.Messages), info.State.Msgs)
	}
	c.hash()
	return c, nil
}

// Info asks the leader of a stream about it.
func Info(ctx context.Context, nc *nats.Conn, stream string) (*jetstream.StreamInfo, error) {
	var info struct {
		jetstream.StreamInfo
		Error *jetstream.APIError `json:"error"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.INFO."+stream, nil, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, fmt.Errorf("info of stream %s: %w", stream, info.Error)
	}
	return &info.StreamInfo, nil
}

// askLimit bounds one attempt of a request, and askTime all of them: a leader may be moving.
const (
	askLimit = 5 * time.Second
	askTime  = 20 * time.Second
)

// ask sends a request that may be sent again: until it is answered, and not with 503, by which the API
// says that it has no leader now.
func ask(ctx context.Context, nc *nats.Conn, subject string, request []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, askLimit)
		m, err := nc.RequestWithContext(try, subject, request)
		cancel()
		if err == nil {
			var refusal struct {
				Error *jetstream.APIError `json:"error"`
			}
			if err := json.Unmarshal(m.Data, &refusal); err != nil {
				return fmt.Errorf("answer to %s: %w", subject, err)
			}
			if refusal.Error == nil || refusal.Error.Code != 503 {
				return json.Unmarshal(m.Data, answer)
			}
			err = refusal.Error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask %s: %w", subject, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// get returns one message, nil when there is none with this sequence.
func get(ctx context.Context, nc *nats.Conn, stream string, seq uint64) (*Message, error) {
	var answer struct {
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, seq), &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, fmt.Errorf("get message %d of stream %s: %w", seq, stream, answer.Error)
	}
	m := answer.Message
	if m == nil || m.Seq != seq {
		return nil, fmt.Errorf("get message %d of stream %s: the answer has another message", seq, stream)
	}
	return &Message{seq, m.Subject, headerValue(m.Header, nats.MsgIdHdr), m.Header, m.Data, m.Time}, nil
}

// headerValue finds one value in the bytes of a header.
func headerValue(header []byte, key string) string {
	for line := range bytes.Lines(header) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(name) == key {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// hash sums up all messages with all that is stored of them.
func (c *Content) hash() {
	h := sha256.New()
	number := func(n uint64) { h.Write(binary.BigEndian.AppendUint64(nil, n)) }
	for _, m := range c.Messages {
		number(m.Seq)
		number(uint64(m.Time.UnixNano()))
		for _, part := range [][]byte{[]byte(m.Subject), m.Header, m.Data} {
			number(uint64(len(part)))
			h.Write(part)
		}
	}
	h.Sum(c.Hash[:0])
}

// CheckEqual finds what differs between the replicas of a stream.
func CheckEqual(replicas []*Content) error {
	var errs []error
	for _, c := range replicas[1:] {
		first := replicas[0]
		where := fmt.Sprintf("stream %s: leader %s and leader %s", c.Stream, first.Leader, c.Leader)
		a, b := first.State, c.State
		if a.Msgs != b.Msgs || a.Bytes != b.Bytes || a.FirstSeq != b.FirstSeq || a.LastSeq != b.LastSeq ||
			!a.FirstTime.Equal(b.FirstTime) || !a.LastTime.Equal(b.LastTime) || a.NumDeleted != b.NumDeleted || a.NumSubjects != b.NumSubjects {
			errs = append(errs, fmt.Errorf("%s: states differ: %+v, %+v", where, a, b))
		}
		if first.Hash != c.Hash {
			errs = append(errs, fmt.Errorf("%s: contents differ: %s", where, firstDifference(first.Messages, c.Messages)))
		}
	}
	return errors.Join(errs...)
}

func firstDifference(a, b []Message) string {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x.Seq != y.Seq || x.Subject != y.Subject || !x.Time.Equal(y.Time) || !bytes.Equal(x.Header, y.Header) || !bytes.Equal(x.Data, y.Data) {
			return fmt.Sprintf("message %d (%s at %s), message %d (%s at %s)", x.Seq, x.ID, x.Time, y.Seq, y.ID, y.Time)
		}
	}
	return fmt.Sprintf("%d messages, %d messages", len(a), len(b))
}

// CheckPublished finds what was acknowledged and is not there, what is there twice, what was never sent,
// what has another content, and what is not in the order of its publisher. Nothing may have been
// removed from the stream; other publishers' messages are not looked at.
func CheckPublished(c *Content, all []Published) error {
	f := findings{limit: 20}
	byID := make(map[string]Published)
	for _, p := range all {
		byID[p.Publisher] = p
	}
	stored := make(map[string]uint64) // message id -> sequence
	last := make(map[string]int)      // publisher -> number
	for _, m := range c.Messages {
		name, n, ok := cutID(m.ID)
		p, known := byID[name]
		if !ok || !known {
			continue
		}
		if first, ok := stored[m.ID]; ok {
			f.add("%s is stored twice, as %d and %d", m.ID, first, m.Seq)
			continue
		}
		stored[m.ID] = m.Seq
		if n > p.Sent || m.Subject != p.Subject+"."+name || !bytes.Equal(m.Data, content(m.ID, p.Padding)) {
			f.add("message %d (%s on %s, %d bytes) is not what was sent", m.Seq, m.ID, m.Subject, len(m.Data))
		}
		if p.Ordered && n <= last[name] {
			f.add("%s is stored after %s-%d", m.ID, name, last[name])
		}
		last[name] = n
	}
	for _, p := range all {
		for n, ack := range p.Acked {
			id := fmt.Sprintf("%s-%d", p.Publisher, n)
			switch seq, ok := stored[id]; {
			case !ok:
				f.add("%s was acknowledged as %d and is lost", id, ack.Seq)
			case seq != ack.Seq:
				f.add("%s was acknowledged as %d and is stored as %d", id, ack.Seq, seq)
			}
		}
	}
	return f.err("stream " + c.Stream + " at leader " + c.Leader)
}

// findings collects what a check finds: all of it is counted, the first are told.
type findings struct {
	limit int
	count int
	texts []error
}

func (f *findings) add(format string, args ...any) {
	if f.count++; f.count <= f.limit {
		f.texts = append(f.texts, fmt.Errorf(format, args...))
	}
}

func (f *findings) err(where string) error {
	if f.count == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d findings: %w", where, f.count, errors.Join(f.texts...))
}
