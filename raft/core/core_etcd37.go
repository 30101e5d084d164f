//go:build !etcdraft35

package core

import (
	"errors"
	"fmt"
	"slices"

	etcdraft "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// etcd37 runs a group on etcd's raft with asynchronous storage writes: any number of writes may be
// on their way to the disk while further entries are proposed.
type etcd37 struct {
	node *etcdraft.RawNode
	view view
	tail tail[*raftpb.Entry]

	proposed [][]byte            // data of the proposal whose entries the next Ready hands out
	answers  [][]*raftpb.Message // for each write in view.inflight: to step once it is durable
	applying *raftpb.Message     // to step once the entries handed out last were applied
	state    HardState           // the newest, written or not
	leads    bool
}

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
	c := &etcd37{view: v, state: v.initial()}
	c.node, err = etcdraft.NewRawNode(&etcdraft.Config{
		ID:                        cfg.Replica,
		ElectionTick:              30, // ticks of 100 ms
		HeartbeatTick:             5,
		Storage:                   &storage37{core: c, voters: cfg.Voters},
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  cfg.MaxApplyBytes,
		MaxInflightMsgs:           256,
		MaxInflightBytes:          16 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            etcdraft.ReadOnlySafe,
		Logger:                    &logger{to: cfg.Logger, group: cfg.Group},
		DisableProposalForwarding: true, // only the leader can number messages
		StepDownOnRemoval:         true,
	})
	if err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	return c, nil
}

func (c *etcd37) Campaign() error { return c.node.Campaign() }

// Propose proposes the entries without their data, which Ready puts into them: the library would
// copy it. Its own bounds by size thus do not see it; the host bounds what is not applied yet.
func (c *etcd37) Propose(data [][]byte) error {
	entries := make([]*raftpb.Entry, len(data))
	var empty raftpb.Entry // shared: the library clones what is proposed
	for i := range entries {
		entries[i] = &empty
	}
	err := c.node.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), Entries: entries})
	switch {
	case errors.Is(err, etcdraft.ErrProposalDropped):
		return ErrDropped
	case err != nil:
		return fmt.Errorf("propose: %w", err)
	}
	c.proposed = data
	return nil
}

func (c *etcd37) Ready(rd *Ready) bool {
	if c.applying != nil {
		panic("BUG: Ready before the entries of the last one were applied")
	}
	*rd = Ready{Committed: rd.Committed[:0]}
	led := c.leads
	for c.node.HasReady() {
		lrd := c.node.Ready()
		if lrd.SoftState != nil {
			c.leads = lrd.RaftState == etcdraft.StateLeader
		}
		var now []*raftpb.Message
		for _, m := range lrd.Messages {
			switch m.GetType() {
			case raftpb.MsgStorageAppend:
				now = c.append(m, &rd.Append)
			case raftpb.MsgStorageApply:
				c.applying = m.GetResponses()[0]
				for _, e := range m.GetEntries() {
					rd.Committed = append(rd.Committed, fromPB(e))
				}
			default:
				panic(fmt.Sprintf("BUG: %s to replica %d of a group without peers",
					m.GetType(), m.GetTo()))
			}
		}
		c.step(now)
		if !rd.Append.Empty() || len(rd.Committed) > 0 || c.leads != led {
			rd.Term, rd.Leads = c.state.Term, c.leads
			return true
		}
	}
	return false
}

// append turns the library's storage message into a write. It returns the answers that need not
// wait for the disk, as nothing is to be written and nothing is on its way.
func (c *etcd37) append(m *raftpb.Message, to *Append) []*raftpb.Message {
	entries := m.GetEntries()
	if n := len(c.proposed); n > 0 {
		// The log's end is the proposal: nothing was stepped in between.
		for i, e := range entries[len(entries)-n:] {
			e.Data = c.proposed[i]
		}
		c.proposed = nil
	}
	if m.Term != nil {
		c.state = HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
	}
	to.State = c.view.state(c.state, len(entries))
	if len(entries) > 0 {
		to.Entries = make([]Entry, len(entries))
		for i, e := range entries {
			to.Entries[i] = fromPB(e)
		}
		c.tail.add(entries)
	}
	answers := m.GetResponses()
	if to.Empty() {
		if len(c.answers) == 0 {
			return answers
		}
		// Only the commit index changed. The answers rest on writes made before.
		newest := &c.answers[len(c.answers)-1]
		*newest = append(*newest, answers...)
		return nil
	}
	c.view.wrote(to.Entries)
	c.answers = append(c.answers, answers)
	return nil
}

