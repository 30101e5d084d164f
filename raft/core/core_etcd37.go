//go:build !etcdraft35

package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	etcdraft "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// etcd37 runs a group on etcd's raft with asynchronous storage writes: any number of writes may be
// on their way to the disk while further entries are proposed.
//
// The library would hand out committed entries only once they are on this replica's own disk. So
// there is a cursor of our own, and what the library hands out to be applied is dropped, unread.
type etcd37 struct {
	node     *etcdraft.RawNode
	view     view
	tail     tail[*raftpb.Entry]
	log      *logger
	replica  uint64
	maxApply uint64
	void     *SnapshotMeta // to be written before anything else

	proposed [][]byte            // data of the proposal whose entries the next Ready hands out
	answers  [][]*raftpb.Message // for each write in view.inflight: to step or send once it is durable
	outbox   []*raftpb.Message   // answers to other replicas that may be sent

	state HardState // the newest, written or not
	role  Role
	lead  uint64
	told  told // by the last Ready

	members  Membership             // in effect
	applied  uint64                 // index of the entry applied last
	applying uint64                 // index of the last entry handed out to be applied; 0: none is
	changes  []*raftpb.ConfChangeV2 // among these

	led      leadership
	readMark uint64 // the highest read confirmation that was asked for in the term led

	dropApply bool // the library reads entries to be applied, which are dropped
}

// New restores one replica from its stored log. Writes to it that an earlier Core of this process
// handed out may not be durable yet: they become so before those of this one.
func New(cfg Config) (Core, error) {
	if err := cfg.validate(); err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	v, s, err := newView(&cfg)
	if err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	c := &etcd37{
		view: v, log: &logger{to: cfg.Logger, group: cfg.Group}, replica: cfg.Replica,
		maxApply: cfg.MaxApplyBytes, void: s.void, state: s.state, members: s.members,
		applied: s.applied,
	}
	c.told.term = s.state.Term
	c.node, err = etcdraft.NewRawNode(&etcdraft.Config{
		ID:                        cfg.Replica,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		Storage:                   c.storage(),
		Applied:                   s.applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  handOut37,
		MaxInflightMsgs:           maxInflightMessages,
		MaxInflightBytes:          maxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            etcdraft.ReadOnlySafe,
		Logger:                    c.log,
		DisableProposalForwarding: true, // only the leader can number messages
		StepDownOnRemoval:         true,
	})
	if err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	return c, nil
}

func (c *etcd37) Tick() {
	c.settled("Tick")
	c.view.tick()
	c.node.Tick()
	if len(c.members.Outgoing) > 0 && c.leads() {
		// The library ends a joint change when an entry is applied, but not while leadership is being
		// handed over. That may have failed, and no further entry may come.
		c.step(newApplied37(c.applied))
	}
}

func (c *etcd37) Campaign() error {
	c.settled("Campaign")
	if !c.view.sees(c.applied) {
		return ErrDamaged
	}
	return c.node.Campaign()
}

func (c *etcd37) ForgetLeader() {
	if err := c.node.ForgetLeader(); err != nil {
		panic(fmt.Sprintf("BUG: forget the leader: %v", err))
	}
}

func (c *etcd37) TransferLeader(to uint64) {
	if c.leads() && validReplica(to) {
		c.node.TransferLeader(to)
	}
}

func (c *etcd37) Unreachable(replica uint64) { c.node.ReportUnreachable(replica) }

func (c *etcd37) SnapshotSent(replica uint64, ok bool) {
	status := etcdraft.SnapshotFinish
	if !ok {
		status = etcdraft.SnapshotFailure
	}
	c.node.ReportSnapshot(replica, status)
}

func (c *etcd37) Compacted() { c.view.compacted() }

func (c *etcd37) Damage() (uint64, error) { return c.view.damaged, c.view.damage }

func (c *etcd37) Repaired() { c.view.repaired() }

