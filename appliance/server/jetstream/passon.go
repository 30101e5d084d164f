package jetstream

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/wire"
)

// Publishes that a leader keeps while it hands over, and those that come to it afterwards, because others do not know of
// the next leader yet, are passed on to that one with their reply subjects. None may be stored twice:
//
//   - What came before the transfer was begun, and is sure, no other leader has got.
//   - What came later the next leader may have got as well. It remembers what comes to it in its first moments, and which
//     copies were passed on to it, so that of the two whichever comes second is dropped. Two publishes of the same content
//     and reply subject cannot be told from copies, and count as such.
//   - Of what is not sure only the leader of the very next term takes anything: before others there may have been one that
//     stored it.
//   - What was sent to that one and not answered is sent to nobody else.

// passSubject is where who passes publishes on subscribes, without listening: the next leader sees by it that it has to let
// what it gets itself wait for what came before.
func passSubject(group uint64) string { return "$MILLRACE.PASS." + strconv.FormatUint(group, 10) }

const (
	// passTail is how long a leader that has handed over takes publishes when there is a new one: others hear of
	// that on other ways than of the end of the old one.
	passTail = 100 * time.Millisecond
	// passEvery is the time between two looks at what came meanwhile.
	passEvery = 5 * time.Millisecond
	// passBytes bounds what is passed on in one call, but for a single publish.
	passBytes = 256 << 10
	// maxPassed is the largest publish that is passed on: it is encoded, and a route takes 64 MiB.
	maxPassed = 32 << 20
	// firstMoments is how long a new leader remembers what came to it, and firstArrivals how much of it.
	firstMoments  = 10 * time.Second
	firstArrivals = 1 << 16
	// awaitPassed bounds the time that a new leader waits for what its predecessor passes on.
	awaitPassed = 250 * time.Millisecond
)

// passing is the end of a leader that has handed over.
type passing struct {
	term  uint64 // in which this replica led
	list  []delayed
	sure  int // of list, at its front
	bytes int
	ends  time.Time // when nothing more is taken; zero: there is no next leader yet
	told  bool      // that all of the beginning was passed on
	tail  bool      // more is taken while others do not know yet who leads
}

// waits reports whether what comes to a new leader has to wait for what the last one passes on.
func (a *arrivals) waits() bool { return a != nil && a.waiting }

// passed is a publish on its way to the next leader.
type passed struct {
	Data []byte `json:"data"`
	Ends [3]int `json:"ends"` // of subject, reply and header
	Sure bool   `json:"sure,omitempty"`
}

// announcePass tells who may lead next that publishes are going to be passed on.
func (s *Stream) announcePass() {
	s.mu.RLock()
	announced := s.announced != nil
	s.mu.RUnlock()
	if announced {
		return
	}
	stop, err := s.account.engine.calls.bus.Subscribe(passSubject(s.spec.ID), "", func(Msg) {})
	if err != nil {
		s.log.Warn("hand-over of publishes is not announced", "account", s.account.name, "stream", s.name, "error", err)
		return
	}
	s.mu.Lock()
	old := s.announced
	s.announced = stop
	s.mu.Unlock()
	if old != nil {
		old()
	}
}

