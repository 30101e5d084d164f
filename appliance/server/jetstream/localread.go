package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// wholeWait bounds the time that a replica here gets to catch up with a read; after it the leader is asked.
const wholeWait = time.Second

// whole returns this node's replica of a stream when that has all that was acknowledged before the call, nil
// when it has to be read elsewhere.
func (l *Local) whole(ctx context.Context, name string) (*Stream, error) {
	s := l.a.local(name)
	if s == nil {
		if _, ok := l.Stream(name); !ok {
			return nil, api.ErrStreamNotFound
		}
		return nil, nil
	}
	if err := s.failure(); err != nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wholeWait)
	defer cancel()
	if s.awaitWhole(ctx) != nil {
		return nil, nil
	}
	return s, nil
}

// Last returns the newest message of a stream on a literal subject, and what was acknowledged before the call
// is not missed. Errors are api.ErrStreamNotFound, [ErrNotStored], those of reading, and an *api.Error or
// ctx's when the stream has no leader.
func (l *Local) Last(ctx context.Context, name, subj string) (stream.Message, error) {
	s, err := l.whole(ctx, name)
	if err != nil {
		return stream.Message{}, err
	}
	get := api.MsgGetRequest{LastFor: subj}
	if s == nil {
		return l.get(ctx, name, &get)
	}
	seq, err := s.find(&get)
	if err != nil {
		return stream.Message{}, err
	}
	m, _, err := s.load(seq, nil)
	return m, err
}

// Scan calls fn with the messages that are now in a stream and match filter, in order, until fn
// returns an error, which it passes on. The message's slices are borrowed. Errors are as those of Last.
func (l *Local) Scan(ctx context.Context, name, filter string, fn func(stream.Message) error) error {
	s, err := l.whole(ctx, name)
	if err != nil {
		return err
	}
	if s == nil {
		return l.scanElsewhere(ctx, name, filter, fn)
	}
	r := newReader(s)
	filters := []string{filter}
	_, last := r.Bounds()
	for seq, ok := r.Next(0, filters); ok && seq <= last; seq, ok = r.Next(seq+1, filters) {
		m, err := r.load(seq, func() {})
		if err == ErrNotStored {
			continue
		}
		if err == nil {
			err = fn(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// scanElsewhere is Scan of a stream whose leader has to be asked, one message after the other.
func (l *Local) scanElsewhere(ctx context.Context, name, filter string, fn func(stream.Message) error) error {
	for seq := uint64(1); ; {
		m, err := l.get(ctx, name, &api.MsgGetRequest{Seq: seq, NextFor: filter})
		switch {
		case errors.Is(err, ErrNotStored):
			return nil
		case err != nil:
			return err
		}
		if err := fn(m); err != nil {
			return err
		}
		seq = m.Seq + 1
	}
}

// get asks the leader of a stream for a message.
func (l *Local) get(ctx context.Context, name string, g *api.MsgGetRequest) (stream.Message, error) {
	body, err := json.Marshal(g)
	if err != nil {
		return stream.Message{}, fmt.Errorf("read stream %q: %w", name, err)
	}
	data, err := l.Request(ctx, "STREAM.MSG.GET."+name, body)
	if err != nil {
		return stream.Message{}, fmt.Errorf("read stream %q: %w", name, err)
	}
	var answer api.MsgGetResponse
	if err := json.Unmarshal(data, &answer); err != nil {
		return stream.Message{}, fmt.Errorf("read stream %q: answer: %w", name, err)
	}
	switch e := answer.Error; {
	case e != nil && errors.Is(e, api.ErrNoMessageFound):
		return stream.Message{}, ErrNotStored
	case e != nil:
		return stream.Message{}, e
	case answer.Message == nil:
		return stream.Message{}, fmt.Errorf("read stream %q: answer without a message", name)
	}
	m := answer.Message
	return stream.Message{Seq: m.Sequence, Time: m.Time, Subject: []byte(m.Subject), Header: m.Header, Data: m.Data}, nil
}
