package jetstream

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/stream"
)

// ErrNotStored is returned when a stream does not hold a sequence (any more).
var ErrNotStored = errors.New("jetstream: message not stored")

// awaitRead waits until the machine has everything that the stream had acknowledged before the call, also
// by another leader that this replica does not know of yet.
func (s *Stream) awaitRead() error {
	s.mu.RLock()
	group := s.group
	s.mu.RUnlock()
	return leaseRead(group)
}

// readWait bounds the time that a reader waits for a quorum to say that its leader still leads.
const readWait = 2 * time.Second

var errReadWait = fmt.Errorf("no quorum has confirmed the leader within %v", readWait)

// leaseRead waits until the machine of a group that is led here has everything that was committed before the call.
// It mostly has.
func leaseRead(group Group) error {
	done, err := askLease(group)
	if done == nil {
		return err
	}
	late := time.NewTimer(readWait)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return errReadWait
	}
}

// askLease is leaseRead for those who do not wait: while the lease is valid the answer is there at once, and done is nil.
// Otherwise done gets it.
func askLease(group Group) (done <-chan error, err error) {
	answer := make(chan error, 1)
	group.LeaseRead(func(err error) { answer <- err })
	select {
	case err := <-answer:
		return nil, err
	default:
		return answer, nil
	}
}

// load reads one message into buf, growing it, and returns it; its slices alias the buffer.
func (s *Stream) load(seq uint64, buf []byte) (stream.Message, []byte, error) {
	s.mu.RLock()
	place, ok, err := s.machine.Place(seq)
	s.mu.RUnlock()
	if err != nil {
		return stream.Message{}, buf, s.damaged(err)
	}
	if !ok {
		return stream.Message{}, buf, ErrNotStored
	}
	buf = slices.Grow(buf[:0], int(place.Len))[:place.Len]
	if err := s.store.ReadAt(s.spec.Log, place.Index, int(place.Off), buf); err != nil {
		return stream.Message{}, buf, s.readError(seq, place, err)
	}
	m, err := stream.DecodeMessage(buf, seq)
	if err != nil {
		return stream.Message{}, buf, s.readError(seq, place, err)
	}
	return m, buf, nil
}

// readError names what could not be read and where it lies. A message that was removed meanwhile
// is not an error of the disk.
func (s *Stream) readError(seq uint64, p stream.Place, err error) error {
	s.mu.RLock()
	_, stored, lost := s.machine.Place(seq)
	s.mu.RUnlock()
	if lost != nil {
		return s.damaged(lost)
	}
	if !stored {
		return ErrNotStored
	}
	err = fmt.Errorf("read message %d of stream %q at %s, entry offset %d: %w",
		seq, s.name, s.store.Place(s.spec.Log, p.Index), p.Off, err)
	s.log.Error("stored message cannot be read", "account", s.account.name, "error", err)
	s.account.engine.leaveUnread(s)
	return err
}

