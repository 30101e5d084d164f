package subject

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestLiteralsAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	word := func(tokens ...string) string {
		s := make([]string, 1+rng.IntN(4))
		for i := range s {
			s[i] = tokens[rng.IntN(len(tokens))]
		}
		return strings.Join(s, ".")
	}
	var l Literals[string]
	model := map[string]string{}
	for range 20000 {
		subj := word("a", "b", "c")
		switch rng.IntN(3) {
		case 0:
			v := subj + "=" + word("x", "y")
			l.Set(subj, v)
			model[subj] = v
		case 1:
			l.Delete(subj)
			delete(model, subj)
		}
		if got := l.Get(subj); got != model[subj] {
			t.Fatalf("%s is %q, want %q", subj, got, model[subj])
		}
		filter := word("a", "b", "*")
		if rng.IntN(2) == 0 {
			filter += ".>"
		}
		var got, want []string
		l.Match(filter, func(v string) { got = append(got, v) })
		for s, v := range model {
			if Match(filter, s) {
				want = append(want, v)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%s matches %v, want %v", filter, got, want)
		}
		if l.Len() != len(model) {
			t.Fatalf("%d subjects, want %d", l.Len(), len(model))
		}
	}
	for subj := range model {
		l.Delete(subj)
	}
	if l.Len() != 0 || len(l.root.next) != 0 {
		t.Errorf("empty: %+v", l)
	}
}