// revokePass ends what announcePass has begun.
func (s *Stream) revokePass() {
	s.mu.Lock()
	stop := s.announced
	if s.leaving || s.passing != nil || s.sending > 0 {
		stop = nil // it goes on
	} else {
		s.announced = nil
	}
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// passLateLocked takes a publish that has come to a leader that handed over.
func (s *Stream) passLateLocked(m *Msg) {
	p := s.passing
	if p == nil || !p.tail || len(m.Reply) == 0 || p.bytes > maxInFlightBytes {
		return // nobody waits for it, or it may be stored already
	}
	d := newDelayed(m)
	p.list = append(p.list, d)
	p.bytes += len(d.data)
}

// passOn has the next leader take what this one kept and what comes for a while yet. It does not wait. The caller has
// counted it in Engine.sending.
func (s *Stream) passOn(p *passing) {
	s.account.engine.calls.whenLed(s.spec.ID, electionWait, func(led bool) {
		s.mu.Lock()
		p.ends = time.Now().Add(passTail)
		if !led || !p.tail {
			p.ends = time.Now()
		}
		s.mu.Unlock()
		s.account.engine.work(chores, func() { s.passNext(p) })
	})
}

// passNext passes on what is there, and comes again.
func (s *Stream) passNext(p *passing) {
	e := s.account.engine
	for {
		s.mu.Lock()
		batch, refused := p.nextLocked()
		through := len(p.list) == 0
		over := through && len(batch) == 0 && (p.told && !time.Now().Before(p.ends) || e.ctx.Err() != nil)
		if over && s.passing == p {
			s.passing = nil
		}
		s.mu.Unlock()
		s.sendBack(refused)
		switch {
		case over:
			s.jobs.add(func() {
				s.revokePass()
				s.mu.RLock()
				stopped := s.stopped
				s.mu.RUnlock()
				if stopped {
					s.unsubscribe(nil)
				}
				s.settle()
				e.sending.Add(-1)
			})
			return
		case len(batch) == 0 && p.told:
			time.AfterFunc(passEvery, func() { e.work(chores, func() { s.passNext(p) }) })
			return
		}
		s.passBatch(p.term, batch, through)
		p.told = p.told || through
	}
}

// nextLocked takes the next publishes for one call, which are all sure or none, and those that are too large to be passed on.
func (p *passing) nextLocked() (batch []passed, refused []delayed) {
	size := 0
	for len(p.list) > 0 && (size == 0 || size+len(p.list[0].data) <= passBytes) {
		if len(batch) > 0 && batch[0].Sure != (p.sure > 0) {
			break
		}
		d := p.list[0]
		p.list[0] = delayed{}
		p.list = p.list[1:]
		p.bytes -= len(d.data)
		d.sure = p.sure > 0
		if d.sure {
			p.sure--
		}
		switch {
		case len(d.data) > maxPassed:
			refused = append(refused, d)
		case d.sure || d.reply > d.subject:
			size += len(d.data)
			batch = append(batch, passed{d.data, [3]int{d.subject, d.reply, d.header}, d.sure})
		}
	}
	return batch, refused
}

// passBatch has the next leader take publishes. When there is none, or another one, their publishers are to repeat what
// is stored nowhere for sure, or has an id.
func (s *Stream) passBatch(term uint64, batch []passed, through bool) {
	e := s.account.engine
	ctx, cancel := context.WithTimeout(e.ctx, askWait)
	defer cancel()
	err := e.calls.call(ctx, leaderSubject(s.spec.ID), leaderCall{Kind: callPublishes, Term: term, Passed: batch, Through: through}, nil)
	if err == nil {
		return
	}
	s.log.Warn("publishes that came during a hand-over were not passed on", "account", s.account.name, "stream", s.name,
		"publishes", len(batch), "error", err)
	var refusal *api.Error
	taken := !errors.As(err, &refusal) && (!errors.Is(err, errNoLeader) || errors.Is(err, errLeaderGone)) // maybe
	list := make([]delayed, 0, len(batch))
	for _, x := range batch {
		list = append(list, delayed{x.Data, x.Ends[0], x.Ends[1], x.Ends[2], x.Sure && !taken})
	}
	s.sendBack(list)
}

// sendBack has publishers repeat what is stored nowhere, and what has an id and is not stored again by that.
func (s *Stream) sendBack(list []delayed) {
	for i := range list {
		m := list[i].msg()
		if len(m.Reply) > 0 && (list[i].sure || len(wire.Header(m.Header, stream.HeaderMsgID)) > 0) {
			s.account.bus.Publish(string(m.Reply), "", []byte(noResponders), nil)
		}
	}
}

// arrivals is what came to a new leader in its first moments.
type arrivals struct {
	seed    maphash.Seed
	direct  map[uint64]int // came from their publishers, and were not passed on yet
	copies  map[uint64]int // were passed on, and have not come from their publishers
	full    bool           // direct is not all: what comes again cannot be told
	waiting bool           // for what the last leader passes on: what comes is delayed
	front   int            // of the delayed publishes, those that were passed on
}

// arrivalsLocked returns what a leader that begins remembers, for firstMoments.
func (s *Stream) arrivalsLocked() *arrivals {
	if s.account.engine.cfg.Cluster == "" {
		return nil
	}
	a := &arrivals{seed: maphash.MakeSeed(), direct: map[uint64]int{}, copies: map[uint64]int{}}
	time.AfterFunc(firstMoments, func() { s.forgetArrivals(a) })
	return a
}

func (s *Stream) forgetArrivals(a *arrivals) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrivals == a {
		s.arrivals = nil
	}
}

