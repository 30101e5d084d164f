package stream

import (
	"time"
)

// Streams wrote checkpoints before they had snapshots. What follows made them; the tests make logs of that
// time with it.

// What a checkpoint lists at most, so that it fits into an entry.
const (
	maxDead = 200_000 // runs of removed sequences
	maxIDs  = 50_000
)

// Checkpoint returns an entry that stands for all that were applied, to be proposed when no other is
// in flight. ok is false when the state is too scattered for one entry now.
func (m *Machine) Checkpoint(now time.Time) (entry []byte, ok bool, err error) {
	c := checkpoint{
		Config: m.cfg, First: m.first, Last: m.last, LastTime: m.lastTime, LastMsgID: m.lastMsgID, Messages: m.ix.Count(),
	}
	ids, oldest := m.dedupe.within(now.UnixNano())
	if c.InLog = ids > maxIDs; c.InLog {
		if oldest.index == 0 {
			return nil, false, nil // not in the log any more: they have to age out first
		}
	} else {
		skip := m.dedupe.n - ids
		m.dedupe.each(func(o *messageID) bool {
			if s, ok := m.dedupe.ids[o.id]; skip <= 0 && ok && s.time == o.time {
				c.IDs = append(c.IDs, duplicateID{o.id, s.seq, s.time})
			}
			skip--
			return true
		})
	}
	if c.Needed, _, err = m.Needed(now); err != nil {
		return nil, false, err
	}
	ok = true
	if m.ix.Count() > 0 {
		err = m.ix.Gaps(m.first, m.last, func(seq, n uint64) bool {
			if ok = len(c.Dead) < maxDead; ok {
				c.Dead = append(c.Dead, [2]uint64{seq, n})
			}
			return ok
		})
	}
	if err != nil || !ok {
		return nil, false, err
	}
	return encodeJSON(KindCheckpoint, now, c), true, nil
}

// Needed returns the index of the first entry that a checkpoint made now needs: that of the oldest live
// message or, when they are too many to be listed, of the oldest id in the duplicate window; false if there
// is neither.
func (m *Machine) Needed(now time.Time) (uint64, bool, error) {
	var needed uint64
	if ids, oldest := m.dedupe.within(now.UnixNano()); ids > maxIDs {
		needed = oldest.index
	}
	x, ok, err := m.ix.First()
	if ok && (needed == 0 || x.Index < needed) {
		needed = x.Index
	}
	return needed, needed > 0, err
}

// within returns how many ids are in the window that ends at now, and the oldest of them.
func (d *dedupe) within(now int64) (n int, oldest *messageID) {
	n = d.n
	d.each(func(o *messageID) bool {
		if oldest = o; now-o.time < int64(d.window) {
			return false
		}
		n--
		return true
	})
	return n, oldest
}
