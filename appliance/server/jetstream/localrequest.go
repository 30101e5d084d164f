package jetstream

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
)

const (
	localInbox = "$MILLRACE.INBOX." // then a token: where answers to Local come
	nodesTopic = "$MILLRACE.NODES." // then topic and account: where the nodes of a cluster talk about an account

	requestTry   = 5 * time.Second        // how long one attempt of a request waits for an answer
	requestPause = 250 * time.Millisecond // before a request is tried again that found no leader
	requestTries = 3
)

// Request makes an API request and returns the response of the node that is responsible. call is the subject
// without its prefix $JS.API. An unknown call is a bad request. A request that finds no leader, or no answer,
// is made again a few times; the error is ctx's, or that there was no answer.
func (l *Local) Request(ctx context.Context, call string, body []byte) ([]byte, error) {
	parsed, ok := api.ParseCall(api.Prefix + call)
	if !ok || parsed.Type == "" {
		var response []byte
		r := &request{Call: parsed, account: l.a, answer: func(b []byte) { response = b }}
		r.fail(api.ErrBadRequest)
		return response, nil
	}
	for try := 1; ; try++ {
		response, err := l.try(ctx, &parsed, call, body)
		var failure api.Response
		again := err != nil || json.Unmarshal(response, &failure) == nil && failure.Error != nil &&
			failure.Error.ErrCode == api.ErrClusterNotAvail.ErrCode
		if !again || try == requestTries || ctx.Err() != nil {
			return response, err
		}
		select {
		case <-time.After(requestPause):
		case <-ctx.Done():
		}
	}
}

// try makes a request once: here if this node is responsible, or of whoever is.
func (l *Local) try(ctx context.Context, parsed *api.Call, call string, body []byte) ([]byte, error) {
	a := l.a
	answered := make(chan []byte, 1)
	if v := a.responsible(parsed); v.mine && v.refusal == nil {
		r := &request{Call: *parsed, account: a, verdict: v, body: body, answer: func(b []byte) { answered <- b }}
		r.serve()
		select {
		case b := <-answered:
			return b, nil
		default:
			return nil, fmt.Errorf("request %s: no answer", call)
		}
	}
	inbox := localInbox + nuid.Next()
	stop, err := a.bus.Subscribe(inbox, "", func(m Msg) {
		select {
		case answered <- append([]byte(nil), m.Data...):
		default:
		}
	})
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", call, err)
	}
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, requestTry)
	defer cancel()
	a.bus.Publish(api.Prefix+call, inbox, nil, body)
	select {
	case b := <-answered:
		return b, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("request %s: no answer: %w", call, context.Cause(ctx))
	case <-a.engine.ctx.Done():
		return nil, fmt.Errorf("request %s: %w", call, ErrStopped)
	}
}

// Requests that wait for somebody to lead the catalogue: how many there may be, and how often they look.
const (
	maxHeld  = 256
	lookHeld = 20 * time.Millisecond
)

// Answer decides about a request that all storage nodes get and one is to answer, which is the node that
// leads the catalogue: on that node fn is called with nil, on others not at all. When nobody leads the request
// is kept until somebody does; if that takes too long fn is called with an error, on every node. Answer does
// not wait; fn is called on another goroutine.
func (l *Local) Answer(fn func(refusal *api.Error)) {
	e := l.a.engine
	c := e.catalog
	switch {
	case !e.members.in():
		return
	case c.leads() && e.cfg.Cluster == "":
		e.work(services, func() { fn(nil) })
		return
	case !c.leads() && c.ledElsewhere():
		return
	case l.a.held.Add(1) > maxHeld:
		l.a.held.Add(-1)
		e.work(services, func() { fn(api.ErrInsufficientResources) })
		return
	}
	e.wg.Go(func() {
		defer l.a.held.Add(-1)
		look, late := time.NewTicker(lookHeld), time.NewTimer(electionWait)
		defer look.Stop()
		defer late.Stop()
		for {
			if c.leads() {
				// Who was cut off may lead no more and not know it.
				if _, err := c.current(); err == nil {
					fn(nil)
					return
				}
			} else if c.ledElsewhere() {
				return
			}
			select {
			case <-look.C:
			case <-late.C:
				fn(api.ErrClusterNotAvail)
				return
			case <-e.ctx.Done():
				return
			}
		}
	})
}

// ledElsewhere reports whether another node leads the catalogue and can be reached. The end of a process is
// seen in the interest at once, that of a machine or a link in the group.
func (c *catalog) ledElsewhere() bool {
	replica, _ := c.group.Leader()
	return replica != 0 && replica != c.engine.cfg.Replica && c.engine.calls.led(metaGroup)
}

// nodeAnswer is what one node says on a topic.
type nodeAnswer struct {
	Node uint64          `json:"node"`
	Data json.RawMessage `json:"data"`
}

func (l *Local) topic(name string) string {
	return nodesTopic + name + "." + hex.EncodeToString([]byte(l.a.name))
}

// AnswerNodes answers what the same account's user asks on another node by AskNodes, with JSON, on a worker.
func (l *Local) AnswerNodes(topic string, answer func(question []byte) json.RawMessage) (stop func(), err error) {
	return l.a.engine.calls.serve(l.topic(topic), func(body []byte) (any, *api.Error) {
		return nodeAnswer{l.a.engine.cfg.Node, answer(body)}, nil
	})
}

// AskNodes asks all other storage nodes that can be reached, with JSON, and returns their answers when all
// have answered or ctx ends.
func (l *Local) AskNodes(ctx context.Context, topic string, question json.RawMessage) []json.RawMessage {
	e := l.a.engine
	waiting := map[uint64]bool{}
	for _, n := range e.catalog.nodes() {
		if !n.Removed && n.ID != e.cfg.Node && e.online(n.ID) {
			waiting[n.ID] = true
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	var all []json.RawMessage
	e.calls.gather(ctx, l.topic(topic), question, func(data json.RawMessage) bool {
		var a nodeAnswer
		if json.Unmarshal(data, &a) == nil && waiting[a.Node] {
			delete(waiting, a.Node)
			all = append(all, a.Data)
		}
		return len(waiting) > 0
	})
	return all
}
