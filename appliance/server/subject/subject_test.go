package subject

import (
	"strings"
	"testing"
)

func TestValid(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "a.b": true, "*": true, ">": true, "a.*.c": true, "a.>": true, "a*b": true, "a>.b": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, ">.a": false, "a.>.b": false,
		"a b": false, "a\tb": false, "a\r": false, "a\x7f": false, "a\x00": false,
	} {
		if got := Valid(s); got != want {
			t.Errorf("Valid(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestIsLiteral(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "a.b": true, "a*": true, "*a": true, "a.b>": true, "a.>b": true, "**": true,
		"*": false, ">": false, "a.*": false, "*.a": false, "a.*.b": false, "a.>": false,
	} {
		if got := IsLiteral(s); got != want {
			t.Errorf("IsLiteral(%q) = %v, want %v", s, got, want)
		}
		if got := ValidLiteral(s); got != want {
			t.Errorf("ValidLiteral(%q) = %v, want %v", s, got, want)
		}
	}
	if ValidLiteral("a..b") {
		t.Errorf("ValidLiteral(%q) = true", "a..b")
	}
}

func TestTokens(t *testing.T) {
	for s, want := range map[string][]string{"": nil, "a": {"a"}, "a.b.c": {"a", "b", "c"}, "a..b": {"a", "", "b"}} {
		if got := Tokens(s); got != len(want) {
			t.Errorf("Tokens(%q) = %d, want %d", s, got, len(want))
		}
		for i, w := range want {
			if got := Token(s, i); got != w {
				t.Errorf("Token(%q, %d) = %q, want %q", s, i, got, w)
			}
		}
		if got := Token(s, len(want)); got != "" {
			t.Errorf("Token(%q, %d) = %q, want nothing", s, len(want), got)
		}
	}
	token, rest, more := Next("a.b.c")
	if token != "a" || rest != "b.c" || !more {
		t.Errorf("Next = %q, %q, %v", token, rest, more)
	}
	token, rest, more = Next("a")
	if token != "a" || rest != "" || more {
		t.Errorf("Next = %q, %q, %v", token, rest, more)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a.b", "a", false}, {"a", "a.b", false},
		{"*", "a", true}, {"*", "a.b", false}, {"*.b", "a.b", true}, {"a.*", "a", false},
		{">", "a", true}, {">", "a.b.c", true}, {"a.>", "a", false}, {"a.>", "a.b", true}, {"a.>", "b.c", false},
		{"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false}, {"*.*.>", "a.b", false}, {"*.*.>", "a.b.c", true},
	} {
		if got := Match(c.filter, c.subject); got != c.want {
			t.Errorf("Match(%q, %q) = %v, want %v", c.filter, c.subject, got, c.want)
		}
	}
}

func TestSubset(t *testing.T) {
	for _, c := range []struct {
		sub, super string
		want       bool
	}{
		{"a", "a", true}, {"a", "*", true}, {"*", "a", false}, {"a.b", "a.>", true}, {"a.*", "a.>", true},
		{"a.>", "a.*", false}, {"a.>", "a.>", true}, {"a.>", ">", true}, {">", "a.>", false},
		{"*.b", "a.b", false}, {"a.b.c", "a.*", false}, {"a", "a.b", false}, {"a.b", "a", false},
		{"a.*.c", "a.*.*", true}, {"a.*.*", "a.*.c", false},
	} {
		if got := Subset(c.sub, c.super); got != c.want {
			t.Errorf("Subset(%q, %q) = %v, want %v", c.sub, c.super, got, c.want)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "*", true}, {"*", ">", true}, {"a.*", "*.b", true},
		{"a.>", "a", false}, {"a.>", "*.b", true}, {"a.>", "b.>", false}, {"a.*.c", "a.b.*", true},
		{"a.*", "a.b.c", false}, {"a.b.>", "a.*", false}, {"*.c", "a.b", false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("Overlap(%q, %q) = %v, want %v", c.a, c.b, got, c.want)
		}
		if got := Overlap(c.b, c.a); got != c.want {
			t.Errorf("Overlap(%q, %q) = %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

// FuzzRelations checks the relations of two filters against each other on a literal subject.
func FuzzRelations(f *testing.F) {
	for _, s := range [][3]string{
		{"a.b", "a.*", "a.b"}, {"a.>", "*.b", "a.b"}, {">", "*.*.*", "x.y.z"}, {"a..b", "a", "."}, {"*", ">", "*"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, s string) {
		if !Valid(a) || !Valid(b) || !ValidLiteral(s) {
			return
		}
		ma, mb := Match(a, s), Match(b, s)
		if ma && mb && !Overlap(a, b) {
			t.Errorf("%q and %q match %q but do not overlap", a, b, s)
		}
		if Subset(a, b) && ma && !mb {
			t.Errorf("%q is a subset of %q, but only it matches %q", a, b, s)
		}
		if Subset(s, a) != ma {
			t.Errorf("Subset(%q, %q) = %v, Match = %v", s, a, Subset(s, a), ma)
		}
		var l Sublist[int]
		if err := l.Insert(a, "", 1); err != nil {
			t.Fatalf("Insert(%q): %v", a, err)
		}
		if err := l.Insert(b, "q", 2); err != nil {
			t.Fatalf("Insert(%q): %v", b, err)
		}
		var r Result[int]
		l.Match(s, &r)
		if (len(r.Plain) == 1) != ma || (len(r.Queues) == 1) != mb {
			t.Errorf("Sublist{%q, %q}.Match(%q) = %+v, Match = %v, %v", a, b, s, r, ma, mb)
		}
		if l.HasInterest(s) != (ma || mb) {
			t.Errorf("HasInterest(%q) = %v", s, l.HasInterest(s))
		}
		if !l.Remove(a, "", 1) || !l.Remove(b, "q", 2) || !l.root.empty() || l.Len() != 0 {
			t.Errorf("Sublist{%q, %q} is not empty after Remove", a, b)
		}
		if Token(s, Tokens(s)-1) != s[strings.LastIndexByte(s, Sep)+1:] {
			t.Errorf("last token of %q is %q", s, Token(s, Tokens(s)-1))
		}
	})
}
