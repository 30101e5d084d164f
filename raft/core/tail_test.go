package core

import (
	"fmt"
	"testing"
)

// item is an entry of a tail: which write it is of, and its index.
type item struct{ write, index uint64 }

func (i item) GetIndex() uint64 { return i.index }

func TestTail(t *testing.T) {
	var tl tail[item]
	add := func(write, from, to uint64) {
		var items []item
		for i := from; i <= to; i++ {
			items = append(items, item{write, i})
		}
		tl.add(items)
	}
	check := func(want string) {
		t.Helper()
		if got := fmt.Sprint(tl.entries); got != want {
			t.Fatalf("tail %s, want %s", got, want)
		}
	}
	tl.applied(5)
	check("[]")
	add(1, 3, 5)
	add(2, 6, 6)
	check("[{1 3} {1 4} {1 5} {2 6}]")
	tl.applied(2)
	tl.applied(3)
	check("[{1 4} {1 5} {2 6}]")
	add(3, 5, 7)
	check("[{1 4} {3 5} {3 6} {3 7}]")
	for index, want := range map[uint64]bool{3: false, 4: true, 7: true, 8: false} {
		if e, ok := tl.at(index); ok != want || ok && e.index != index {
			t.Errorf("at(%d): %v %t", index, e, ok)
		}
	}
	if got := tl.slice(3, 5); got != nil {
		t.Errorf("slice(3, 5): %v, want none as 3 is gone", got)
	}
	if got := fmt.Sprint(tl.slice(5, 7)); got != "[{3 5} {3 6}]" {
		t.Errorf("slice(5, 7): %s", got)
	}
	add(4, 2, 2)
	check("[{4 2}]")
	add(5, 3, 3+2*tailKeep)
	tl.applied(100)
	if tl.entries != nil {
		t.Errorf("an empty tail keeps room for %d entries", cap(tl.entries))
	}
}