// key is the same for copies of a publish.
func (a *arrivals) key(m *Msg) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	for _, part := range [][]byte{m.Subject, m.Reply, m.Header, m.Data} {
		var size [8]byte
		h.Write(strconv.AppendInt(size[:0], int64(len(part)), 36))
		h.WriteByte(' ')
		h.Write(part)
	}
	return h.Sum64()
}

// repeats notes a publish that came from its publisher, and reports whether a copy of it was passed on.
func (s *Stream) repeatsLocked(m *Msg) bool {
	a := s.arrivals
	if a == nil || len(m.Reply) == 0 {
		return false
	}
	key := a.key(m)
	if take(a.copies, key) {
		return true
	}
	switch {
	case a.full:
	case len(a.direct) >= firstArrivals && !a.waiting:
		a.full, a.direct = true, nil
	default:
		a.direct[key]++
	}
	return false
}

// take takes one of a key out of m, if there is any.
func take(m map[uint64]int, key uint64) bool {
	switch n := m[key]; n {
	case 0:
		return false
	case 1:
		delete(m, key)
	default:
		m[key] = n - 1
	}
	return true
}

// awaitPassed has a leader that begins let publishes wait for those that the last one passes on, if it does so.
func (s *Stream) awaitPassed(term uint64) {
	if !s.account.engine.calls.bus.HasInterest(passSubject(s.spec.ID)) {
		return
	}
	s.mu.Lock()
	a := s.arrivals
	waits := a != nil && s.term == term
	if waits {
		a.waiting = true
	}
	s.mu.Unlock()
	if waits {
		time.AfterFunc(awaitPassed, func() { s.passedThrough(a) })
	}
}

// passedThrough takes what came while the last leader passed on what was before.
func (s *Stream) passedThrough(a *arrivals) {
	s.mu.Lock()
	var tell func()
	if waited := s.arrivals == a && a.waits(); waited {
		a.waiting = false
		tell = s.resumeLocked()
	}
	s.mu.Unlock()
	if tell != nil {
		tell()
		s.pump()
	}
}

// takePassedLocked takes one of them. They come before all that waits for them.
func (s *Stream) takePassedLocked(a *arrivals, m *Msg) outcome {
	if !a.waits() {
		return s.takeLocked(m)
	}
	told := s.delayLocked(m)
	if told == (outcome{}) {
		last := len(s.delayed) - 1
		s.delayed = slices.Insert(s.delayed[:last], a.front, s.delayed[last])
		a.front++
	}
	return told
}

// takePassed takes what the last leader passes on.
func (s *Stream) takePassed(c *leaderCall) *api.Error {
	for _, x := range c.Passed {
		if e := x.Ends; e[0] < 0 || e[1] < e[0] || e[2] < e[1] || len(x.Data) < e[2] {
			return api.ErrBadRequest
		}
	}
	s.mu.Lock()
	a := s.arrivals
	unsure := slices.ContainsFunc(c.Passed, func(x passed) bool { return !x.Sure })
	switch {
	case s.term <= c.Term:
		s.mu.Unlock()
		return errSilent // it is about to hear that it leads no more, and the next one may take them
	case s.admission == nil || s.stopped || unsure && (a == nil || s.term != c.Term+1):
		s.mu.Unlock()
		if c.Through {
			s.passedThrough(a)
		}
		return api.ErrClusterNotLeader // and whoever was the next one stores nothing any more
	}
	var tell []func()
	for i := range c.Passed {
		x := &c.Passed[i]
		d := delayed{x.Data, x.Ends[0], x.Ends[1], x.Ends[2], false}
		m := d.msg()
		if !x.Sure {
			key := a.key(&m)
			if a.full || take(a.direct, key) {
				continue
			}
			a.copies[key]++
		}
		if told := s.takePassedLocked(a, &m); told != (outcome{}) {
			tell = append(tell, func() { s.tell(string(m.Reply), told) })
		}
	}
	s.mu.Unlock()
	for _, f := range tell {
		f()
	}
	if c.Through {
		s.passedThrough(a)
	}
	s.pump()
	return nil
}
