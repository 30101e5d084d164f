package index

import (
	"math"
	"slices"
)

// How a filter finds its next message: two blocks from there on are looked through, as readers of
// dense filters find theirs there. Then the subjects decide. If few match that have messages from there on,
// and these few messages in all, each is searched on its own (see walk.go). Otherwise blocks are
// looked through, but for those that fences rule out; and not behind the newest message of the matching
// subjects. With more than manySubjects of them a block without any is rare: they have at least
// as many messages.
const (
	fewSubjects  = 32
	manySubjects = 1024
	nearBlocks   = 2
)

// NextMatching returns the first message at or after from whose subject f matches.
func (ix *Index) NextMatching(from uint64, f *Filter) (Message, bool, error) {
	if f.All() {
		return ix.Next(from)
	}
	if from > ix.last {
		return Message{}, false, nil
	}
	if name, ok := f.literal(); ok {
		id, ok := ix.subjects.find([]byte(name))
		if !ok {
			return Message{}, false, nil
		}
		return ix.nextOf([]uint32{id}, from)
	}
	p := ix.blocks.seek(from)
	for range nearBlocks {
		m, ok, err := ix.matchIn(p, from, f)
		if err != nil || ok || ix.blocks.isEnd(p) {
			return m, ok, err
		}
		p = ix.blocks.after(p)
	}
	subjects, newest, messages := ix.from(from, f)
	switch {
	case len(subjects) == 0:
		return Message{}, false, nil
	case len(subjects) <= fewSubjects && messages <= 8*fewSubjects:
		return ix.nextOf(subjects, from)
	case len(subjects) > manySubjects:
		newest = math.MaxUint64
	}
	for ; ; p = ix.blocks.after(p) {
		if !ix.blocks.isEnd(p) {
			s := ix.blocks.at(p)
			if s.first > newest {
				return Message{}, false, nil
			}
			if len(subjects) <= fewSubjects && !slices.ContainsFunc(subjects, s.mayHold) {
				continue
			}
		}
		m, ok, err := ix.matchIn(p, from, f)
		if err != nil || ok || ix.blocks.isEnd(p) {
			return m, ok, err
		}
	}
}

// from returns the subjects that f matches and that have messages at or after seq, the newest of these
// messages, and at most how many they are. It stops when there are more than manySubjects.
func (ix *Index) from(seq uint64, f *Filter) (subjects []uint32, newest, messages uint64) {
	f.each(&ix.subjects, func(id uint32, st *state) bool {
		if st.last >= seq {
			subjects = append(subjects, id)
			newest = max(newest, st.last)
			messages += st.count
		}
		return len(subjects) <= manySubjects
	})
	return subjects, newest, messages
}

// nextOf returns the first message at or after from of any of the subjects.
func (ix *Index) nextOf(subjects []uint32, from uint64) (Message, bool, error) {
	first := uint64(math.MaxUint64)
	for _, id := range subjects {
		if ix.subjects.state(id).first >= first {
			continue
		}
		seq, ok, err := ix.oldestOf(id, from)
		if err != nil {
			return Message{}, false, err
		}
		if ok {
			first = min(first, seq)
		}
	}
	if first == math.MaxUint64 {
		return Message{}, false, nil
	}
	return ix.Get(first)
}

// matchIn returns the first message at or after from in the block at p whose subject f matches.
func (ix *Index) matchIn(p pos, from uint64, f *Filter) (Message, bool, error) {
	v, err := ix.part(p)
	if err != nil {
		return Message{}, false, err
	}
	const small = 64 // so many subjects are looked at before the records
	if v.blk != nil && v.blk.subjects <= small {
		any := false
		for i := 0; i < v.blk.subjects && !any; i++ {
			any = f.matchesID(&ix.subjects, v.blk.dictionary(i))
		}
		if !any {
			return Message{}, false, nil
		}
	}
	for i := v.liveAt(v.lower(from)); i < v.n(); i = v.liveAt(i + 1) {
		if f.matchesID(&ix.subjects, v.subject(i)) {
			r := v.record(i)
			return r.message(), true, nil
		}
	}
	return Message{}, false, nil
}

