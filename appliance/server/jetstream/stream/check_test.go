package stream

import "fmt"

// check returns the first invariant of [Machine] that does not hold. Those of the index are checked there.
func (m *Machine) check() error {
	var count, bytes uint64
	names := map[string]bool{}
	for seq := m.first; seq <= m.last; {
		x, ok, err := m.ix.Next(seq)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if count == 0 && x.Seq != m.first {
			return fmt.Errorf("first is %d, not %d", m.first, x.Seq)
		}
		count++
		bytes += accounted(m.cfg.Storage, int(x.Len)-recordHeader, x.Headers)
		names[m.ix.Name(x.Subject)] = true
		seq = x.Seq + 1
	}
	if count == 0 && m.first != m.last+1 {
		return fmt.Errorf("empty, but first is %d and last %d", m.first, m.last)
	}
	if count != m.ix.Count() || bytes != m.bytes {
		return fmt.Errorf("counted %d messages of %d bytes, not %d of %d", count, bytes, m.ix.Count(), m.bytes)
	}
	if len(names) != m.ix.Subjects() {
		return fmt.Errorf("%d subjects in use, %d in the index", len(names), m.ix.Subjects())
	}
	return nil
}