func (c *etcd37) Settle(index uint64) { c.view.settle = max(c.view.settle, index) }

// settled panics when a proposal's data is not in its entries yet, which Ready puts there.
func (c *etcd37) settled(call string) {
	if c.proposed != nil {
		panic("BUG: " + call + " between Propose and Ready")
	}
}

// leads reports whether this replica leads by now, whatever the last Ready said.
func (c *etcd37) leads() bool { return c.node.BasicStatus().RaftState == etcdraft.StateLeader }

// Propose proposes the entries without their data, which Ready puts into them: the library would
// copy it. Its own bounds by size thus do not see it; the host bounds what is not applied yet.
func (c *etcd37) Propose(data [][]byte) error {
	c.settled("Propose")
	if len(data) == 0 {
		return nil
	}
	entries := make([]*raftpb.Entry, len(data))
	var empty raftpb.Entry // shared: the library clones what is proposed
	for i := range entries {
		entries[i] = &empty
	}
	if err := c.stepProposal(entries); err != nil {
		return err
	}
	c.proposed = data
	return nil
}

func (c *etcd37) stepProposal(entries []*raftpb.Entry) error {
	err := c.node.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), Entries: entries})
	switch {
	case errors.Is(err, etcdraft.ErrProposalDropped):
		return ErrDropped
	case err != nil:
		return fmt.Errorf("propose: %w", err)
	}
	return nil
}

func (c *etcd37) ProposeChange(change Change) error {
	c.settled("ProposeChange")
	if !c.leads() {
		return ErrDropped
	}
	if len(c.members.Outgoing) > 0 || !c.led.free(c.state.Term, c.applied) {
		return ErrChanging
	}
	if err := change.check(&c.members); err != nil {
		return fmt.Errorf("core: change the membership: %w", err)
	}
	cc := &raftpb.ConfChangeV2{}
	for _, set := range []struct {
		kind raftpb.ConfChangeType
		ids  []uint64
	}{
		{raftpb.ConfChangeAddNode, change.Voters},
		{raftpb.ConfChangeAddLearnerNode, change.Learners},
		{raftpb.ConfChangeRemoveNode, change.Remove},
	} {
		for _, id := range set.ids {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: set.kind.Enum(), NodeId: &id})
		}
	}
	data, err := proto.Marshal(cc)
	if err != nil {
		return fmt.Errorf("core: encode a membership change: %w", err)
	}
	entries := []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum(), Data: data}}
	if err := c.stepProposal(entries); err != nil {
		return err
	}
	if entries[0].GetType() != raftpb.EntryConfChangeV2 {
		// The library refuses a change by putting an empty entry in its place.
		panic("BUG: a membership change was refused that nothing stands against")
	}
	c.led.lastChange = maxIndex // until Ready knows
	return nil
}

func (c *etcd37) ReadIndex(id uint64) error {
	c.settled("ReadIndex")
	s := c.node.BasicStatus()
	if s.RaftState != etcdraft.StateLeader || !c.led.open(s.GetTerm(), s.GetCommit()) {
		return ErrDropped
	}
	c.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, id))
	return nil
}

func (c *etcd37) Step(m *Message) error {
	c.settled("Step")
	if err := c.check(m); err != nil {
		return fmt.Errorf("core: %w", err)
	}
	if m.To != c.replica || m.Type == MsgTimeoutNow && !c.view.sees(c.applied) {
		return nil
	}
	err := c.node.Step(toPBMessage(m))
	switch {
	case errors.Is(err, etcdraft.ErrStepPeerNotFound):
		// an answer of a replica that is not a member any more, or not yet
	case err != nil:
		return fmt.Errorf("core: step %s: %w", m.Type, err)
	}
	switch m.Type {
	case MsgAppResp, MsgHeartbeatResp:
		c.led.heard(m)
		c.view.heard(m)
	case MsgVoteResp, MsgPreVoteResp:
		return c.learnCommit(m)
	}
	return nil
}

