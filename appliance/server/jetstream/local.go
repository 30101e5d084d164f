package jetstream

import (
	"cmp"
	"fmt"
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/subject"
)

// Local is one account's streams for users in the same process, who need no connection. What it tells of
// configurations is what this node's catalogue has; it may be a moment behind that of another node.
type Local struct{ a *account }

// Local returns the streams of an account, nil if it may not use any.
func (e *Engine) Local(account string) *Local {
	if a := e.accounts[account]; a != nil {
		return &Local{a}
	}
	return nil
}

// captured are the subjects that the streams of an account store and acknowledge.
type captured struct {
	index   uint64 // entry of the catalogue that they follow
	filters []string
}

// Captures reports whether a stream stores what is published to a literal subject and acknowledges it,
// wherever that stream is.
func (l *Local) Captures(subj string) bool {
	c := l.a.engine.catalog
	c.mu.Lock()
	known := l.a.captured.Load()
	if known == nil || known.index != c.applied {
		known = &captured{index: c.applied}
		for _, ms := range c.machine.Streams(l.a.name, "") {
			if !ms.Config.NoAck && !ms.Config.Sealed {
				known.filters = append(known.filters, ms.Config.Subjects...)
			}
		}
		l.a.captured.Store(known)
	}
	c.mu.Unlock()
	return slices.ContainsFunc(known.filters, func(filter string) bool { return subject.Match(filter, subj) })
}

// Stream returns the configuration of a stream, which is not to be changed.
func (l *Local) Stream(name string) (*api.StreamConfig, bool) {
	ms, ok := l.a.engine.catalog.stream(l.a.name, name)
	return ms.Config, ok
}

// Nodes returns the number of storage nodes of the cluster, with those that are down.
func (l *Local) Nodes() int {
	n := 0
	for _, node := range l.a.engine.catalog.nodes() {
		if !node.Removed {
			n++
		}
	}
	return max(n, 1)
}

// Leads reports whether this node leads the catalogue. One node does, with short exceptions.
func (l *Local) Leads() bool { return l.a.engine.catalog.leads() }

// ConsumerRef is a durable consumer of an account.
type ConsumerRef struct {
	Stream, Name string
	Config       api.ConsumerConfig
	Here         bool // this node has a replica of it
	Led          bool // this node leads it and serves it
}

// Consumers returns those of the account's durable consumers whose metadata match, wherever they are, by stream
// and name.
func (l *Local) Consumers(match func(metadata map[string]string) bool) []ConsumerRef {
	var all []ConsumerRef
	c := l.a.engine.catalog
	c.mu.Lock()
	for _, ms := range c.machine.Streams(l.a.name, "") {
		for _, mc := range c.machine.Consumers(l.a.name, ms.Name) {
			if !match(mc.Config.Metadata) {
				continue
			}
			_, here := mc.Group.Replica(l.a.engine.cfg.Node)
			all = append(all, ConsumerRef{Stream: ms.Name, Name: mc.Config.Name, Config: mc.Config.Clone(), Here: here})
		}
	}
	c.mu.Unlock()
	for i := range all {
		r := &all[i]
		r.Name = cmp.Or(r.Name, r.Config.Durable)
		if s := l.a.local(r.Stream); s != nil {
			if c, missing := s.consumer(r.Name); missing == nil {
				r.Led = c.id != 0 && c.leads()
			}
		}
	}
	return all
}

// Watch has fn called when a durable consumer starts, ends or changes on this node, or when this node begins
// or ceases to lead one, with its metadata, before a change with the former ones too. fn is called with locks
// held: it does not wait, and does not call the engine.
func (l *Local) Watch(fn func(metadata map[string]string)) {
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	l.a.watchers = append(l.a.watchers, fn)
}

// consumersChanged tells those who watch.
func (a *account) consumersChanged(metadata map[string]string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, fn := range a.watchers {
		fn(metadata)
	}
}

// Consumer returns a consumer that this node leads. It ends when the node leads it no more. The error is
// api.ErrStreamNotFound, api.ErrConsumerNotFound, or [delivery.ErrNotLeader].
func (l *Local) Consumer(name, consumer string) (*delivery.Consumer, error) {
	if s := l.a.local(name); s != nil {
		if c, missing := s.consumer(consumer); missing == nil {
			if d := c.led.Load(); d != nil {
				return d, nil
			}
		}
	}
	if _, ok := l.Stream(name); !ok {
		return nil, api.ErrStreamNotFound
	}
	err := error(api.ErrConsumerNotFound)
	if _, ok := l.a.engine.catalog.consumer(l.a.name, name, consumer); ok {
		err = delivery.ErrNotLeader
	}
	return nil, fmt.Errorf("stream %q, consumer %q: %w", name, consumer, err)
}
