package jetstream

import (
	"context"
	"time"
)

// A leader that hands over takes no more publishes first and waits until those that it took are acknowledged: what is
// in flight while the leadership changes is undecided, and nobody is told of it. Publishes that come meanwhile are kept,
// and passed on when another replica leads (passon.go).

// quiesceWait bounds the time in which what is in flight commits: a full disk takes nothing.
const quiesceWait = time.Second

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
	const every = time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	for s.follows() && ctx.Err() == nil {
		<-look.C
	}
	s.mu.Lock()
	s.leaving = s.term != 0
	leaving := s.leaving
	s.mu.Unlock()
	if !leaving {
		return
	}
	s.announcePass()
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

// follows reports whether the leader before this one is still passing publishes on.
func (s *Stream) follows() bool {
	s.mu.RLock()
	own := s.announced != nil
	s.mu.RUnlock()
	return !own && s.account.engine.calls.bus.HasInterest(passSubject(s.spec.ID))
}

// busy reports whether anything is on its way to the group.
func (s *Stream) busy() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.admission == nil {
		return false
	}
	n, _ := s.admission.Open()
	return n > 0 || len(s.inflight) > 0 || len(s.queue) > 0 || s.arrivals.waits()
}

// goOn takes publishes again, if this replica still leads.
func (s *Stream) goOn() {
	s.mu.Lock()
	s.leaving, s.sure = false, 0
	tell := s.resumeLocked()
	s.mu.Unlock()
	s.revokePass()
	if tell != nil {
		tell()
		s.pump()
	}
}

// keeps reports whether there is something to be passed on.
func (s *Stream) keeps() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.passing != nil
}
