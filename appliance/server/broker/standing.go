package broker

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"
)

// StandingRequests are requests that their server answers for long, such as pulls of messages: who has sent one
// does not notice that the server is gone. They are noted where the client is, and when their server is
// not heard or lost, and another one has taken over their subject, the client is told that they are over. A
// request on a subject that somebody took such requests on a while ago is held when it finds nobody: clients
// repeat them when they are told that they are over, by their server too, which may be before the next one is
// there.
type StandingRequests struct {
	Prefix string // of their subjects; empty: there are none
	Over   string // the header block that clients are told with
	// Ended is a subject of the system account on which servers tell, by an EndedRequests, that nobody takes the
	// requests on a subject any more; empty: none does.
	Ended string
}

// EndedRequests tells that nobody takes the standing requests on a subject any more.
type EndedRequests struct {
	Account string `json:"account"`
	Subject string `json:"subject"`
}

func (s *StandingRequests) matches(subject []byte) bool {
	return s.Prefix != "" && strings.HasPrefix(str(subject), s.Prefix)
}

// Bounds of what is noted: beyond them requests are not, and clients find out as they do elsewhere.
const (
	standingSubjects = 10_000
	standingReplies  = 256 // of a subject
	standingTime     = 10 * time.Minute
	standingSweep    = time.Minute
)

// standing is the requests that clients of this server have sent.
type standing struct {
	mu    sync.Mutex // before outbound.mu
	at    map[standingKey]standingRequests
	swept time.Time
}

type standingKey struct {
	account *Account
	subject string
}

// standingRequests are those on one subject, by reply.
type standingRequests map[string]standingRequest

type standingRequest struct {
	at     time.Time
	routes []*route // that it was sent to; none: it is at this server
}

// noteStanding notes a message that a router has just given to n receivers, if it is a standing request.
func (m *mesh) noteStanding(a *Account, subject string, msg *message, n int, by *router) {
	if n > 0 && len(msg.reply) > 0 && m.b.cfg.Standing.matches(view(subject)) {
		m.standing.note(a, subject, str(msg.reply), by.sent)
	}
}

// note notes a request that somebody has got.
func (s *standing) note(a *Account, subject, reply string, routes []*route) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) > standingSweep {
		s.swept = now
		for key, q := range s.at {
			if q.forget(now.Add(-standingTime)); len(q) == 0 {
				delete(s.at, key)
			}
		}
	}
	q := s.at[standingKey{a, subject}]
	if q == nil {
		if len(s.at) >= standingSubjects {
			return
		}
		q = make(standingRequests)
		s.at[standingKey{a, strings.Clone(subject)}] = q
	}
	if _, again := q[reply]; !again && len(q) >= standingReplies {
		const young = 5 * time.Second
		if q.forget(now.Add(-young)); len(q) >= standingReplies {
			return
		}
	}
	q[strings.Clone(reply)] = standingRequest{now, slices.Clone(routes)}
}

// forget drops requests from before a time.
func (q standingRequests) forget(before time.Time) {
	for reply, r := range q {
		if r.at.Before(before) {
			delete(q, reply)
		}
	}
}

// taken reports whether somebody took requests on a subject a while ago.
func (s *standing) taken(a *Account, subject string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[standingKey{a, subject}] != nil
}

// serveEnded hears of subjects that nobody will take requests on.
func (m *mesh) serveEnded() error {
	if m.b.cfg.Standing.Ended == "" {
		return nil
	}
	_, err := m.b.system.Subscribe(m.b.cfg.Standing.Ended, "", func(msg *Msg) {
		var e EndedRequests
		if json.Unmarshal(msg.Data, &e) != nil {
			return
		}
		if a := m.b.accounts[e.Account]; a != nil {
			m.ended(a, e.Subject)
		}
	})
	return err
}

// ended forgets the requests on a subject. Those that wait for somebody to take them are refused.
func (m *mesh) ended(a *Account, subject string) {
	m.standing.mu.Lock()
	delete(m.standing.at, standingKey{a, subject})
	m.standing.mu.Unlock()
	m.holding.Lock()
	held := slices.DeleteFunc(slices.Clone(m.held), func(p *parcel) bool { return p.account != a || p.deliver != subject })
	m.holding.Unlock()
	for _, p := range held {
		if !m.router.live(a, subject) { // or somebody else takes them since
			p.refuse()
		}
	}
}

// subscribed is told of interest in a subject, of another server or of this one. It is called without any lock.
func (m *mesh) subscribed(a *Account, filter string) {
	over := m.b.cfg.Standing
	if over.Prefix == "" || !strings.HasPrefix(filter, over.Prefix) {
		return
	}
	var replies []string
	m.standing.mu.Lock()
	for reply, r := range m.standing.at[standingKey{a, filter}] {
		if slices.ContainsFunc(r.routes, (*route).isLost) {
			replies = append(replies, reply)
			delete(m.standing.at[standingKey{a, filter}], reply)
		}
	}
	m.standing.mu.Unlock()
	for _, reply := range replies {
		a.Publish(reply, "", []byte(over.Over), nil)
	}
}

// isLost reports whether the route is quiet or has ended.
func (r *route) isLost() bool {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	return r.quiet.Load() || r.out.closing
}
