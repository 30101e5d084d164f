package jetstream

import (
	"testing"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// The room of a node is what its limit and its disks leave, less what is in use or reserved.
func TestNodeRoom(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		name           string
		limit, disk    int64 // 0: none, not known
		reserved, used int64
		want           int64
	}{
		{"nothing is known", 0, 0, 0, 0, meta.UnknownRoom},
		{"a limit", 10 * gib, 0, 0, 0, 10 * gib},
		{"a smaller disk", 10 * gib, 4 * gib, 0, 0, 4 * gib},
		{"a smaller limit", 2 * gib, 4*gib + 1, 0, 0, 2 * gib},
		{"a disk alone, in steps", 0, 4*gib + tellChange/2, 0, 0, 4 * gib},
		{"reserved", 10 * gib, 8 * gib, 3 * gib, gib, 5 * gib},
		{"in use", 10 * gib, 8 * gib, gib, 3 * gib, 5 * gib},
		{"more than there is", 2 * gib, 8 * gib, 0, 3 * gib, 0},
	} {
		s := newServer(t, newDisk())
		if tt.reserved > 0 {
			s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxBytes = tt.reserved }), nil)
		}
		e := &Engine{accounts: s.engine.accounts, cfg: Config{Cluster: "C", MaxStore: tt.limit}}
		if tt.disk > 0 {
			e.cfg.DiskRoom = func() (int64, bool) { return tt.disk, true }
		}
		e.used.file.Store(tt.used)
		if got := e.stat().StoreFree; got != tt.want {
			t.Errorf("%s: %d bytes, want %d", tt.name, got, tt.want)
		}
		s.engine.Close()
	}
}