// CountMatching returns the number of messages at or after from whose subjects f matches.
//
// It costs a look at every matching subject. Only those that have messages on both sides of from need
// more: along their chains if they have fewer messages than there are blocks to read, otherwise the blocks
// on the side of from where fewer are.
func (ix *Index) CountMatching(from uint64, f *Filter) (uint64, error) {
	if from > ix.last {
		return 0, nil
	}
	if f.All() {
		return ix.CountFrom(from)
	}
	var all, whole, split uint64
	var both []uint32
	least := uint64(math.MaxUint64)
	f.each(&ix.subjects, func(id uint32, st *state) bool {
		all += st.count
		switch {
		case from <= st.first:
			whole += st.count
		case from <= st.last:
			both = append(both, id)
			split += st.count
			least = min(least, st.first)
		}
		return true
	})
	if len(both) == 0 {
		return whole, nil
	}
	if all == ix.count {
		return ix.CountFrom(from)
	}
	at, first := ix.blocks.seek(from), ix.blocks.seek(least)
	before := at.list - first.list
	after := len(ix.blocks.lists) - at.list
	slices.Sort(both)
	if split <= uint64(summariesLen*min(before, after)) {
		return ix.countChains(whole, both, from)
	}
	if after <= before {
		n, err := ix.countBlocks(both, from, math.MaxUint64)
		return whole + n, err
	}
	n, err := ix.countBlocks(both, least, from-1)
	return whole + split - n, err
}

// countChains adds to n the messages of each subject at or after from, along its chain.
func (ix *Index) countChains(n uint64, subjects []uint32, from uint64) (uint64, error) {
	for _, id := range subjects {
		c, err := ix.chainFrom(ix.subjects.state(id).last)
		if err != nil {
			return 0, err
		}
		own := uint64(0)
		for !c.lost && !c.end && c.seq >= from {
			if c.isLive() {
				own++
			}
			if _, err := c.back(); err != nil {
				return 0, err
			}
		}
		if c.lost {
			if own, err = ix.countBlocks([]uint32{id}, from, math.MaxUint64); err != nil {
				return 0, err
			}
		}
		n += own
	}
	return n, nil
}

// countBlocks returns how many messages in [from, upTo] have one of the subjects, which ascend.
func (ix *Index) countBlocks(subjects []uint32, from, upTo uint64) (uint64, error) {
	var n uint64
	few := len(subjects) <= fewSubjects
	set := newNumberSet(subjects)
	var numbers [BlockLen]bool // of the block
	for p := ix.blocks.seek(from); ; p = ix.blocks.after(p) {
		end := ix.blocks.isEnd(p)
		if !end {
			s := ix.blocks.at(p)
			if s.first > upTo {
				return n, nil
			}
			if few && !slices.ContainsFunc(subjects, s.mayHold) {
				continue
			}
		}
		v, err := ix.part(p)
		if err != nil {
			return 0, err
		}
		if end {
			for i := v.liveAt(v.lower(from)); i < v.n() && v.seq(i) <= upTo; i = v.liveAt(i + 1) {
				if set.has(v.subject(i)) {
					n++
				}
			}
			return n, nil
		}
		whole := int(v.sum.live) == v.blk.n && v.sum.first >= from && v.sum.last <= upTo
		clear(numbers[:v.blk.subjects])
		any := false
		mark := func(i int) {
			if whole {
				n += uint64(v.blk.uses(i))
			}
			numbers[i], any = true, true
		}
		if few {
			for _, id := range subjects {
				if i, ok := v.blk.numberOf(id); ok {
					mark(i)
				}
			}
		} else {
			for i := range v.blk.subjects {
				if set.has(v.blk.dictionary(i)) {
					mark(i)
				}
			}
		}
		if whole || !any {
			continue
		}
		for i, last := v.sum.liveAt(v.blk.lower(from)), v.upTo(upTo); i <= last && i < v.blk.n; i = v.sum.liveAt(i + 1) {
			if numbers[v.blk.number(i)] {
				n++
			}
		}
	}
}

// numberSet is a set of subject numbers.
type numberSet struct {
	least uint32
	bits  []uint64
}

// newNumberSet returns the set of numbers, which ascend.
func newNumberSet(ids []uint32) numberSet {
	s := numberSet{least: ids[0], bits: make([]uint64, (ids[len(ids)-1]-ids[0])/64+1)}
	for _, id := range ids {
		s.bits[(id-s.least)/64] |= 1 << ((id - s.least) % 64)
	}
	return s
}

func (s *numberSet) has(id uint32) bool {
	i := id - s.least // wraps for smaller ones
	return i/64 < uint32(len(s.bits)) && s.bits[i/64]>>(i%64)&1 != 0
}
