package workload

import (
	"context"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Publisher sends messages 1, 2, 3, … with the ids "<ID>-<number>" to "<Subject>.<ID>". A message without
// an acknowledgement is sent again, with its id, until it has one: it must be stored once.
type Publisher struct {
	ID      string
	Subject string
	Conn    *nats.Conn
	Window  int           // messages that wait for their acknowledgement at most; 1: stored in order
	Padding int           // upper bound of bytes added to each message
	Timeout time.Duration // of one attempt; 0: 2 s
	Pause   time.Duration // after each message

	mu    sync.Mutex
	sent  int
	acked map[int]Acked
	last  time.Time // of the last acknowledgement
}

// Acked is what the server said about a message.
type Acked struct {
	Seq       uint64
	Duplicate bool // of an attempt before, whose answer did not arrive
}

// Run publishes until ctx is done. Messages that are on their way then are tried again until drain is
// done; what is not acknowledged then may be stored or not.
func (p *Publisher) Run(ctx, drain context.Context) error {
	js, err := jetstream.New(p.Conn)
	if err != nil {
		return err
	}
	tokens := make(chan struct{}, max(1, p.Window))
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case tokens <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		p.sent++
		n := p.sent
		p.mu.Unlock()
		wg.Go(func() {
			defer func() { <-tokens }()
			p.publish(drain, js, n)
			if p.Pause > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(p.Pause):
				}
			}
		})
	}
}

// publish sends one message until it is acknowledged.
func (p *Publisher) publish(ctx context.Context, js jetstream.JetStream, n int) {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = 2 * time.Second
	}
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, timeout)
		ack, err := js.PublishMsg(try, p.message(n), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			p.mu.Lock()
			if p.acked == nil {
				p.acked = make(map[int]Acked)
			}
			p.acked[n] = Acked{ack.Sequence, ack.Duplicate}
			p.last = time.Now()
			p.mu.Unlock()
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Acks is how many messages are acknowledged.
func (p *Publisher) Acks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// LastAck is when the last acknowledgement arrived.
func (p *Publisher) LastAck() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Published is what a publisher knows when it has ended.
type Published struct {
	Publisher string
	Subject   string
	Padding   int
	Sent      int
	Acked     map[int]Acked // by the number of the message
	Ordered   bool          // each was acknowledged before the next was sent
}

// Published returns what was sent and acknowledged. It is called after Run.
func (p *Publisher) Published() Published {
	return Published{p.ID, p.Subject, p.Padding, p.sent, p.acked, p.Window <= 1}
}

func (p *Publisher) message(n int) *nats.Msg {
	id := fmt.Sprintf("%s-%d", p.ID, n)
	return &nats.Msg{
		Subject: p.Subject + "." + p.ID, Data: content(id, p.Padding),
		Header: nats.Header{nats.MsgIdHdr: {id}},
	}
}

// content is the payload of a message id: always the same, different for every id.
func content(id string, padding int) []byte {
	seed := crc32.ChecksumIEEE([]byte(id))
	size := 0
	if padding > 0 {
		size = int(seed) % padding
	}
	return []byte(id + ":" + strings.Repeat(strconv.FormatUint(uint64(seed)|1<<31, 36), size/6+1))
}

// cutID splits a message id into publisher and number.
func cutID(id string) (publisher string, n int, ok bool) {
	publisher, number, ok := strings.Cut(id, "-")
	if !ok {
		return "", 0, false
	}
	n, err := strconv.Atoi(number)
	return publisher, n, err == nil
}
