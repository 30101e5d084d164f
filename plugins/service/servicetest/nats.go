// Package servicetest gives tests the streams that a plugin service works on: in memory, and over a
// client connection to any server that speaks JetStream. It is imported by tests only.
package servicetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/appliance/server/subject"
	"millrace/plugins"
	"millrace/plugins/service"
)

// NATS is an account as a client sees it. It implements service.Store and
// service.Consumers; Bus returns its service.Bus.
type NATS struct {
	conn *nats.Conn
	js   nats.JetStreamContext
}

// NewNATS works on the connection, whose user may do everything in its account.
func NewNATS(conn *nats.Conn) (*NATS, error) {
	js, err := conn.JetStream()
	return &NATS{conn, js}, err
}

// convert maps the errors that the service asks about.
func convert(err error) error {
	api, ok := errors.AsType[*nats.APIError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrStreamNotFound), errors.Is(err, nats.ErrConsumerNotFound),
		errors.Is(err, nats.ErrMsgNotFound), errors.Is(err, nats.ErrNoMatchingStream):
		return fmt.Errorf("%w: %w", service.ErrNotFound, err)
	case ok && api.ErrorCode == 10071:
		return fmt.Errorf("%w: %w", service.ErrWrongLastSequence, err)
	case ok:
		return &service.Error{Code: api.Code, ErrCode: int(api.ErrorCode), Description: api.Description}
	}
	return err
}

func message(o service.Outgoing) *nats.Msg {
	m := &nats.Msg{Subject: o.Subject, Data: o.Data, Header: nats.Header{}}
	for line := range strings.SplitSeq(string(o.Header), "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			m.Header.Add(name, strings.TrimSpace(value))
		}
	}
	return m
}

func header(h nats.Header) []byte {
	if len(h) == 0 {
		return nil
	}
	b := []byte("NATS/1.0\r\n")
	for name, values := range h {
		for _, value := range values {
			b = fmt.Appendf(b, "%s: %s\r\n", name, value)
		}
	}
	return append(b, "\r\n"...)
}

// Publish implements service.Store.
func (n *NATS) Publish(ctx context.Context, messages []service.Outgoing) error {
	acks := make([]nats.PubAckFuture, len(messages))
	for i := range messages {
		m := message(messages[i])
		_, err := n.js.StreamNameBySubject(m.Subject, nats.Context(ctx))
		switch {
		case errors.Is(err, nats.ErrNoMatchingStream):
			err = n.conn.PublishMsg(m)
		case err == nil:
			acks[i], err = n.js.PublishMsgAsync(m)
		}
		if err != nil {
			return &service.PublishError{Index: i, Err: convert(err)}
		}
	}
	for i, ack := range acks {
		if ack == nil {
			continue
		}
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return &service.PublishError{Index: i, Err: convert(err)}
		case <-ctx.Done():
			return &service.PublishError{Index: i, Err: ctx.Err()}
		}
	}
	return nil
}

// Last implements service.Store.
func (n *NATS) Last(ctx context.Context, stream, subject string) (service.Stored, error) {
	m, err := n.js.GetLastMsg(stream, subject, nats.Context(ctx))
	if err != nil {
		return service.Stored{}, convert(err)
	}
	return service.Stored{Seq: m.Sequence, Time: m.Time, Subject: m.Subject, Header: header(m.Header), Data: m.Data}, nil
}

// Scan implements service.Store.
func (n *NATS) Scan(ctx context.Context, stream, filter string, fn func(*service.Stored) error) error {
	info, err := n.js.StreamInfo(stream, nats.Context(ctx))
	if err != nil {
		return convert(err)
	}
	for seq := max(1, info.State.FirstSeq); seq <= info.State.LastSeq; seq++ {
		m, err := n.js.GetMsg(stream, seq, nats.Context(ctx))
		if errors.Is(err, nats.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return convert(err)
		}
		if !subject.Match(filter, m.Subject) {
			continue
		}
		err = fn(&service.Stored{Seq: m.Sequence, Time: m.Time, Subject: m.Subject, Header: header(m.Header), Data: m.Data})
		if err != nil {
			return err
		}
	}
	return nil
}

// EnsureStream implements service.Store.
func (n *NATS) EnsureStream(ctx context.Context, config []byte) error {
	var c nats.StreamConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	if _, err := n.js.StreamInfo(c.Name, nats.Context(ctx)); err == nil {
		return nil
	}
	_, err := n.js.AddStream(&c, nats.Context(ctx))
	return convert(err)
}

