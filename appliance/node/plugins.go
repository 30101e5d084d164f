package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/stream"
	"millrace/plugins"
	"millrace/plugins/service"
)

var (
	_ service.Store     = (*pluginSpace)(nil)
	_ service.Consumers = (*pluginSpace)(nil)
	_ service.Bus       = pluginBus{}
	_ service.Feed      = (*feed)(nil)
	_ service.Peers     = (*pluginSpace)(nil)
)

// startPlugins opens the plugin service of every account that may use streams.
func (n *Node) startPlugins() error {
	runtime, err := plugins.Open(plugins.Config{CacheDir: filepath.Join(n.settings.JetStream.StoreDir, "plugin-cache")})
	if err != nil {
		return err
	}
	for _, a := range n.broker.Accounts() {
		name := a.Name()
		streams := n.engine.Local(name)
		if streams == nil {
			continue
		}
		space, err := newPluginSpace(a, streams)
		if err != nil {
			return fmt.Errorf("plugins of account %q: %w", name, err)
		}
		s, err := service.Open(service.Config{
			Runtime: runtime, Store: space, Consumers: space, Bus: pluginBus{space}, Peers: space,
			Node: n.broker.Name(), Logger: n.log.With("account", name),
		})
		if err != nil {
			return fmt.Errorf("plugins of account %q: %w", name, err)
		}
		streams.Watch(func(metadata map[string]string) {
			if service.Bound(metadata) {
				s.Changed()
			}
		})
		n.plugins = append(n.plugins, s)
		n.wg.Go(func() { // modules take time to load; clients need not wait for it
			if err := s.Sync(context.Background()); err != nil {
				n.log.Error("start plugins", "account", name, "error", err)
			}
		})
	}
	return nil
}

// Modules and records are read by all nodes, but a copy on each would be of little use: every node keeps what
// it compiled, and any node can ask for the rest. They get as many replicas as survive the loss of a node.
const pluginReplicas = 3

// pluginSpace is one account as the plugin service sees it.
type pluginSpace struct {
	account *broker.Account
	streams *jetstream.Local
	inbox   string // prefix of the reply subjects of publishes

	mu      sync.Mutex
	waiting map[string]chan []byte // for PubAcks, by the token after inbox
}

func newPluginSpace(account *broker.Account, streams *jetstream.Local) (*pluginSpace, error) {
	p := &pluginSpace{
		account: account, streams: streams, inbox: "$MILLRACE.INBOX." + nuid.Next() + ".", waiting: map[string]chan []byte{},
	}
	_, err := account.Subscribe(p.inbox+"*", "", p.acknowledged)
	return p, err
}

// acknowledged takes a PubAck.
func (p *pluginSpace) acknowledged(m *broker.Msg) {
	token := string(m.Subject[len(p.inbox):])
	p.mu.Lock()
	ch := p.waiting[token]
	delete(p.waiting, token)
	p.mu.Unlock()
	if ch != nil {
		ch <- bytes.Clone(m.Data)
	}
}

// ackWait bounds how long a publish waits for a stream. One that has no leader does not answer at all.
const ackWait = 3 * time.Second

// Publish sends the messages in order and waits until those that a stream takes are stored.
func (p *pluginSpace) Publish(ctx context.Context, messages []service.Outgoing) error {
	acks := make([]chan []byte, len(messages))
	wait, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for i, m := range messages {
		if !p.streams.Captures(m.Subject) {
			p.account.Publish(m.Subject, "", m.Header, m.Data)
			continue
		}
		token := nuid.Next()
		acks[i] = make(chan []byte, 1)
		p.mu.Lock()
		p.waiting[token] = acks[i]
		p.mu.Unlock()
		defer p.forget(token)
		p.account.Publish(m.Subject, p.inbox+token, m.Header, m.Data)
	}
	for i, ch := range acks {
		if ch == nil {
			continue
		}
		select {
		case body := <-ch:
			if err := pubAckError(body); err != nil {
				return &service.PublishError{Index: i, Err: err}
			}
		case <-wait.Done():
			err := fmt.Errorf("%w: no answer: %w", service.ErrUnavailable, wait.Err())
			return &service.PublishError{Index: i, Err: err}
		}
	}
	return nil
}

func (p *pluginSpace) forget(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, token)
}

func pubAckError(body []byte) error {
	var ack api.PubAckResponse
	if err := json.Unmarshal(body, &ack); err != nil {
		return fmt.Errorf("read PubAck %q: %w", body, err)
	}
	switch {
	case ack.Error == nil:
		return nil
	case errors.Is(ack.Error, api.ErrStreamWrongLastSequenceF(0)):
		return fmt.Errorf("%w: %s", service.ErrWrongLastSequence, ack.Error.Description)
	case ack.Error.Code == 503: // no leader, or full
		return fmt.Errorf("%w: %s", service.ErrUnavailable, ack.Error.Description)
	}
	return ack.Error
}

