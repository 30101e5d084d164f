package raft

import (
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"time"
)

// Config configures a Host. Of the fields below Transport only the functions matter to a host whose
// groups have one replica.
type Config struct {
	// Node is the id of this node, and of its replica in groups that name no other. It is not 0, and is
	// never used again by a node that lost its logs. Required.
	Node uint64

	// Log stores the logs of all groups. Required. It is to be a SnapshotStore for groups with more
	// than one replica.
	Log LogStore

	// Admit is asked before a proposal of n bytes is taken: the place for bounds of the node, such as
	// an entry that the store cannot hold, a full disk, or too much that waits to be written. Its
	// error is wrapped in what Propose returns. It does not block. nil: everything is admitted.
	Admit func(n int) error

	// AdmitControl is asked by ProposeControl in place of Admit; it may admit what Admit refuses,
	// such as entries that free space on a full disk. nil: Admit.
	AdmitControl func(n int) error

	// LogFailed is closed when Log has failed and calls no more Done, so that nobody waits for it.
	// nil: nobody is told.
	LogFailed <-chan struct{}

	// Workers is the number of goroutines that run the groups. 0: GOMAXPROCS.
	Workers int

	// MaxPendingBytes bounds the data of a group's proposals that are not applied yet; Propose
	// returns ErrBusy at the bound. 0: 64 MiB.
	MaxPendingBytes int64

	// MaxApplyBytes bounds the data that is read from the log and applied in one go, before other
	// groups have their turn; one entry is always allowed. 0: 4 MiB.
	MaxApplyBytes int64

	// OnGroupFailure is called once when a group stops because of a broken invariant, an unreadable
	// log, entries that were lost or a panic in its Machine; other groups go on. It is called by the
	// group's worker, so the rules for a Machine hold. nil: the failure is logged only.
	OnGroupFailure func(id GroupID, err error)

	// Logger receives failures and, at debug level, elections. nil: nothing is logged.
	Logger *slog.Logger

	// Transport reaches the other nodes; the host is its Receiver. nil: groups have one replica.
	Transport Transport

	// NodeOf returns the node on which a replica lives. It does not block. nil: a replica has the id
	// of its node.
	NodeOf func(replica uint64) uint64

	// OnUnknownGroup is called when a message from another node names a group that does not run here,
	// at most once a second for each node. It does not block. nil: such messages are counted only.
	OnUnknownGroup func(id GroupID, node uint64)

	// OnRemoved is called once when this replica was removed from its group, after it was stopped. Its
	// log stays until Remove. It is called by the group's worker: the rules for a Machine hold.
	// nil: nobody is told.
	OnRemoved func(id GroupID)

	// OnPeer is called when a node's state changes. It does not block. nil: nobody is told.
	OnPeer func(node uint64, state PeerState)

	// TickInterval is the unit of a group's time. 0: 100 ms.
	TickInterval time.Duration
	// HeartbeatTicks is the time between heartbeats of a leader that is awake. 0: 5 ticks.
	HeartbeatTicks int
	// ElectionTicks is the time after which a follower without word from its leader doubts it; it
	// campaigns after once to twice that time. At least 3 HeartbeatTicks. 0: 30 ticks.
	ElectionTicks int

	// BeatInterval is the time between two heartbeats from node to node. 0: 200 ms.
	BeatInterval time.Duration
	// SuspectAfter is the time without a heartbeat after which a node is suspected. 0: 1 s.
	SuspectAfter time.Duration
	// DeadAfter is the time without a heartbeat after which a node is taken for dead, and the groups
	// which it led elect another leader; up to twice that for a node that was suspected lately and came
	// back. Times in which this node itself was held up do not count. 0: 2.5 s.
	DeadAfter time.Duration
	// PromiseTime is for how long a node that got a heartbeat promises not to help in replacing the
	// leaders on the other node; leases for reads are made of it. It is the same on all nodes, and at
	// most DeadAfter. Clocks may differ by 10 % in rate. 0: 2 s.
	PromiseTime time.Duration
	// DiskStall is the time after which a store that answers no write is reported to other nodes. 0: 1 s.
	DiskStall time.Duration
	// SleepAfter is the time without proposals and reads after which a group whose replicas are equal
	// goes to sleep. Negative: never. 0: 5 s.
	SleepAfter time.Duration
	// FailoverJitter spreads the elections after the death of a node. 0: 500 ms.
	FailoverJitter time.Duration
	// MaxCampaigns bounds the elections that are under way at once; others wait for their turn. 0: 500.
	MaxCampaigns int

	// CheckInterval is the time between two comparisons of a group's states on its replicas, if it is awake and has
	// applied something since. 0: an hour; negative: never.
	CheckInterval time.Duration
	// StateFormat names how this build encodes the machines' states: only replicas of the same one are compared.
	StateFormat uint64

	// MaxInboxBytes bounds the messages from other nodes that a group has not looked at; more are
	// dropped, and come again. One is always taken. 0: 32 MiB.
	MaxInboxBytes int

	// SnapshotBytes is how much log makes a new snapshot worth while, and SnapshotFactor how many
	// times the size of the last snapshot: the larger one counts. 0: 16 MiB and 8.
	SnapshotBytes  int64
	SnapshotFactor int64
	// CompactMargin bounds the data of entries that are kept behind a snapshot for replicas that are
	// behind but alive. 0: 64 MiB.
	CompactMargin int64
	// ChunkBytes is the size of the objects that a state is stored in, and of the pieces in which it is
	// sent. 0: 512 KiB.
	ChunkBytes int
	// MaxTransfers bounds the states that are sent at once, and those that are received. 0: 2.
	MaxTransfers int
	// TransferWindow bounds the bytes of a transfer that are not durable at the receiver. 0: 16 MiB.
	TransferWindow int

	// Manual leaves all work to the calls of Run and Tick: the host has no goroutines and all calls
	// come from one. What it does is then determined by these calls, Now and Rand.
	Manual bool
	// Now is the clock, which never goes back. nil: time.Now.
	Now func() time.Time
	// Rand is the source of jitter, and of the number that tells this life of the host from earlier ones:
	// it must not repeat itself after a restart. It is used by one goroutine at a time. nil: a random one.
	Rand *rand.Rand
}

