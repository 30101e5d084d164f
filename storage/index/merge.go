package index

import "sort"

// merge joins the block at p, which has lost a message, with a neighbour if the live messages of both
// fill at most half a block: so sparse blocks do not pile up where a few messages survive all
// others. Each join ends one block, and a block begins with at least 7/8 BlockLen messages appended or as
// the result of a join; so there are fewer joins than BlockLen*7/8 messages appended, and removing
// costs O(1) reads and writes on average.
func (ix *Index) merge(p pos) error {
	live := int(ix.blocks.at(p).live)
	if q := ix.blocks.after(p); !ix.blocks.isEnd(q) && live+int(ix.blocks.at(q).live) <= BlockLen/2 {
		return ix.join(p, q)
	}
	if ix.blocks.isFirst(p) {
		return nil
	}
	if q := ix.blocks.before(p); live+int(ix.blocks.at(q).live) <= BlockLen/2 {
		return ix.join(q, p)
	}
	return nil
}

// join makes one block of the live messages of the neighbours at p and q.
func (ix *Index) join(p, q pos) error {
	recs := make([]record, 0, 2*BlockLen)
	dead := make([]bool, 0, 2*BlockLen)
	for _, at := range []pos{p, q} {
		v, err := ix.part(at)
		if err != nil {
			return err
		}
		for i := range v.n() {
			recs = append(recs, v.record(i))
			dead = append(dead, !v.isLive(i))
		}
	}
	// What refers to a dead record of the two gets the one before that, as far as it is among them.
	live := make([]record, 0, BlockLen/2)
	for i := range recs {
		r := &recs[i]
		for r.distance != 0 && r.distance != farBack {
			before := r.seq - uint64(r.distance)
			k := sort.Search(i, func(k int) bool { return recs[k].seq >= before })
			if k == i || recs[k].seq != before || !dead[k] {
				break
			}
			r.distance = farther(r.distance, recs[k].distance)
		}
		if !dead[i] {
			live = append(live, *r)
		}
	}
	s := ix.store(live)
	old := ix.blocks.at(p).key
	*ix.blocks.own(ix, p) = s
	ix.drop(old)
	ix.discard(q)
	return nil
}