// learnCommit takes the commit index that comes with a refused vote. The one that refuses may have left
// the group, with entries that nobody needs and a vote that everybody needs who does not know that it
// has left. See DESIGN.md.
func (c *etcd37) learnCommit(m *Message) error {
	s := c.node.BasicStatus()
	if !m.Reject || m.Commit <= s.GetCommit() || m.Commit > c.view.last || s.Lead != 0 {
		return nil
	}
	// The library takes a commit index from a leader only. If it has no such entry, it refuses.
	err := c.node.Step(toPBMessage(&Message{Type: MsgApp, From: nobody, To: c.replica, Term: s.GetTerm(),
		Index: m.Commit, LogTerm: m.LogTerm, Commit: m.Commit}))
	if err != nil {
		return fmt.Errorf("core: learn a commit index: %w", err)
	}
	c.ForgetLeader()
	return nil
}

var errReadContext = errors.New("a read is confirmed that was not asked for")

// check returns an error for messages that the library would choke on.
func (c *etcd37) check(m *Message) error {
	if err := m.check(); err != nil {
		return err
	}
	if m.Type == MsgApp {
		for i := range m.Entries {
			if e := &m.Entries[i]; e.Type != EntryNormal {
				if _, err := toChange(e.Data); err != nil {
					return fmt.Errorf("%s from replica %d: entry %d: %w", m.Type, m.From, e.Index, err)
				}
			}
		}
	}
	if m.Term != c.state.Term || c.role != Leader {
		return nil
	}
	if m.Type == MsgHeartbeatResp && len(m.Context) > 0 &&
		binary.LittleEndian.Uint64(m.Context) > c.readMark {
		return fmt.Errorf("%s from replica %d: %w", m.Type, m.From, errReadContext)
	}
	return c.led.check(m, c.view.last)
}

func (c *etcd37) Ready(rd *Ready) bool {
	if c.applying != 0 {
		panic("BUG: Ready before the entries of the last one were applied")
	}
	rd.Reset()
	for _, m := range c.outbox {
		c.send(m, rd)
	}
	clear(c.outbox)
	c.outbox = c.outbox[:0]
	if c.void != nil {
		rd.Append.Snapshot, c.void = c.void, nil
		c.written(rd, nil)
	}
	for rd.Append.Empty() && c.node.HasReady() {
		c.take(rd)
	}
	if rd.Append.Empty() && c.view.owes() {
		rd.Append.State = c.view.rewrite(c.state)
		c.written(rd, nil)
	}
	c.commit(rd)
	rd.Term, rd.Lead, rd.Role = c.state.Term, c.lead, c.role
	news := told{rd.Term, rd.Lead, rd.Role}
	changed := c.told != news
	c.told = news
	return changed || rd.outstanding()
}

// take fetches the library's work and adds it to rd.
func (c *etcd37) take(rd *Ready) {
	c.dropApply = true
	lrd := c.node.Ready()
	c.dropApply = false
	if lrd.SoftState != nil {
		c.lead, c.role = lrd.Lead, roles37[lrd.RaftState]
		c.view.again = nil
	}
	for _, r := range lrd.ReadStates {
		rd.Reads = append(rd.Reads, Read{ID: binary.LittleEndian.Uint64(r.RequestCtx), Index: r.Index})
	}
	// The messages to storage are the last ones. They come first here: the entries that others are
	// sent get their data by them.
	messages := lrd.Messages
	var now []*raftpb.Message
	for n := len(messages); n > 0; n = len(messages) {
		m := messages[n-1]
		if m.GetType() == raftpb.MsgStorageAppend {
			now = c.append(m, rd)
		} else if m.GetType() != raftpb.MsgStorageApply {
			break
		}
		messages = messages[:n-1]
	}
	for _, m := range messages {
		if newest := len(c.answers) - 1; m.GetType() == raftpb.MsgVote && newest >= 0 {
			// Whoever may win must not forget the term: it could be elected in it once more, without
			// the entries that it made. The library sends requests for votes before that is durable.
			c.answers[newest] = append(c.answers[newest], m)
			continue
		}
		c.send(m, rd)
	}
	for _, m := range now {
		if m.GetTo() == c.replica {
			c.step(m)
		} else {
			c.send(m, rd)
		}
	}
}

