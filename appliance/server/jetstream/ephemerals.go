package jetstream

import (
	"context"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/jetstream/delivery"
)

// ephemeral is a consumer that only the leader of its stream knows, in memory, as it goes to the next leader.
type ephemeral struct {
	Name    string              `json:"name"`
	Created time.Time           `json:"created"`
	Config  *api.ConsumerConfig `json:"config"`
	State   []byte              `json:"state,omitempty"` // nil: it has no place in the stream yet
}

// startEphemeral starts a consumer that only this node knows, as long as it leads the stream. One without a
// name gets one. The info is that of its start.
func (s *Stream) startEphemeral(cfg api.ConsumerConfig, created time.Time) (*api.ConsumerInfo, *api.Error) {
	return s.runEphemeral(s.newConsumer(0, cfg, created), nil)
}

// runEphemeral is startEphemeral, from a state that the consumer had elsewhere.
func (s *Stream) runEphemeral(c *consumerEntry, state *consumer.Machine) (*api.ConsumerInfo, *api.Error) {
	conf := c.deliveryConfig(c.config)
	conf.Settled, conf.State = s.settled, state
	d, err := delivery.New(conf)
	if err != nil {
		return nil, api.ErrConsumerCreateF(err.Error())
	}
	d.Retain(s.retains())
	c.led.Store(d)
	c.serving = true
	s.mu.Lock()
	serving, taken := s.serving, s.consumers[c.name] != nil
	if serving && !taken {
		s.enterLocked(c)
	}
	s.mu.Unlock()
	switch {
	case !serving:
		return nil, api.ErrClusterNotAvail
	case taken:
		return nil, api.ErrConsumerNameExist
	}
	info, err := d.Start()
	if err != nil {
		s.forgetConsumer(c)
		c.end((*delivery.Consumer).Abandon)
		return nil, api.ErrConsumerCreateF(err.Error())
	}
	return c.shown(info), nil
}

// leaveEphemerals ends the consumers that only this node knows, which leads the stream no more, and hands them to the
// next leader, where they go on. It does not wait for that. The next leader of a stream that keeps messages for its
// consumers removes none before it has them all, when the hand-over was announced. Otherwise it has begun without them, and
// they end.
func (s *Stream) leaveEphemerals() {
	e := s.account.engine
	e.sending.Add(1)
	var leaving []ephemeral
	s.mu.Lock()
	s.sending++
	announced := s.announced != nil
	s.mu.Unlock()
	ends := s.retains() && !announced
	for _, c := range s.allConsumers() {
		if c.id != 0 {
			continue
		}
		s.forgetConsumer(c)
		if ends {
			c.end((*delivery.Consumer).Delete)
			s.account.advise("CONSUMER.DELETED", s.name, c.name, "delete")
			continue
		}
		cfg, d := c.Config(), c.led.Load()
		c.end((*delivery.Consumer).Abandon)
		if d != nil {
			leaving = append(leaving, ephemeral{c.name, c.created, &cfg, d.State().Snapshot()})
		}
	}
	sent := func() {
		s.mu.Lock()
		s.sending--
		s.mu.Unlock()
		s.revokePass()
		e.sending.Add(-1)
	}
	if len(leaving) == 0 {
		sent()
		return
	}
	e.work(chores, func() {
		defer sent()
		s.sendEphemerals(leaving)
	})
}

// Hand-over of consumers that are in memory: atOnce go in one message. When nobody leads the stream for sendWait,
// their clients have noticed, and they end.
const (
	ephemeralsAtOnce = 100
	sendWait         = 10 * time.Second
)

// sendEphemerals hands consumers to whoever leads the stream.
func (s *Stream) sendEphemerals(leaving []ephemeral) {
	e := s.account.engine
	ctx, cancel := context.WithTimeout(e.ctx, sendWait)
	defer cancel()
	for len(leaving) > 0 {
		n := min(len(leaving), ephemeralsAtOnce)
		if err := e.tellLeader(ctx, s.spec.ID, leaderCall{Kind: callEphemerals, Ephemerals: leaving[:n]}, nil); err != nil {
			s.log.Warn("consumers end that the next leader of their stream did not take", "account", s.account.name,
				"stream", s.name, "consumers", len(leaving), "error", err)
			for _, x := range leaving {
				s.account.advise("CONSUMER.DELETED", s.name, x.Name, "delete")
			}
			return
		}
		leaving = leaving[n:]
	}
}

// takeEphemerals lets consumers go on here that another leader had. One that is here already was sent twice, or its
// client has made it again.
func (s *Stream) takeEphemerals(list []ephemeral) *api.Error {
	for _, x := range list {
		if x.Config == nil || x.Name == "" {
			return api.ErrBadRequest
		}
		state, err := stateOf(x.State)
		if err != nil {
			s.log.Error("consumer is not taken over", "account", s.account.name, "stream", s.name, "consumer", x.Name, "error", err)
			continue
		}
		if _, missing := s.consumer(x.Name); missing == nil {
			continue
		}
		c := s.newConsumer(0, *x.Config, x.Created)
		c.name = x.Name
		s.mu.RLock()
		config := s.machine.Config()
		s.mu.RUnlock()
		if s.checkWorkQueue(&config, x.Config) != nil { // another one was made meanwhile
			s.account.advise("CONSUMER.DELETED", s.name, x.Name, "delete")
			continue
		}
		if _, err := s.runEphemeral(c, state); err != nil && err.ErrCode == api.ErrClusterNotAvail.ErrCode {
			return err // it is asked again, or the next leader
		} else if err != nil && err.ErrCode != api.ErrConsumerNameExist.ErrCode {
			s.log.Error("consumer is not taken over", "account", s.account.name, "stream", s.name, "consumer", x.Name, "error", err)
		}
	}
	return nil
}

func stateOf(data []byte) (*consumer.Machine, error) {
	m := consumer.New()
	if err := m.Restore(data); err != nil {
		return nil, fmt.Errorf("state of a consumer: %w", err)
	}
	return m, nil
}
