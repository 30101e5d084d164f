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
// name gets one. What there is to deliver is sent with what answer publishes, see [delivery.Consumer.StartWith].
func (s *Stream) startEphemeral(cfg api.ConsumerConfig, created time.Time, answer func(out delivery.Publisher, info *api.ConsumerInfo)) (name string, err *api.Error) {
	c := s.newConsumer(0, cfg, created)
	return c.name, s.runEphemeral(c, nil, func(d *delivery.Consumer) error {
		return d.StartWith(func(out delivery.Publisher, info *api.ConsumerInfo) { answer(out, c.shown(info)) })
	})
}

// runEphemeral runs a consumer that only this node knows, from a state that it had elsewhere, if it had one.
func (s *Stream) runEphemeral(c *consumerEntry, state *consumer.Machine, start func(*delivery.Consumer) error) *api.Error {
	conf := c.deliveryConfig(c.config)
	conf.Settled, conf.State = s.settled, state
	d, err := delivery.New(conf)
	if err != nil {
		return api.ErrConsumerCreateF(err.Error())
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
		return api.ErrClusterNotAvail
	case taken:
		return api.ErrConsumerNameExist
	}
	if err := start(d); err != nil {
		s.forgetConsumer(c)
		c.end((*delivery.Consumer).Abandon)
		return api.ErrConsumerCreateF(err.Error())
	}
	return nil
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
		failed := s.runEphemeral(c, state, func(d *delivery.Consumer) error {
			_, err := d.Start()
			return err
		})
		if failed != nil && failed.ErrCode == api.ErrClusterNotAvail.ErrCode {
			return failed // it is asked again, or the next leader
		} else if failed != nil && failed.ErrCode != api.ErrConsumerNameExist.ErrCode {
			s.log.Error("consumer is not taken over", "account", s.account.name, "stream", s.name, "consumer", x.Name, "error", failed)
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
