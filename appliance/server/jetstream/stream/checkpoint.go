package stream

import (
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// checkpoint is the body of a KindCheckpoint entry: the state that the entries before it have left,
// but for the live messages, which are in their own entries. With it a log can be replayed from entry
// Needed on: what lies before is not needed any more.
type checkpoint struct {
	Config    api.StreamConfig `json:"config"`
	First     uint64           `json:"first"`
	Last      uint64           `json:"last"`
	LastTime  int64            `json:"last_time"`
	LastMsgID string           `json:"last_msg_id,omitempty"`
	Messages  uint64           `json:"messages"` // live, to check the result against
	// Needed is the first entry that is needed with the checkpoint, 0 if none is. A log that begins
	// later was cut by a later checkpoint, and needs that one.
	Needed uint64 `json:"needed,omitempty"`
	// Dead lists the removed sequences in [First, Last] as pairs of a sequence and a number of
	// sequences from there on.
	Dead [][2]uint64 `json:"dead,omitempty"`
	// IDs are those of the duplicate window, oldest first. When there are too many, InLog is set and
	// they are read from their messages' entries, from Needed on.
	IDs   []duplicateID `json:"ids,omitempty"`
	InLog bool          `json:"in_log,omitempty"`
}

type duplicateID struct {
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	Time int64  `json:"time"`
}

// What a checkpoint lists at most, so that it fits into an entry.
const (
	maxDead = 200_000 // runs of removed sequences
	maxIDs  = 50_000
)

// Checkpoint returns an entry that stands for all that were applied, to be proposed when no other is
// in flight. ok is false when the state is too scattered for one entry now.
func (m *Machine) Checkpoint(now time.Time) (entry []byte, ok bool) {
	c := checkpoint{
		Config: m.cfg, First: m.first, Last: m.last, LastTime: m.lastTime, LastMsgID: m.lastMsgID, Messages: m.count,
	}
	ids := m.dedupe.within(now.UnixNano())
	if c.InLog = len(ids) > maxIDs; c.InLog {
		if ids[0].index == 0 {
			return nil, false // not in the log any more: they have to age out first
		}
	} else {
		for _, d := range ids {
			if s, ok := m.dedupe.ids[d.id]; ok && s.time == d.time {
				c.IDs = append(c.IDs, duplicateID{d.id, s.seq, s.time})
			}
		}
	}
	c.Needed, _ = m.Needed(now)
	for seq := m.first; seq <= m.last && m.count > 0; seq++ {
		next, found := m.refs.next(seq, m.last)
		if !found {
			next = m.last + 1
		}
		if next > seq {
			if len(c.Dead) == maxDead {
				return nil, false
			}
			c.Dead = append(c.Dead, [2]uint64{seq, next - seq})
		}
		seq = next
	}
	return encodeJSON(KindCheckpoint, now, c), true
}

// Needed returns the index of the first entry that a checkpoint made now needs: that of the oldest live
// message or, when they are too many to be listed, of the oldest id in the duplicate window; false if there
// is neither.
func (m *Machine) Needed(now time.Time) (uint64, bool) {
	var needed uint64
	if ids := m.dedupe.within(now.UnixNano()); len(ids) > maxIDs {
		needed = ids[0].index
	}
	if m.count > 0 {
		if p, _ := m.refs.place(m.first); needed == 0 || p.Index < needed {
			needed = p.Index
		}
	}
	return needed, needed > 0
}

// applyCheckpoint takes over the state of c where the log begins after the configuration; elsewhere
// it only compares.
func (m *Machine) applyCheckpoint(now int64, c *checkpoint, fx *Effects) error {
	if !m.configured && c.Needed > 0 && c.Needed < m.begin {
		return nil
	}
	if !m.configured {
		m.removeUpto(c.First-1, fx)
		for _, d := range c.Dead {
			for seq := d[0]; seq < d[0]+d[1] && seq <= m.last; seq++ {
				if m.refs.get(seq).live() {
					m.remove(seq, fx)
				}
			}
		}
		m.configured, m.cfg, m.dedupe.window = true, c.Config, c.Config.Duplicates
		m.last, m.lastTime, m.lastMsgID = c.Last, c.LastTime, c.LastMsgID
		if !c.InLog {
			m.dedupe = dedupe{window: c.Config.Duplicates}
			for _, d := range c.IDs {
				m.dedupe.add(d.ID, d.Seq, d.Time, 0)
			}
		}
		if m.count == 0 {
			m.first = c.First
		}
	}
	m.dedupe.expire(now)
	if m.first != c.First || m.last != c.Last || m.count != c.Messages {
		return fmt.Errorf("%w: checkpoint of %d messages in [%d, %d], the log has %d in [%d, %d]",
			ErrEntry, c.Messages, c.First, c.Last, m.count, m.first, m.last)
	}
	return nil
}
