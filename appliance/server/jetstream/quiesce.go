package jetstream

import (
	"context"
	"time"

	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/wire"
)

// A leader that hands over takes no more publishes first and waits until those that it took are acknowledged: what is
// in flight while the leadership changes is undecided, and nobody is told of it. Publishes that come meanwhile are kept.
// When another replica leads, their publishers are told that there are no responders, and send them again: they reach
// the next leader.

// quiesceWait bounds the time in which what is in flight commits: a full disk takes nothing.
const quiesceWait = 250 * time.Millisecond

// quiesceRest is how long publishers have that got an answer a moment ago and send the next message at once: it is to
// come before the hand-over.
const quiesceRest = 10 * time.Millisecond

// noResponders is the answer to a request that nobody took.
const noResponders = "NATS/1.0 503\r\n\r\n"

// quiesce makes the stream keep publishes until it is led elsewhere, or goOn is called, and waits until nothing is in
// flight. What has come then has reached no other leader, if this one still leads.
func (s *Stream) quiesce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quiesceWait)
	defer cancel()
	s.mu.Lock()
	s.leaving = s.term != 0
	s.mu.Unlock()
	const every = time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for s.busy() && ctx.Err() == nil {
		<-look.C
	}
	<-time.After(quiesceRest)
	s.mu.RLock()
	n := len(s.delayed)
	s.mu.RUnlock()
	if s.awaitRead() != nil {
		return // another replica may lead already, and have got them
	}
	s.mu.Lock()
	s.sure = min(n, len(s.delayed))
	s.mu.Unlock()
}

// busy reports whether anything is on its way to the group.
func (s *Stream) busy() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.admission == nil {
		return false
	}
	n, _ := s.admission.Open()
	return n > 0 || len(s.inflight) > 0 || len(s.queue) > 0
}

// goOn takes publishes again, if this replica still leads.
func (s *Stream) goOn() {
	s.mu.Lock()
	s.leaving, s.sure = false, 0
	tell := s.resumeLocked()
	s.mu.Unlock()
	if tell != nil {
		tell()
		s.pump()
	}
}

// sendBack has publishers repeat what a leader kept while it handed over, the first of it before any other could get
// it, when another replica leads. The others that may have got what came later have it once if it has an id; of the
// rest nobody is told.
func (s *Stream) sendBack(list []delayed, sure int) {
	if len(list) == 0 {
		return
	}
	e := s.account.engine
	e.sending.Add(1)
	s.mu.Lock()
	s.returning = false
	s.mu.Unlock()
	e.calls.whenLed(s.spec.ID, electionWait, func(bool) {
		defer e.sending.Add(-1)
		for i := range list {
			m := list[i].msg()
			if len(m.Reply) > 0 && (i < sure || len(wire.Header(m.Header, stream.HeaderMsgID)) > 0) {
				s.account.bus.Publish(string(m.Reply), "", []byte(noResponders), nil)
			}
		}
	})
}

// keeps reports whether publishers are still to be told.
func (s *Stream) keeps() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.returning
}