// damaged takes the stream offline because its index cannot be read: whatever it answered would be
// wrong. It returns an error that names the stream. No lock is held.
func (s *Stream) damaged(err error) error {
	err = fmt.Errorf("read the index of stream %q: %w", s.name, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
	return err
}

// failLocked takes the stream offline: it takes and removes nothing more. What is led here of it and its consumers
// goes to other replicas, if there are any.
func (s *Stream) failLocked(err error) {
	if s.failed == nil {
		s.failed = err
		s.log.Error("stream stopped", "account", s.account.name, "error", err)
		e := s.account.engine
		e.leaveFailed(s.spec.ID)
		for _, c := range s.consumers {
			e.leaveFailed(c.id)
		}
		e.rebuild(s.account, s.name, "", s.spec, err)
	}
	s.openedLocked() // never will
}

// readAhead is how much a reader that goes through a stream in order reads at once, in bytes.
const readAhead = 64 << 10

// reader reads a stream for one consumer. It is not safe for concurrent use but for Bounds. When the index
// cannot be read it takes the stream offline, see [Stream.damaged], and finds nothing.
type reader struct {
	s       *Stream
	filters []string
	filter  *stream.Filter

	window []byte       // bytes of the entries at place
	place  stream.Place // of window
	next   uint64       // the sequence after the last one read
}

func newReader(s *Stream) *reader { return &reader{s: s, filter: stream.NewFilter()} }

// forget gives back a window that one large message has grown.
func (r *reader) forget() {
	if cap(r.window) > 2*readAhead {
		r.window, r.place = nil, stream.Place{}
	}
}

// compiled returns the filter of subjects; a consumer asks for the same again and again.
func (r *reader) compiled(subjects []string) *stream.Filter {
	if !slices.Equal(subjects, r.filters) {
		r.filters, r.filter = slices.Clone(subjects), stream.NewFilter(subjects...)
	}
	return r.filter
}

// Bounds returns the stream's first and last sequence.
func (r *reader) Bounds() (first, last uint64) {
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	return r.s.machine.Bounds()
}

// Next returns the first message at or after from that one of filters matches.
func (r *reader) Next(from uint64, filters []string) (uint64, bool) {
	r.s.mu.RLock()
	seq, ok, err := r.s.machine.Next(from, r.compiled(filters))
	r.s.mu.RUnlock()
	if err != nil {
		r.s.damaged(err)
	}
	return seq, ok
}

// Pending returns the number of messages at or after from that one of filters matches.
func (r *reader) Pending(from uint64, filters []string) uint64 {
	r.s.mu.RLock()
	n, err := r.s.machine.Pending(from, r.compiled(filters))
	r.s.mu.RUnlock()
	if err != nil {
		r.s.damaged(err)
	}
	return n
}

// LastPerSubject returns the newest message at or before upTo of each subject, ascending.
func (r *reader) LastPerSubject(filters []string, upTo uint64) []uint64 {
	r.s.mu.RLock()
	seqs, err := r.s.machine.LastPerSubject(r.compiled(filters), upTo)
	r.s.mu.RUnlock()
	if err != nil {
		r.s.damaged(err)
	}
	return seqs
}

// TimeToSeq returns the first message stored at or after t, or the sequence after the last.
func (r *reader) TimeToSeq(t time.Time) uint64 {
	r.s.mu.RLock()
	seq, err := r.s.machine.TimeToSeq(t)
	r.s.mu.RUnlock()
	if err != nil {
		r.s.damaged(err)
	}
	return seq
}

// load returns message seq. Reading in order costs one read of the journal for many messages. The
// slices stay valid until the next call. It calls waits before it reads the journal.
func (r *reader) load(seq uint64, waits func()) (stream.Message, error) {
	limit := 0
	if seq == r.next {
		limit = readAhead
	}
	r.next = seq + 1
	r.s.mu.RLock()
	place, ok, err := r.s.machine.Place(seq)
	if ok && !r.holds(place) && limit > 0 {
		place, ok, err = r.s.machine.Run(seq, limit)
	}
	r.s.mu.RUnlock()
	if err != nil {
		return stream.Message{}, r.s.damaged(err)
	}
	if !ok {
		return stream.Message{}, ErrNotStored
	}
	if !r.holds(place) {
		waits()
		r.window = slices.Grow(r.window[:0], int(place.Len))[:place.Len]
		r.place = place
		if err := r.s.store.ReadAt(r.s.spec.Log, place.Index, int(place.Off), r.window); err != nil {
			return r.alone(seq)
		}
	}
	m, err := stream.DecodeMessage(r.window[place.Off-r.place.Off:], seq)
	if err != nil {
		return r.alone(seq)
	}
	return m, nil
}

// alone reads one message when it could not be read together with those behind it, of which some may be damaged, or
// were removed meanwhile.
func (r *reader) alone(seq uint64) (stream.Message, error) {
	r.place = stream.Place{}
	m, buf, err := r.s.load(seq, r.window)
	r.window = buf
	return m, err
}

// holds reports whether p lies in the window.
func (r *reader) holds(p stream.Place) bool {
	return p.Index == r.place.Index && p.Off >= r.place.Off && p.Off+p.Len <= r.place.Off+r.place.Len
}
