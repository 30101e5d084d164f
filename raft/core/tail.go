package core

// tail holds the entries that were handed to storage and not applied yet, so that applying them
// does not read them back.
type tail[E interface{ GetIndex() uint64 }] struct {
	entries []E
}

// tailKeep is how many entries of room an empty tail keeps; more is given back, as a host has
// thousands of idle groups.
const tailKeep = 32

// add appends entries; when they begin inside the tail, they replace it from there on.
func (t *tail[E]) add(entries []E) {
	if len(entries) > 0 && len(t.entries) > 0 {
		from := entries[0].GetIndex()
		first := t.entries[0].GetIndex()
		keep := uint64(0)
		if from > first {
			keep = min(from-first, uint64(len(t.entries)))
		}
		clear(t.entries[keep:])
		t.entries = t.entries[:keep]
	}
	t.entries = append(t.entries, entries...)
}

// applied forgets the entries up to index.
func (t *tail[E]) applied(index uint64) {
	if len(t.entries) == 0 || index < t.entries[0].GetIndex() {
		return
	}
	n := min(index-t.entries[0].GetIndex()+1, uint64(len(t.entries)))
	rest := copy(t.entries, t.entries[n:])
	clear(t.entries[rest:])
	t.entries = t.entries[:rest]
	if rest == 0 && cap(t.entries) > tailKeep {
		t.entries = nil
	}
}

// at returns the entry with that index.
func (t *tail[E]) at(index uint64) (e E, ok bool) {
	if len(t.entries) == 0 || index < t.entries[0].GetIndex() {
		return e, false
	}
	i := index - t.entries[0].GetIndex()
	if i >= uint64(len(t.entries)) {
		return e, false
	}
	return t.entries[i], true
}

// slice returns the entries of [lo, hi) if it has the first of them.
func (t *tail[E]) slice(lo, hi uint64) []E {
	if _, ok := t.at(lo); !ok {
		return nil
	}
	first := t.entries[0].GetIndex()
	end := min(hi-first, uint64(len(t.entries)))
	return t.entries[lo-first : end : end]
}

// reset forgets all entries.
func (t *tail[E]) reset() { t.entries = nil }