func (c *Config) validate() error {
	switch {
	case c.Node == 0:
		return errors.New("raft: config: Node is 0")
	case c.Log == nil:
		return errors.New("raft: config: Log is nil")
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Workers", int64(c.Workers)}, {"MaxPendingBytes", c.MaxPendingBytes}, {"MaxApplyBytes", c.MaxApplyBytes},
		{"TickInterval", int64(c.TickInterval)}, {"HeartbeatTicks", int64(c.HeartbeatTicks)},
		{"ElectionTicks", int64(c.ElectionTicks)}, {"BeatInterval", int64(c.BeatInterval)},
		{"SuspectAfter", int64(c.SuspectAfter)}, {"DeadAfter", int64(c.DeadAfter)},
		{"PromiseTime", int64(c.PromiseTime)}, {"DiskStall", int64(c.DiskStall)},
		{"FailoverJitter", int64(c.FailoverJitter)}, {"MaxCampaigns", int64(c.MaxCampaigns)},
		{"MaxInboxBytes", int64(c.MaxInboxBytes)}, {"SnapshotBytes", c.SnapshotBytes},
		{"SnapshotFactor", c.SnapshotFactor}, {"CompactMargin", c.CompactMargin},
		{"ChunkBytes", int64(c.ChunkBytes)}, {"MaxTransfers", int64(c.MaxTransfers)},
		{"TransferWindow", int64(c.TransferWindow)},
	} {
		if f.value < 0 {
			return fmt.Errorf("raft: config: %s is negative", f.name)
		}
	}
	d := c.withDefaults()
	switch {
	case d.ElectionTicks < 3*d.HeartbeatTicks:
		return fmt.Errorf("raft: config: %d ElectionTicks with %d HeartbeatTicks", d.ElectionTicks, d.HeartbeatTicks)
	case d.PromiseTime > d.DeadAfter:
		return fmt.Errorf("raft: config: PromiseTime %s is above DeadAfter %s", d.PromiseTime, d.DeadAfter)
	case d.SuspectAfter > d.DeadAfter || d.BeatInterval > d.SuspectAfter:
		return fmt.Errorf("raft: config: BeatInterval %s, SuspectAfter %s and DeadAfter %s do not ascend",
			d.BeatInterval, d.SuspectAfter, d.DeadAfter)
	}
	return nil
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (c Config) withDefaults() Config {
	orDefault(&c.Workers, runtime.GOMAXPROCS(0))
	if c.Manual {
		c.Workers = 1
	}
	orDefault(&c.MaxPendingBytes, 64<<20)
	orDefault(&c.MaxApplyBytes, 4<<20)
	orDefault(&c.TickInterval, 100*time.Millisecond)
	orDefault(&c.HeartbeatTicks, 5)
	orDefault(&c.ElectionTicks, 30)
	orDefault(&c.BeatInterval, 200*time.Millisecond)
	orDefault(&c.SuspectAfter, time.Second)
	orDefault(&c.DeadAfter, 2500*time.Millisecond)
	orDefault(&c.PromiseTime, min(2*time.Second, c.DeadAfter))
	orDefault(&c.DiskStall, time.Second)
	orDefault(&c.SleepAfter, 5*time.Second)
	orDefault(&c.FailoverJitter, 500*time.Millisecond)
	orDefault(&c.MaxCampaigns, 500)
	orDefault(&c.CheckInterval, time.Hour)
	orDefault(&c.MaxInboxBytes, 32<<20)
	orDefault(&c.SnapshotBytes, 16<<20)
	orDefault(&c.SnapshotFactor, 8)
	orDefault(&c.CompactMargin, 64<<20)
	orDefault(&c.ChunkBytes, 512<<10)
	orDefault(&c.MaxTransfers, 2)
	orDefault(&c.TransferWindow, 16<<20)
	if c.Admit == nil {
		c.Admit = func(int) error { return nil }
	}
	if c.AdmitControl == nil {
		c.AdmitControl = c.Admit
	}
	if c.OnGroupFailure == nil {
		c.OnGroupFailure = func(GroupID, error) {}
	}
	if c.OnUnknownGroup == nil {
		c.OnUnknownGroup = func(GroupID, uint64) {}
	}
	if c.OnRemoved == nil {
		c.OnRemoved = func(GroupID) {}
	}
	if c.OnPeer == nil {
		c.OnPeer = func(uint64, PeerState) {}
	}
	if c.NodeOf == nil {
		c.NodeOf = func(replica uint64) uint64 { return replica }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = newRand()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// newRand returns a source that no other host has.
func newRand() *rand.Rand {
	var seed [16]byte
	crand.Read(seed[:]) // never fails
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])))
}
