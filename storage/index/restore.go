package index

import (
	"io"
	"math"
	"slices"
)

// Restore replaces the whole state by a snapshot. If it returns an error, the index is as it was. Blocks in
// the store that neither the snapshot refers to nor changes after it will put are deleted once a
// capture after it is stored.
func (ix *Index) Restore(r io.Reader) error {
	x := NewReader(r)
	n := ix.Decode(x)
	if err := x.Close(); err != nil {
		return err
	}
	ix.Become(n)
	return nil
}

// Decode reads a snapshot as a part of a larger one and returns the index with its state, for
// Become; errors are those of the reader.
func (ix *Index) Decode(r *Reader) *Index {
	n := &Index{cfg: ix.cfg, owner: ix.owner, gen: 1, subjects: newSubjectTable()}
	if v := r.Uvarint(); v != snapshotVersion {
		r.Failf("version %d", v)
	}
	n.count, n.last, n.lastIndex, n.lastTime, n.nextKey = r.Uvarint(), r.Uvarint(), r.Uvarint(), r.Varint(), r.Uvarint()
	subjects := n.decodeSubjects(r)
	blocks := n.decodeBlocks(r)
	n.decodeOpen(r)
	if r.Err() == nil && (subjects != n.count || blocks+uint64(n.open.live) != n.count) {
		r.Failf("%d messages, %d by subjects, %d by blocks", n.count, subjects, blocks+uint64(n.open.live))
	}
	return n
}

// Become takes over the state of an index that Decode has returned.
func (ix *Index) Become(n *Index) {
	used := make(map[uint64]struct{}, n.blocks.n)
	for _, l := range n.blocks.lists {
		for i := range l.s {
			used[l.s[i].key] = struct{}{}
		}
		l.gen = ix.gen
	}
	for _, l := range n.subjects.lists {
		l.gen = ix.gen
	}
	for _, l := range n.subjects.order.leaves {
		l.gen = ix.gen
	}
	// Blocks from the next key on were put after the state was captured, and will be again.
	unused := slices.DeleteFunc(ix.cfg.Blocks.Keys(), func(key uint64) bool {
		_, ok := used[key]
		return ok || key >= n.nextKey
	})
	n.subjects.epoch = ix.subjects.epoch + 1
	ix.count, ix.last, ix.lastIndex, ix.lastTime, ix.nextKey = n.count, n.last, n.lastIndex, n.lastTime, n.nextKey
	ix.blocks, ix.open, ix.subjects = n.blocks, n.open, n.subjects
	ix.cfg.Cache.forget(ix.owner) // a key may stand for another block now
	if !ix.cfg.Captured {
		ix.cfg.Blocks.Delete(unused...)
		return
	}
	ix.mu.Lock()
	ix.garbage = append(ix.garbage, unused...)
	ix.mu.Unlock()
}

// decodeSubjects returns how many messages the subjects have.
func (ix *Index) decodeSubjects(r *Reader) (messages uint64) {
	t := &ix.subjects
	numbers := r.Upto(math.MaxUint32, "subject number")
	t.free = decodeNumbers(r, numbers)
	t.idle = decodeNumbers(r, numbers)
	count := r.Upto(numbers, "number of subjects")
	if r.Err() == nil && uint64(len(t.free)+len(t.idle))+count != numbers {
		r.Failf("%d subject numbers, %d free, %d idle, %d in use", numbers, len(t.free), len(t.idle), count)
	}
	var name, before []byte
	for range count {
		if r.Err() != nil {
			return 0
		}
		shared := r.Upto(uint64(len(before)), "length of name")
		name = r.Bytes(append(name[:0], before[:shared]...), maxName-int(shared))
		id := uint32(r.Upto(numbers-1, "subject number"))
		st := state{count: r.Uvarint(), last: r.Upto(ix.last, "sequence")}
		back := r.Upto(st.last, "sequence")
		st.first = st.last - back
		if r.Err() != nil {
			return 0
		}
		t.reach(id)
		switch {
		case st.count == 0 || t.state(id).count != 0 || before != nil && compareNames(before, name) >= 0:
			r.Failf("subject %.100q with number %d and %d messages", name, id, st.count)
			return 0
		}
		st.name = t.names.add(id, name)
		*t.state(id) = st
		t.link(id, name)
		t.order.add(id)
		t.live++
		messages += st.count
		name, before = before, name
	}
	if r.Err() != nil {
		return 0
	}
	if t.n = uint32(numbers); numbers > 0 {
		t.reach(t.n - 1)
	}
	for k := range t.lists {
		t.reach(uint32(k * statesLen))
	}
	for _, ids := range [][]uint32{t.free, t.idle} {
		for _, id := range ids {
			if t.state(id).count != 0 {
				r.Failf("subject number %d is in use and free", id)
			}
		}
	}
	return messages
}

// reach makes room for the state of a number; lists before that stay missing.
func (t *subjectTable) reach(id uint32) {
	k := int(id / statesLen)
	for len(t.lists) <= k {
		t.lists = append(t.lists, nil)
	}
	if t.lists[k] == nil {
		t.lists[k] = &states{s: make([]state, statesLen)}
	}
}

