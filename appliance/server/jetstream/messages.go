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

// find returns the sequence that a get request means, or ErrNotStored.
func (s *Stream) find(g *api.MsgGetRequest) (uint64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from := g.Seq
	if g.StartTime != nil {
		from = s.machine.TimeToSeq(*g.StartTime)
	}
	switch {
	case g.LastFor != "" && subject.IsLiteral(g.LastFor):
		return s.machine.LastOf(g.LastFor)
	case g.LastFor != "":
		return s.machine.LastMatching(g.LastFor)
	case g.NextFor != "":
		return s.machine.Next(from, stream.NewFilter(g.NextFor))
	default:
		_, ok := s.machine.Place(from)
		return from, ok
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
	seq, ok := s.find(&g)
	if !ok {
		return nil, api.ErrNoMessageFound
	}
	m, _, loadErr := s.load(seq, nil)
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
	s.mu.RLock()
	cfg := s.machine.Config()
	first, last := s.machine.Bounds()
	_, stored := s.machine.Place(d.Seq)
	s.mu.RUnlock()
	switch {
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
	if _, err := s.do(stream.EncodeRemove(s.now(), stream.Remove{Seqs: []uint64{d.Seq}})); err != nil {
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
	switch {
	case len(g.MultiLastFor) > 0:
		r.directMulti(s, &g)
		return
	case g.Batch != 0:
		r.directBatch(s, &g)
		return
	}
	seq, ok := s.find(&g)
	if !ok {
		r.status("404 Message Not Found")
		return
	}
	m, _, err := s.load(seq, nil)
	switch {
	case errors.Is(err, ErrNotStored):
		r.status("404 Message Not Found")
	case err != nil:
		r.status("500 Unreadable Message")
	default:
		r.sendDirect(s, m, g.NoHeaders, "")
	}
}

// directBatch sends several messages and ends with 204 EOB (ADR-31).
func (r *request) directBatch(s *Stream, g *api.MsgGetRequest) {
	f := stream.NewFilter(g.NextFor)
	from := g.Seq
	s.mu.RLock()
	if g.StartTime != nil {
		from = s.machine.TimeToSeq(*g.StartTime)
	}
	seqs := make([]uint64, 0, 16)
	pending := s.machine.Pending(from, f)
	for at := from; len(seqs) < g.Batch; {
		seq, ok := s.machine.Next(at, f)
		if !ok {
			break
		}
		seqs = append(seqs, seq)
		at = seq + 1
	}
	s.mu.RUnlock()
	if len(seqs) == 0 && g.Batch > 0 {
		r.status("404 Message Not Found")
		return
	}
	if last, ok := r.sendBatch(s, g, seqs, &pending, g.NoHeaders); ok {
		r.endOfBatch(pending, last, "")
	}
}

// directMulti sends the last message of every subject of a list and ends with 204 EOB (ADR-31).
func (r *request) directMulti(s *Stream, g *api.MsgGetRequest) {
	s.mu.RLock()
	first, upTo := s.machine.Bounds()
	if g.UpToSeq > 0 {
		upTo = min(upTo, g.UpToSeq)
	}
	if g.UpToTime != nil {
		upTo = s.machine.TimeToSeq(*g.UpToTime) - 1
	}
	var seqs []uint64
	if upTo >= first {
		seqs = s.machine.LastPerSubject(stream.NewFilter(g.MultiLastFor...), upTo)
	}
	s.mu.RUnlock()
	switch {
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

// sendBatch sends messages until the bytes of the request are used up, counts them off pending and
// returns the last one's sequence.
func (r *request) sendBatch(s *Stream, g *api.MsgGetRequest, seqs []uint64, pending *uint64, bare bool) (last uint64, ok bool) {
	budget := g.MaxBytes
	if budget == 0 {
		budget = maxDirectBytes
	}
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
		r.sendDirect(s, m, bare, fmt.Sprintf("Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n", *pending, last))
		last = seq
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
func (r *request) sendDirect(s *Stream, m stream.Message, bare bool, extra string) {
	if bare {
		r.account.bus.Publish(r.reply, "", nil, m.Data)
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
	r.account.bus.Publish(r.reply, "", []byte(b.String()), m.Data)
}

// status answers with a header-only status line.
func (r *request) status(line string) {
	r.account.bus.Publish(r.reply, "", []byte("NATS/1.0 "+line+"\r\n\r\n"), nil)
}
