package node

import (
	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/stream"
	"millrace/raft"
)

// machine passes on what a group applies and tells when it leads for the first time.
type machine struct {
	jetstream.Machine
	ready chan struct{}
	led   bool
}

// newMachine returns a machine of the engine as the raft host sees it, and what is closed when its group
// leads.
func newMachine(m jetstream.Machine) (raft.Machine, <-chan struct{}) {
	inner := &machine{Machine: m, ready: make(chan struct{})}
	if s, ok := m.(jetstream.Snapshotter); ok {
		return &snapshotter{machine: inner, Snapshotter: s}, inner.ready
	}
	return inner, inner.ready
}

// Lead tells about leadership; a group of one voter never loses it.
func (m *machine) Lead(_ uint64, ready bool) {
	if ready && !m.led {
		m.led = true
		close(m.ready)
	}
}

// snapshotter is a machine whose state can stand for its log.
type snapshotter struct {
	*machine
	jetstream.Snapshotter
}

var (
	_ raft.Snapshotter = (*snapshotter)(nil)
	_ raft.Retainer    = (*snapshotter)(nil)
)

// Apply passes a committed entry on.
func (m *snapshotter) Apply(index uint64, data []byte) { m.machine.Apply(index, data) }

// Snapshot captures the state.
func (m *snapshotter) Snapshot() (raft.State, error) { return m.Snapshotter.Snapshot() }

// Live names what is needed of entries.
func (m *snapshotter) Live(lo, hi uint64, yield func(index uint64, parts []raft.Range) bool) error {
	var buf []raft.Range
	return m.Snapshotter.Live(lo, hi, func(index uint64, parts []stream.Range) bool {
		buf = buf[:0]
		for _, p := range parts {
			buf = append(buf, raft.Range(p))
		}
		return yield(index, buf)
	})
}
