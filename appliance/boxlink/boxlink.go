// Package boxlink carries requests between the two programs of a box over a unix socket: PID 1, which
// knows disks, network and updates, and millraced, which has the connections to the world. millraced
// hands on what the system account asks of the box, init asks millraced whether it is well. Nobody
// else can reach the socket, and no credential exists that could be lost.
//
// A frame is a length (4 bytes, big endian, of what follows), a kind (1 byte), a number (8 bytes, which
// an answer takes from its request), the length of the subject (2 bytes), the subject, and data.
package boxlink

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	headerBytes = 1 + 8 + 2

	// maxFrame bounds a frame; larger ones end the link. Payloads of NATS are at most 64 MiB, but what
	// is asked of a box has at most one.
	maxFrame = 2 << 20

	// maxBusy is how many requests are answered at a time; more are refused.
	maxBusy = 32
)

// ErrClosed is returned when the link has ended.
var ErrClosed = errors.New("boxlink: closed")

// ErrBusy is what the other side answers when it has too many requests.
var ErrBusy = errors.New("boxlink: too many requests at a time")

// RemoteError is a failure on the other side, in its words.
type RemoteError string

// Error implements error.
func (e RemoteError) Error() string { return string(e) }

type kind byte

const (
	request kind = iota + 1
	answer
	failure // an answer whose data is the text of an error
	message // wants no answer
)

// Config says what a side does with what it is told.
type Config struct {
	// Answer answers a request; called concurrently. ctx ends with the link. data is the callee's.
	Answer func(ctx context.Context, subject string, data []byte) ([]byte, error)

	// Message takes a message; called in order, must not block. nil drops it.
	Message func(subject string, data []byte)
}

// Link is one end of a connection.
type Link struct {
	cfg  Config
	conn net.Conn
	wg   sync.WaitGroup
	busy chan struct{}

	writing sync.Mutex // held while one frame is written

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan<- result
	closed  bool
}

type result struct {
	data []byte
	err  error
}

// New makes an end of conn, which it owns. Nothing is read before Run.
func New(conn net.Conn, c Config) *Link {
	return &Link{cfg: c, conn: conn, busy: make(chan struct{}, maxBusy), waiting: make(map[uint64]chan<- result)}
}

// Run reads until the connection ends, ctx ends or a frame is faulty, and returns why. Requests that
// wait get ErrClosed.
func (l *Link) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	err := l.read(ctx)
	cancel()
	stop()
	l.conn.Close()
	l.mu.Lock()
	l.closed = true
	for id, c := range l.waiting {
		delete(l.waiting, id)
		c <- result{err: ErrClosed} // has room
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

func (l *Link) read(ctx context.Context) error {
	r := bufio.NewReader(l.conn)
	for {
		k, id, subject, data, err := readFrame(r)
		if err != nil {
			return err
		}
		switch k {
		case request:
			select {
			case l.busy <- struct{}{}:
				l.wg.Go(func() { l.answer(ctx, id, subject, data) })
			default:
				// Written by a goroutine of its own: this one must go on reading, or both sides
				// could wait for each other to read.
				l.wg.Go(func() { _ = l.send(failure, id, "", []byte(ErrBusy.Error())) })
			}
		case answer:
			l.deliver(id, result{data: data})
		case failure:
			l.deliver(id, result{err: RemoteError(data)})
		case message:
			if l.cfg.Message != nil {
				l.cfg.Message(subject, data)
			}
		default:
			return fmt.Errorf("boxlink: frame of unknown kind %d", k)
		}
	}
}

// answer answers one request.
func (l *Link) answer(ctx context.Context, id uint64, subject string, data []byte) {
	defer func() { <-l.busy }()
	k := answer
	out, err := l.cfg.Answer(ctx, subject, data)
	if err == nil && headerBytes+len(out) > maxFrame {
		err = fmt.Errorf("the answer has %d bytes, more than %d", len(out), maxFrame-headerBytes)
	}
	if err != nil {
		k, out = failure, []byte(err.Error())
	}
	// An error ends the link, which Run reports.
	_ = l.send(k, id, "", out)
}

// deliver hands an answer to who waits for it, unless nobody does any more.
func (l *Link) deliver(id uint64, r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.waiting[id]; c != nil {
		delete(l.waiting, id)
		c <- r // has room
	}
}

// Call sends a request and waits for its answer. An error of the other side is a RemoteError.
func (l *Link) Call(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := make(chan result, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	l.next++
	id := l.next
	l.waiting[id] = c
	l.mu.Unlock()
	err := l.send(request, id, subject, data)
	if err == nil {
		select {
		case r := <-c:
			return r.data, r.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	l.mu.Lock()
	delete(l.waiting, id)
	l.mu.Unlock()
	return nil, err
}

// Send sends a message that wants no answer.
func (l *Link) Send(subject string, data []byte) error {
	return l.send(message, 0, subject, data)
}

func (l *Link) send(k kind, id uint64, subject string, data []byte) error {
	n := headerBytes + len(subject) + len(data)
	if n > maxFrame || len(subject) > 1<<16-1 {
		return fmt.Errorf("boxlink: %d bytes to send, more than %d", n, maxFrame)
	}
	b := make([]byte, 0, 4+n)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, byte(k))
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(subject)))
	b = append(b, subject...)
	b = append(b, data...)
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.conn.Write(b); err != nil {
		// Half a frame may be out: nothing after it could be read.
		l.conn.Close()
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return nil
}

// readFrame reads one frame.
func readFrame(r io.Reader) (k kind, id uint64, subject string, data []byte, err error) {
	var size [4]byte
	if _, err = io.ReadFull(r, size[:]); err != nil {
		return
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < headerBytes || n > maxFrame {
		return 0, 0, "", nil, fmt.Errorf("boxlink: frame of %d bytes, want %d to %d", n, headerBytes, maxFrame)
	}
	b := make([]byte, n)
	if _, err = io.ReadFull(r, b); err != nil {
		return
	}
	k, id = kind(b[0]), binary.BigEndian.Uint64(b[1:])
	m := int(binary.BigEndian.Uint16(b[9:]))
	if m > len(b)-headerBytes {
		return 0, 0, "", nil, fmt.Errorf("boxlink: subject of %d bytes in a frame of %d", m, n)
	}
	return k, id, string(b[headerBytes:][:m]), b[headerBytes+m:], nil
}
