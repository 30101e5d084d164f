package subject

// Literals maps literal subjects to values and finds those that a filter matches: the reverse of a Sublist.
// It is a trie with one level a token. The zero value is ready for use.
//
// Invariant: no node but the root is empty: it has a value, or nodes below it.
//
// It does not lock: Set and Delete exclude all others.
type Literals[T any] struct {
	root literal[T]
	size int
}

type literal[T any] struct {
	next  map[string]*literal[T]
	value T
	set   bool
}

// Len returns the number of subjects.
func (l *Literals[T]) Len() int { return l.size }

// Get returns the value of a subject, the zero value if it has none.
func (l *Literals[T]) Get(subject string) (v T) {
	n := &l.root
	for rest, more := subject, true; more; {
		var token string
		token, rest, more = Next(rest)
		if n = n.next[token]; n == nil {
			return v
		}
	}
	return n.value
}

// Set gives a subject a value. It keeps subject.
func (l *Literals[T]) Set(subject string, v T) {
	n := &l.root
	for rest, more := subject, true; more; {
		var token string
		token, rest, more = Next(rest)
		below := n.next[token]
		if below == nil {
			if n.next == nil {
				n.next = make(map[string]*literal[T])
			}
			below = &literal[T]{}
			n.next[token] = below
		}
		n = below
	}
	if !n.set {
		l.size++
	}
	n.value, n.set = v, true
}

// Delete takes a subject out, if it is there.
func (l *Literals[T]) Delete(subject string) {
	if l.root.delete(subject) {
		l.size--
	}
}

func (n *literal[T]) delete(subject string) (deleted bool) {
	token, rest, more := Next(subject)
	below := n.next[token]
	if below == nil {
		return false
	}
	if more {
		deleted = below.delete(rest)
	} else {
		var zero T
		deleted, below.value, below.set = below.set, zero, false
	}
	if !below.set && len(below.next) == 0 {
		delete(n.next, token)
	}
	return deleted
}

// Match calls visit with the value of each subject that filter matches, in no particular order. It costs about
// what there is to find, however many subjects there are.
func (l *Literals[T]) Match(filter string, visit func(T)) { l.root.match(filter, visit) }

func (n *literal[T]) match(filter string, visit func(T)) {
	token, rest, more := Next(filter)
	step := func(below *literal[T]) {
		if more {
			below.match(rest, visit)
		} else if below.set {
			visit(below.value)
		}
	}
	switch token {
	case Full:
		if !more {
			n.below(visit)
		}
	case Wildcard:
		for _, below := range n.next {
			step(below)
		}
	default:
		if below := n.next[token]; below != nil {
			step(below)
		}
	}
}

// below visits all below n.
func (n *literal[T]) below(visit func(T)) {
	for _, b := range n.next {
		if b.set {
			visit(b.value)
		}
		b.below(visit)
	}
}
