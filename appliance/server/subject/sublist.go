package subject

import (
	"errors"
	"fmt"
	"slices"
)

// ErrInvalid is returned when a filter is not well-formed (see Valid).
var ErrInvalid = errors.New("subject: invalid filter")

// Sublist maps filters to subscriptions of type T and finds those that match a literal subject. It
// is a trie with one level a token. The zero value is ready for use.
//
// Invariants:
//  1. A value is stored at most once under one (filter, queue); the caller sees to it.
//  2. No node is empty: it has subscriptions, or nodes below it.
//
// A Sublist does not lock: methods that change it exclude all others, matching may run concurrently.
type Sublist[T comparable] struct {
	root level[T]
	size int
}

// level holds the nodes reached by one more token.
type level[T comparable] struct {
	nodes map[string]*node[T]
	any   *node[T] // below "*"
	full  *node[T] // below ">"
}

type node[T comparable] struct {
	next   *level[T]
	plain  members[T]
	queues []*queue[T] // in order of first subscription
}

type queue[T comparable] struct {
	name string
	subs members[T]
}

// indexAt is the number of members from which on removal uses an index instead of a scan.
const indexAt = 64

// members is an unordered set with fast iteration.
type members[T comparable] struct {
	list  []T
	index map[T]int // position in list; nil while the list is short
}

func (m *members[T]) add(v T) {
	m.list = append(m.list, v)
	switch {
	case m.index != nil:
		m.index[v] = len(m.list) - 1
	case len(m.list) == indexAt:
		m.index = make(map[T]int, 2*indexAt)
		for i, v := range m.list {
			m.index[v] = i
		}
	}
}

func (m *members[T]) remove(v T) bool {
	i := -1
	if m.index != nil {
		if at, ok := m.index[v]; ok {
			i = at
		}
	} else {
		i = slices.Index(m.list, v)
	}
	if i < 0 {
		return false
	}
	last := len(m.list) - 1
	m.list[i] = m.list[last]
	var zero T
	m.list[last] = zero
	m.list = m.list[:last]
	if m.index != nil {
		delete(m.index, v)
		if i < last {
			m.index[m.list[i]] = i
		}
		if last < indexAt/2 {
			m.index = nil
		}
	}
	return true
}

// Len returns the number of stored subscriptions.
func (s *Sublist[T]) Len() int { return s.size }

// Insert stores v under filter, as a member of the queue group queueName unless that is "". It keeps
// filter and returns an error wrapping ErrInvalid for a malformed one.
func (s *Sublist[T]) Insert(filter, queueName string, v T) error {
	if !Valid(filter) {
		return fmt.Errorf("insert %q: %w", filter, ErrInvalid)
	}
	l := &s.root
	var n *node[T]
	for rest, more := filter, true; more; {
		var token string
		token, rest, more = Next(rest)
		n = l.child(token)
		if n == nil {
			n = &node[T]{}
			l.setChild(token, n)
		}
		if more {
			if n.next == nil {
				n.next = &level[T]{}
			}
			l = n.next
		}
	}
	s.size++
	if queueName == "" {
		n.plain.add(v)
		return nil
	}
	for _, q := range n.queues {
		if q.name == queueName {
			q.subs.add(v)
			return nil
		}
	}
	q := &queue[T]{name: queueName}
	q.subs.add(v)
	n.queues = append(n.queues, q)
	return nil
}

func (l *level[T]) child(token string) *node[T] {
	switch token {
	case Wildcard:
		return l.any
	case Full:
		return l.full
	}
	return l.nodes[token]
}

func (l *level[T]) setChild(token string, n *node[T]) {
	switch token {
	case Wildcard:
		l.any = n
	case Full:
		l.full = n
	default:
		if l.nodes == nil {
			l.nodes = make(map[string]*node[T])
		}
		if n == nil {
			delete(l.nodes, token)
		} else {
			l.nodes[token] = n
		}
	}
}

func (l *level[T]) empty() bool { return len(l.nodes) == 0 && l.any == nil && l.full == nil }

// Remove deletes v from under (filter, queue) and reports whether it was there.
func (s *Sublist[T]) Remove(filter, queueName string, v T) bool {
	removed := s.root.remove(filter, queueName, v)
	if removed {
		s.size--
	}
	return removed
}

func (l *level[T]) remove(filter, queueName string, v T) bool {
	token, rest, more := Next(filter)
	n := l.child(token)
	if n == nil {
		return false
	}
	var removed bool
	if more {
		if n.next == nil {
			return false
		}
		removed = n.next.remove(rest, queueName, v)
		if n.next.empty() {
			n.next = nil
		}
	} else {
		removed = n.remove(queueName, v)
	}
	if n.next == nil && len(n.plain.list) == 0 && len(n.queues) == 0 {
		l.setChild(token, nil)
	}
	return removed
}

