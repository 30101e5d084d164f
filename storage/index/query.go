package index

import (
	"slices"
	"sort"
)

// Count returns the number of messages.
func (ix *Index) Count() uint64 { return ix.count }

// Last returns the sequence of the last message appended, whether it is still stored or not.
func (ix *Index) Last() uint64 { return ix.last }

// First returns the first message; false if there is none.
func (ix *Index) First() (Message, bool, error) { return ix.Next(0) }

// Next returns the first message at or after from.
func (ix *Index) Next(from uint64) (Message, bool, error) {
	v, i, err := ix.nextLive(from)
	if err != nil || i < 0 {
		return Message{}, false, err
	}
	r := v.record(i)
	return r.message(), true, nil
}

func (ix *Index) nextLive(from uint64) (part, int, error) {
	for p := ix.blocks.seek(from); ; p = ix.blocks.after(p) {
		v, err := ix.part(p)
		if err != nil {
			return v, -1, err
		}
		if i := v.liveAt(v.lower(from)); i < v.n() {
			return v, i, nil
		}
		if ix.blocks.isEnd(p) {
			return v, -1, nil
		}
	}
}

// Previous returns the last message at or before upTo.
func (ix *Index) Previous(upTo uint64) (Message, bool, error) {
	for p := ix.blocks.seek(upTo); ; p = ix.blocks.before(p) {
		v, err := ix.part(p)
		if err != nil {
			return Message{}, false, err
		}
		if i := v.liveBefore(v.upTo(upTo)); i >= 0 {
			r := v.record(i)
			return r.message(), true, nil
		}
		if ix.blocks.n == 0 || ix.blocks.isFirst(p) {
			return Message{}, false, nil
		}
	}
}

// Get returns a message.
func (ix *Index) Get(seq uint64) (Message, bool, error) {
	v, i, err := ix.locate(seq)
	if err != nil || i < 0 || !v.isLive(i) {
		return Message{}, false, err
	}
	r := v.record(i)
	return r.message(), true, nil
}

// Run returns the message seq and how many bytes it and those behind it take that lie in the same entry
// without a gap and have no sequence between them that is not stored: at most limit bytes, unless
// it alone is larger.
func (ix *Index) Run(seq uint64, limit int) (m Message, length uint32, ok bool, err error) {
	v, i, err := ix.locate(seq)
	if err != nil || i < 0 || !v.isLive(i) {
		return Message{}, 0, false, err
	}
	r := v.record(i)
	m, length = r.message(), r.size>>1
	for {
		if i++; i == v.n() {
			if ix.blocks.isEnd(v.at) {
				break
			}
			if v, err = ix.part(ix.blocks.after(v.at)); err != nil {
				return m, length, true, nil // what follows is read when it is asked for
			}
			if i = 0; i == v.n() {
				break
			}
		}
		next := v.record(i)
		if seq++; next.seq != seq || !v.isLive(i) || next.index != m.Index || next.off != m.Off+length ||
			int(length)+int(next.size>>1) > limit {
			break
		}
		length += next.size >> 1
	}
	return m, length, true, nil
}

// Gaps calls yield with each run of sequences in [from, upTo] that are not stored, as its first one and how many
// they are, until it returns false. Blocks that have all theirs are not read.
func (ix *Index) Gaps(from, upTo uint64, yield func(seq, n uint64) bool) error {
	for p := ix.blocks.seek(from); from <= upTo; p = ix.blocks.after(p) {
		end := ix.blocks.isEnd(p)
		if !end {
			if s := ix.blocks.at(p); s.live == s.n && s.last-s.first+1 == uint64(s.n) {
				if s.first > from && !yield(from, min(s.first, upTo+1)-from) {
					return nil
				}
				from = s.last + 1
				continue
			}
		}
		v, err := ix.part(p)
		if err != nil {
			return err
		}
		for i := v.liveAt(v.lower(from)); i < v.n() && from <= upTo; i = v.liveAt(i + 1) {
			seq := v.seq(i)
			if seq > from && !yield(from, min(seq, upTo+1)-from) {
				return nil
			}
			from = seq + 1
		}
		if end {
			break
		}
	}
	if from <= upTo {
		yield(from, upTo-from+1)
	}
	return nil
}

// AtTime returns the first message stored at or after time.
func (ix *Index) AtTime(time int64) (Message, bool, error) {
	for p := ix.blocks.search(func(s *summary) bool { return s.lastTime >= time }); ; p = ix.blocks.after(p) {
		v, err := ix.part(p)
		if err != nil {
			return Message{}, false, err
		}
		at := func(i int) int64 {
			if v.blk == nil {
				return v.open.recs[i].time
			}
			return v.blk.time(i)
		}
		if i := v.liveAt(sort.Search(v.n(), func(i int) bool { return at(i) >= time })); i < v.n() {
			r := v.record(i)
			return r.message(), true, nil
		}
		if ix.blocks.isEnd(p) {
			return Message{}, false, nil
		}
	}
}

