package stream

import (
	"fmt"

	"millrace/appliance/server/jetstream/api"
)

// checkpoint is the body of a KindCheckpoint entry, which streams wrote before they had snapshots: the state that the entries before it have left,
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

// removeRun takes n sequences from seq on out of the stream, as far as they are stored.
func (m *Machine) removeRun(seq, n uint64, fx *Effects) error {
	for end := seq + n; ; {
		x, ok, err := m.ix.Next(seq)
		if err != nil || !ok || x.Seq >= end {
			return err
		}
		if err := m.remove(x.Seq, fx); err != nil {
			return err
		}
		seq = x.Seq + 1
	}
}

// applyCheckpoint takes over the state of c where the log begins after the configuration; elsewhere
// it only compares.
func (m *Machine) applyCheckpoint(now int64, c *checkpoint, fx *Effects) error {
	if !m.configured && c.Needed > 0 && c.Needed < m.begin {
		return nil
	}
	if !m.configured {
		if err := m.removeUpto(c.First-1, fx); err != nil {
			return err
		}
		for _, d := range c.Dead {
			if err := m.removeRun(d[0], d[1], fx); err != nil {
				return err
			}
		}
		m.setConfig(c.Config)
		m.last, m.lastTime, m.lastMsgID = c.Last, c.LastTime, c.LastMsgID
		if !c.InLog {
			m.dedupe = dedupe{window: c.Config.Duplicates}
			for _, d := range c.IDs {
				m.dedupe.add(d.ID, d.Seq, d.Time, 0)
			}
		}
		if m.ix.Count() == 0 {
			m.first = c.First
		}
	}
	m.dedupe.expire(now)
	if m.first != c.First || m.last != c.Last || m.ix.Count() != c.Messages {
		return fmt.Errorf("%w: checkpoint of %d messages in [%d, %d], the log has %d in [%d, %d]",
			ErrEntry, c.Messages, c.First, c.Last, m.ix.Count(), m.first, m.last)
	}
	return nil
}
