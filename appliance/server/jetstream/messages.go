package jetstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
)

// find returns the sequence that a get request means, or ErrNotStored.
func (s *Stream) find(g *api.MsgGetRequest) (uint64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case g.LastFor != "" && subject.IsLiteral(g.LastFor):
		return s.machine.LastOf(g.LastFor)
	case g.LastFor != "":
		return s.machine.LastMatching(g.LastFor)
	case g.NextFor != "":
		return s.machine.Next(g.Seq, stream.NewFilter(g.NextFor))
	default:
		_, ok := s.machine.Place(g.Seq)
		return g.Seq, ok
	}
}

func (r *request) msgGet() (any, *api.Error) {
	s, err := r.stream()
	if err != nil {
		return nil, err
	}
	var g api.MsgGetRequest
	if len(r.body) == 0 {
		return nil, api.ErrBadRequest
	}
	if err := r.decode(&g); err != nil {
		return nil, err
	}
	if g.Seq > 0 && g.LastFor != "" || g.LastFor != "" && g.NextFor != "" ||
		g.Seq == 0 && g.LastFor == "" && g.NextFor == "" || g.Batch != 0 || len(g.MultiLastFor) > 0 {
		return nil, api.ErrBadRequest
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
	if len(r.body) == 0 {
		return nil, api.ErrBadRequest
	}
	if err := r.decode(&d); err != nil {
		return nil, err
	}
	s.mu.RLock()
	cfg := s.machine.Config()
	_, stored := s.machine.Place(d.Seq)
	s.mu.RUnlock()
	switch {
	case cfg.Sealed:
		return nil, api.ErrStreamSealed
	case cfg.DenyDelete:
		return nil, api.ErrStreamMsgDeleteFailedF("message delete not permitted")
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
	maxDirectBatch = 1024     // subjects of a multi_last request
	maxDirectBytes = 64 << 20 // sent by one request without max_bytes
)

// directGet answers a direct get (ADR-31): the message itself, or a status.
func (r *request) directGet() {
	s, apiErr := r.stream()
	if apiErr != nil {
		return // deleted meanwhile: as when nobody subscribes
	}
	if !api.LevelServed(string(stream.HeaderValue(r.header, stream.HeaderRequiredAPILevel))) {
		r.status("412 Required Api Level")
		return
	}
	var g api.MsgGetRequest
	switch {
	case r.Filter != "":
		if len(r.body) > 0 && api.Decode(r.body, &g) != nil || g.Seq > 0 || g.LastFor != "" || g.NextFor != "" {
			r.status("408 Bad Request")
			return
		}
		g.LastFor = r.Filter
	case len(r.body) == 0:
		r.status("408 Empty Request")
		return
	case api.Decode(r.body, &g) != nil:
		r.status("408 Malformed Request")
		return
	}
	if (g.Seq > 0 || g.NextFor != "") && g.LastFor != "" || g.LastFor != "" && len(g.MultiLastFor) > 0 ||
		g.Seq == 0 && g.LastFor == "" && g.NextFor == "" && len(g.MultiLastFor) == 0 && g.StartTime == nil ||
		g.Seq > 0 && g.StartTime != nil {
		r.status("408 Bad Request")
		return
	}
	if g.Batch > 0 || len(g.MultiLastFor) > 0 || g.StartTime != nil {
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
	s.mu.RLock()
	_, last := s.machine.Bounds()
	upTo := g.UpToSeq
	if g.UpToTime != nil {
		upTo = s.machine.TimeToSeq(*g.UpToTime) - 1
	}
	if upTo == 0 || upTo > last {
		upTo = last
	}
	var seqs []uint64
	var pending uint64
	limit := g.Batch
	if len(g.MultiLastFor) > 0 {
		seqs = s.machine.LastPerSubject(stream.NewFilter(g.MultiLastFor...), upTo)
		if len(seqs) > maxDirectBatch {
			s.mu.RUnlock()
			r.status("413 Too Many Results")
			return
		}
		for len(seqs) > 0 && seqs[0] < g.Seq {
			seqs = seqs[1:]
		}
		if limit > 0 && len(seqs) > limit {
			pending = uint64(len(seqs) - limit)
			seqs = seqs[:limit]
		}
	} else {
		f := stream.NewFilter(g.NextFor)
		from := g.Seq
		if g.StartTime != nil {
			from = s.machine.TimeToSeq(*g.StartTime)
		}
		for len(seqs) < max(limit, 1) {
			seq, ok := s.machine.Next(from, f)
			if !ok {
				break
			}
			seqs = append(seqs, seq)
			from = seq + 1
		}
		pending = s.machine.Pending(from, f)
	}
	s.mu.RUnlock()
	if len(seqs) == 0 {
		r.status("404 No Results")
		return
	}
	budget := g.MaxBytes
	if budget <= 0 {
		budget = maxDirectBytes
	}
	after := pending // beyond seqs
	pending += uint64(len(seqs))
	var buf []byte
	var sent uint64
	for i, seq := range seqs {
		var m stream.Message
		var err error
		if m, buf, err = s.load(seq, buf); errors.Is(err, ErrNotStored) {
			continue
		} else if err != nil {
			r.status("500 Unreadable Message")
			return
		}
		budget -= len(m.Subject) + len(m.Header) + len(m.Data)
		if budget < 0 && sent > 0 {
			break
		}
		pending = after + uint64(len(seqs)-i-1)
		r.sendDirect(s, m, g.NoHeaders, fmt.Sprintf("Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n", pending, sent))
		sent = seq
	}
	eob := fmt.Sprintf("NATS/1.0 204 EOB\r\nNats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n", pending, sent)
	if len(g.MultiLastFor) > 0 {
		eob += fmt.Sprintf("Nats-UpTo-Sequence: %d\r\n", upTo)
	}
	r.account.bus.Publish(r.reply, "", []byte(eob+"\r\n"), nil)
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
