package sim

import (
	"millrace/raft"
	"millrace/raft/core"
)

// left is called with each frame at the moment it leaves a node. What its messages promise must be on the
// synced disk of the node by then: a crash right after it must not make the node forget.
func (c *cluster) left(from int, frame []byte) {
	n := c.nodes[from]
	err := raft.FrameMessages(frame, func(group raft.GroupID, m *core.Message) {
		p := c.byReplica[m.From]
		if p == nil || p.node != from || p.group != uint64(group) {
			c.check.fail(CheckPromise, "node %d sends a %s of group %d for replica %d", from+1, m.Type, group, m.From)
			return
		}
		durable := newImage()
		if l := n.disk.logs[p.log]; l != nil {
			durable = l.durable
		}
		c.promises++
		if w := c.world; w.trace != nil && w.all {
			w.printf("group %d: %s from replica %d to %d, term %d, reject %t, index %d, log term %d, commit %d, hint %d, %d entries",
				group, m.Type, m.From, m.To, m.Term, m.Reject, m.Index, m.LogTerm, m.Commit, m.RejectHint, len(m.Entries))
		}
		if broken := durable.keeps(m); broken != "" {
			c.check.fail(CheckPromise, "%v sends a %s of term %d to replica %d, index %d, commit %d: %s is not on its disk, "+
				"which has %s", p, m.Type, m.Term, m.To, m.Index, m.Commit, broken, &durable)
		}
		if m.Type == core.MsgAppResp && !m.Reject {
			c.matches(p, &durable, m)
		}
	})
	if err != nil {
		c.check.fail(CheckPromise, "node %d sends a frame that cannot be read: %v", from+1, err)
	}
}

// keeps returns what of the things that a message rests on is not in the image, "" when all are.
func (m *image) keeps(msg *core.Message) (missing string) {
	var s raft.HardState
	if m.state != nil {
		s = *m.state
	}
	snapshot := uint64(0)
	if m.snapshot != nil {
		snapshot = m.snapshot.Index
	}
	voted := func(replica uint64) string {
		// In a term that is over nobody can get a vote any more.
		if s.Term > msg.Term || s.Term == msg.Term && s.Vote == replica {
			return ""
		}
		return "the vote"
	}
	switch msg.Type {
	case core.MsgVote:
		return voted(msg.From) // core: who forgets the term could be elected in it twice
	case core.MsgVoteResp:
		if !msg.Reject {
			return voted(msg.To)
		}
	case core.MsgAppResp, core.MsgHeartbeatResp:
		switch {
		case msg.Commit > max(s.Commit, snapshot):
			return "the commit index"
		case msg.Type == core.MsgHeartbeatResp || msg.Reject:
		case s.Term < msg.Term:
			return "the term"
		case msg.Index > max(m.last(), snapshot):
			return "the entry"
		}
	}
	return ""
}

// matches compares the entry up to which a replica says that it has the log of a leader with the one that the
// leader has. A leader does not change what it has of its log in its term.
func (c *cluster) matches(p *placement, durable *image, m *core.Message) {
	leader := c.byReplica[m.To]
	if leader == nil || m.Index < durable.first || m.Index > durable.last() || c.check.group(p.group).leaders[m.Term] != m.To {
		return
	}
	n := c.nodes[leader.node]
	if !n.up || n.running[leader.log] == nil {
		return
	}
	if s, ok := n.store.State(leader.log); !ok || s.Term != m.Term {
		return
	}
	if _, last := n.store.Bounds(leader.log); m.Index > last {
		c.check.fail(CheckPromise, "%v says that it has entry %d of %v, whose last one is %d", p, m.Index, leader, last)
		return
	}
	term, err := n.store.Term(leader.log, m.Index)
	if has := durable.entries[m.Index-durable.first].term; err == nil && has != term {
		c.check.fail(CheckPromise, "%v says that it has entry %d of %v, which is of term %d there, here of term %d",
			p, m.Index, leader, term, has)
	}
}
