package index

import "fmt"

// check returns the first invariant that does not hold. It reads every block.
func (ix *Index) check() error {
	type seen struct{ count, first, last uint64 }
	subjects := map[uint32]*seen{}
	var count, lastSeq, lastIndex uint64
	lastTime := int64(-1 << 63)
	sealed := -1
	for p := (pos{}); ; p = ix.blocks.after(p) {
		v, err := ix.part(p)
		if err != nil {
			return err
		}
		live, bytes, first := 0, uint64(0), -1
		for i := range v.n() {
			r := v.record(i)
			if r.seq <= lastSeq || r.index < lastIndex || r.time < lastTime {
				return fmt.Errorf("record %+v after %d %d %d", r, lastSeq, lastIndex, lastTime)
			}
			lastSeq, lastIndex, lastTime = r.seq, r.index, r.time
			if !v.isLive(i) {
				continue
			}
			if first < 0 {
				first = i
			}
			live++
			bytes += uint64(r.size >> 1)
			st := subjects[r.subject]
			if st == nil {
				st = &seen{first: r.seq}
				subjects[r.subject] = st
			}
			st.count++
			st.last = r.seq
		}
		count += uint64(live)
		if v.blk == nil {
			if first < 0 {
				first = len(ix.open.recs)
			}
			if live != ix.open.live || bytes != ix.open.bytes || first != ix.open.head {
				return fmt.Errorf("open block: %d live of %d bytes from %d, not %d %d %d", live, bytes, first, ix.open.live, ix.open.bytes, ix.open.head)
			}
			break
		}
		s := v.sum
		if live != int(s.live) || bytes != s.bytes || first != int(s.head) || s.first != v.seq(0) || s.last != v.seq(v.n()-1) ||
			s.firstIndex != v.index(0) || s.lastIndex != v.index(v.n()-1) || s.firstTime != v.blk.time(0) || s.lastTime != v.blk.time(v.n()-1) {
			return fmt.Errorf("summary %+v: %d live of %d bytes from %d", s, live, bytes, first)
		}
		if sealed >= 0 && sealed+live <= BlockLen/2 {
			return fmt.Errorf("neighbours have %d and %d live messages", sealed, live)
		}
		sealed = live
	}
	if count != ix.count {
		return fmt.Errorf("%d messages, counted %d", ix.count, count)
	}
	t := &ix.subjects
	if len(subjects) != t.live || len(t.byHash)+len(t.collided) != t.live {
		return fmt.Errorf("%d subjects in blocks, %d in the table, %d by name", len(subjects), t.live, len(t.byHash)+len(t.collided))
	}
	if int(t.n) != t.live+len(t.free)+len(t.idle) {
		return fmt.Errorf("%d numbers, %d in use, %d free, %d idle", t.n, t.live, len(t.free), len(t.idle))
	}
	var before []byte
	ordered := 0
	for _, l := range t.order.leaves {
		for _, id := range l.ids {
			name := t.name(id)
			if ordered > 0 && compareNames(before, name) >= 0 {
				return fmt.Errorf("subject %q after %q", name, before)
			}
			if got, ok := t.find(name); !ok || got != id {
				return fmt.Errorf("subject %q is %d, found %d", name, id, got)
			}
			before = name
			ordered++
		}
	}
	if ordered != t.live {
		return fmt.Errorf("%d subjects in order of %d", ordered, t.live)
	}
	for id, want := range subjects {
		st := t.state(id)
		if st.count != want.count || st.last != want.last || st.first > want.first {
			return fmt.Errorf("subject %q: %+v, want %+v", t.name(id), st, want)
		}
	}
	return nil
}
