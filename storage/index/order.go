package index

import (
	"slices"
	"sort"
)

// order is the subjects by name, token by token, in leaves of numbers: a point sorts before every other
// byte, so the subjects under one token lie together.
type order struct {
	leaves []*leaf
}

const leafLen = 512

type leaf struct {
	gen uint64
	ids []uint32 // never empty
}

// compareNames orders names: negative, zero or positive.
func compareNames(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			switch {
			case a[i] == '.':
				return -1
			case b[i] == '.':
				return 1
			}
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// place is where a subject stands in the order; leaf == len(leaves) is the end.
type place struct{ leaf, i int }

func (o *order) isEnd(p place) bool { return p.leaf >= len(o.leaves) }

func (o *order) id(p place) uint32 { return o.leaves[p.leaf].ids[p.i] }

func (o *order) after(p place) place {
	if p.i++; p.i >= len(o.leaves[p.leaf].ids) {
		return place{p.leaf + 1, 0}
	}
	return p
}

// search returns the first subject whose name reached accepts; reached stays true in the order.
func (o *order) search(t *subjectTable, reached func(name []byte) bool) place {
	k := sort.Search(len(o.leaves), func(k int) bool {
		ids := o.leaves[k].ids
		return reached(t.name(ids[len(ids)-1]))
	})
	if k == len(o.leaves) {
		return place{k, 0}
	}
	ids := o.leaves[k].ids
	return place{k, sort.Search(len(ids)-1, func(i int) bool { return reached(t.name(ids[i])) })}
}

// forward is search from p on, quick if the subject is near.
func (o *order) forward(t *subjectTable, p place, reached func(name []byte) bool) place {
	const near = 4
	for range near {
		if o.isEnd(p) || reached(t.name(o.id(p))) {
			return p
		}
		p = o.after(p)
	}
	if o.isEnd(p) {
		return p
	}
	ids := o.leaves[p.leaf].ids
	if !reached(t.name(ids[len(ids)-1])) {
		return o.search(t, reached)
	}
	for step := near; ; step *= 2 {
		if p.i+step >= len(ids) || reached(t.name(ids[p.i+step])) {
			rest := min(step, len(ids)-1-p.i)
			return place{p.leaf, p.i + sort.Search(rest, func(i int) bool { return reached(t.name(ids[p.i+i])) })}
		}
		p.i += step
	}
}

func (o *order) own(ix *Index, k int) *leaf {
	if x := o.leaves[k]; x.gen <= ix.frozen.Load() {
		o.leaves[k] = &leaf{gen: ix.gen, ids: slices.Clone(x.ids)}
	}
	return o.leaves[k]
}

func (o *order) insert(ix *Index, t *subjectTable, id uint32, name []byte) {
	p := o.search(t, func(n []byte) bool { return compareNames(n, name) >= 0 })
	if o.isEnd(p) {
		if len(o.leaves) == 0 {
			o.leaves = append(o.leaves, &leaf{gen: ix.gen, ids: []uint32{id}})
			return
		}
		p.leaf--
		p.i = len(o.leaves[p.leaf].ids)
	}
	x := o.own(ix, p.leaf)
	if len(x.ids) == leafLen {
		// Names that come in ascending order leave full leaves behind.
		cut := leafLen / 2
		if p.leaf == len(o.leaves)-1 && p.i == leafLen {
			cut = leafLen
		}
		right := &leaf{gen: ix.gen, ids: slices.Clone(x.ids[cut:])}
		x.ids = slices.Clip(x.ids[:cut])
		o.leaves = slices.Insert(o.leaves, p.leaf+1, right)
		if p.i >= cut {
			x, p.i = right, p.i-cut
		}
	}
	x.ids = slices.Insert(x.ids, p.i, id)
}

func (o *order) remove(ix *Index, t *subjectTable, name []byte) {
	p := o.search(t, func(n []byte) bool { return compareNames(n, name) >= 0 })
	x := o.own(ix, p.leaf)
	x.ids = slices.Delete(x.ids, p.i, p.i+1)
	if len(x.ids) == 0 {
		o.leaves = slices.Delete(o.leaves, p.leaf, p.leaf+1)
		return
	}
	// Neighbours that fit into half a leaf together become one.
	if k := p.leaf + 1; k < len(o.leaves) && len(x.ids)+len(o.leaves[k].ids) <= leafLen/2 {
		x.ids = append(x.ids, o.leaves[k].ids...)
		o.leaves = slices.Delete(o.leaves, k, k+1)
	} else if k := p.leaf - 1; k >= 0 && len(x.ids)+len(o.leaves[k].ids) <= leafLen/2 {
		left := o.own(ix, k)
		left.ids = append(left.ids, x.ids...)
		o.leaves = slices.Delete(o.leaves, p.leaf, p.leaf+1)
	}
}
