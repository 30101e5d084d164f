package jetstream

import (
	"bytes"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// outcome is what a publisher is told at once; zero: it hears when a batch has committed, or never.
type outcome struct {
	err    *api.Error
	stored uint64 // the message that the publish repeats
}

// delayed is a publish that cannot be admitted before more is applied, or came behind one: publishers may rely on
// the order. All its bytes are in data.
type delayed struct {
	data                   []byte
	subject, reply, header int  // ends
	sure                   bool // no other leader has it
}

func newDelayed(m *Msg) delayed {
	var d delayed
	d.data = bytes.Join([][]byte{m.Subject, m.Reply, m.Header, m.Data}, nil)
	d.subject = len(m.Subject)
	d.reply = d.subject + len(m.Reply)
	d.header = d.reply + len(m.Header)
	return d
}

func (d *delayed) msg() Msg {
	m := Msg{Subject: d.data[:d.subject], Reply: d.data[d.subject:d.reply], Data: d.data[d.header:]}
	if d.header > d.reply {
		m.Header = d.data[d.reply:d.header]
	}
	return m
}

// publish takes a message that a client has sent to one of the stream's subjects. It runs on the
// publisher's goroutine and borrows m.
func (s *Stream) publish(m Msg) {
	s.mu.Lock()
	if s.stopped || s.admission == nil { // whoever leads gets it too, or it goes on to that one
		s.passLateLocked(&m)
		s.mu.Unlock()
		return
	}
	if s.repeatsLocked(&m) {
		s.mu.Unlock()
		return
	}
	told := s.takeLocked(&m)
	ready := s.readyLocked()
	s.mu.Unlock()
	switch {
	case told != (outcome{}):
		s.tell(string(m.Reply), told)
	case ready:
		s.pump()
	}
}

// takeLocked admits a publish, or keeps it.
func (s *Stream) takeLocked(m *Msg) outcome {
	if s.leaving || s.arrivals.waits() || len(s.delayed) > 0 {
		return s.delayLocked(m)
	}
	v, err := s.admitLocked(m)
	if v.Wait {
		return s.delayLocked(m)
	}
	return s.decidedLocked(m.Reply, v, err)
}

// admitLocked admits a publish if it can be decided.
func (s *Stream) admitLocked(m *Msg) (stream.Verdict, *api.Error) {
	if s.failed != nil {
		return stream.Verdict{}, api.ErrStreamStoreFailedF(s.failed.Error())
	}
	if s.admission.Pending() > maxInFlightBytes {
		return stream.Verdict{}, api.ErrStreamTooManyRequests
	}
	if err := s.account.full(s.storage); err != nil {
		return stream.Verdict{}, err
	}
	subj := m.Subject
	if s.transform != nil {
		if mapped, ok := s.transform.Apply(string(subj)); ok {
			subj = []byte(mapped)
		}
	}
	return s.admission.Admit(s.now(), stream.Publish{Subject: subj, Header: m.Header, Data: m.Data})
}

// delayLocked keeps a publish until what is before it is decided.
func (s *Stream) delayLocked(m *Msg) outcome {
	d := newDelayed(m)
	if s.delayedBytes+len(d.data) > maxInFlightBytes {
		return outcome{err: api.ErrStreamTooManyRequests}
	}
	s.delayed = append(s.delayed, d)
	s.delayedBytes += len(d.data)
	return outcome{}
}

// resumeLocked admits what was delayed, as far as that can be decided now. The caller calls tell, if not nil, without
// locks, and then pump.
func (s *Stream) resumeLocked() (tell func()) {
	if len(s.delayed) == 0 || s.leaving || s.arrivals.waits() || s.admission == nil {
		return nil
	}
	type answer struct {
		reply string
		outcome
	}
	var answers []answer
	for len(s.delayed) > 0 {
		m := s.delayed[0].msg()
		v, err := s.admitLocked(&m)
		if v.Wait {
			break
		}
		if told := s.decidedLocked(m.Reply, v, err); told != (outcome{}) {
			answers = append(answers, answer{string(m.Reply), told})
		}
		s.delayedBytes -= len(s.delayed[0].data)
		s.delayed[0] = delayed{}
		s.delayed = s.delayed[1:]
	}
	return func() {
		for _, a := range answers {
			s.tell(a.reply, a.outcome)
		}
	}
}

// decidedLocked lets the publisher wait for what it is to be told, or returns that.
func (s *Stream) decidedLocked(reply []byte, v stream.Verdict, err *api.Error) outcome {
	if s.machine.Config().NoAck {
		reply = nil
	}
	switch {
	case err != nil:
		if len(reply) == 0 || s.refuseLaterLocked(reply, err) {
			return outcome{}
		}
		return outcome{err: err}
	case v.Duplicate:
		if _, last := s.machine.Bounds(); v.Seq <= last {
			if len(reply) == 0 {
				return outcome{}
			}
			return outcome{stored: v.Seq}
		}
	}
	s.awaitLocked(reply, v)
	return outcome{}
}

// awaitLocked lets reply wait for the batch that holds v, or for one after it.
func (s *Stream) awaitLocked(reply []byte, v stream.Verdict) {
	if n, _ := s.admission.Open(); n == 0 { // it repeats a message that is in flight already
		for i := len(s.inflight) - 1; i >= 0; i-- {
			if p := s.inflight[i]; p.messages {
				p.acks.add(reply, v)
				return
			}
		}
	}
	s.open.add(reply, v)
}

// refuseLaterLocked lets a refusal wait for what is in flight, which may be the reason: when that never commits,
// the refusal was not true, and nothing is said. It reports whether there is anything in flight.
func (s *Stream) refuseLaterLocked(reply []byte, err *api.Error) bool {
	if s.failed != nil || err == api.ErrStreamTooManyRequests {
		return false
	}
	a := &s.open
	if n, _ := s.admission.Open(); n == 0 {
		if len(s.inflight) == 0 {
			return false
		}
		a = &s.inflight[len(s.inflight)-1].acks
	}
	if len(a.refused) < maxUnsure {
		a.refused = append(a.refused, refused{string(reply), s.refusal(err)})
	}
	return true
}

// tell answers a publish that no batch has to commit for.
func (s *Stream) tell(reply string, o outcome) {
	if o.err == nil {
		s.account.bus.Publish(reply, "", nil, s.appendAck(nil, o.stored, true))
		return
	}
	body := s.refusal(o.err)
	s.whileLeading(func() { s.account.bus.Publish(reply, "", nil, body) })
}
