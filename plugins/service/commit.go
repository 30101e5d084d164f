package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"millrace/plugins"
	"millrace/plugins/abi"
)

// commit makes the effects of one fetched batch happen. It is the plugins.Sink of that batch: the
// runner reports the messages in their order.
type commit struct {
	*binding
	ctx      context.Context // of the run that the commit is part of
	feed     Feed
	rest     []Delivered // not settled yet
	count    int         // messages of the batch that runs
	singles  int         // messages that ran alone after a failure
	failures int
	at       time.Time // when the rest was last reported to be at work
}

// process runs the first n messages as one batch.
func (c *commit) process(runner *plugins.Runner, n int) error {
	c.count, c.singles, c.failures = n, 0, 0
	messages := make([]plugins.Message, n)
	for i := range messages {
		messages[i] = c.rest[i].Message
	}
	before := runner.Starts()
	err := runner.Run(c.ctx, messages, c)
	c.stats.update(func(s *Stats) {
		s.Batches++
		s.Starts += runner.Starts() - before
	})
	return err
}

// giveBack has the messages that nothing came of delivered again.
func (c *commit) giveBack() {
	delay := time.Duration(0)
	if c.ctx.Err() == nil {
		delay = reopenDelay
	}
	c.settleRest(VerbNak, delay)
}

func (c *commit) settle(settlements []Settlement) {
	if len(settlements) == 0 {
		return
	}
	if err := c.feed.Settle(settlements); err != nil {
		c.service.config.Logger.Warn("settle messages", "plugin", c.spec.plugin, "stream", c.spec.stream,
			"consumer", c.spec.consumer, "err", err)
	}
}

func (c *commit) settleRest(verb Verb, delay time.Duration) {
	all := make([]Settlement, len(c.rest))
	for i := range c.rest {
		all[i] = Settlement{Message: &c.rest[i], Verb: verb, Delay: delay}
	}
	c.settle(all)
}

// progress keeps the rest of a slow batch from being delivered again meanwhile.
func (c *commit) progress() {
	if now := time.Now(); now.Sub(c.at) > ackWait/4 {
		c.at = now
		c.settleRest(VerbProgress, 0)
	}
}

// Commit implements plugins.Sink: writes first, whose expectations can undo the run, then
// publications, then settlements. After a crash in between the messages are delivered again, and the
// ids of what was sent already keep it from being stored twice.
func (c *commit) Commit(batch []plugins.Message, e *plugins.Effects) error {
	if err := c.write(batch, e.Writes); err != nil {
		return err
	}
	outgoing, settlements := c.publications(batch, e), make([]Settlement, len(batch))
	sent := len(outgoing)
	for i := range batch {
		m, s := &c.rest[i], e.Settled[i]
		settlements[i] = Settlement{Message: m}
		if s.Kind == abi.Nak && c.lastTry(m) && c.spec.deadLetter != "" {
			s = plugins.Settlement{Kind: abi.DeadLetter, Reason: "not acknowledged by the plugin"}
		}
		switch s.Kind {
		case abi.Nak:
			settlements[i].Verb, settlements[i].Delay = VerbNak, s.Delay
		case abi.DeadLetter:
			if c.spec.deadLetter != "" {
				outgoing = append(outgoing, c.deadLetterCopy(m, s.Reason, ""))
			}
			fallthrough
		case abi.Term:
			settlements[i].Verb, settlements[i].Reason = VerbTerm, s.Reason
		}
	}
	if err := c.publish(outgoing); err != nil {
		return err
	}
	c.settle(settlements)
	c.rest = c.rest[len(batch):]
	if len(batch) > 0 {
		clear(c.failing)
		if batch[0].AfterTrap {
			c.singles++
		}
	}
	c.stats.update(func(s *Stats) {
		s.count(settlements)
		s.DeadLetters += uint64(len(outgoing) - sent)
		s.Publications += uint64(sent)
		s.Writes += uint64(len(e.Writes))
		s.CPU += e.CPU
	})
	c.progress()
	return nil
}

func (s *Stats) count(settlements []Settlement) {
	for i := range settlements {
		s.Messages++
		switch settlements[i].Verb {
		case VerbNak:
			s.Naks++
		case VerbTerm:
			s.Terms++
		default:
			s.Acks++
		}
	}
}

// Fail implements plugins.Sink: the message is delivered again after a back-off, at its last delivery
// it becomes a dead letter. Failures of too many different messages in a row are the plugin's fault
// and pause it.
func (c *commit) Fail(m *plugins.Message, err error) error {
	d := &c.rest[0]
	reason, kind := err.Error(), plugins.TrapWasm.String()
	if trap, ok := errors.AsType[*plugins.TrapError](err); ok {
		kind = trap.Kind.String()
	}
	err = fmt.Errorf("plugin %s: message %d of %s: %w", c.spec.plugin, m.Seq, c.spec.stream, err)
	c.note(err)
	c.service.log(c.spec, abi.Error, err.Error())
	c.failing[m.Seq] = true
	c.failures++
	paused := len(c.failing) >= c.service.config.Breaker

	s := Settlement{Message: d, Verb: VerbNak, Delay: c.backoff(m.Delivered)}
	deadLetter := !paused && c.lastTry(d) && c.spec.deadLetter != ""
	if deadLetter {
		if err := c.publish([]Outgoing{c.deadLetterCopy(d, reason, kind)}); err != nil {
			return err
		}
		s.Verb, s.Delay, s.Reason = VerbTerm, 0, reason
	}
	c.settle([]Settlement{s})
	c.rest = c.rest[1:]
	c.stats.update(func(st *Stats) {
		st.count([]Settlement{s})
		st.Traps[kind]++
		if deadLetter {
			st.DeadLetters++
		}
	})
	c.progress()
	if paused {
		c.pause(c.ctx, fmt.Sprintf("%d different messages in a row failed, the last one: %v", len(c.failing), err))
		return errPaused
	}
	return nil
}

