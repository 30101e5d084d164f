package core

import "fmt"

// MessageType names what a message is for. The numbers are this package's own and go over the wire.
type MessageType uint8

// Types of messages between replicas. Those that the library sends to itself or to its storage have no
// number; proposals and reads are not forwarded.
const (
	MsgApp MessageType = 1 + iota
	MsgAppResp
	MsgVote
	MsgVoteResp
	MsgPreVote
	MsgPreVoteResp
	MsgSnap
	MsgHeartbeat
	MsgHeartbeatResp
	MsgTimeoutNow
	messageTypes // one more than the last
)

var messageNames = [messageTypes]string{
	MsgApp: "MsgApp", MsgAppResp: "MsgAppResp", MsgVote: "MsgVote", MsgVoteResp: "MsgVoteResp",
	MsgPreVote: "MsgPreVote", MsgPreVoteResp: "MsgPreVoteResp", MsgSnap: "MsgSnap",
	MsgHeartbeat: "MsgHeartbeat", MsgHeartbeatResp: "MsgHeartbeatResp", MsgTimeoutNow: "MsgTimeoutNow",
}

// String returns the name of a type.
func (t MessageType) String() string {
	if t == 0 || t >= messageTypes {
		return fmt.Sprintf("MessageType(%d)", uint8(t))
	}
	return messageNames[t]
}

// Message is one raft message between two replicas of a group. The fields are those of etcd's
// raftpb.Message; which of them count is told by Type. This package adds to them:
//
//   - The Commit of a MsgAppResp or MsgHeartbeatResp is the commit index on the sender's disk.
//   - A vote or pre-vote that is refused says in Commit and LogTerm up to which entry, of which term, the
//     log is known to be committed.
type Message struct {
	Type       MessageType
	Reject     bool
	From, To   uint64
	Term       uint64
	LogTerm    uint64
	Index      uint64
	Commit     uint64
	RejectHint uint64
	Context    []byte
	Entries    []Entry
	Snapshot   *SnapshotMeta // of a MsgSnap
}

const (
	// maxIndex is the highest index that a message may name, so that sums do not overflow.
	maxIndex = 1<<63 - 1
	// maxContext is the longest context; those of the library are shorter.
	maxContext = 64
	// readContext is the length of the context of a heartbeat that confirms reads.
	readContext = 8
)

// check returns an error if no replica sends such a message.
func (m *Message) check() error {
	switch {
	case m.Type == 0 || m.Type >= messageTypes:
		return fmt.Errorf("message of unknown type %d", uint8(m.Type))
	case !validReplica(m.From) || !validReplica(m.To) || m.From == m.To:
		return fmt.Errorf("%s from replica %d to %d", m.Type, m.From, m.To)
	case m.Term == 0 || m.Term > maxIndex:
		return fmt.Errorf("%s of term %d", m.Type, m.Term)
	case m.Index > maxIndex || m.Commit > maxIndex || m.LogTerm > maxIndex:
		return fmt.Errorf("%s with index %d, commit index %d and log term %d",
			m.Type, m.Index, m.Commit, m.LogTerm)
	case len(m.Context) > maxContext:
		return fmt.Errorf("%s with a context of %d bytes", m.Type, len(m.Context))
	case len(m.Entries) > 0 && m.Type != MsgApp:
		return fmt.Errorf("%s with %d entries", m.Type, len(m.Entries))
	case (m.Snapshot != nil) != (m.Type == MsgSnap):
		return fmt.Errorf("%s with snapshot %t", m.Type, m.Snapshot != nil)
	}
	var err error
	switch m.Type {
	case MsgApp:
		err = m.checkEntries()
	case MsgAppResp:
		if m.Reject && m.RejectHint > m.Index {
			err = fmt.Errorf("hint %d for index %d", m.RejectHint, m.Index)
		}
	case MsgVote, MsgPreVote:
		if m.LogTerm >= m.Term {
			err = fmt.Errorf("log term %d in term %d", m.LogTerm, m.Term)
		}
	case MsgVoteResp, MsgPreVoteResp:
		if (m.Commit == 0) != (m.LogTerm == 0) {
			err = fmt.Errorf("commit index %d of term %d", m.Commit, m.LogTerm)
		}
	case MsgHeartbeat, MsgHeartbeatResp:
		if len(m.Context) != 0 && len(m.Context) != readContext {
			err = fmt.Errorf("context of %d bytes", len(m.Context))
		}
	case MsgSnap:
		err = m.Snapshot.check(m.Term)
	}
	if err != nil {
		return fmt.Errorf("%s from replica %d: %w", m.Type, m.From, err)
	}
	return nil
}

func (m *Message) checkEntries() error {
	if (m.Index == 0) != (m.LogTerm == 0) || m.LogTerm > m.Term {
		return fmt.Errorf("previous entry %d of term %d in term %d", m.Index, m.LogTerm, m.Term)
	}
	term := max(m.LogTerm, 1)
	for i := range m.Entries {
		e := &m.Entries[i]
		switch {
		case e.Index != m.Index+1+uint64(i):
			return fmt.Errorf("entry %d in place of %d", e.Index, m.Index+1+uint64(i))
		case e.Term < term || e.Term > m.Term:
			return fmt.Errorf("entry %d of term %d after one of term %d in term %d",
				e.Index, e.Term, term, m.Term)
		case e.Type != EntryNormal && e.Type != EntryConfChangeV2:
			return fmt.Errorf("entry %d of type %d", e.Index, e.Type)
		}
		term = e.Term
	}
	return nil
}

func (s *SnapshotMeta) check(term uint64) error {
	switch {
	case s.Index == 0 || s.Index > maxIndex:
		return fmt.Errorf("snapshot of entry %d", s.Index)
	case s.Term == 0 || s.Term > term:
		return fmt.Errorf("snapshot of term %d in term %d", s.Term, term)
	}
	if err := s.Members.check(); err != nil {
		return fmt.Errorf("snapshot of entry %d: %w", s.Index, err)
	}
	return nil
}