// append turns the library's storage message into a write. It returns the answers that need not
// wait for the disk, as nothing is to be written and nothing is on its way.
func (c *etcd37) append(m *raftpb.Message, rd *Ready) []*raftpb.Message {
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
	to := &rd.Append
	if s := m.GetSnapshot(); s.GetMetadata().GetIndex() > 0 {
		to.Snapshot = fromPBSnapshot(s)
		c.view.reset(to.Snapshot)
		c.tail.reset()
		c.applied, c.members = to.Snapshot.Index, to.Snapshot.Members
	}
	to.State = c.view.state(c.state, len(entries))
	if len(entries) > 0 {
		to.Entries = make([]Entry, len(entries))
		for i, e := range entries {
			to.Entries[i] = fromPB(e)
		}
		c.tail.add(entries)
	}
	if c.role == Leader {
		if c.led.term != c.state.Term {
			c.readMark = 0
		}
		c.led.appended(to.Entries, c.state.Term)
	}
	answers := m.GetResponses()
	if to.Empty() {
		if newest := len(c.answers) - 1; newest >= 0 {
			// Only the commit index changed. The answers rest on writes made before.
			c.answers[newest] = append(c.answers[newest], answers...)
			return nil
		}
		if c.view.synced || !slices.ContainsFunc(answers, promises37) {
			return answers
		}
		// What the answers rest on was in the log at the start, but may be on its way to the disk
		// since an earlier core of this process wrote it. A write shows when it has arrived.
		to.State = c.view.rewrite(c.state)
	}
	c.written(rd, answers)
	return nil
}

// written notes a write and the answers that wait for it.
func (c *etcd37) written(rd *Ready, answers []*raftpb.Message) {
	c.view.wrote(rd.Append.Entries)
	c.answers = append(c.answers, answers)
}

// promises37 reports whether an answer rests on what is on the disk. A pre-vote does not.
func promises37(m *raftpb.Message) bool { return m.GetType() != raftpb.MsgPreVoteResp }

// commit adds the entries that are to be applied to rd.
func (c *etcd37) commit(rd *Ready) {
	lo, hi := c.applied+1, c.state.Commit+1
	if lo >= hi {
		return
	}
	if entries := c.tail.slice(lo, hi); entries != nil {
		for _, e := range fitting(entries, c.maxApply, dataOf37) {
			rd.Committed = append(rd.Committed, fromPB(e))
		}
	} else {
		// What is in the tail may not be in the stored log before this Ready was handled.
		if len(c.tail.entries) > 0 {
			hi = min(hi, c.tail.entries[0].GetIndex())
		}
		entries, err := c.view.load(lo, hi, c.maxApply)
		if errors.Is(err, ErrDamaged) {
			return // until it is repaired
		}
		if err != nil {
			c.log.fail(err)
		}
		rd.Committed = append(rd.Committed, entries...)
	}
	for i := range rd.Committed {
		e := &rd.Committed[i]
		if e.Type == EntryNormal {
			continue
		}
		cc, err := toChange(e.Data)
		if err != nil || e.Type != EntryConfChangeV2 {
			c.log.fail(fmt.Errorf("entry %d of type %d: %w", e.Index, e.Type, err))
		}
		c.changes = append(c.changes, cc)
	}
	c.applying = rd.Committed[len(rd.Committed)-1].Index
}

