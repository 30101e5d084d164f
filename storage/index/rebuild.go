package index

import "fmt"

// Rebuild reads again what a damaged block said: it calls yield, in the order of the log, with every
// message it finds in the entries from firstIndex to lastIndex whose sequence is in [first, last], and returns
// yield's error, or its own. m.Subject is not looked at. It is called by queries, too, and by several
// goroutines at once.
//
// That works for a block without gaps between its sequences, which is every block from which nothing died
// before it was full, and for one of which nothing died since. Otherwise it is not known which of the
// messages were in the block, and the error stays. A replica can fetch the block from another one
// instead: equal logs give equal blocks.
type Rebuild func(first, last, firstIndex, lastIndex uint64, yield func(m Message, subject []byte) error) error

// rebuild returns the block of a summary, read again; cause is why. Its dead messages may be unknown, and so
// are the distances to messages before it. It is not stored.
func (ix *Index) rebuild(s *summary, cause error) (*block, error) {
	if ix.cfg.Rebuild == nil {
		return nil, cause
	}
	recs := make([]record, 0, s.n)
	dense := s.last-s.first+1 == uint64(s.n)
	err := ix.cfg.Rebuild(s.first, s.last, s.firstIndex, s.lastIndex, func(m Message, subject []byte) error {
		// Messages that are not there any more were dead; they get their place.
		for dense && m.Seq > s.first+uint64(len(recs)) && len(recs) < int(s.n) {
			recs = append(recs, unknown(s.first+uint64(len(recs)), m))
		}
		if len(recs) == int(s.n) || len(recs) > 0 && m.Seq <= recs[len(recs)-1].seq {
			return fmt.Errorf("%w: not made of the messages that are in the log", ErrBlock)
		}
		r := record{seq: m.Seq, index: m.Index, time: m.Time, off: m.Off, size: m.Len << 1, subject: noSubject, distance: farBack}
		if m.Headers {
			r.size |= 1
		}
		if id, ok := ix.subjects.find(subject); ok {
			r.subject = id
		}
		recs = append(recs, r)
		return nil
	})
	for dense && err == nil && len(recs) > 0 && len(recs) < int(s.n) {
		recs = append(recs, unknown(s.first+uint64(len(recs)), recs[len(recs)-1].message()))
	}
	if err != nil || len(recs) != int(s.n) || recs[0].seq != s.first || recs[len(recs)-1].seq != s.last {
		return nil, fmt.Errorf("%w; rebuilt from %d of %d messages: %w", cause, len(recs), s.n, orNil(err))
	}
	if !dense && s.live != s.n {
		return nil, fmt.Errorf("%w; which messages it had cannot be told from the log", cause)
	}
	end := len(recs) - 1
	recs[0].index, recs[0].time, recs[end].index, recs[end].time = s.firstIndex, s.firstTime, s.lastIndex, s.lastTime
	bytes := uint64(0)
	for i := range recs {
		if i > 0 {
			recs[i].time = max(recs[i].time, recs[i-1].time)
			recs[i].index = max(recs[i].index, recs[i-1].index)
		}
		if s.isLive(i) {
			if bytes += uint64(recs[i].size >> 1); recs[i].subject == noSubject {
				return nil, fmt.Errorf("%w; message %d is not in the log", cause, recs[i].seq)
			}
		}
	}
	if bytes != s.bytes {
		return nil, fmt.Errorf("%w; the log has %d bytes of its messages, not %d", cause, bytes, s.bytes)
	}
	return decodeBlock(encodeBlock(recs))
}

// noSubject is the subject of a dead message of a rebuilt block.
const noSubject = 1<<32 - 1

// unknown is the record of a dead message beside m.
func unknown(seq uint64, m Message) record {
	return record{seq: seq, index: m.Index, time: m.Time, subject: noSubject, distance: farBack}
}

func orNil(err error) error {
	if err == nil {
		return ErrBlock
	}
	return err
}
