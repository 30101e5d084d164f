package jetstream

import (
	"slices"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
)

// audience finds the consumers of a stream that an entry concerns. A stream may have ten thousand, most of
// which watch a few of its subjects and wait: what costs an entry anything is those it concerns, not those
// there are. Stream.mu guards it.
//
// Invariants:
//  1. Every consumer of Stream.consumers is a member of a group for each of its filters, and of no other.
//  2. Every consumer is in attentive, but for those of this node alone that need no acknowledgements, have
//     delivered what there was when they started, and still have the filters of then: what leaves the
//     stream unseen by such a consumer is either of a subject that it filters, or below its cursor's reach
//     (see delivery.Config.OnLive).
//  3. behind has the consumers that wait for the stream to get somewhere on this node.
type audience struct {
	groups    map[string]*listeners // by filter; empty for consumers without one
	bySubject subject.Sublist[*listeners]
	attentive map[*consumerEntry]struct{}
	behind    map[*consumerEntry]struct{}
}

// listeners are the consumers with the same filter.
type listeners struct {
	members map[*consumerEntry]struct{}
	entry   uint64 // that concerned them last; owned by apply
}

func newAudience() audience {
	return audience{
		groups:    map[string]*listeners{},
		attentive: map[*consumerEntry]struct{}{}, behind: map[*consumerEntry]struct{}{},
	}
}

// filtersOf returns the groups of a consumer; the empty one is that of all subjects.
func filtersOf(cfg *api.ConsumerConfig) []string {
	if f := cfg.Filters(); len(f) > 0 {
		return f
	}
	return []string{""}
}

func (a *audience) join(c *consumerEntry, filters []string) {
	for _, f := range filters {
		g := a.groups[f]
		if g == nil {
			g = &listeners{members: map[*consumerEntry]struct{}{}}
			a.groups[f] = g
			if f != "" {
				if err := a.bySubject.Insert(f, "", g); err != nil {
					panic("BUG: filter of a consumer: " + err.Error()) // it was checked
				}
			}
		}
		g.members[c] = struct{}{}
	}
}

func (a *audience) part(c *consumerEntry, filters []string) {
	for _, f := range filters {
		g := a.groups[f]
		if g == nil {
			continue // listed twice
		}
		if delete(g.members, c); len(g.members) == 0 {
			delete(a.groups, f)
			a.bySubject.Remove(f, "", g)
		}
	}
}

// wants reports whether the filter of a consumer takes subj.
func (a *audience) wants(subj string) bool {
	return a.groups[""] != nil || a.bySubject.HasInterest(subj)
}

// enterLocked adds a consumer to the stream. It is told of everything.
func (s *Stream) enterLocked(c *consumerEntry) {
	s.consumers[c.name] = c
	s.audience.attentive[c] = struct{}{}
	s.audience.join(c, filtersOf(&c.config))
}

// leaveLocked removes a consumer from the stream.
func (s *Stream) leaveLocked(c *consumerEntry) {
	delete(s.consumers, c.name)
	delete(s.audience.attentive, c)
	delete(s.audience.behind, c)
	s.audience.part(c, filtersOf(&c.config))
}

// configureLocked gives a consumer another configuration. With another filter it may hold what that does
// not match, and is told of everything from now on.
func (s *Stream) configureLocked(c *consumerEntry, cfg api.ConsumerConfig) {
	old, filters := filtersOf(&c.config), filtersOf(&cfg)
	same := slices.Equal(old, filters)
	c.config = cfg
	if same {
		return
	}
	c.filter, c.refiltered = stream.NewFilter(cfg.Filters()...), true
	if s.consumers[c.name] != c {
		return
	}
	s.audience.part(c, old)
	s.audience.join(c, filters)
	s.audience.attentive[c] = struct{}{}
}

// noteLive notes that a consumer of this node alone has only to hear of what its filters match.
func (s *Stream) noteLive(c *consumerEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.refiltered {
		delete(s.audience.attentive, c)
	}
}

// noteBehind notes whether a consumer waits for the stream to get somewhere here.
func (s *Stream) noteBehind(c *consumerEntry, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && s.consumers[c.name] == c {
		s.audience.behind[c] = struct{}{}
	} else {
		delete(s.audience.behind, c)
	}
}

// concerned is whom an entry concerns. Owned by apply, which keeps its memory.
type concerned struct {
	attentive []*consumerEntry // to be told of all that left the stream
	removal   []*consumerEntry // to be told of single messages that left, besides
	arrival   []*consumerEntry // to be told that there are new messages
	match     subject.Result[*listeners]
}

func (n *concerned) reset() {
	for _, list := range []*[]*consumerEntry{&n.attentive, &n.removal, &n.arrival} {
		clear(*list)
		*list = (*list)[:0]
	}
}

// concern fills n with whom entry concerns. What messages replace has their subjects: those
// who are not attentive and filter others need not hear of it.
func (s *Stream) concern(n *concerned, index uint64, entry []byte, fx *stream.Effects) {
	n.reset()
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := &s.audience
	if len(s.consumers) == 0 {
		return
	}
	if fx.HeadMoved || len(fx.Removed) > 0 {
		for c := range a.attentive {
			n.attentive = append(n.attentive, c)
		}
	}
	if fx.Last == 0 {
		if fx.ByPurge || len(fx.Removed) > 0 {
			for _, c := range s.consumers {
				if _, heard := a.attentive[c]; !heard {
					n.removal = append(n.removal, c)
				}
			}
		}
		return
	}
	left := len(a.groups) // not concerned yet
	add := func(g *listeners) {
		if g == nil || g.entry == index {
			return
		}
		g.entry = index
		left--
		for c := range g.members {
			n.arrival = append(n.arrival, c)
			if _, heard := a.attentive[c]; !heard && len(fx.Removed) > 0 {
				n.removal = append(n.removal, c)
			}
		}
	}
	add(a.groups[""])
	stream.EachSubject(entry, func(subj []byte) bool {
		if left == 0 {
			return false
		}
		a.bySubject.Match(string(subj), &n.match)
		for _, g := range n.match.Plain {
			add(g)
		}
		return true
	})
	for c := range a.behind {
		n.arrival = append(n.arrival, c)
	}
}

// notify tells consumers and timers what an entry has changed. It is called by apply.
func (s *Stream) notify(index uint64, entry []byte, fx stream.Effects) {
	if fx.Last > 0 || fx.HeadMoved || len(fx.Removed) > 0 {
		n := &s.concerned
		s.concern(n, index, entry, &fx)
		for _, c := range n.attentive {
			if fx.HeadMoved {
				c.HeadMoved(fx.Head, fx.ByPurge)
			}
			c.Removed(fx.Removed)
		}
		for _, c := range n.removal {
			if fx.HeadMoved && fx.ByPurge {
				c.HeadMoved(fx.Head, true)
			}
			c.Removed(fx.Removed)
		}
		for _, c := range n.arrival {
			c.NewMessages()
		}
		n.reset()
	}
	if fx.Last > 0 || fx.HeadMoved {
		s.schedule()
	}
}