func (n *node[T]) remove(queueName string, v T) bool {
	if queueName == "" {
		return n.plain.remove(v)
	}
	for i, q := range n.queues {
		if q.name == queueName {
			removed := q.subs.remove(v)
			if len(q.subs.list) == 0 {
				n.queues = slices.Delete(n.queues, i, i+1)
			}
			return removed
		}
	}
	return false
}

// Group is the members of one queue group that match a subject.
type Group[T comparable] struct {
	Name    string
	Members []T
}

// Result is what Match found.
type Result[T comparable] struct {
	Plain  []T        // subscriptions outside queue groups
	Queues []Group[T] // one entry a queue name, whatever the filters of its members
}

// Empty reports whether nothing matched.
func (r *Result[T]) Empty() bool { return len(r.Plain) == 0 && len(r.Queues) == 0 }

// Reset empties r and keeps its memory for the next Match.
func (r *Result[T]) Reset() {
	clear(r.Plain)
	r.Plain = r.Plain[:0]
	for i := range r.Queues {
		clear(r.Queues[i].Members)
		r.Queues[i].Members = r.Queues[i].Members[:0]
	}
	r.Queues = r.Queues[:0]
}

// Clone returns a copy that shares no memory with r.
func (r *Result[T]) Clone() Result[T] {
	c := Result[T]{Plain: slices.Clone(r.Plain)}
	if len(r.Queues) > 0 {
		c.Queues = make([]Group[T], len(r.Queues))
		for i, g := range r.Queues {
			c.Queues[i] = Group[T]{Name: g.Name, Members: slices.Clone(g.Members)}
		}
	}
	return c
}

func (r *Result[T]) add(n *node[T]) {
	r.Plain = append(r.Plain, n.plain.list...)
	for _, q := range n.queues {
		g := r.group(q.name)
		g.Members = append(g.Members, q.subs.list...)
	}
}

// group finds or adds the entry of one queue name.
func (r *Result[T]) group(name string) *Group[T] {
	for i := range r.Queues {
		if r.Queues[i].Name == name {
			return &r.Queues[i]
		}
	}
	n := len(r.Queues)
	if n < cap(r.Queues) {
		r.Queues = r.Queues[:n+1] // keeps the member slice of an earlier use
	} else {
		r.Queues = append(r.Queues, Group[T]{})
	}
	g := &r.Queues[n]
	g.Name = name
	g.Members = g.Members[:0]
	return g
}

// Match replaces the contents of r by all subscriptions whose filter matches the subject s. A
// subject with an empty token matches nothing. Wildcard characters in s have no meaning.
func (s *Sublist[T]) Match(subject string, r *Result[T]) {
	r.Reset()
	if s.size == 0 || emptyToken(subject) {
		return
	}
	s.root.match(subject, r)
}

// HasInterest reports whether Match would find anything.
func (s *Sublist[T]) HasInterest(subject string) bool {
	return s.size > 0 && !emptyToken(subject) && s.root.match(subject, nil)
}

// match adds to r all subscriptions that the literal subject reaches and reports whether there are
// any; with a nil r it stops at the first.
func (l *level[T]) match(subject string, r *Result[T]) bool {
	found := false
	for {
		token, rest, more := Next(subject)
		if l.full != nil {
			found = true
			if r == nil {
				return true
			}
			r.add(l.full)
		}
		n := l.nodes[token]
		if !more {
			for _, n := range [2]*node[T]{l.any, n} {
				if n == nil || !n.subscribed() {
					continue
				}
				found = true
				if r != nil {
					r.add(n)
				}
			}
			return found
		}
		if l.any != nil && l.any.next != nil && l.any.next.match(rest, r) {
			found = true
		}
		if n == nil || n.next == nil || (found && r == nil) {
			return found
		}
		l, subject = n.next, rest
	}
}

func (n *node[T]) subscribed() bool { return len(n.plain.list) > 0 || len(n.queues) > 0 }

func emptyToken(s string) bool {
	if s == "" || s[0] == Sep || s[len(s)-1] == Sep {
		return true
	}
	for i := 1; i < len(s); i++ {
		if s[i] == Sep && s[i-1] == Sep {
			return true
		}
	}
	return false
}

// All calls visit for every stored subscription, in no particular order.
func (s *Sublist[T]) All(visit func(T)) { s.root.all(visit) }

func (l *level[T]) all(visit func(T)) {
	for _, n := range l.nodes {
		n.all(visit)
	}
	for _, n := range []*node[T]{l.any, l.full} {
		if n != nil {
			n.all(visit)
		}
	}
}

func (n *node[T]) all(visit func(T)) {
	for _, v := range n.plain.list {
		visit(v)
	}
	for _, q := range n.queues {
		for _, v := range q.subs.list {
			visit(v)
		}
	}
	if n.next != nil {
		n.next.all(visit)
	}
}