func (c *etcd37) Applied() {
	last := c.applying
	if last == 0 {
		panic("BUG: Applied without entries to apply")
	}
	for _, cc := range c.changes {
		c.members = fromPBMembers(c.node.ApplyConfChange(cc))
	}
	if len(c.changes) > 0 {
		c.view.change = last
	}
	c.changes = nil
	c.applied, c.applying = last, 0
	// The library may not have handed out these entries. It does not check that.
	c.step(newApplied37(last))
	c.tail.applied(last)
}

// applied37 tells the library that everything up to an index was applied.
type applied37 struct {
	pb      raftpb.Message
	kind    raftpb.MessageType
	from    uint64
	entry   raftpb.Entry
	index   uint64
	entries [1]*raftpb.Entry
}

func newApplied37(index uint64) *raftpb.Message {
	p := &applied37{kind: raftpb.MsgStorageApplyResp, from: etcdraft.LocalApplyThread, index: index}
	p.entry.Index, p.entries[0] = &p.index, &p.entry
	p.pb.Type, p.pb.From, p.pb.Entries = &p.kind, &p.from, p.entries[:]
	return &p.pb
}

// handOut37 is the library's bound of what is being applied. It is passed by the first piece that the
// library hands out, which is said to be as large as ballast37. So it hands out another one only when
// the answers of newApplied37 make up for that.
const handOut37 = 1

var ballast37 [1 << 20]byte // its bytes are never touched

func (c *etcd37) Persisted(n int) {
	c.view.persisted(n)
	for _, answers := range c.answers[:n] {
		for _, m := range answers {
			if m.GetTo() == c.replica {
				c.step(m)
			} else {
				c.outbox = append(c.outbox, m)
			}
		}
	}
	rest := copy(c.answers, c.answers[n:])
	clear(c.answers[rest:])
	c.answers = c.answers[:rest]
}

// step gives the library an answer to its own storage messages. An error would mean that it refuses
// one of its own messages.
func (c *etcd37) step(m *raftpb.Message) {
	if err := c.node.Step(m); err != nil && !errors.Is(err, etcdraft.ErrStepPeerNotFound) {
		panic(fmt.Sprintf("BUG: step %s: %v", m.GetType(), err))
	}
}

// send adds a message to another replica to rd.
func (c *etcd37) send(p *raftpb.Message, rd *Ready) {
	if p.GetTo() == nobody {
		return // the answer to learnCommit
	}
	kind := types37[p.GetType()]
	if kind == 0 {
		panic(fmt.Sprintf("BUG: %s to replica %d", p.GetType(), p.GetTo()))
	}
	m := Message{
		Type: kind, From: p.GetFrom(), To: p.GetTo(), Term: p.GetTerm(), Reject: p.GetReject(),
		LogTerm: p.GetLogTerm(), Index: p.GetIndex(), Commit: p.GetCommit(),
		RejectHint: p.GetRejectHint(), Context: p.Context,
	}
	switch kind {
	case MsgAppResp, MsgHeartbeatResp:
		m.Commit = c.view.commit
	case MsgVoteResp, MsgPreVoteResp:
		if m.Reject && c.state.Commit > 0 {
			term, err := c.storage().Term(c.state.Commit)
			if err != nil {
				c.log.fail(err)
			}
			m.Commit, m.LogTerm = c.state.Commit, term
		}
	case MsgApp:
		from := len(rd.entries)
		for _, e := range p.GetEntries() {
			rd.entries = append(rd.entries, fromPB(e))
		}
		m.Entries = rd.entries[from:len(rd.entries):len(rd.entries)]
	case MsgHeartbeat:
		if len(m.Context) > 0 {
			c.readMark = max(c.readMark, binary.LittleEndian.Uint64(m.Context))
		}
	case MsgSnap:
		m.Snapshot = fromPBSnapshot(p.GetSnapshot())
	}
	rd.Messages = append(rd.Messages, m)
}

