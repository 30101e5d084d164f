package jetstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
	"millrace/appliance/server/wire"
)

// find returns the sequence that a get request means, ErrNotStored if there is none.
func (s *Stream) find(g *api.MsgGetRequest) (uint64, error) {
	s.mu.RLock()
	seq, ok, err := s.findLocked(g)
	s.mu.RUnlock()
	switch {
	case err != nil:
		return 0, s.damaged(err)
	case !ok:
		return 0, ErrNotStored
	}
	return seq, nil
}

func (s *Stream) findLocked(g *api.MsgGetRequest) (seq uint64, ok bool, err error) {
	from := g.Seq
	if g.StartTime != nil {
		if from, err = s.machine.TimeToSeq(*g.StartTime); err != nil {
			return 0, false, err
		}
	}
	switch {
	case g.LastFor != "" && subject.IsLiteral(g.LastFor):
		seq, ok = s.machine.LastOf(g.LastFor)
		return seq, ok, nil
	case g.LastFor != "":
		seq, ok = s.machine.LastMatching(g.LastFor)
		return seq, ok, nil
	case g.NextFor != "":
		return s.machine.Next(from, stream.NewFilter(g.NextFor))
	default:
		_, ok, err = s.machine.Place(from)
		return from, ok, err
	}
}

func (r *request) msgGet() (any, *api.Error) {
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	var g api.MsgGetRequest
	if api.CheckEmpty(r.body) == nil {
		return nil, api.ErrBadRequest
	}
	if err := api.Decode(r.body, &g); err != nil {
		return nil, err
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	if s.awaitRead() != nil {
		return nil, api.ErrClusterNotAvail
	}
	seq, loadErr := s.find(&g)
	var m stream.Message
	if loadErr == nil {
		m, _, loadErr = s.load(seq, nil)
	}
	switch {
	case errors.Is(loadErr, ErrNotStored):
		return nil, api.ErrNoMessageFound
	case loadErr != nil:
		return nil, api.ErrStreamGeneralF(loadErr.Error())
	}
	if g.NoHeaders {
		m.Header = nil
	}
	return api.MsgGetResponse{Response: r.ok(), Message: &api.StoredMsg{
		Subject: string(m.Subject), Sequence: m.Seq, Header: m.Header, Data: m.Data, Time: m.Time,
	}}, nil
}

func (r *request) msgDelete() (any, *api.Error) {
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	var d api.MsgDeleteRequest
	if api.CheckEmpty(r.body) == nil {
		return nil, api.ErrBadRequest
	}
	if err := api.Decode(r.body, &d); err != nil {
		return nil, err
	}
	if s.awaitRead() != nil {
		return nil, api.ErrClusterNotAvail
	}
	s.mu.RLock()
	cfg := s.machine.Config()
	first, last := s.machine.Bounds()
	_, stored, lost := s.machine.Place(d.Seq)
	s.mu.RUnlock()
	switch {
	case lost != nil:
		return nil, api.ErrStreamGeneralF(s.damaged(lost).Error())
	case cfg.Sealed:
		return nil, api.ErrStreamSealed
	case cfg.DenyDelete:
		return nil, api.ErrStreamMsgDeleteFailedF("message delete not permitted")
	case d.Seq < first:
		return nil, api.ErrStreamMsgDeleteFailedF("no message found")
	case d.Seq > last:
		return nil, api.ErrStreamMsgDeleteFailedF("stream store EOF")
	case !stored:
		return nil, api.ErrSequenceNotFoundF(d.Seq)
	}
	if _, err := s.do(removing(s.now(), stream.Remove{Seqs: []uint64{d.Seq}})); err != nil {
		return nil, err
	}
	return api.MsgDeleteResponse{Response: r.ok(), Success: true}, nil
}

// Limits of a batched direct get (ADR-31).
const (
	maxDirectSubjects = 1024     // of a multi_last request
	maxDirectBytes    = 64 << 20 // sent by one request without max_bytes
)

// directGet answers a direct get (ADR-31): the message itself, or a status.
func (r *request) directGet() {
	s, apiErr := r.stream()
	if apiErr != nil {
		return // deleted meanwhile: as when nobody subscribes
	}
	if !api.LevelServed(string(wire.Header(r.header, stream.HeaderRequiredAPILevel))) {
		r.status("412 Required Api Level")
		return
	}
	var g api.MsgGetRequest
	switch {
	case r.Filter != "":
		if len(r.body) > 0 && json.Unmarshal(r.body, &g) != nil {
			r.status("408 Malformed Request")
			return
		}
		if g.Selects() {
			r.status("408 Bad Request")
			return
		}
		g.LastFor = r.Filter
	case len(r.body) == 0:
		r.status("408 Empty Request")
		return
	case json.Unmarshal(r.body, &g) != nil:
		r.status("408 Malformed Request")
		return
	case g.Seq == 0 && g.LastFor == "" && g.NextFor == "" && len(g.MultiLastFor) == 0 && g.StartTime == nil:
		r.status("408 Empty Request")
		return
	case !g.Consistent():
		r.status("408 Bad Request")
		return
	}
	if s.awaitRead() != nil {
		return // as when nobody subscribes: the next leader does
	}
	switch {
	case len(g.MultiLastFor) > 0:
		r.directMulti(s, &g)
		return
	case g.Batch != 0:
		r.directBatch(s, &g)
		return
	}
	seq, err := s.find(&g)
	var m stream.Message
	if err == nil {
		m, _, err = s.load(seq, nil)
	}
	switch {
	case errors.Is(err, ErrNotStored):
		r.status("404 Message Not Found")
	case err != nil:
		r.status("500 Unreadable Message")
	default:
		r.sendDirect(r.account.bus, s, m, g.NoHeaders, "")
	}
}

// directBatch sends several messages and ends with 204 EOB (ADR-31).
func (r *request) directBatch(s *Stream, g *api.MsgGetRequest) {
	s.mu.RLock()
	seqs, pending, err := s.batchLocked(g)
	s.mu.RUnlock()
	if err != nil {
		s.damaged(err)
		r.status("500 Unreadable Message")
		return
	}
	if len(seqs) == 0 && g.Batch > 0 {
		r.status("404 Message Not Found")
		return
	}
	if last, ok := r.sendBatch(s, g, seqs, &pending, g.NoHeaders); ok {
		r.endOfBatch(pending, last, "")
	}
}

// batchLocked returns the messages that a batched request means, and how many there are from the
// first on.
func (s *Stream) batchLocked(g *api.MsgGetRequest) (seqs []uint64, pending uint64, err error) {
	f := stream.NewFilter(g.NextFor)
	from := g.Seq
	if g.StartTime != nil {
		if from, err = s.machine.TimeToSeq(*g.StartTime); err != nil {
			return nil, 0, err
		}
	}
	if pending, err = s.machine.Pending(from, f); err != nil {
		return nil, 0, err
	}
	seqs = make([]uint64, 0, 16)
	for at := from; len(seqs) < g.Batch; {
		seq, ok, err := s.machine.Next(at, f)
		if err != nil {
			return nil, 0, err
		}
		if !ok {
			break
		}
		seqs = append(seqs, seq)
		at = seq + 1
	}
	return seqs, pending, nil
}

// directMulti sends the last message of every subject of a list and ends with 204 EOB (ADR-31).
func (r *request) directMulti(s *Stream, g *api.MsgGetRequest) {
	s.mu.RLock()
	seqs, upTo, err := s.lastsLocked(g)
	s.mu.RUnlock()
	switch {
	case err != nil:
		s.damaged(err)
		r.status("500 Unreadable Message")
		return
	case len(seqs) == 0:
		r.status("404 No Results")
		return
	case len(seqs) > maxDirectSubjects:
		r.status("413 Too Many Results")
		return
	}
	before, _ := slices.BinarySearch(seqs, g.Seq)
	seqs = seqs[before:]
	pending := uint64(len(seqs))
	if g.Batch > 0 {
		seqs = seqs[:min(g.Batch, len(seqs))]
	}
	if last, ok := r.sendBatch(s, g, seqs, &pending, false); ok {
		r.endOfBatch(pending, last, fmt.Sprintf("Nats-UpTo-Sequence: %d\r\n", upTo))
	}
}

// lastsLocked returns the last messages that a request means, and up to which one they are the last.
func (s *Stream) lastsLocked(g *api.MsgGetRequest) (seqs []uint64, upTo uint64, err error) {
	first, upTo := s.machine.Bounds()
	if g.UpToSeq > 0 {
		upTo = min(upTo, g.UpToSeq)
	}
	if g.UpToTime != nil {
		if upTo, err = s.machine.TimeToSeq(*g.UpToTime); err != nil {
			return nil, 0, err
		}
		upTo--
	}
	if upTo >= first {
		seqs, err = s.machine.LastPerSubject(stream.NewFilter(g.MultiLastFor...), upTo)
	}
	return seqs, upTo, err
}

// sendBatch sends messages until the bytes of the request are used up, counts them off pending and
// returns the last one's sequence.
func (r *request) sendBatch(s *Stream, g *api.MsgGetRequest, seqs []uint64, pending *uint64, bare bool) (last uint64, ok bool) {
	budget := g.MaxBytes
	if budget == 0 {
		budget = maxDirectBytes
	}
	out := r.account.bus.Borrow()
	defer out.Return()
	var buf []byte
	for _, seq := range seqs {
		*pending -= min(*pending, 1)
		var m stream.Message
		var err error
		if m, buf, err = s.load(seq, buf); errors.Is(err, ErrNotStored) {
			continue
		} else if err != nil {
			r.status("500 Unreadable Message")
			return 0, false
		}
		r.sendDirect(out, s, m, bare, fmt.Sprintf("Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n", *pending, last))
		last = seq
		out.Push() // the next one is read from the disk first
		if budget -= len(m.Subject) + len(m.Header) + len(m.Data); budget <= 0 {
			break
		}
	}
	return last, true
}

func (r *request) endOfBatch(pending, last uint64, extra string) {
	r.account.bus.Publish(r.reply, "", fmt.Appendf(nil,
		"NATS/1.0 204 EOB\r\nNats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n%s\r\n", pending, last, extra), nil)
}

// sendDirect sends a stored message with the headers of a direct get in front of its own.
func (r *request) sendDirect(out publisher, s *Stream, m stream.Message, bare bool, extra string) {
	if bare {
		out.Publish(r.reply, "", nil, m.Data)
		return
	}
	var b strings.Builder
	b.WriteString("NATS/1.0\r\n")
	if len(m.Header) > 0 {
		own := string(m.Header)
		if i := strings.Index(own, "\r\n"); i >= 0 {
			b.WriteString(strings.TrimSuffix(own[i+2:], "\r\n"))
		}
	}
	b.WriteString("Nats-Stream: " + s.name + "\r\n")
	b.WriteString("Nats-Subject: " + string(m.Subject) + "\r\n")
	b.WriteString("Nats-Sequence: " + strconv.FormatUint(m.Seq, 10) + "\r\n")
	b.WriteString("Nats-Time-Stamp: " + m.Time.Format(time.RFC3339Nano) + "\r\n")
	b.WriteString(extra)
	b.WriteString("\r\n")
	out.Publish(r.reply, "", []byte(b.String()), m.Data)
}

// status answers with a header-only status line.
func (r *request) status(line string) {
	r.account.bus.Publish(r.reply, "", []byte("NATS/1.0 "+line+"\r\n\r\n"), nil)
}
