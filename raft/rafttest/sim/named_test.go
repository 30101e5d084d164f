package sim

import "time"

// namedSeed is a run that failed once.
type namedSeed struct {
	name string // what was wrong
	cfg  Config
}

var named = []namedSeed{
	{
		// raft: a new replica on a node that had lost its disk took the leader's heartbeats to the old one for its
		// own, and gave up with ErrLostEntries.
		"messages for an earlier replica on the node", Config{Seed: 0, Faults: 6 * time.Second},
	},
	{
		// raft: the leader asked for a snapshot that was not durable yet; what was to tell the core read the
		// replica's number out of a message that the next Ready had cleared, and the replica waited for ever.
		"a snapshot that is not durable yet", Config{Seed: 1, Faults: 6 * time.Second},
	},
	{
		// journal: parts of entries that were installed for a coming snapshot were not counted as needed, and
		// their segments given back before the log was reset.
		"installed ahead of the log", Config{Seed: 8},
	},
}
