package node

import (
	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/stream"
	"millrace/raft"
)

// newMachine returns a machine of the engine as the raft host sees it.
func newMachine(m jetstream.Machine) raft.Machine {
	if s, ok := m.(jetstream.Snapshotter); ok {
		return snapshotter{s}
	}
	return m
}

// snapshotter is a machine whose state can stand for its log.
type snapshotter struct{ jetstream.Snapshotter }

var (
	_ raft.Snapshotter = snapshotter{}
	_ raft.Retainer    = snapshotter{}
)

// Snapshot captures the state.
func (m snapshotter) Snapshot() (raft.State, error) { return m.Snapshotter.Snapshot() }

// Live names what is needed of entries.
func (m snapshotter) Live(lo, hi uint64, yield func(index uint64, parts []raft.Range) bool) error {
	var buf []raft.Range
	return m.Snapshotter.Live(lo, hi, func(index uint64, parts []stream.Range) bool {
		buf = buf[:0]
		for _, p := range parts {
			buf = append(buf, raft.Range(p))
		}
		return yield(index, buf)
	})
}