// Spread implements service.Store; there is one node.
func (n *NATS) Spread(context.Context, string) error { return nil }

// Subjects implements service.Store.
func (n *NATS) Subjects(ctx context.Context, stream string) ([]string, error) {
	info, err := n.js.StreamInfo(stream, nats.Context(ctx))
	if err != nil {
		return nil, convert(err)
	}
	return info.Config.Subjects, nil
}

// EnsureConsumer implements service.Consumers.
func (n *NATS) EnsureConsumer(ctx context.Context, stream string, config []byte) error {
	var c nats.ConsumerConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	_, err := n.js.ConsumerInfo(stream, c.Durable, nats.Context(ctx))
	if err == nil {
		_, err = n.js.UpdateConsumer(stream, &c, nats.Context(ctx))
	} else {
		_, err = n.js.AddConsumer(stream, &c, nats.Context(ctx))
	}
	return convert(err)
}

// DeleteConsumer implements service.Consumers.
func (n *NATS) DeleteConsumer(ctx context.Context, stream, consumer string) error {
	return convert(n.js.DeleteConsumer(stream, consumer, nats.Context(ctx)))
}

// List implements service.Consumers.
func (n *NATS) List(ctx context.Context) ([]service.Consumer, error) {
	var list []service.Consumer
	for stream := range n.js.StreamNames(nats.Context(ctx)) {
		for info := range n.js.Consumers(stream, nats.Context(ctx)) {
			config, err := json.Marshal(info.Config)
			if err != nil {
				return nil, err
			}
			if info.Config.Durable != "" && len(info.Config.Metadata) > 0 {
				list = append(list, service.Consumer{Stream: stream, Name: info.Name, Metadata: info.Config.Metadata, Config: config})
			}
		}
	}
	return list, ctx.Err()
}

// Feed implements service.Consumers.
func (n *NATS) Feed(ctx context.Context, stream, consumer string) (service.Feed, error) {
	js, err := jetstream.New(n.conn)
	if err != nil {
		return nil, err
	}
	c, err := js.Consumer(ctx, stream, consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w: %w", service.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	f := &natsFeed{conn: n.conn, consumer: c, ready: make(chan struct{})}
	close(f.ready) // Fetch waits for a moment itself
	return f, nil
}

type natsFeed struct {
	conn     *nats.Conn
	consumer jetstream.Consumer
	ready    chan struct{}
}

// Fetch implements service.Feed.
func (f *natsFeed) Fetch(limit, _ int) ([]service.Delivered, error) {
	batch, err := f.consumer.Fetch(limit, jetstream.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		return nil, err
	}
	var delivered []service.Delivered
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		delivered = append(delivered, service.Delivered{Reply: m.Reply(), Message: plugins.Message{
			Seq: meta.Sequence.Stream, ConsumerSeq: meta.Sequence.Consumer, Delivered: uint32(meta.NumDelivered),
			Time: meta.Timestamp, Subject: m.Subject(), Header: header(m.Headers()), Data: m.Data()}})
	}
	if err := batch.Error(); errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: %w", service.ErrNotFound, err)
	} else if err != nil {
		return nil, err
	}
	return delivered, nil
}

// Settle implements service.Feed.
func (f *natsFeed) Settle(settlements []service.Settlement) error {
	for i := range settlements {
		if err := f.conn.Publish(settlements[i].Message.Reply, settlements[i].AckPayload()); err != nil {
			return err
		}
	}
	return nil
}

// Ready implements service.Feed.
func (f *natsFeed) Ready() <-chan struct{} { return f.ready }

// Close implements service.Feed.
func (f *natsFeed) Close() {}

// Serve implements service.Bus.
func (n *NATS) Serve(subject string, fn func(service.Request)) (func(), error) {
	sub, err := n.conn.Subscribe(subject, func(m *nats.Msg) {
		var once sync.Once
		fn(service.Request{Data: m.Data, Reply: func(data []byte) {
			once.Do(func() { _ = m.Respond(data) }) // a requester that is gone is no fault
		}})
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = sub.Unsubscribe() }, n.conn.Flush()
}

// core is the service.Bus, whose Publish differs from that of the service.Store.
type core struct{ *NATS }

func (c core) Publish(subject string, data []byte) { _ = c.conn.Publish(subject, data) } // best effort

// Bus returns the service.Bus.
func (n *NATS) Bus() service.Bus { return core{n} }

// Request sends a request and waits for the answer.
func (n *NATS) Request(subject string, data []byte) ([]byte, error) {
	m, err := n.conn.Request(subject, data, 30*time.Second)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}
