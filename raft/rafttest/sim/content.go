package sim

import (
	"math/rand/v2"

	"millrace/appliance/node/logstore"
	"millrace/raft"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// worker is what a store does by itself, one piece at a time.
type worker interface {
	// Work does one piece of work, and reports whether there is more.
	Work() bool
}

// open opens what is on a disk. With live it is the store of the node's process.
func (c content) open(n *node, live bool) (raft.SnapshotStore, worker, error) {
	if c.ideal != nil {
		return c.ideal, c.ideal, nil
	}
	k := n.cluster
	var fs vfs.FS = c.mem
	if k.cfg.Mutant == MutantNoSync && live {
		fs = lazyFS{fs}
	}
	cfg := journal.Config{
		FS: fs, Dir: journalDir, Catalog: c.catalog, Manual: true, Clock: n.now, Logger: discard,
		SegmentBytes: k.tune.segment, FirstSegmentBytes: 64 << 10, SlackBytes: k.tune.segment,
		Rand: seededReader{rand.New(rand.NewPCG(k.world.seed+uint64(n.index), n.life))},
		OnFatal: func(err error) {
			if live && !n.disk.dying() {
				k.check.fail(CheckProcess, "node %d: the journal has stopped: %v", n.index+1, err)
			}
		},
	}
	if live {
		cfg.Logger = k.logger(n.index + 1)
		cfg.ScrubInterval, cfg.OnDamage = scrubInterval, n.repair
	} else {
		cfg.Rand = seededReader{rand.New(rand.NewPCG(k.world.seed, k.world.steps))}
	}
	l, err := journal.Open(cfg)
	if err != nil {
		return nil, nil, err
	}
	return logstore.Store{Log: l}, l, nil
}
