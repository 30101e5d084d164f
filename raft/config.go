package raft

import (
	"errors"
	"log/slog"
	"runtime"
)

// Config configures a Host.
type Config struct {
	// Node is the replica id of this node in all its groups. It is not 0, and is never used again
	// by a node that lost its logs. Required.
	Node uint64

	// Log stores the logs of all groups. Required.
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
	// log or a panic in its Machine; other groups go on. It is called by the group's worker, so the
	// rules for a Machine hold. nil: the failure is logged only.
	OnGroupFailure func(id GroupID, err error)

	// Logger receives failures and, at debug level, elections. nil: nothing is logged.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Node == 0:
		return errors.New("raft: config: Node is 0")
	case c.Log == nil:
		return errors.New("raft: config: Log is nil")
	case c.Workers < 0:
		return errors.New("raft: config: Workers is negative")
	case c.MaxPendingBytes < 0:
		return errors.New("raft: config: MaxPendingBytes is negative")
	case c.MaxApplyBytes < 0:
		return errors.New("raft: config: MaxApplyBytes is negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.MaxPendingBytes == 0 {
		c.MaxPendingBytes = 64 << 20
	}
	if c.MaxApplyBytes == 0 {
		c.MaxApplyBytes = 4 << 20
	}
	if c.Admit == nil {
		c.Admit = func(int) error { return nil }
	}
	if c.AdmitControl == nil {
		c.AdmitControl = c.Admit
	}
	if c.OnGroupFailure == nil {
		c.OnGroupFailure = func(GroupID, error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
