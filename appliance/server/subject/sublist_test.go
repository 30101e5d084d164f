package subject

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"
)

func sorted(r *Result[int]) (plain []int, queues map[string][]int) {
	plain = slices.Sorted(slices.Values(r.Plain))
	queues = map[string][]int{}
	for _, g := range r.Queues {
		queues[g.Name] = slices.Sorted(slices.Values(g.Members))
	}
	return plain, queues
}

func TestSublistRejectsInvalidFilter(t *testing.T) {
	var l Sublist[int]
	for _, f := range []string{"", ".", "a..b", ">.a", "a b"} {
		if err := l.Insert(f, "", 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("Insert(%q) = %v, want ErrInvalid", f, err)
		}
	}
	if l.Len() != 0 || !l.root.empty() {
		t.Errorf("a rejected filter left something behind")
	}
}

func TestSublistMatchesNoEmptyToken(t *testing.T) {
	var l Sublist[int]
	for _, f := range []string{">", "*", "*.*", "a.*"} {
		if err := l.Insert(f, "", 1); err != nil {
			t.Fatal(err)
		}
	}
	var r Result[int]
	for _, s := range []string{"", ".", "a.", ".a", "a..b"} {
		if l.Match(s, &r); !r.Empty() || l.HasInterest(s) {
			t.Errorf("Match(%q) = %+v, HasInterest %v", s, r, l.HasInterest(s))
		}
	}
}

func TestSublistJoinsQueueGroupsOfDifferentFilters(t *testing.T) {
	var l Sublist[int]
	for i, f := range []string{"a.b", "a.*", ">", "a.>"} {
		if err := l.Insert(f, "q", i); err != nil {
			t.Fatal(err)
		}
	}
	l.Insert("a.b", "p", 9)
	var r Result[int]
	l.Match("a.b", &r)
	_, queues := sorted(&r)
	if got := fmt.Sprint(queues); got != "map[p:[9] q:[0 1 2 3]]" {
		t.Errorf("queues = %s", got)
	}
	// A second match with fewer groups does not show members of the first.
	l.Remove("a.b", "p", 9)
	l.Match("x", &r)
	_, queues = sorted(&r)
	if got := fmt.Sprint(queues); got != "map[q:[2]]" {
		t.Errorf("queues = %s", got)
	}
}

// TestSublistAgainstScan compares a sublist under random changes with a list that is scanned.
func TestSublistAgainstScan(t *testing.T) {
	type sub struct {
		filter, queue string
		id            int
	}
	rng := rand.New(rand.NewSource(1))
	tokens := []string{"a", "b", "c", "*"}
	filter := func(wild bool) string {
		s := ""
		for i, n := 0, 1+rng.Intn(4); i < n; i++ {
			if i > 0 {
				s += "."
			}
			k := 3
			if wild {
				k = 4
			}
			s += tokens[rng.Intn(k)]
		}
		if wild && rng.Intn(4) == 0 {
			s += ".>"
		}
		return s
	}
	var l Sublist[int]
	var all []sub
	var r Result[int]
	for step := range 5000 {
		if rng.Intn(3) > 0 || len(all) == 0 {
			s := sub{filter(true), []string{"", "", "q", "p"}[rng.Intn(4)], step}
			if err := l.Insert(s.filter, s.queue, s.id); err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		} else {
			i := rng.Intn(len(all))
			if s := all[i]; !l.Remove(s.filter, s.queue, s.id) || l.Remove(s.filter, s.queue, s.id) {
				t.Fatalf("step %d: remove of %+v", step, s)
			}
			all = slices.Delete(all, i, i+1)
		}
		if l.Len() != len(all) {
			t.Fatalf("step %d: Len = %d, want %d", step, l.Len(), len(all))
		}
		if step%20 > 0 {
			continue
		}
		s := filter(false)
		var want Result[int]
		for _, x := range all {
			if !Match(x.filter, s) {
				continue
			}
			if x.queue == "" {
				want.Plain = append(want.Plain, x.id)
			} else {
				g := want.group(x.queue)
				g.Members = append(g.Members, x.id)
			}
		}
		l.Match(s, &r)
		wantPlain, wantQueues := sorted(&want)
		plain, queues := sorted(&r)
		if !slices.Equal(plain, wantPlain) || fmt.Sprint(queues) != fmt.Sprint(wantQueues) {
			t.Fatalf("step %d: Match(%q) = %v %v, want %v %v", step, s, plain, queues, wantPlain, wantQueues)
		}
		if l.HasInterest(s) == want.Empty() {
			t.Fatalf("step %d: HasInterest(%q) = %v", step, s, !want.Empty())
		}
	}
	n := 0
	l.All(func(int) { n++ })
	if n != len(all) {
		t.Errorf("All visited %d, want %d", n, len(all))
	}
	for _, s := range all {
		if !l.Remove(s.filter, s.queue, s.id) {
			t.Fatalf("remove of %+v", s)
		}
	}
	if !l.root.empty() {
		t.Errorf("nodes are left after the last subscription")
	}
}