func (c *etcd37) Persisted(n int) {
	c.view.persisted(n)
	for _, answers := range c.answers[:n] {
		c.step(answers)
	}
	rest := copy(c.answers, c.answers[n:])
	clear(c.answers[rest:])
	c.answers = c.answers[:rest]
}

func (c *etcd37) Applied() {
	m := c.applying
	if m == nil {
		panic("BUG: Applied without entries to apply")
	}
	c.applying = nil
	c.step([]*raftpb.Message{m})
	c.tail.applied(m.GetEntries()[len(m.GetEntries())-1].GetIndex())
}

// step gives the library answers to its own storage messages. An error would mean that it refuses
// one of its own messages.
func (c *etcd37) step(answers []*raftpb.Message) {
	for _, m := range answers {
		if err := c.node.Step(m); err != nil {
			panic(fmt.Sprintf("BUG: step %s: %v", m.GetType(), err))
		}
	}
}

func fromPB(e *raftpb.Entry) Entry {
	return Entry{Index: e.GetIndex(), Term: e.GetTerm(), Type: uint8(e.GetType()), Data: e.Data}
}

// storage37 is the stored log as the library reads it.
type storage37 struct {
	core   *etcd37
	voters []uint64
}

var _ etcdraft.Storage = (*storage37)(nil)

func (s *storage37) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs := s.core.view.initial()
	return &raftpb.HardState{Term: &hs.Term, Vote: &hs.Vote, Commit: &hs.Commit},
		&raftpb.ConfState{Voters: s.voters}, nil
}

func (s *storage37) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	v := &s.core.view
	switch {
	case lo < v.first:
		return nil, etcdraft.ErrCompacted
	case hi > v.last+1:
		return nil, etcdraft.ErrUnavailable
	}
	if entries := s.core.tail.slice(lo, hi); entries != nil {
		size := uint64(0)
		for i, e := range entries {
			if size += uint64(len(e.Data)); size > maxSize && i > 0 {
				entries = entries[:i]
				break
			}
		}
		return slices.Clone(entries), nil // the tail reuses its room
	}
	loaded, err := v.load(lo, hi, maxSize)
	if err != nil {
		return nil, err
	}
	slab := make([]entry37, len(loaded))
	entries := make([]*raftpb.Entry, len(loaded))
	for i := range loaded {
		entries[i] = slab[i].set(&loaded[i])
	}
	return entries, nil
}

// entry37 is an entry with room for what its fields point to.
type entry37 struct {
	pb          raftpb.Entry
	index, term uint64
	kind        raftpb.EntryType
}

func (p *entry37) set(e *Entry) *raftpb.Entry {
	p.index, p.term, p.kind = e.Index, e.Term, raftpb.EntryType(e.Type)
	p.pb.Index, p.pb.Term, p.pb.Type, p.pb.Data = &p.index, &p.term, &p.kind, e.Data
	return &p.pb
}

func (s *storage37) Term(index uint64) (uint64, error) {
	v := &s.core.view
	switch {
	case index+1 < v.first:
		return 0, etcdraft.ErrCompacted
	case index > v.last:
		return 0, etcdraft.ErrUnavailable
	}
	if e, ok := s.core.tail.at(index); ok {
		return e.GetTerm(), nil
	}
	return v.term(index)
}

func (s *storage37) LastIndex() (uint64, error)  { return s.core.view.last, nil }
func (s *storage37) FirstIndex() (uint64, error) { return s.core.view.first, nil }

// Snapshot is asked for when a peer needs entries that are gone; a group of one voter has no peer.
func (s *storage37) Snapshot() (*raftpb.Snapshot, error) {
	return nil, etcdraft.ErrSnapshotTemporarilyUnavailable
}