// decodeNumbers reads a list of subject numbers.
func decodeNumbers(r *Reader, most uint64) []uint32 {
	var ids []uint32
	for n := r.Upto(most, "number of subject numbers"); n > 0 && r.Err() == nil; n-- {
		ids = append(ids, uint32(r.Upto(most-1, "subject number")))
	}
	return ids
}

// add puts a subject behind all others.
func (o *order) add(id uint32) {
	k := len(o.leaves) - 1
	const full = leafLen * 3 / 4 // the rest is for subjects between them
	if k < 0 || len(o.leaves[k].ids) == full {
		o.leaves = append(o.leaves, &leaf{})
		k++
	}
	o.leaves[k].ids = append(o.leaves[k].ids, id)
}

// decodeBlocks returns how many live messages the blocks have.
func (ix *Index) decodeBlocks(r *Reader) (messages uint64) {
	var before summary
	for i, n := uint64(0), r.Uvarint(); i < n && r.Err() == nil; i++ {
		s := summary{key: r.Uvarint()}
		s.first = before.last + r.Uvarint()
		s.firstIndex = before.lastIndex + r.Uvarint()
		if i == 0 {
			s.firstTime = r.Varint()
		} else {
			s.firstTime = before.lastTime + int64(r.Uvarint())
		}
		s.last = s.first + r.Uvarint()
		s.lastIndex = s.firstIndex + r.Uvarint()
		s.lastTime = s.firstTime + int64(r.Uvarint())
		s.bytes = r.Uvarint()
		s.least = uint32(r.Upto(math.MaxUint32, "subject number"))
		s.most = s.least + uint32(r.Upto(math.MaxUint32-uint64(s.least), "subject number"))
		s.sum = uint32(r.Upto(math.MaxUint32, "checksum"))
		s.n = uint16(r.Upto(BlockLen, "records"))
		s.live = uint16(r.Upto(uint64(s.n), "live records"))
		s.head = uint16(r.Upto(uint64(s.n), "head"))
		s.fence = string(r.Bytes(nil, fenceBytes))
		dead, count := decodeDead(r, int(s.head), int(s.n))
		if count > 0 {
			s.dead = &deadSet{bits: dead}
		}
		if r.Err() != nil {
			return 0
		}
		if s.live == 0 || int(s.n)-int(s.head)-count != int(s.live) || !s.isLive(int(s.head)) || s.last < s.first ||
			i > 0 && s.first <= before.last || s.last > ix.last || s.lastIndex < s.firstIndex || s.firstIndex < before.lastIndex ||
			s.lastIndex > ix.lastIndex || s.lastTime < s.firstTime || i > 0 && s.firstTime < before.lastTime || s.key == 0 || s.key >= ix.nextKey {
			r.Failf("block %d of messages %d to %d", s.key, s.first, s.last)
			return 0
		}
		ix.blocks.add(ix, s)
		messages += uint64(s.live)
		before = s
	}
	return messages
}

// decodeDead reads a set of positions in [head, n) and returns how many there are.
func decodeDead(r *Reader, head, n int) (dead deadBits, count int) {
	if r.Upto(1, "form of a set") == 1 {
		b := r.Bytes(nil, BlockLen/8)
		if len(b) < BlockLen/8 {
			r.Failf("set of %d bytes", len(b))
			return deadBits{}, 0
		}
		for i := range dead {
			dead[i] = le.Uint64(b[8*i:])
		}
		count = dead.count(BlockLen)
		if dead.count(head) > 0 || dead.count(n) != count {
			r.Failf("set with positions outside of %d to %d", head, n)
		}
		return dead, count
	}
	at := head
	for k := r.Upto(fewDead, "size of a set"); k > 0 && r.Err() == nil; k-- {
		at += int(r.Upto(BlockLen, "position"))
		if at >= n || dead.has(at) {
			r.Failf("position %d of %d", at, n)
			break
		}
		dead.set(at)
		count++
	}
	return dead, count
}

// decodeOpen reads the open block.
func (ix *Index) decodeOpen(r *Reader) {
	o := &ix.open
	b := r.Bytes(nil, 1<<20)
	o.head = int(r.Upto(BlockLen, "head"))
	if r.Err() != nil {
		return
	}
	if len(b) > 0 {
		k, err := decodeBlock(b)
		if err != nil {
			r.Failf("open block: %v", err)
			return
		}
		if k.n == BlockLen || o.head > k.n {
			r.Failf("open block of %d records from %d", k.n, o.head)
			return
		}
		for i := range k.n {
			o.recs = append(o.recs, k.record(i))
		}
	}
	dead, count := decodeDead(r, o.head, len(o.recs))
	for i := range o.head {
		dead.set(i)
	}
	o.dead = dead
	o.live = len(o.recs) - o.head - count
	for i := o.liveAt(0); i < len(o.recs); i = o.liveAt(i + 1) {
		o.bytes += uint64(o.recs[i].size >> 1)
	}
	before := record{}
	if p := ix.blocks.end(); ix.blocks.n > 0 {
		s := ix.blocks.at(ix.blocks.before(p))
		before = record{seq: s.last, index: s.lastIndex, time: s.lastTime}
	}
	for i, x := range o.recs {
		if x.seq <= before.seq || x.index < before.index || (i > 0 || ix.blocks.n > 0) && x.time < before.time || x.seq > ix.last ||
			x.index > ix.lastIndex {
			r.Failf("open block: message %d", x.seq)
			return
		}
		before = x
	}
}
