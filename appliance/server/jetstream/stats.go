package jetstream

import (
	"encoding/json"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// Subjects of the system account on which storage nodes tell how much room they have.
const (
	statsSubject    = "$MILLRACE.STATS"
	statsAskSubject = "$MILLRACE.STATS.ASK" // all nodes are to tell
)

// nodeStat is the room of one node, in bytes: what it may hold, and its disks can, less what is in use or reserved by
// the max_bytes of its streams, whichever is more.
type nodeStat struct {
	Node       uint64 `json:"node"`
	StoreFree  int64  `json:"store_free"`
	MemoryFree int64  `json:"memory_free"`
}

const (
	// tellEvery is after how long a node tells its room again although nothing has changed, for a leader that has
	// missed it.
	tellEvery = time.Minute
	// tellChange is by how many bytes the room must have changed to be told before.
	tellChange = 64 << 20
)

// nodeStats is what nodes told about their room. The leader of the meta group collects it.
type nodeStats struct {
	mu   sync.Mutex
	of   map[uint64]nodeStat
	last nodeStat  // that this node told
	told time.Time // when
}

// stat returns this node's room. Without any limit it is what the limit could be at most. What the disks have is told in
// steps of tellChange: it changes all the time.
func (e *Engine) stat() nodeStat {
	store, memory := e.reserved()
	store, memory = max(store, e.used.file.Load()), max(memory, e.used.memory.Load())
	limit := func(most int64) int64 {
		if most <= 0 {
			return meta.UnknownRoom
		}
		return most
	}
	most := limit(e.cfg.MaxStore)
	if e.cfg.Cluster != "" && e.cfg.DiskRoom != nil { // alone, the only place is the best one
		if room, known := e.cfg.DiskRoom(); known {
			most = min(most, room/tellChange*tellChange)
		}
	}
	return nodeStat{
		Node:       e.cfg.Node,
		StoreFree:  max(0, most-store),
		MemoryFree: max(0, limit(e.cfg.MaxMemory)-memory),
	}
}

// tell publishes this node's room if it has changed, or if anyway is set.
func (s *nodeStats) tell(e *Engine, anyway bool) {
	if e.cfg.Cluster == "" {
		return
	}
	now, stat := time.Now(), e.stat()
	s.mu.Lock()
	changed := abs(stat.StoreFree-s.last.StoreFree) >= tellChange || abs(stat.MemoryFree-s.last.MemoryFree) >= tellChange
	tell := anyway || changed || now.Sub(s.told) >= tellEvery
	if tell {
		s.last, s.told = stat, now
	}
	s.mu.Unlock()
	if tell {
		e.cfg.System.Publish(statsSubject, "", nil, encodeAdvisory(stat))
	}
}

func abs(n int64) int64 { return max(n, -n) }

// take keeps what a node told.
func (s *nodeStats) take(m Msg) {
	var stat nodeStat
	if json.Unmarshal(m.Data, &stat) != nil || stat.Node == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[uint64]nodeStat{}
	}
	s.of[stat.Node] = stat
}

// room returns what a node told of its room; false: it told nothing yet.
func (s *nodeStats) room(e *Engine, node uint64) (nodeStat, bool) {
	if node == e.cfg.Node {
		return e.stat(), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stat, ok := s.of[node]
	return stat, ok
}

// reserved returns the bytes that the streams with a replica here may take, by storage.
func (e *Engine) reserved() (store, memory int64) {
	for _, a := range e.accounts {
		for _, s := range a.all() {
			s.mu.RLock()
			most := max(0, s.machine.Config().MaxBytes)
			s.mu.RUnlock()
			if s.storage == api.MemoryStorage {
				memory += most
			} else {
				store += most
			}
		}
	}
	return store, memory
}
