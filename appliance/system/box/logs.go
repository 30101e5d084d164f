package box

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/logbook"
)

// maxLogBytes bounds the lines of one message, well under the payload that servers take unless told
// otherwise.
const maxLogBytes = 256 << 10

func (s *Service) logs(_ context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.LogsRequest](data)
	if err != nil {
		return nil, err
	}
	if r.Lines < 0 || r.Follow < 0 || r.Follow > boxapi.MaxFollow {
		return nil, fmt.Errorf("%d lines, to follow for %d s: want no negative numbers, and at most %d s", r.Lines, r.Follow, boxapi.MaxFollow)
	}
	if r.Follow > 0 {
		// First, so that no line falls between the recent and the following ones.
		s.follow(time.Duration(r.Follow) * time.Second)
	}
	return convert(s.cfg.Log.Tail(r.Lines)), nil
}

// convert makes an answer of the last lines that fit.
func convert(lines []logbook.Line) boxapi.Logs {
	out := boxapi.Logs{Lines: []boxapi.LogLine{}}
	size, from := 0, len(lines)
	for from > 0 && size+lineBytes(lines[from-1]) <= maxLogBytes {
		from--
		size += lineBytes(lines[from])
	}
	for _, l := range lines[from:] {
		out.Lines = append(out.Lines, boxapi.LogLine{Seq: l.Seq, Time: l.Time, Text: l.Text})
	}
	return out
}

// lineBytes is at most what a line takes in JSON: of a byte that is no printable letter, six.
func lineBytes(l logbook.Line) int {
	const frame = 80 // names, number, time
	n := frame
	for _, c := range []byte(l.Text) {
		if c < ' ' || c > '~' || c == '<' || c == '>' || c == '&' || c == '"' || c == '\\' {
			n += 6
		} else {
			n++
		}
	}
	return n
}

// follow sends lines for so long, or for longer if it was asked before to.
func (s *Service) follow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := s.cfg.Now().Add(d); until.After(s.following) {
		s.following = until
	}
	if s.running || s.ctx.Err() != nil {
		return
	}
	s.running = true
	from := s.cfg.Log.Last()
	s.wg.Go(func() { s.send(from) })
}

// send sends the lines after one until nobody follows any more.
func (s *Service) send(seq uint64) {
	for {
		s.mu.Lock()
		left := s.following.Sub(s.cfg.Now())
		if left <= 0 || s.ctx.Err() != nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(s.ctx, left)
		lines, err := s.cfg.Log.After(ctx, seq)
		cancel()
		if err != nil {
			continue // the time is over, unless it has been made longer
		}
		seq = lines[len(lines)-1].Seq
		for len(lines) > 0 {
			size, n := 0, 0
			for n < len(lines) && (n == 0 || size+lineBytes(lines[n]) <= maxLogBytes) {
				size += lineBytes(lines[n])
				n++
			}
			doc, err := json.Marshal(convert(lines[:n]))
			if err == nil {
				// Nobody is told of a line that is not sent: the numbers show the gap.
				_ = s.cfg.Send(boxapi.VerbLog, doc)
			}
			lines = lines[n:]
		}
	}
}