// Last returns the last message of a stream on a literal subject.
func (p *pluginSpace) Last(ctx context.Context, name, subject string) (service.Stored, error) {
	m, err := p.streams.Last(ctx, name, subject)
	return stored(m), notFound(err)
}

// Scan calls fn with the stored messages that filter matches.
func (p *pluginSpace) Scan(ctx context.Context, name, filter string, fn func(*service.Stored) error) error {
	return notFound(p.streams.Scan(ctx, name, filter, func(m stream.Message) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := stored(m)
		return fn(&s)
	}))
}

func stored(m stream.Message) service.Stored {
	return service.Stored{Seq: m.Seq, Time: m.Time, Subject: string(m.Subject), Header: m.Header, Data: m.Data}
}

// notFound turns the engine's errors for what does not exist into the service's.
func notFound(err error) error {
	for _, missing := range []error{jetstream.ErrNotStored, api.ErrStreamNotFound, api.ErrConsumerNotFound} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: %w", service.ErrNotFound, err)
		}
	}
	return err
}

// request makes a JetStream API request of whatever node is responsible and decodes the response into v.
func (p *pluginSpace) request(ctx context.Context, call string, body []byte, v any) error {
	response, err := p.streams.Request(ctx, call, body)
	if err != nil {
		return err
	}
	var failure api.Response
	if err := json.Unmarshal(response, &failure); err != nil {
		return fmt.Errorf("request %s: %w", call, err)
	}
	if e := failure.Error; e != nil {
		if notFound(e) != error(e) {
			return notFound(e)
		}
		return &service.Error{Code: e.Code, ErrCode: int(e.ErrCode), Description: e.Description}
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(response, v)
}

// EnsureStream creates a stream if there is none of that name, with as many replicas as Spread gives it.
func (p *pluginSpace) EnsureStream(ctx context.Context, config []byte) error {
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(config, &named); err != nil {
		return fmt.Errorf("stream configuration: %w", err)
	}
	if _, ok := p.streams.Stream(named.Name); ok {
		return nil
	}
	var fields map[string]any
	if err := json.Unmarshal(config, &fields); err != nil {
		return fmt.Errorf("stream configuration: %w", err)
	}
	for replicas := p.replicas(); ; replicas-- { // fewer where some nodes are down
		fields["num_replicas"] = replicas
		body, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("stream configuration: %w", err)
		}
		if err = p.request(ctx, "STREAM.CREATE."+named.Name, body, nil); err == nil || replicas == 1 {
			return err
		}
	}
}

// replicas is how many replicas a stream gets that all nodes read.
func (p *pluginSpace) replicas() int { return min(p.streams.Nodes(), pluginReplicas) }

// Spread gives a stream more replicas, if it has too few for the nodes that there are. The node that leads the
// catalogue does so.
func (p *pluginSpace) Spread(ctx context.Context, name string) error {
	config, ok := p.streams.Stream(name)
	replicas := p.replicas()
	if !ok || config.Replicas >= replicas || !p.streams.Leads() {
		return nil
	}
	grown := *config
	grown.Replicas = replicas
	body, err := json.Marshal(&grown)
	if err != nil {
		return fmt.Errorf("stream configuration: %w", err)
	}
	return p.request(ctx, "STREAM.UPDATE."+name, body, nil)
}

// Subjects returns the subjects of a stream.
func (p *pluginSpace) Subjects(_ context.Context, name string) ([]string, error) {
	config, ok := p.streams.Stream(name)
	if !ok {
		return nil, fmt.Errorf("%w: stream %q", service.ErrNotFound, name)
	}
	return config.Subjects, nil
}

// EnsureConsumer creates or updates a durable consumer.
func (p *pluginSpace) EnsureConsumer(ctx context.Context, name string, config []byte) error {
	var named struct {
		Durable string `json:"durable_name"`
	}
	if err := json.Unmarshal(config, &named); err != nil {
		return fmt.Errorf("consumer configuration: %w", err)
	}
	body, err := json.Marshal(struct {
		Stream string          `json:"stream_name"`
		Config json.RawMessage `json:"config"`
	}{name, config})
	if err != nil {
		return fmt.Errorf("consumer configuration: %w", err)
	}
	return p.request(ctx, "CONSUMER.DURABLE.CREATE."+name+"."+named.Durable, body, nil)
}

// DeleteConsumer deletes a consumer.
func (p *pluginSpace) DeleteConsumer(ctx context.Context, name, consumer string) error {
	return p.request(ctx, "CONSUMER.DELETE."+name+"."+consumer, nil, nil)
}

