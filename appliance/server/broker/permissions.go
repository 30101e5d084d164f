package broker

import (
	"time"

	"millrace/appliance/server/subject"
)

// Bounds of what is remembered for permissions.
const (
	publishCacheMax = 128         // subjects whose publish permission is remembered
	repliesMax      = 4096        // tracked reply subjects at which expired ones are removed
	repliesPrune    = time.Second // and the longest time between two removals
)

// permissions is the compiled form of Permissions. It does not change and is shared by the
// connections of a user.
type permissions struct {
	config    *Permissions
	publish   bool // publishing is limited
	pubAllow  *subject.Sublist[int]
	pubDeny   *subject.Sublist[int]
	subAllow  []subFilter // nil: all
	subDeny   []subFilter
	responses *ResponsePermission // with defaults; nil: none
}

// subFilter is a subscribe permission.
type subFilter struct{ filter, queue string }

// compilePermissions returns nil for nil. The permissions have been validated.
func compilePermissions(p *Permissions) *permissions {
	if p == nil {
		return nil
	}
	out := &permissions{config: p}
	pub := SubjectPermission{}
	if p.Publish != nil {
		pub = *p.Publish
	}
	if p.AllowResponses != nil {
		r := *p.AllowResponses
		setDefault(&r.MaxMsgs, DefaultResponseMaxMsgs)
		setDefault(&r.Expires, DefaultResponseExpires)
		out.responses = &r
		if pub.Allow == nil {
			pub.Allow = []string{}
		}
	}
	if pub.Allow != nil {
		out.pubAllow = sublistOf(pub.Allow)
	}
	if len(pub.Deny) > 0 {
		out.pubDeny = sublistOf(pub.Deny)
	}
	out.publish = out.pubAllow != nil || out.pubDeny != nil
	if p.Subscribe != nil {
		out.subAllow = subFilters(p.Subscribe.Allow)
		out.subDeny = subFilters(p.Subscribe.Deny)
	}
	return out
}

func sublistOf(filters []string) *subject.Sublist[int] {
	l := &subject.Sublist[int]{}
	for i, f := range filters {
		if err := l.Insert(f, "", i); err != nil {
			panic("BUG: permission was not validated: " + err.Error())
		}
	}
	return l
}

func subFilters(list []string) []subFilter {
	var out []subFilter
	for _, s := range list {
		filter, queue, err := splitQueue(s)
		if err != nil {
			panic("BUG: permission was not validated: " + err.Error())
		}
		out = append(out, subFilter{filter, queue})
	}
	return out
}

// mayPublish reports whether publishing to subj is allowed, replies aside.
func (p *permissions) mayPublish(subj string) bool {
	if p.pubAllow != nil && !p.pubAllow.HasInterest(subj) {
		return false
	}
	return p.pubDeny == nil || !p.pubDeny.HasInterest(subj)
}

// maySubscribe reports whether subscribing to filter is allowed, in a queue group unless queue is
// "". An allowed "foo" permits any queue; as soon as an allowed entry that covers the filter names a
// queue, queue subscriptions need a matching one.
func (p *permissions) maySubscribe(filter, queue string) bool {
	covers := func(s string) bool { return subject.Subset(filter, s) }
	if p.subAllow != nil {
		plain, named, matched := matchFilters(p.subAllow, queue, covers)
		if queue != "" && named {
			plain = matched
		}
		if !plain {
			return false
		}
	}
	plain, _, matched := matchFilters(p.subDeny, queue, covers)
	return !plain && !matched
}

// matchFilters looks at the entries whose filter covers: whether there is one without a queue, one
// with a queue, and one whose queue matches.
func matchFilters(list []subFilter, queue string, covers func(string) bool) (plain, named, matched bool) {
	for _, f := range list {
		if !covers(f.filter) {
			continue
		}
		if f.queue == "" {
			plain = true
			continue
		}
		named = true
		if queue != "" && (f.queue == queue || subject.Match(f.queue, queue)) {
			matched = true
		}
	}
	return plain, named, matched
}

// mayBeDenied reports whether a subscription that is allowed can match denied subjects, so that its
// messages have to be checked.
func (p *permissions) mayBeDenied(filter, queue string) bool {
	for _, f := range p.subDeny {
		if (f.queue == "" || queue != "") && subject.Overlap(f.filter, filter) {
			return true
		}
	}
	return false
}

// denied reports whether a message on subj may not be delivered.
func (p *permissions) denied(subj, queue string) bool {
	plain, _, matched := matchFilters(p.subDeny, queue, func(s string) bool { return subject.Match(s, subj) })
	return plain || matched
}

// publishCheck answers mayPublish for one connection, from memory if it can. It belongs to the read
// loop.
type publishCheck struct{ known map[string]bool }

func (c *publishCheck) allowed(p *permissions, subj []byte) bool {
	if ok, found := c.known[string(subj)]; found {
		return ok
	}
	if c.known == nil || len(c.known) >= publishCacheMax {
		c.known = make(map[string]bool)
	}
	ok := p.mayPublish(str(subj))
	c.known[string(subj)] = ok
	return ok
}

// replyTracker remembers the reply subjects of delivered messages, to which the client may publish
// for a while. It is guarded by outbound.mu.
type replyTracker struct {
	replies map[string]*trackedReply
	added   int // since the last removal of expired ones
	pruned  time.Time
}

type trackedReply struct {
	at   time.Time
	used int
}

// add notes the reply subject of a message that is being delivered.
func (t *replyTracker) add(p *permissions, reply []byte) {
	if p.mayPublish(str(reply)) {
		return
	}
	now := time.Now()
	t.replies[string(reply)] = &trackedReply{at: now}
	if t.added++; t.added > repliesMax || now.Sub(t.pruned) > repliesPrune {
		for s, r := range t.replies {
			if r.spent(p.responses, now) {
				delete(t.replies, s)
			}
		}
		t.added, t.pruned = 0, now
	}
}

// spent reports whether no more messages may be published to the reply subject.
func (r *trackedReply) spent(p *ResponsePermission, now time.Time) bool {
	return (p.MaxMsgs > 0 && r.used >= p.MaxMsgs) || (p.Expires > 0 && now.Sub(r.at) > p.Expires)
}

// use reports whether a message may be published to subj as a reply, and counts it.
func (t *replyTracker) use(p *permissions, subj []byte) bool {
	r := t.replies[string(subj)]
	if r == nil {
		return false
	}
	if r.spent(p.responses, time.Now()) {
		delete(t.replies, string(subj))
		return false
	}
	r.used++
	return true
}
