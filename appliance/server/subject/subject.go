// Package subject holds the rules of NATS subjects: validity, wildcards, and the relations between
// filters. It is pure and does no I/O; the broker and the stream engine call it.
//
// A subject is a sequence of non-empty tokens joined by dots. In a filter the token "*" stands for
// exactly one token and a final ">" for one or more.
package subject

import "strings"

// Separators and wildcards of a subject.
const (
	Sep      = '.'
	Wildcard = "*"
	Full     = ">"
)

// Valid reports whether s is a well-formed filter: non-empty tokens without white space or control
// bytes; ">" only as the last token. A literal subject is a valid filter.
func Valid(s string) bool {
	if s == "" {
		return false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != Sep {
			if c := s[i]; c <= ' ' || c == 0x7f {
				return false
			}
			continue
		}
		if i == start {
			return false
		}
		if s[start:i] == Full && i != len(s) {
			return false
		}
		start = i + 1
	}
	return true
}

// IsLiteral reports whether s holds no wildcard token.
func IsLiteral(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '*' || c == '>' {
			if (i == 0 || s[i-1] == Sep) && (i+1 == len(s) || s[i+1] == Sep) {
				return false
			}
		}
	}
	return true
}

// ValidLiteral reports whether s is a well-formed subject without wildcards.
func ValidLiteral(s string) bool { return Valid(s) && IsLiteral(s) }

// Next splits the first token off s. more tells whether rest holds further tokens.
func Next(s string) (token, rest string, more bool) {
	if i := strings.IndexByte(s, Sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// Tokens returns the number of tokens of s.
func Tokens(s string) int {
	if s == "" {
		return 0
	}
	return strings.Count(s, ".") + 1
}

// Token returns the i-th token of s, counted from 0, or "".
func Token(s string, i int) string {
	for more := true; more; i-- {
		var token string
		token, s, more = Next(s)
		if i == 0 {
			return token
		}
	}
	return ""
}

// Match reports whether the literal subject s is matched by filter.
func Match(filter, s string) bool {
	if filter == s {
		return true
	}
	fm, sm := true, true
	for {
		if !fm || !sm {
			return fm == sm
		}
		var f, t string
		f, filter, fm = Next(filter)
		t, s, sm = Next(s)
		switch {
		case f == Full && !fm:
			return true
		case f != Wildcard && f != t:
			return false
		}
	}
}

// Subset reports whether every subject that sub matches is matched by super too.
func Subset(sub, super string) bool {
	if sub == super {
		return true
	}
	am, bm := true, true
	for {
		if !am || !bm {
			return am == bm
		}
		var a, b string
		a, sub, am = Next(sub)
		b, super, bm = Next(super)
		switch {
		case b == Full && !bm:
			return true
		case a == Full && !am:
			return false
		case b == Wildcard:
		case a == Wildcard || a != b:
			return false
		}
	}
}

// Overlap reports whether some subject is matched by both filters.
func Overlap(a, b string) bool {
	if a == b {
		return true
	}
	am, bm := true, true
	for {
		if !am || !bm {
			return am == bm
		}
		var x, y string
		x, a, am = Next(a)
		y, b, bm = Next(b)
		switch {
		case x == Full && !am, y == Full && !bm:
			return true
		case x == Wildcard, y == Wildcard, x == y:
		default:
			return false
		}
	}
}
