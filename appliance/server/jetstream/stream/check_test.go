package stream

import (
	"fmt"
)

// check returns the first invariant of [Machine] that does not hold.
func (m *Machine) check() error {
	var count, bytes uint64
	per := map[uint32]*subjectState{}
	for seq := m.first; seq <= m.last; seq++ {
		r := m.refs.get(seq)
		if !r.live() {
			if seq == m.first && m.count > 0 {
				return fmt.Errorf("first %d is not live", seq)
			}
			continue
		}
		count++
		st := per[r.subj]
		if st == nil {
			st = &subjectState{first: seq}
			per[r.subj] = st
		}
		st.count++
		st.last = seq
		bytes += m.accounted(r.size, 0)
	}
	if m.count == 0 && m.first != m.last+1 {
		return fmt.Errorf("empty, but first is %d and last %d", m.first, m.last)
	}
	if count != m.count || bytes != m.bytes {
		return fmt.Errorf("counted %d messages of %d bytes, not %d of %d", count, bytes, m.count, m.bytes)
	}
	if len(per) != len(m.subjects.ids) || len(per) != m.subjects.tree.Size() {
		return fmt.Errorf("%d subjects in use, %d in the map, %d in the tree",
			len(per), len(m.subjects.ids), m.subjects.tree.Size())
	}
	for name, id := range m.subjects.ids {
		want, got := per[id], m.subjects.states[id]
		if want == nil || got.name != name || got.count != want.count || got.first != want.first || got.last != want.last {
			return fmt.Errorf("subject %q: state %+v, want %+v", name, got, want)
		}
	}
	if m.alive != nil {
		total := 0
		for _, n := range m.alive {
			total += n
		}
		if uint64(total) != m.count {
			return fmt.Errorf("entries hold %d live messages, the stream %d", total, m.count)
		}
	}
	return nil
}
