package jetstream

import (
	"errors"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// ack is a publish that waits for its batch to commit.
type ack struct {
	seq        uint64
	start, end int // of the reply subject in acks.replies
	duplicate  bool
}

// acks are the publishers that wait for one batch. Reply subjects lie back to back.
type acks struct {
	list    []ack
	replies []byte
	refused []refused
}

// refused is a publish that was refused by what is in flight: the refusal is true when that is applied.
type refused struct {
	reply string
	body  []byte
}

func (a *acks) add(reply []byte, v stream.Verdict) {
	if len(reply) == 0 {
		return
	}
	start := len(a.replies)
	a.replies = append(a.replies, reply...)
	a.list = append(a.list, ack{v.Seq, start, len(a.replies), v.Duplicate})
}

// proposal is something on its way through a stream's group, in order.
type proposal struct {
	entry    []byte // nil for a batch of messages until it is taken
	messages bool
	acks     acks                                    // of a batch of messages
	done     func(fx stream.Effects, err *api.Error) // of anything else; may be nil
	leaves   *stream.Leaving                         // what anything else takes out of the stream; nil: nothing
	ahead    uint64                                  // a purge that may move the stream's sequences on: they go on here
	before   uint64                                  // the last sequence given out before it
}

// purging returns the proposal of a purge.
func purging(now time.Time, p stream.Purge) *proposal {
	return &proposal{entry: stream.EncodePurge(now, p), leaves: &stream.Leaving{Purge: &p}}
}

// removing returns the proposal of removals.
func removing(now time.Time, r stream.Remove) *proposal {
	return &proposal{entry: stream.EncodeRemove(now, r), leaves: &stream.Leaving{Remove: &r}}
}

// configuring returns the proposal of a configuration.
func configuring(now time.Time, cfg any) *proposal {
	return &proposal{entry: stream.EncodeConfig(now, cfg), leaves: &stream.Leaving{Any: true}}
}

// maxOpenBytes is the size at which an open batch is proposed although others are in flight.
const maxOpenBytes = 512 << 10

// maxInFlightBytes bounds what a stream holds in memory for its group; publishers beyond it are
// told to slow down (err_code 10167).
const maxInFlightBytes = 56 << 20 // below the bound of a raft group, which would refuse a whole batch

// readyLocked reports whether the open batch need not wait for those in flight. One that waits is
// proposed when the group applies the next entry.
func (s *Stream) readyLocked() bool {
	_, size := s.admission.Open()
	return len(s.inflight) == 0 || size >= maxOpenBytes
}

// nextLocked returns the next proposal that may go to the group, or nil.
func (s *Stream) nextLocked() *proposal {
	if s.failed != nil || s.stopped || s.term == 0 {
		return nil
	}
	if n, _ := s.admission.Open(); n > 0 && (len(s.queue) > 0 || s.readyLocked()) {
		p := &proposal{messages: true, acks: s.open, entry: s.admission.Take()}
		s.open = acks{}
		if n := len(s.spare); n > 0 {
			s.open, s.spare = s.spare[n-1], s.spare[:n-1]
		}
		return p
	}
	if len(s.queue) > 0 {
		p := s.queue[0]
		s.queue = s.queue[1:]
		if p.ahead > 0 { // the open batch is empty: sequences given out from here on come after the purge
			p.before = s.admission.Skip(p.ahead)
		}
		if p.leaves != nil {
			s.admission.Leave(*p.leaves)
		}
		return p
	}
	if len(s.removals.Seqs) > 0 && !s.removing {
		s.removing = true
		n := min(len(s.removals.Seqs), maxRemovals)
		seqs := s.removals.Seqs[:n:n]
		p := removing(s.now(), stream.Remove{Seqs: seqs})
		s.admission.Leave(*p.leaves)
		p.done = func(_ stream.Effects, err *api.Error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if err == nil || s.stopped {
				s.removing = false
				return
			}
			s.removals.Seqs = append(seqs, s.removals.Seqs...)
			time.AfterFunc(retryRemovals, func() {
				s.mu.Lock()
				s.removing = false
				s.mu.Unlock()
				s.pump()
			})
		}
		s.removals.Seqs = s.removals.Seqs[n:]
		return p
	}
	return nil
}

// maxRemovals bounds the sequences in one removal entry; retryRemovals is when a refused one is tried again.
const (
	maxRemovals   = 100_000
	retryRemovals = time.Second
)

// pump hands to the group what is ready, in order. One goroutine does it at a time and holds no
// lock over the call, so that a group may apply within Propose.
func (s *Stream) pump() {
	s.mu.Lock()
	if s.pumping {
		s.mu.Unlock()
		return
	}
	s.pumping = true
	for p := s.nextLocked(); p != nil; p = s.nextLocked() {
		entry, term := p.entry, s.term
		p.entry = nil
		s.inflight = append(s.inflight, p)
		propose := s.group.ProposeControl
		if p.messages {
			propose = s.group.Propose
		}
		s.mu.Unlock()
		err := propose(term, entry)
		s.mu.Lock()
		if err != nil {
			for _, tell := range []func(){s.refuseLocked(p, err), s.resumeLocked()} {
				if tell != nil {
					s.mu.Unlock()
					tell()
					s.mu.Lock()
				}
			}
		}
	}
	s.pumping = false
	s.mu.Unlock()
}

// refuseLocked answers everything in flight that the group has refused. A refusal is of the newest
// proposal; those before it are still on their way and keep their order, but sequences after it
// were given out in vain: the admission starts again once the older ones are applied.
func (s *Stream) refuseLocked(p *proposal, err error) (tell func()) {
	last := len(s.inflight) - 1
	if last < 0 || s.inflight[last] != p {
		return nil // close has answered it
	}
	s.inflight = s.inflight[:last]
	away := errors.Is(err, ErrNotLeader)
	if errors.Is(err, ErrFull) {
		s.account.engine.leaveFull(s.spec.ID)
	}
	if !s.refusing && !away { // one line when it begins, not one for each message
		s.refusing = true
		s.log.Error("stream stores nothing", "stream", s.name, "account", s.account.name, "error", err)
	}
	if !p.messages {
		refused := []acks{p.acks}
		if p.ahead > 0 && s.admission != nil {
			refused = append(refused, s.open)
			s.open = acks{}
			s.admission.Unskip(p.before)
		}
		if p.leaves != nil && s.admission != nil {
			s.admission.Stay()
		}
		return s.refusalsOf(refused, p.done, err)
	}
	refused := []acks{p.acks, s.open}
	s.open = acks{}
	s.admission.Retract()
	return s.refusalsOf(refused, nil, err)
}

// refusalsOf returns what tells those who wait for what the group has refused.
func (s *Stream) refusalsOf(list []acks, done func(stream.Effects, *api.Error), err error) (tell func()) {
	no := api.ErrStreamStoreFailedF(err.Error())
	if errors.Is(err, ErrNotLeader) {
		no = api.ErrClusterNotAvail
		list = nil // the next leader may have got the message too: a refusal would make the client send it again
	}
	reply := s.refusal(no)
	return func() {
		for _, a := range list {
			s.refuseAll(a, reply)
		}
		if done != nil {
			done(stream.Effects{}, no)
		}
	}
}

// propose queues an entry behind what is in flight; done is called after it is applied, without
// locks held, and must not block.
func (s *Stream) propose(p *proposal, done func(fx stream.Effects, err *api.Error)) {
	p.done = done
	s.mu.Lock()
	var refusal *api.Error
	switch {
	case s.stopped || s.failed != nil:
		refusal = api.ErrStreamNotFound
	case s.term == 0:
		refusal = api.ErrClusterNotAvail
	default:
		s.queue = append(s.queue, p)
	}
	s.mu.Unlock()
	if refusal != nil {
		if done != nil {
			done(stream.Effects{}, refusal)
		}
		return
	}
	s.pump()
}

// do proposes an entry and waits until it is applied.
func (s *Stream) do(p *proposal) (stream.Effects, *api.Error) {
	type result struct {
		fx  stream.Effects
		err *api.Error
	}
	ch := make(chan result, 1)
	s.propose(p, func(fx stream.Effects, err *api.Error) { ch <- result{fx, err} })
	r := <-ch
	return r.fx, r.err
}

// remove queues single messages for removal; many are removed by one entry.
func (s *Stream) remove(seqs ...uint64) {
	s.mu.Lock()
	if s.term != 0 {
		s.removals.Seqs = append(s.removals.Seqs, seqs...)
	}
	s.mu.Unlock()
	s.pump()
}

// snapshotAfter is how many bytes an entry, or several, have to remove for the log to be cut soon. Where
// messages go as new ones come, the log grows by as much, and the group cuts it by itself.
const snapshotAfter = 16 << 20

// apply takes a committed entry; the group calls it.
func (s *Stream) apply(index uint64, entry []byte) {
	s.mu.Lock()
	if s.failed != nil {
		s.mu.Unlock()
		return
	}
	_, before := s.machine.Usage()
	fx, err := s.machine.Apply(index, entry)
	s.applied = index
	if _, after := s.machine.Usage(); after != before {
		if after < before {
			s.freed += before - after
		}
		s.account.book(s.storage, int64(after)-int64(before))
	}
	if err != nil {
		s.failLocked(fmt.Errorf("apply entry %d of stream %q (%s): %w",
			index, s.name, s.store.Place(s.spec.Log, index), err))
	}
	var p *proposal
	if len(s.inflight) > 0 {
		p, s.inflight = s.inflight[0], s.inflight[1:]
		if p.messages {
			s.admission.Applied()
		} else if s.admission != nil {
			s.admission.Moved()
			if p.leaves != nil {
				s.admission.Left()
			}
		}
	}
	live := s.admission != nil
	tell := s.resumeLocked()
	if live {
		if s.refusing {
			s.refusing = false
			s.log.Info("stream stores again", "stream", s.name, "account", s.account.name)
		}
	}
	group := s.group
	due := group != nil && s.freed >= snapshotAfter
	if due {
		s.freed = 0
	}
	s.mu.Unlock()
	if due {
		group.Snapshot()
	}
	if m, ok := s.store.(*memoryGroup); ok {
		m.release(fx.Dead)
	}
	if !live {
		s.notify(index, entry, fx)
		return
	}
	s.pump() // before the acks leave, so that the next batch is on its way to the disk meanwhile
	if tell != nil {
		tell()
	}
	switch {
	case p == nil:
	case err != nil && p.messages: // the group has stored it, though this replica cannot show it: nothing is true
	case err != nil:
		if p.done != nil {
			p.done(fx, api.ErrStreamGeneralF(err.Error()))
		}
	case p.messages:
		s.acknowledge(&p.acks)
	default:
		if len(p.acks.refused) > 0 {
			s.acknowledge(&p.acks)
		}
		if p.done != nil {
			p.done(fx, nil)
			s.pump()
		}
	}
	s.notify(index, entry, fx)
	if p != nil && p.messages {
		s.recycle(p.acks)
	}
}

// recycle keeps the buffers of answered acks for a later batch.
func (s *Stream) recycle(a acks) {
	const spares, largest = 2, 1 << 20
	if cap(a.replies) == 0 || cap(a.replies) > largest {
		return
	}
	s.mu.Lock()
	if len(s.spare) < spares {
		s.spare = append(s.spare, acks{list: a.list[:0], replies: a.replies[:0]})
	}
	s.mu.Unlock()
}
