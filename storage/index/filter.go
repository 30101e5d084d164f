package index

import (
	"bytes"
	"slices"
	"strings"
)

// Filter is a set of subject filters with NATS wildcards and a memory of which of an index's subjects
// match. It belongs to one reader of one index and is not safe for concurrent use.
type Filter struct {
	patterns []pattern // none: everything
	epoch    uint64
	known    []uint8 // by subject number: 0 unknown, 1 matches, 2 does not
}

// NewFilter returns the filter that matches what any of subjects does; without subjects, or with
// ">" among them, it matches everything.
func NewFilter(subjects ...string) *Filter {
	f := &Filter{}
	for _, s := range subjects {
		if s == ">" || s == "" {
			return &Filter{}
		}
		if p := newPattern(s); !slices.ContainsFunc(f.patterns, func(o pattern) bool { return o.text == s }) {
			f.patterns = append(f.patterns, p)
		}
	}
	return f
}

// All reports whether the filter matches everything.
func (f *Filter) All() bool { return len(f.patterns) == 0 }

// Matches reports whether the literal subject s passes.
func (f *Filter) Matches(s string) bool {
	return f.All() || slices.ContainsFunc(f.patterns, func(p pattern) bool { return p.matches([]byte(s)) })
}

// literal returns the subject if the filter is a single one without wildcards.
func (f *Filter) literal() (string, bool) {
	if len(f.patterns) == 1 && f.patterns[0].literal {
		return f.patterns[0].text, true
	}
	return "", false
}

// matchesID reports whether the subject of a number passes.
func (f *Filter) matchesID(t *subjectTable, id uint32) bool {
	if id >= t.n || t.state(id).count == 0 {
		return false // of a dead record
	}
	if f.epoch != t.epoch {
		f.epoch, f.known = t.epoch, f.known[:0]
	}
	if int(id) >= len(f.known) {
		f.known = append(f.known, make([]uint8, int(t.n)-len(f.known))...)
	}
	if f.known[id] == 0 {
		f.known[id] = 2
		name := t.name(id)
		if slices.ContainsFunc(f.patterns, func(p pattern) bool { return p.matches(name) }) {
			f.known[id] = 1
		}
	}
	return f.known[id] == 1
}

// each calls fn once for every subject of t that passes, until fn returns false.
func (f *Filter) each(t *subjectTable, fn func(id uint32, st *state) bool) {
	if f.All() {
		for _, x := range t.order.leaves {
			for _, id := range x.ids {
				if !fn(id, t.state(id)) {
					return
				}
			}
		}
		return
	}
	for i := range f.patterns {
		more := f.patterns[i].each(t, func(id uint32) bool {
			if i > 0 {
				name := t.name(id)
				if slices.ContainsFunc(f.patterns[:i], func(p pattern) bool { return p.matches(name) }) {
					return true
				}
			}
			return fn(id, t.state(id))
		})
		if !more {
			return
		}
	}
}

// pattern is one subject filter.
type pattern struct {
	text    string
	tokens  []string
	literal bool
	full    bool // ends with ">", which is not in tokens
}

func newPattern(s string) pattern {
	p := pattern{text: s, tokens: strings.Split(s, "."), literal: true}
	if n := len(p.tokens) - 1; p.tokens[n] == ">" {
		p.full, p.literal, p.tokens = true, false, p.tokens[:n]
	}
	if slices.Contains(p.tokens, "*") {
		p.literal = false
	}
	return p
}

// matches reports whether the literal subject passes.
func (p *pattern) matches(name []byte) bool {
	if p.literal {
		return string(name) == p.text
	}
	ok, _ := p.compare(name)
	return ok
}

// gap is where, behind a name that does not match, the next one may be that does.
type gap struct {
	none bool // nowhere
	// behind is set when nothing under the first prefix bytes of the name matches any more, which
	// are whole tokens. Otherwise it is not before those bytes followed by the pattern's tokens from
	// token on, up to its next wildcard.
	behind        bool
	prefix, token int
}

// compare matches name against a pattern with wildcards.
func (p *pattern) compare(name []byte) (bool, gap) {
	wild := -1             // end of the last token that a wildcard has matched
	start, more := 0, true // where the next token begins, if there is one
	skip := func() gap { return gap{none: wild < 0, behind: true, prefix: wild} }
	for i, want := range p.tokens {
		if !more {
			return false, gap{prefix: len(name), token: i}
		}
		end := len(name)
		if k := bytes.IndexByte(name[start:], '.'); k >= 0 {
			end = start + k
		}
		token := name[start:end]
		switch {
		case want == "*":
			wild = end
		case string(token) == want:
		case compareNames(token, []byte(want)) < 0:
			return false, gap{prefix: start, token: i}
		default:
			return false, skip()
		}
		start, more = end+1, end < len(name)
	}
	switch {
	case p.full && !more:
		return false, gap{prefix: len(name), token: len(p.tokens)}
	case !p.full && more:
		return false, skip()
	}
	return true, gap{}
}

// target returns the least name that may match behind a gap which is not behind a prefix.
func (p *pattern) target(key, name []byte, g gap) []byte {
	key = append(key[:0], name[:g.prefix]...)
	if g.prefix == len(name) && len(name) > 0 {
		key = append(key, '.')
	}
	for i, token := range p.tokens[g.token:] {
		if token == "*" {
			break
		}
		if i > 0 {
			key = append(key, '.')
		}
		key = append(key, token...)
	}
	return key
}

// each calls fn with every subject of t that matches, in order, until fn returns false, which it returns.
// Between them it jumps over what cannot match: with few wildcards it costs about as much as there are
// matches, however many subjects there are.
func (p *pattern) each(t *subjectTable, fn func(id uint32) bool) bool {
	if p.literal {
		id, ok := t.find([]byte(p.text))
		return !ok || fn(id)
	}
	key := p.target(nil, nil, gap{})
	from := func(n []byte) bool { return compareNames(n, key) >= 0 }
	for at := t.order.search(t, from); !t.order.isEnd(at); {
		id := t.order.id(at)
		name := t.name(id)
		ok, g := p.compare(name)
		at = t.order.after(at)
		switch {
		case ok:
			if !fn(id) {
				return false
			}
		case g.none:
			return true
		case g.behind:
			prefix := name[:g.prefix]
			at = t.order.forward(t, at, func(n []byte) bool { return !under(n, prefix) && compareNames(n, prefix) > 0 })
		default:
			key = p.target(key, name, g)
			at = t.order.forward(t, at, from)
		}
	}
	return true
}

// under reports whether name is prefix or has more tokens behind it.
func under(name, prefix []byte) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == string(prefix) &&
		(len(name) == len(prefix) || name[len(prefix)] == '.')
}