// HasEntry reports whether a message of the entry at a raft index is stored.
func (ix *Index) HasEntry(index uint64) (bool, error) {
	for p := ix.blocks.search(func(s *summary) bool { return s.lastIndex >= index }); ; p = ix.blocks.after(p) {
		if !ix.blocks.isEnd(p) && ix.blocks.at(p).firstIndex > index {
			return false, nil
		}
		v, err := ix.part(p)
		if err != nil {
			return false, err
		}
		i := v.liveAt(v.lowerIndex(index))
		if i < v.n() {
			return v.index(i) == index, nil
		}
		if ix.blocks.isEnd(p) {
			return false, nil
		}
	}
}

func (v *part) index(i int) uint64 {
	if v.blk == nil {
		return v.open.recs[i].index
	}
	return v.blk.index(i)
}

// lowerIndex returns the first record of an entry at or after index; n if there is none.
func (v *part) lowerIndex(index uint64) int {
	return sort.Search(v.n(), func(i int) bool { return v.index(i) >= index })
}

// Subjects returns how many subjects have messages.
func (ix *Index) Subjects() int { return ix.subjects.live }

// Name returns the name of a subject that has messages.
func (ix *Index) Name(id Subject) string { return string(ix.subjects.name(uint32(id))) }

// Find returns the number of a subject, how many messages it has, and the newest of them; false if it
// has none.
func (ix *Index) Find(subject []byte) (id Subject, count, last uint64, ok bool) {
	n, ok := ix.subjects.find(subject)
	if !ok {
		return 0, 0, 0, false
	}
	st := ix.subjects.state(n)
	return Subject(n), st.count, st.last, true
}

// Each calls fn with every subject that f matches, once, the number of its messages and the newest of them,
// until fn returns false. The name is valid during the call; fn must not change the index.
func (ix *Index) Each(f *Filter, fn func(name []byte, count, last uint64) bool) {
	f.each(&ix.subjects, func(id uint32, st *state) bool { return fn(ix.subjects.names.get(st.name), st.count, st.last) })
}

// Crowded returns the subjects that have more than n messages, ascending.
func (ix *Index) Crowded(n uint64) []Subject {
	var found []Subject
	for id := range ix.subjects.n {
		if ix.subjects.state(id).count > n {
			found = append(found, Subject(id))
		}
	}
	return found
}

// Of returns how many messages a subject has.
func (ix *Index) Of(id Subject) uint64 { return ix.subjects.state(uint32(id)).count }

// CountFrom returns the number of messages at or after from.
func (ix *Index) CountFrom(from uint64) (uint64, error) {
	p := ix.blocks.seek(from)
	v, err := ix.part(p)
	if err != nil {
		return 0, err
	}
	i := v.lower(from)
	if v.blk == nil {
		return uint64(v.open.live - (i - v.open.dead.count(i))), nil
	}
	inside := uint64(v.sum.liveFrom(i))
	if p.list >= len(ix.blocks.lists)/2 { // the shorter way
		n := inside + uint64(ix.open.live)
		for p = ix.blocks.after(p); !ix.blocks.isEnd(p); p = ix.blocks.after(p) {
			n += uint64(ix.blocks.at(p).live)
		}
		return n, nil
	}
	before := uint64(v.sum.live) - inside
	for !ix.blocks.isFirst(p) {
		p = ix.blocks.before(p)
		before += uint64(ix.blocks.at(p).live)
	}
	return ix.count - before, nil
}

// LastPerSubject returns, ascending, the newest message at or before upTo of every subject that f matches.
func (ix *Index) LastPerSubject(f *Filter, upTo uint64) ([]uint64, error) {
	var seqs []uint64
	var later []uint32 // have newer ones
	f.each(&ix.subjects, func(id uint32, st *state) bool {
		switch {
		case st.last <= upTo:
			seqs = append(seqs, st.last)
		case st.first <= upTo:
			later = append(later, id)
		}
		return true
	})
	// A search for each while they are few; then all of them at once, block by block back from upTo.
	const few = 64
	if len(later) <= few {
		for _, id := range later {
			seq, ok, err := ix.newestOf(id, upTo)
			if err != nil {
				return nil, err
			}
			if ok {
				seqs = append(seqs, seq)
			}
		}
	} else if err := ix.lastOfMany(later, upTo, func(seq uint64) { seqs = append(seqs, seq) }); err != nil {
		return nil, err
	}
	slices.Sort(seqs)
	return seqs, nil
}

// lastOfMany calls found with the newest message at or before upTo of each of the subjects that has one.
func (ix *Index) lastOfMany(subjects []uint32, upTo uint64, found func(seq uint64)) error {
	wanted := make(map[uint32]struct{}, len(subjects))
	least := upTo
	for _, id := range subjects {
		wanted[id] = struct{}{}
		least = min(least, ix.subjects.state(id).first)
	}
	for p := ix.blocks.seek(upTo); len(wanted) > 0; p = ix.blocks.before(p) {
		v, err := ix.part(p)
		if err != nil {
			return err
		}
		for i := v.liveBefore(v.upTo(upTo)); i >= 0; i = v.liveBefore(i - 1) {
			id := v.subject(i)
			if _, ok := wanted[id]; ok {
				delete(wanted, id)
				found(v.seq(i))
			}
		}
		if ix.blocks.n == 0 || ix.blocks.isFirst(p) || v.blk != nil && v.sum.first <= least {
			break
		}
	}
	return nil
}
