package index

import "sort"

// openBlock holds the newest messages, up to [BlockLen] of them, until they become a block.
//
//  1. live records are those not marked in dead; bytes is the sum of their lengths.
//  2. head is the first live record, len(recs) if none is.
type openBlock struct {
	recs  []record
	dead  deadBits
	head  int
	live  int
	bytes uint64
}

// lower returns the first record at or after seq; len(recs) if there is none.
func (o *openBlock) lower(seq uint64) int {
	n := len(o.recs)
	if n == 0 || seq <= o.recs[0].seq {
		return 0
	}
	if o.recs[n-1].seq-o.recs[0].seq == uint64(n-1) {
		return int(min(seq-o.recs[0].seq, uint64(n)))
	}
	return sort.Search(n, func(i int) bool { return o.recs[i].seq >= seq })
}

func (o *openBlock) liveAt(i int) int { return min(o.dead.live(max(i, o.head)), len(o.recs)) }

func (o *openBlock) add(r record) {
	if n := len(o.recs); n == cap(o.recs) {
		o.recs = append(make([]record, 0, min(max(8, 2*n), BlockLen)), o.recs...)
	}
	o.recs = append(o.recs, r)
	o.live++
	o.bytes += uint64(r.size >> 1)
}

func (o *openBlock) kill(i int) {
	o.dead.set(i)
	o.live--
	o.bytes -= uint64(o.recs[i].size >> 1)
	if i == o.head {
		o.head = o.liveAt(i)
	}
}

// compact takes out dead records. A record whose predecessor on its subject goes gets the one
// before that, so that the chain of each subject stays whole: what refers to a record of the
// open block is in the open block itself.
func (o *openBlock) compact() {
	if o.live == len(o.recs) {
		return
	}
	for i := o.liveAt(0); i < len(o.recs); i = o.liveAt(i + 1) {
		for r := &o.recs[i]; r.distance != 0 && r.distance != farBack; {
			before := r.seq - uint64(r.distance)
			if before < o.recs[0].seq {
				break
			}
			k := o.lower(before)
			if k >= i || o.recs[k].seq != before || !o.dead.has(k) {
				break
			}
			r.distance = farther(r.distance, o.recs[k].distance)
		}
	}
	n := 0
	for i := o.liveAt(0); i < len(o.recs); i = o.liveAt(i + 1) {
		o.recs[n] = o.recs[i]
		n++
	}
	o.recs, o.dead, o.head = o.recs[:n], deadBits{}, 0
}

// farther adds the distance of a record to that of its successor.
func farther(d, more uint32) uint32 {
	switch {
	case more == 0:
		return 0
	case more == farBack || uint64(d)+uint64(more) >= farBack:
		return farBack
	}
	return d + more
}