func (c *etcd37) Status() Status {
	ls := c.node.Status()
	s := Status{
		Term: ls.GetTerm(), Lead: ls.Lead, Role: roles37[ls.RaftState], Commit: ls.GetCommit(),
		Applied: c.applied, Last: c.view.last, Durable: c.view.stable, Stored: c.view.commit,
		Members: c.members.clone(), Transferring: ls.LeadTransferee,
		Damaged:        c.view.damaged,
		SnapshotWanted: c.view.wanted && ls.RaftState == etcdraft.StateLeader,
	}
	for id, p := range ls.Progress {
		if id != c.replica {
			s.Progress = append(s.Progress, Progress{
				Replica: id, Match: p.Match, Learner: p.IsLearner, Active: p.RecentActive,
				Snapshot: p.PendingSnapshot, Commit: c.led.commits[id],
			})
		}
	}
	s.sort()
	return s
}

var roles37 = [...]Role{
	etcdraft.StateFollower: Follower, etcdraft.StatePreCandidate: PreCandidate,
	etcdraft.StateCandidate: Candidate, etcdraft.StateLeader: Leader,
}

// types37 maps the library's types of messages that go to other replicas; pbTypes37 is the inverse.
var (
	types37 = [32]MessageType{
		raftpb.MsgApp: MsgApp, raftpb.MsgAppResp: MsgAppResp,
		raftpb.MsgVote: MsgVote, raftpb.MsgVoteResp: MsgVoteResp,
		raftpb.MsgPreVote: MsgPreVote, raftpb.MsgPreVoteResp: MsgPreVoteResp,
		raftpb.MsgSnap: MsgSnap, raftpb.MsgTimeoutNow: MsgTimeoutNow,
		raftpb.MsgHeartbeat: MsgHeartbeat, raftpb.MsgHeartbeatResp: MsgHeartbeatResp,
	}
	pbTypes37 = func() (inverse [messageTypes]raftpb.MessageType) {
		for pb, t := range types37 {
			if t != 0 {
				inverse[t] = raftpb.MessageType(pb)
			}
		}
		return inverse
	}()
)

// message37 is a message with room for what its fields point to.
type message37 struct {
	pb                                           raftpb.Message
	kind                                         raftpb.MessageType
	reject                                       bool
	from, to, term, logTerm, index, commit, hint uint64
}

func toPBMessage(m *Message) *raftpb.Message {
	p := &message37{
		kind: pbTypes37[m.Type], reject: m.Reject, from: m.From, to: m.To, term: m.Term,
		logTerm: m.LogTerm, index: m.Index, commit: m.Commit, hint: m.RejectHint,
	}
	p.pb.Type, p.pb.Reject, p.pb.From, p.pb.To = &p.kind, &p.reject, &p.from, &p.to
	p.pb.Term, p.pb.LogTerm, p.pb.Index, p.pb.Commit = &p.term, &p.logTerm, &p.index, &p.commit
	p.pb.RejectHint, p.pb.Context = &p.hint, m.Context
	p.pb.Entries = toPBEntries(m.Entries)
	if m.Snapshot != nil {
		p.pb.Snapshot = toPBSnapshot(m.Snapshot)
	}
	return &p.pb
}

// entry37 is an entry with room for what its fields point to.
type entry37 struct {
	pb          raftpb.Entry
	index, term uint64
	kind        raftpb.EntryType
}

func toPBEntries(entries []Entry) []*raftpb.Entry {
	if len(entries) == 0 {
		return nil
	}
	slab := make([]entry37, len(entries))
	pbs := make([]*raftpb.Entry, len(entries))
	for i := range entries {
		e, p := &entries[i], &slab[i]
		p.index, p.term, p.kind = e.Index, e.Term, raftpb.EntryType(e.Type)
		p.pb.Index, p.pb.Term, p.pb.Type, p.pb.Data = &p.index, &p.term, &p.kind, e.Data
		pbs[i] = &p.pb
	}
	return pbs
}

func dataOf37(e **raftpb.Entry) []byte { return (*e).Data }

func fromPB(e *raftpb.Entry) Entry {
	return Entry{Index: e.GetIndex(), Term: e.GetTerm(), Type: uint8(e.GetType()), Data: e.Data}
}

