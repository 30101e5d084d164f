//go:build etcdraft35

package core

import (
	"errors"
	"fmt"

	etcdraft "go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// etcd35 runs a group on the former home of etcd's raft, which wants one Ready at a time to be
// written, then applied, then advanced over.
//
// The library counts a leader's entries as durable when it appends them, so in a group of one
// voter it hands out the same entry to be written and as committed in one Ready (etcd issue
// 14370). Here nothing of a Ready is applied before everything it wrote is durable.
type etcd35 struct {
	node *etcdraft.RawNode
	view view

	rd    etcdraft.Ready // the Ready in work
	phase phase35
	state HardState // the newest, written or not
	leads bool
}

// phase35 is how far the Ready in work has come.
type phase35 uint8

const (
	none35     phase35 = iota // no Ready in work
	writing35                 // waits for Persisted
	written35                 // durable; its committed entries are to be handed out
	applying35                // waits for Applied
)

// New restores one replica from its stored log. Writes to it that an earlier Core of this process
// handed out may not be durable yet: they become so before those of this one.
func New(cfg Config) (Core, error) {
	if err := cfg.validate(); err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	v, err := newView(&cfg)
	if err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	c := &etcd35{view: v, state: v.initial()}
	c.node, err = etcdraft.NewRawNode(&etcdraft.Config{
		ID:                        cfg.Replica,
		ElectionTick:              30, // ticks of 100 ms
		HeartbeatTick:             5,
		Storage:                   &storage35{core: c, voters: cfg.Voters},
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  cfg.MaxApplyBytes,
		MaxInflightMsgs:           256,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            etcdraft.ReadOnlySafe,
		Logger:                    &logger{to: cfg.Logger, group: cfg.Group},
		DisableProposalForwarding: true, // only the leader can number messages
	})
	if err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	return c, nil
}

func (c *etcd35) Campaign() error { return c.node.Campaign() }

func (c *etcd35) Propose(data [][]byte) error {
	entries := make([]raftpb.Entry, len(data))
	for i := range data {
		entries[i].Data = data[i]
	}
	err := c.node.Step(raftpb.Message{Type: raftpb.MsgProp, Entries: entries})
	switch {
	case errors.Is(err, etcdraft.ErrProposalDropped):
		return ErrDropped
	case err != nil:
		return fmt.Errorf("propose: %w", err)
	}
	return nil
}

func (c *etcd35) Ready(rd *Ready) bool {
	*rd = Ready{Committed: rd.Committed[:0]}
	led := c.leads
	for {
		switch c.phase {
		case writing35:
			return false
		case applying35:
			panic("BUG: Ready before the entries of the last one were applied")
		case none35:
			if !c.node.HasReady() {
				return false
			}
			c.take(rd)
		case written35:
			for i := range c.rd.CommittedEntries {
				rd.Committed = append(rd.Committed, fromPB(&c.rd.CommittedEntries[i]))
			}
			if len(rd.Committed) > 0 {
				c.phase = applying35
			} else {
				c.advance()
			}
		}
		if !rd.Append.Empty() || len(rd.Committed) > 0 || c.leads != led {
			rd.Term, rd.Leads = c.state.Term, c.leads
			return true
		}
	}
}

// take begins with the next Ready of the library.
func (c *etcd35) take(rd *Ready) {
	c.rd = c.node.Ready()
	if len(c.rd.Messages) > 0 {
		m := c.rd.Messages[0]
		panic(fmt.Sprintf("BUG: %s to replica %d of a group without peers", m.Type, m.To))
	}
	if c.rd.SoftState != nil {
		c.leads = c.rd.RaftState == etcdraft.StateLeader
	}
	if !etcdraft.IsEmptyHardState(c.rd.HardState) {
		hs := c.rd.HardState
		c.state = HardState{Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit}
	}
	rd.Append.State = c.view.state(c.state, len(c.rd.Entries))
	if len(c.rd.Entries) > 0 {
		rd.Append.Entries = make([]Entry, len(c.rd.Entries))
		for i := range c.rd.Entries {
			rd.Append.Entries[i] = fromPB(&c.rd.Entries[i])
		}
	}
	c.phase = written35
	if !rd.Append.Empty() {
		c.view.wrote(rd.Append.Entries)
		c.phase = writing35
	}
}

func (c *etcd35) Persisted(n int) {
	c.view.persisted(n)
	c.phase = written35 // there is one write at a time
}

func (c *etcd35) Applied() {
	if c.phase != applying35 {
		panic("BUG: Applied without entries to apply")
	}
	c.advance()
}

func (c *etcd35) advance() {
	c.node.Advance(c.rd)
	c.rd = etcdraft.Ready{}
	c.phase = none35
}

func fromPB(e *raftpb.Entry) Entry {
	return Entry{Index: e.Index, Term: e.Term, Type: uint8(e.Type), Data: e.Data}
}

// storage35 is the stored log as the library reads it.
type storage35 struct {
	core   *etcd35
	voters []uint64
}

var _ etcdraft.Storage = (*storage35)(nil)

func (s *storage35) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	hs := s.core.view.initial()
	return raftpb.HardState{Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit},
		raftpb.ConfState{Voters: s.voters}, nil
}

func (s *storage35) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	v := &s.core.view
	switch {
	case lo < v.first:
		return nil, etcdraft.ErrCompacted
	case hi > v.last+1:
		return nil, etcdraft.ErrUnavailable
	}
	loaded, err := v.load(lo, hi, maxSize)
	if err != nil {
		return nil, err
	}
	entries := make([]raftpb.Entry, len(loaded))
	for i, e := range loaded {
		entries[i] = raftpb.Entry{
			Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Type), Data: e.Data,
		}
	}
	return entries, nil
}

func (s *storage35) Term(index uint64) (uint64, error) {
	v := &s.core.view
	switch {
	case index+1 < v.first:
		return 0, etcdraft.ErrCompacted
	case index > v.last:
		return 0, etcdraft.ErrUnavailable
	}
	return v.term(index)
}

func (s *storage35) LastIndex() (uint64, error)  { return s.core.view.last, nil }
func (s *storage35) FirstIndex() (uint64, error) { return s.core.view.first, nil }

// Snapshot is asked for when a peer needs entries that are gone; a group of one voter has no peer.
func (s *storage35) Snapshot() (raftpb.Snapshot, error) {
	return raftpb.Snapshot{}, etcdraft.ErrSnapshotTemporarilyUnavailable
}
