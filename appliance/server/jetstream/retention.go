package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// settled removes messages that a consumer is done with, if no other consumer wants them. The leader of an
// interest or work-queue stream decides that by what is committed of its consumers, each of which has a
// replica on its node.
func (s *Stream) settled(seqs []uint64) {
	if remove := s.unneeded(seqs); len(remove) > 0 {
		s.remove(remove...)
	}
}

// unneeded returns those of seqs that no consumer needs.
func (s *Stream) unneeded(seqs []uint64) []uint64 {
	all := s.allConsumers()
	return slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return s.needed(seq, all) })
}

func (s *Stream) needed(seq uint64, consumers []*consumerEntry) bool {
	s.mu.RLock()
	subj, ok, err := s.machine.SubjectOf(seq)
	ok = ok && s.known
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
	}
	if !ok {
		return true // gone, or not known: nothing to remove
	}
	for _, c := range consumers {
		if c.Needs(seq, subj) {
			return true
		}
	}
	return false
}

// retains reports whether the stream keeps messages for its consumers.
func (s *Stream) retains() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.assigned != nil {
		return s.assigned.Config.Retention != api.LimitsPolicy
	}
	config := s.machine.Config()
	return config.Retention != api.LimitsPolicy
}

// sweep removes from an interest or work-queue stream what its consumers have settled or, on an
// interest stream, none wants: after a restart, whose end may have come between a settlement and the
// removal, when a consumer goes, and whenever a replica of one has missed what others saw settled.
func (s *Stream) sweep() { s.settled(s.doubtful()) }

// sweepSoon sweeps a stream that is led here on a worker. Many calls make one sweep.
func (s *Stream) sweepSoon() {
	if s.sweeping.Swap(true) {
		return
	}
	s.account.engine.work(turns, func() {
		s.sweeping.Store(false) // before it looks: what comes from here on may be missed
		if s.leads() {
			s.sweep()
		}
	})
}

// doubtful returns the messages of an interest or work-queue stream that it may not need any more.
func (s *Stream) doubtful() []uint64 {
	s.mu.RLock()
	seqs, err := s.doubtfulLocked()
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
	}
	return seqs
}

func (s *Stream) doubtfulLocked() ([]uint64, error) {
	retention := s.machine.Config().Retention
	all := stream.NewFilter()
	var seqs []uint64
	if retention == api.LimitsPolicy || s.stopped {
		return nil, nil
	}
	for from := uint64(0); ; {
		seq, ok, err := s.machine.Next(from, all)
		if err != nil || !ok {
			return seqs, err
		}
		subj, _, err := s.machine.SubjectOf(seq)
		if err != nil {
			return seqs, err
		}
		if retention == api.InterestPolicy || s.wantedLocked(subj) {
			seqs = append(seqs, seq)
		}
		from = seq + 1
	}
}

// retain tells the consumers whether the stream keeps messages for them, when this replica begins to lead or
// after the retention may have changed, and removes what it need not keep (any more). It does not wait:
// kept tells when that is done.
func (s *Stream) retain() {
	s.mu.RLock()
	retention, known := s.machine.Config().Retention, s.known
	s.mu.RUnlock()
	for _, c := range s.allConsumers() {
		c.Retain(retention != api.LimitsPolicy)
	}
	if retention != api.LimitsPolicy && !known {
		return // comes again
	}
	kept := func(_ stream.Effects, err *api.Error) {
		if err == nil {
			s.mu.Lock()
			s.kept = retention
			s.mu.Unlock()
		}
	}
	const entry = 1 << 14 // removals
	seqs := s.unneeded(s.doubtful())
	for len(seqs) > entry {
		s.propose(removing(s.now(), stream.Remove{Seqs: seqs[:entry]}), nil)
		seqs = seqs[entry:]
	}
	if len(seqs) == 0 {
		kept(stream.Effects{}, nil)
		return
	}
	s.propose(removing(s.now(), stream.Remove{Seqs: seqs}), kept)
}