func toPBSnapshot(s *SnapshotMeta) *raftpb.Snapshot {
	index, term := s.Index, s.Term
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: toPBMembers(&s.Members),
	}}
}

func fromPBSnapshot(s *raftpb.Snapshot) *SnapshotMeta {
	m := s.GetMetadata()
	return &SnapshotMeta{Index: m.GetIndex(), Term: m.GetTerm(), Members: fromPBMembers(m.GetConfState())}
}

func fromPBMembers(cs *raftpb.ConfState) Membership {
	return Membership{
		Voters: cs.Voters, Learners: cs.Learners, Outgoing: cs.VotersOutgoing,
		LearnersNext: cs.LearnersNext, AutoLeave: cs.GetAutoLeave(),
	}
}

func toPBMembers(m *Membership) *raftpb.ConfState {
	autoLeave := m.AutoLeave
	return &raftpb.ConfState{
		Voters: slices.Clone(m.Voters), Learners: slices.Clone(m.Learners),
		VotersOutgoing: slices.Clone(m.Outgoing), LearnersNext: slices.Clone(m.LearnersNext),
		AutoLeave: &autoLeave,
	}
}

// toChange decodes the data of an entry of type EntryConfChangeV2.
func toChange(data []byte) (*raftpb.ConfChangeV2, error) {
	cc := new(raftpb.ConfChangeV2)
	if err := proto.Unmarshal(data, cc); err != nil {
		return nil, fmt.Errorf("membership change: %w", err)
	}
	return cc, nil
}

// storage37 is the stored log as the library reads it.
type storage37 struct {
	core *etcd37
}

var _ etcdraft.Storage = (*storage37)(nil)

func (c *etcd37) storage() *storage37 { return &storage37{core: c} }

func (s *storage37) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs := s.core.state
	return &raftpb.HardState{Term: &hs.Term, Vote: &hs.Vote, Commit: &hs.Commit},
		toPBMembers(&s.core.members), nil
}

func (s *storage37) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	v := &s.core.view
	load := v.resend
	if maxSize == handOut37 {
		load, maxSize = v.load, scanBytes // it looks for membership changes among what is not applied
	}
	switch {
	case s.core.dropApply:
		last := hi - 1
		return []*raftpb.Entry{{Index: &last, Data: ballast37[:]}}, nil
	case lo < v.first:
		return nil, etcdraft.ErrCompacted
	case hi > v.last+1:
		return nil, etcdraft.ErrUnavailable
	}
	if entries := s.core.tail.slice(lo, hi); entries != nil {
		return slices.Clone(fitting(entries, maxSize, dataOf37)), nil // the tail reuses its room
	}
	loaded, err := load(lo, hi, maxSize)
	if err != nil && v.compacted() {
		return s.Entries(lo, hi, maxSize)
	}
	if errors.Is(err, ErrDamaged) {
		return nil, etcdraft.ErrCompacted // then it asks for a snapshot, which there is not
	}
	return toPBEntries(loaded), err
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
	term, err := v.term(index)
	if err != nil && v.compacted() {
		return s.Term(index) // the log was cut, and this core will be told
	}
	return term, err
}

func (s *storage37) LastIndex() (uint64, error)  { return s.core.view.last, nil }
func (s *storage37) FirstIndex() (uint64, error) { return s.core.view.first, nil }

// Snapshot is asked for when another replica needs entries that are gone.
func (s *storage37) Snapshot() (*raftpb.Snapshot, error) {
	if s.core.view.damaged != 0 {
		return nil, etcdraft.ErrSnapshotTemporarilyUnavailable // what is wanted is the entry, see Entries
	}
	meta, ok := s.core.view.snapshot(&s.core.members)
	if !ok {
		return nil, etcdraft.ErrSnapshotTemporarilyUnavailable
	}
	return toPBSnapshot(&meta), nil
}
