package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/boxlink"
	"millrace/appliance/server/broker"
)

// boxTime is how long the box may take for one request: installing an image writes it twice.
const boxTime = 5 * time.Minute

// box hands on between the system account and the box that this node runs on: requests of the account
// to the box, log lines of the box to those in the account who follow. It is there on a box only.
type box struct {
	id      string
	account *broker.Account
	link    *boxlink.Link
	subs    []*broker.Sub
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// startBox connects to the box at a unix socket and serves its requests. healthy answers the box.
func startBox(path string, b *broker.Broker, healthy func(request []byte) (any, error)) (*box, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the box: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &box{id: b.ID(), account: b.SystemAccount(), cancel: cancel}
	x.link = boxlink.New(conn, boxlink.Config{
		Answer: func(_ context.Context, verb string, _ []byte) ([]byte, error) {
			if verb != "HEALTHZ" {
				return nil, fmt.Errorf("unknown request %q", verb)
			}
			status, err := healthy(nil)
			if err != nil {
				return nil, err
			}
			return json.Marshal(status)
		},
		Message: x.publish,
	})
	x.wg.Go(func() { _ = x.link.Run(ctx) }) // its end ends what the box offers, and nothing else
	for _, filter := range []string{boxapi.Ping, boxapi.Subject(x.id, ">")} {
		s, err := x.account.Subscribe(filter, "", func(m *broker.Msg) { x.request(ctx, m) })
		if err != nil {
			x.close()
			return nil, err
		}
		x.subs = append(x.subs, s)
	}
	return x, nil
}

// request hands a request to the box. It must not block: the box bounds how many it takes at a time
// and refuses more.
func (x *box) request(ctx context.Context, m *broker.Msg) {
	verb := string(bytes.TrimPrefix(m.Subject, []byte(boxapi.Subject(x.id, ""))))
	if string(m.Subject) == boxapi.Ping {
		verb = boxapi.VerbInfo
	}
	if len(m.Reply) == 0 || verb == boxapi.VerbLog { // what the box itself publishes comes by here too
		return
	}
	reply, data := string(m.Reply), bytes.Clone(m.Data)
	x.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, boxTime)
		defer cancel()
		a := boxapi.Answer{Server: x.id}
		out, err := x.link.Call(ctx, verb, data)
		if a.Data = out; err != nil {
			a.Data, a.Error = nil, err.Error()
		}
		doc, err := json.Marshal(a)
		if err != nil { // the box answers with JSON
			doc, _ = json.Marshal(boxapi.Answer{Server: x.id, Error: "answer of the box: " + err.Error()})
		}
		x.account.Publish(reply, "", nil, doc)
	})
}

// publish sends what the box tells unasked to those who listen.
func (x *box) publish(verb string, data []byte) {
	if verb == boxapi.VerbLog {
		x.account.Publish(boxapi.Subject(x.id, verb), "", nil, data)
	}
}

func (x *box) close() {
	for _, s := range x.subs {
		s.Unsubscribe()
	}
	x.cancel()
	x.wg.Wait()
}