func (c *commit) lastTry(m *Delivered) bool {
	return c.spec.maxDeliver > 0 && int64(m.Delivered) >= int64(c.spec.maxDeliver)
}

func (c *commit) backoff(delivered uint32) time.Duration {
	delays := c.service.config.Backoff
	return delays[min(max(int(delivered), 1), len(delays))-1]
}

// publish returns when all messages are stored. While a stream cannot take one it tries on, from that one: a
// message of the guest is not given up, or delivered again, because of an outage.
func (c *commit) publish(messages []Outgoing) error {
	for len(messages) > 0 {
		err := c.publishOnce(messages)
		failed, ok := errors.AsType[*PublishError](err)
		if !ok || failed.Index >= len(messages) {
			return err
		}
		messages = messages[failed.Index:]
		err = fmt.Errorf("publish to %s: %w", messages[0].Subject, err)
		if !errors.Is(err, ErrUnavailable) || c.ctx.Err() != nil {
			return err
		}
		c.note(err)
		c.progress()
		select {
		case <-time.After(c.service.config.Republish):
		case <-c.ctx.Done():
			return err
		}
	}
	return nil
}

func (c *commit) publishOnce(messages []Outgoing) error {
	ctx, cancel := context.WithTimeout(c.ctx, commitTimeout)
	defer cancel()
	return c.service.config.Store.Publish(ctx, messages)
}

// counter numbers the outputs of each message of a batch, and those of the whole batch.
type counter []int

func newCounter(batch []plugins.Message) counter { return make(counter, len(batch)+1) }

func (n counter) next(msg int) int {
	if msg == abi.WholeBatch {
		msg = len(n) - 1
	}
	n[msg]++
	return n[msg] - 1
}

// write stores the KV writes.
func (c *commit) write(batch []plugins.Message, writes []plugins.Write) error {
	outgoing, numbers := make([]Outgoing, 0, len(writes)), newCounter(batch)
	for i := range writes {
		w := &writes[i]
		fields := []string{"Nats-Msg-Id", c.id(batch, w.Msg, "k"+strconv.Itoa(numbers.next(w.Msg)))}
		if w.Expect != abi.RevisionAny {
			fields = append(fields, "Nats-Expected-Last-Subject-Sequence", strconv.FormatInt(w.Expect, 10))
		}
		if w.Delete {
			fields = append(fields, "KV-Operation", "DEL")
		}
		outgoing = append(outgoing, Outgoing{kvSubject(w.Bucket, w.Key), newHeader(nil, fields...), w.Value})
	}
	err := c.publish(outgoing)
	if errors.Is(err, ErrWrongLastSequence) {
		return fmt.Errorf("%w: %w", plugins.ErrConflict, err)
	}
	return err
}

// publications gives each output an id that is the same one whenever its message is processed again,
// in whatever batch. One that the guest has given itself stays.
func (c *commit) publications(batch []plugins.Message, e *plugins.Effects) []Outgoing {
	outgoing, numbers := make([]Outgoing, 0, len(e.Publications)+1), newCounter(batch)
	for i := range e.Publications {
		p := &e.Publications[i]
		header, n := p.Header, numbers.next(p.Msg)
		if headerValue(header, "Nats-Msg-Id") == "" {
			header = newHeader(header, "Nats-Msg-Id", c.id(batch, p.Msg, strconv.Itoa(n)))
		}
		outgoing = append(outgoing, Outgoing{p.Subject, header, p.Data})
	}
	return outgoing
}

// id returns STREAM/CONSUMER/BINDING/SEQUENCE/INDEX. For the whole batch the sequence is the range of
// its messages, for a tick it is the time.
func (c *commit) id(batch []plugins.Message, msg int, index string) string {
	var seq string
	switch {
	case msg != abi.WholeBatch:
		seq = strconv.FormatUint(batch[msg].Seq, 10)
	case len(batch) > 0:
		seq = strconv.FormatUint(batch[0].Seq, 10) + "-" + strconv.FormatUint(batch[len(batch)-1].Seq, 10)
	default:
		seq = "t" + strconv.FormatInt(c.at.UnixNano(), 10)
	}
	return c.spec.stream + "/" + c.spec.consumer + "/" + c.spec.id + "/" + seq + "/" + index
}

// deadLetterCopy returns the message for the dead-letter subject, with headers that tell its story.
func (c *commit) deadLetterCopy(m *Delivered, reason, trap string) Outgoing {
	seq := strconv.FormatUint(m.Seq, 10)
	fields := []string{
		"Nats-Msg-Id", c.spec.stream + "/" + c.spec.consumer + "/" + c.spec.id + "/" + seq + "/dl",
		"Nats-DL-Stream", c.spec.stream,
		"Nats-DL-Seq", seq,
		"Nats-DL-Subject", m.Subject,
		"Nats-DL-Consumer", c.spec.consumer,
		"Nats-DL-Plugin", c.spec.plugin,
		"Nats-DL-Sha256", c.module.Digest,
		"Nats-DL-Delivered", strconv.FormatUint(uint64(m.Delivered), 10),
		"Nats-DL-Reason", reason,
	}
	if trap != "" {
		fields = append(fields, "Nats-DL-Trap", trap)
	}
	return Outgoing{c.spec.deadLetter, newHeader(withoutServerFields(m.Header), fields...), m.Data}
}
