package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Loss says what a crash does to what was not synced.
type Loss int

// The losses, from none to all.
const (
	KeepUnsynced Loss = iota // the process dies, the machine stays up: nothing is lost
	LoseUnsynced             // power fails, nothing unsynced had reached the disk
	TearUnsynced             // power fails, each unsynced sector and directory entry by a coin of its own
)

func (l Loss) String() string {
	return [...]string{"keep", "lose", "tear"}[l]
}

// Crash returns the file system as a restart after a crash at this moment finds it; m goes on
// unchanged. Equal seeds decide equally. With KeepUnsynced the unsynced parts stay unsynced: a
// later crash of the copy may still lose them.
func (m *Mem) Crash(loss Loss, seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	rnd := rand.New(rand.NewPCG(seed, uint64(loss)))
	out := NewMem()
	out.capacity, out.history = m.capacity, m.history
	maps.Copy(out.dirs, m.dirs)
	copies := make(map[*inode]*inode)
	clone := func(n *inode) *inode {
		if copies[n] == nil {
			copies[n] = n.crash(loss, rnd)
		}
		return copies[n]
	}
	all := make(map[string]bool)
	for name := range m.names {
		all[name] = true
	}
	for name := range m.durable {
		all[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		durable, visible := m.durable[name], m.names[name]
		after := visible
		if loss == LoseUnsynced || loss == TearUnsynced && durable != visible && rnd.IntN(2) == 0 {
			after = durable
		}
		if after != nil {
			out.names[name] = clone(after)
		}
		if loss != KeepUnsynced {
			durable = after
		}
		if durable != nil {
			out.durable[name] = clone(durable)
		}
	}
	return out
}

func (n *inode) crash(loss Loss, rnd *rand.Rand) *inode {
	out := &inode{dirty: make(map[int64][][]byte), before: make(map[int64][][]byte)}
	for s, versions := range n.before {
		out.before[s] = slices.Clone(versions)
	}
	switch loss {
	case KeepUnsynced:
		out.data, out.synced = slices.Clone(n.data), slices.Clone(n.synced)
		for s, versions := range n.dirty {
			out.dirty[s] = slices.Clone(versions)
		}
		return out
	case LoseUnsynced:
		out.data = slices.Clone(n.synced)
	case TearUnsynced:
		size := len(n.synced)
		if len(n.data) != size && rnd.IntN(2) == 0 {
			size = len(n.data)
		}
		out.data = resize(slices.Clone(n.synced), size)
		for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
			versions := n.dirty[s]
			if k := rnd.IntN(len(versions) + 1); k < len(versions) && s*SectorBytes < int64(size) {
				copy(out.data[s*SectorBytes:], versions[k])
			}
		}
	}
	out.synced = slices.Clone(out.data)
	return out
}
