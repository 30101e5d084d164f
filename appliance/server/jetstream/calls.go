package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/jetstream/api"
)

// Engines of a cluster talk on subjects of the system account that begin with $MILLRACE. The leader of a
// group subscribes to the group's subject, so that interest in it tells whether there is a leader.
const (
	groupSubject = "$MILLRACE.GROUP."
	callInbox    = "$MILLRACE.CALL."
)

// leaderSubject is where the leader of a group takes calls.
func leaderSubject(group uint64) string { return groupSubject + strconv.FormatUint(group, 10) }

// errNoLeader is returned by a call when nobody leads the group, as far as this node knows.
var errNoLeader = errors.New("jetstream: the group has no leader")

// errLeaderGone is returned by a call when whoever got it, or should have, leads no more: it may have been taken.
var errLeaderGone = fmt.Errorf("%w any more", errNoLeader)

// errSilent is returned by who is not to answer a call, since another one may.
var errSilent = &api.Error{Description: "not to be answered"}

// calls makes requests of other nodes and takes theirs.
type calls struct {
	engine *Engine
	bus    Bus
	prefix string // of the subjects on which answers come
	stop   func()

	mu      sync.Mutex
	waiting map[string]chan []byte // by the token after prefix
}

// callAnswer is the envelope of every answer.
type callAnswer struct {
	Error *api.Error      `json:"error,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
}

func startCalls(e *Engine, bus Bus) (*calls, error) {
	c := &calls{engine: e, bus: bus, prefix: callInbox + nuid.Next() + ".", waiting: map[string]chan []byte{}}
	var err error
	c.stop, err = bus.Subscribe(c.prefix+"*", "", c.answered)
	return c, err
}

func (c *calls) answered(m Msg) {
	token := strings.TrimPrefix(string(m.Subject), c.prefix)
	c.mu.Lock()
	ch := c.waiting[token]
	delete(c.waiting, token)
	c.mu.Unlock()
	if ch != nil {
		ch <- append([]byte(nil), m.Data...)
	}
}

// serve answers requests on a subject with what handle returns, in the lane answers.
func (c *calls) serve(subject string, handle func(body []byte) (any, *api.Error)) (stop func(), err error) {
	return c.bus.Subscribe(subject, "", c.answering(func([]byte) lane { return answers }, handle))
}

// serveLeader answers calls of the leader of a group with what handle returns.
func (c *calls) serveLeader(group uint64, handle func(body []byte) (any, *api.Error)) (stop func(), err error) {
	answer := c.answering(leaderLane, handle)
	return c.bus.Subscribe(leaderSubject(group), "", func(m Msg) {
		if !c.engine.takePassed(m) {
			answer(m)
		}
	})
}

// leaderLane is where a leader answers: how far it is, in a lane of its own, for that is what other answers wait for.
func leaderLane(body []byte) lane {
	var call struct {
		Kind string `json:"kind"`
	}
	if json.Unmarshal(body, &call) == nil && call.Kind == callIndex {
		return indexes
	}
	return answers
}

// answering answers requests with what handle returns, in a lane.
func (c *calls) answering(in func(body []byte) lane, handle func(body []byte) (any, *api.Error)) func(Msg) {
	return func(m Msg) {
		reply, body := string(m.Reply), append([]byte(nil), m.Data...)
		c.engine.work(in(body), func() {
			var answer callAnswer
			var data any
			data, answer.Error = handle(body)
			if answer.Error == errSilent {
				return
			}
			if answer.Error == nil && data != nil {
				var err error
				if answer.Data, err = json.Marshal(data); err != nil {
					panic("BUG: encode answer to another node: " + err.Error())
				}
			}
			if reply != "" {
				out, err := json.Marshal(answer)
				if err != nil {
					panic("BUG: encode answer to another node: " + err.Error())
				}
				c.bus.Publish(reply, "", nil, out)
			}
		})
	}
}

// call asks whoever serves a subject. errNoLeader is returned when nobody does, errLeaderGone when nobody does any
// more before there was an answer, an *api.Error when that was the answer, and ctx's cause when none came.
func (c *calls) call(ctx context.Context, subject string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("call %s: %w", subject, err)
	}
	if !c.bus.HasInterest(subject) {
		return fmt.Errorf("call %s: %w", subject, errNoLeader)
	}
	token, ch := nuid.Next(), make(chan []byte, 1)
	c.mu.Lock()
	c.waiting[token] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, token)
		c.mu.Unlock()
	}()
	gone := make(chan struct{}, 1)
	cancel := c.bus.WatchInterest(subject, "", func(active bool) {
		if !active {
			select {
			case gone <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	c.bus.Publish(subject, c.prefix+token, nil, body)
	var data []byte
	select {
	case data = <-ch:
	case <-gone:
		select {
		case data = <-ch: // it answered before it left
		default:
			return fmt.Errorf("call %s: %w", subject, errLeaderGone)
		}
	case <-ctx.Done():
		return fmt.Errorf("call %s: %w", subject, context.Cause(ctx))
	}
	var a callAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return fmt.Errorf("answer to call %s: %w", subject, err)
	}
	if a.Error != nil {
		return a.Error
	}
	if answer == nil || a.Data == nil {
		return nil // answered to the client
	}
	if err := json.Unmarshal(a.Data, answer); err != nil {
		return fmt.Errorf("answer to call %s: %w", subject, err)
	}
	return nil
}

// gather asks everybody who serves a subject and calls take with each answer until it returns false or
// ctx ends.
func (c *calls) gather(ctx context.Context, subject string, request any, take func(data json.RawMessage) (more bool)) {
	body, err := json.Marshal(request)
	if err != nil {
		panic("BUG: encode request to other nodes: " + err.Error())
	}
	const most = 256 // answers that wait to be taken; more are lost
	inbox, answers := callInbox+nuid.Next(), make(chan []byte, most)
	stop, err := c.bus.Subscribe(inbox, "", func(m Msg) {
		select {
		case answers <- append([]byte(nil), m.Data...):
		default:
		}
	})
	if err != nil {
		panic("BUG: subscribe to answers of other nodes: " + err.Error())
	}
	defer stop()
	c.bus.Publish(subject, inbox, nil, body)
	for {
		select {
		case data := <-answers:
			var a callAnswer
			if json.Unmarshal(data, &a) == nil && a.Error == nil && !take(a.Data) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// awaitLeader waits until somebody leads a group.
func (c *calls) awaitLeader(ctx context.Context, group uint64) error {
	subject := leaderSubject(group)
	led := make(chan struct{}, 1)
	cancel := c.bus.WatchInterest(subject, "", func(active bool) {
		if active {
			select {
			case led <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	select {
	case <-led:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a leader of group %d: %w", group, context.Cause(ctx))
	}
}

// whenLed calls fn once, on a worker: with true when somebody leads a group, with false after a while.
func (c *calls) whenLed(group uint64, wait time.Duration, fn func(led bool)) {
	var once sync.Once
	var cancel func()
	watching := make(chan struct{})
	end := func(led bool) {
		once.Do(func() {
			c.engine.work(turns, func() {
				<-watching
				cancel()
				fn(led)
			})
		})
	}
	cancel = c.bus.WatchInterest(leaderSubject(group), "", func(active bool) {
		if active {
			end(true)
		}
	})
	close(watching)
	time.AfterFunc(wait, func() { end(false) })
}

// awaitNoLeader waits until nobody leads a group, or ctx ends.
func (c *calls) awaitNoLeader(ctx context.Context, group uint64) {
	gone := make(chan struct{}, 1)
	cancel := c.bus.WatchInterest(leaderSubject(group), "", func(active bool) {
		if !active {
			select {
			case gone <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	if !c.led(group) {
		return
	}
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

// led reports whether somebody leads a group.
func (c *calls) led(group uint64) bool { return c.bus.HasInterest(leaderSubject(group)) }

// asAPI turns the failure of a call into what a client is told.
func asAPI(err error) *api.Error {
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	}
	return api.ErrClusterNotAvail
}