func TestSublistRemovesFromLargeNode(t *testing.T) {
	var l Sublist[int]
	const n = 1000
	for i := range n {
		l.Insert("a", "", i)
		l.Insert("a", "q", i)
	}
	for _, i := range rand.New(rand.NewSource(2)).Perm(n) {
		if !l.Remove("a", "", i) || !l.Remove("a", "q", i) || l.Remove("a", "", i) {
			t.Fatalf("remove of %d", i)
		}
	}
	if !l.root.empty() {
		t.Errorf("nodes are left")
	}
}

func TestCacheKeepsFromSecondUse(t *testing.T) {
	var c Cache[int]
	r := Result[int]{Plain: []int{1}}
	if c.Get(1, "a") != nil {
		t.Fatalf("an empty cache has a result")
	}
	c.Put(1, "a", &r)
	if c.Get(1, "a") != nil {
		t.Errorf("kept at first use")
	}
	c.Put(1, "a", &r)
	r.Plain[0] = 2
	if got := c.Get(1, "a"); got == nil || got.Plain[0] != 1 {
		t.Errorf("Get = %v, want a copy of the result", got)
	}
	if c.Get(2, "a") != nil || c.Len() != 0 {
		t.Errorf("a result of an older generation is kept")
	}
	c.Put(1, "a", &r) // computed before the generation changed
	c.Put(1, "a", &r)
	if c.Len() != 0 {
		t.Errorf("a result of an older generation was taken")
	}
}

func TestCacheIsNotThrashedByUniqueSubjects(t *testing.T) {
	var c Cache[int]
	var r Result[int]
	c.Get(1, "hot")
	c.Put(1, "hot", &r)
	c.Put(1, "hot", &r)
	for i := range 20_000 {
		c.Put(1, fmt.Sprintf("_INBOX.abc.%d", i), &r)
	}
	if c.Get(1, "hot") == nil {
		t.Errorf("the repeated subject was pushed out")
	}
	if c.Len() > 8 {
		t.Errorf("%d subjects that were used once are kept", c.Len())
	}
	for i := range 2 * cacheEntries {
		s := fmt.Sprint(i)
		c.Put(1, s, &r)
		c.Put(1, s, &r)
	}
	if c.Len() > cacheEntries {
		t.Errorf("Len = %d, limit %d", c.Len(), cacheEntries)
	}
}

func BenchmarkSublistMatch(b *testing.B) {
	var l Sublist[int]
	for i := range 1000 {
		l.Insert(fmt.Sprintf("_INBOX.%d.*", i), "", i)
		l.Insert(fmt.Sprintf("orders.%d.new", i), "", i)
	}
	var r Result[int]
	for b.Loop() {
		l.Match("_INBOX.500.xyz", &r)
	}
}

func BenchmarkCacheGet(b *testing.B) {
	var c Cache[int]
	r := Result[int]{Plain: []int{1}}
	for _, s := range []string{"orders.1.new", "orders.2.new"} {
		c.Get(1, s)
		c.Put(1, s, &r)
		c.Put(1, s, &r)
	}
	for b.Loop() {
		c.Get(1, "orders.1.new")
		c.Get(1, "orders.2.new")
	}
}

func ExampleSublist() {
	var l Sublist[string]
	l.Insert("orders.*", "", "watcher")
	l.Insert("orders.>", "workers", "worker 1")
	l.Insert("orders.new", "workers", "worker 2")
	var r Result[string]
	l.Match("orders.new", &r)
	slices.Sort(r.Queues[0].Members)
	fmt.Println(r.Plain, r.Queues[0].Name, r.Queues[0].Members)
	// Output: [watcher] workers [worker 1 worker 2]
}