// List returns the durable consumers that a plugin is bound to.
func (p *pluginSpace) List(context.Context) ([]service.Consumer, error) {
	var all []service.Consumer
	for _, c := range p.streams.Consumers(service.Bound) {
		config, err := json.Marshal(c.Config)
		if err != nil {
			return nil, fmt.Errorf("consumer %q of stream %q: %w", c.Name, c.Stream, err)
		}
		all = append(all, service.Consumer{
			Stream: c.Stream, Name: c.Name, Metadata: c.Config.Metadata, Config: config, Away: !c.Led, Spare: c.Here,
		})
	}
	return all, nil
}

// Feed opens a consumer for reading.
func (p *pluginSpace) Feed(_ context.Context, name, consumer string) (service.Feed, error) {
	c, err := p.streams.Consumer(name, consumer)
	if errors.Is(err, delivery.ErrNotLeader) {
		return nil, fmt.Errorf("%w: %w", service.ErrAway, err)
	}
	if err != nil {
		return nil, notFound(err)
	}
	// Whoever read before does so no more: guests of this node have ended, and one of another node cannot
	// settle anything since this node leads.
	c.Reclaim()
	return &feed{c}, nil
}

// Serve answers requests on a subject: each storage node gets them, and the one that leads the catalogue
// answers.
func (p *pluginSpace) Serve(subject string, fn func(service.Request)) (func(), error) {
	sub, err := p.account.Subscribe(subject, "", func(m *broker.Msg) {
		reply, data := string(m.Reply), bytes.Clone(m.Data)
		answer := func(data []byte) {
			if reply != "" {
				p.account.Publish(reply, "", nil, data)
			}
		}
		p.streams.Answer(func(refusal *api.Error) {
			if refusal == nil {
				fn(service.Request{Data: data, Reply: answer})
				return
			}
			answer(service.Refuse(subject, &service.Error{
				Code: refusal.Code, ErrCode: int(refusal.ErrCode), Description: refusal.Description,
			}))
		})
	})
	if err != nil {
		return nil, err
	}
	return sub.Unsubscribe, nil
}

// peerTopic is what the plugin services of the nodes talk about.
const peerTopic = "PLUGINS"

// Answer answers the plugin services of other nodes.
func (p *pluginSpace) Answer(fn func(question []byte) json.RawMessage) (func(), error) {
	return p.streams.AnswerNodes(peerTopic, fn)
}

// Ask asks the plugin services of other nodes.
func (p *pluginSpace) Ask(ctx context.Context, question json.RawMessage) []json.RawMessage {
	return p.streams.AskNodes(ctx, peerTopic, question)
}

// pluginBus is the account's core messaging.
type pluginBus struct{ *pluginSpace }

// Publish sends a message to the subscribers there are.
func (b pluginBus) Publish(subject string, data []byte) { b.account.Publish(subject, "", nil, data) }

// feed reads one consumer in this process.
type feed struct{ consumer *delivery.Consumer }

// Fetch returns what can be delivered now.
func (f *feed) Fetch(limit, maxBytes int) ([]service.Delivered, error) {
	list := f.consumer.Fetch(limit, maxBytes)
	if len(list) == 0 {
		select {
		case <-f.consumer.Ended():
			return nil, service.ErrAway
		default:
		}
	}
	if len(list) > 0 {
		// Nothing comes of a message before its delivery is committed: the next leader has to know that it
		// may have effects already.
		committed := make(chan error, 1)
		f.consumer.Sync(func(err error) { committed <- err })
		if err := <-committed; err != nil {
			return nil, fmt.Errorf("%w: %w", service.ErrAway, err)
		}
	}
	out := make([]service.Delivered, len(list))
	for i, d := range list {
		out[i].Message = plugins.Message{
			Seq: d.Seq, ConsumerSeq: d.ConsumerSeq, Delivered: d.Deliveries, Time: d.Time,
			Subject: d.Subject, Header: d.Header, Data: d.Data,
		}
	}
	return out, nil
}

// Settle tells what becomes of messages and returns when that is committed.
func (f *feed) Settle(settlements []service.Settlement) error {
	kinds := [...]delivery.SettleKind{
		service.VerbAck: delivery.SettleAck, service.VerbNak: delivery.SettleNak,
		service.VerbTerm: delivery.SettleTerm, service.VerbProgress: delivery.SettleProgress,
	}
	list := make([]delivery.Settlement, len(settlements))
	for i, s := range settlements {
		list[i] = delivery.Settlement{Seq: s.Message.Seq, Kind: kinds[s.Verb], Delay: s.Delay, Reason: s.Reason}
	}
	done := make(chan error, 1)
	f.consumer.Settle(list, func(err error) { done <- err })
	return <-done
}

// Ready gets a value when a Fetch may find messages.
func (f *feed) Ready() <-chan struct{} { return f.consumer.Ready() }

// Close ends reading; the consumer lives on.
func (f *feed) Close() {}
