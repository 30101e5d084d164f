//go:build etcdraft35

package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	etcdraft "go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// etcd35 runs a group on the former home of etcd's raft, which wants one Ready at a time to be
// written, then applied, then advanced over.
//
// The library counts a leader's entries as durable when it appends them (etcd issue 14370). So its
// next Ready is taken when the last one's write is durable: no message that follows from an answer
// leaves before, and nothing of a Ready is applied before everything it wrote is durable. A leader's
// disk thus counts always: a commit waits for it even when other disks make a quorum.
type etcd35 struct {
	node    *etcdraft.RawNode
	config  etcdraft.Config
	view    view
	tail    tail[entry35]
	log     *logger
	replica uint64
	void    *SnapshotMeta // to be written before anything else

	rd    *etcdraft.Ready // the Ready in work; nil in a phase of work: the write is our own
	phase phase35
	held  []raftpb.Message // of the Ready in work, for when it is durable

	state HardState // the newest, written or not
	role  Role
	lead  uint64
	told  told // by the last Ready
	// durableTerm is the term on the disk, if this core put it there.
	durableTerm uint64
	forget      bool // the leader is to be forgotten when nothing is in work

	members Membership // in effect
	applied uint64
	changes []raftpb.ConfChangeV2 // among the entries handed out to be applied
	led     leadership
}

// phase35 is how far the Ready in work has come.
type phase35 uint8

const (
	none35     phase35 = iota // no Ready in work
	writing35                 // waits for Persisted
	written35                 // durable; its messages and committed entries are to be handed out
	applying35                // waits for Applied
)

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
	c := &etcd35{
		view: v, log: &logger{to: cfg.Logger, group: cfg.Group}, replica: cfg.Replica,
		void: s.void, state: s.state, members: s.members, applied: s.applied,
	}
	c.told.term = s.state.Term
	c.config = etcdraft.Config{
		ID:                        cfg.Replica,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  cfg.MaxApplyBytes,
		MaxInflightMsgs:           maxInflightMessages,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            etcdraft.ReadOnlySafe,
		Logger:                    c.log,
		DisableProposalForwarding: true, // only the leader can number messages
	}
	if err := c.open(); err != nil {
		return nil, wrapNew(cfg.Group, err)
	}
	return c, nil
}

// open starts the library on the stored log.
func (c *etcd35) open() error {
	config := c.config
	config.Storage = c.storage()
	config.Applied = c.applied
	node, err := etcdraft.NewRawNode(&config)
	if err != nil {
		return err
	}
	c.node = node
	return nil
}

func (c *etcd35) Tick()                      { c.view.tick(); c.node.Tick() }
func (c *etcd35) Unreachable(replica uint64) { c.node.ReportUnreachable(replica) }
func (c *etcd35) Compacted()                 { c.view.compacted() }
func (c *etcd35) Damage() (uint64, error)    { return c.view.damaged, c.view.damage }
func (c *etcd35) Repaired()                  { c.view.repaired() }
func (c *etcd35) Settle(index uint64)        { c.view.settle = max(c.view.settle, index) }

func (c *etcd35) Campaign() error {
	if !c.view.sees(c.applied) {
		return ErrDamaged
	}
	return c.node.Campaign()
}

// ForgetLeader is not in this library. A follower that was just started has no leader, so it is started
// again, when there is nothing in work that this would lose.
func (c *etcd35) ForgetLeader() { c.forget = true }

func (c *etcd35) forgetLeader() {
	c.forget = false
	if s := c.node.BasicStatus(); s.RaftState != etcdraft.StateFollower || s.Lead == 0 {
		return
	}
	if err := c.open(); err != nil {
		panic(fmt.Sprintf("BUG: start the library again: %v", err))
	}
	c.lead = 0
}

func (c *etcd35) TransferLeader(to uint64) {
	if c.leads() && validReplica(to) {
		c.node.TransferLeader(to)
	}
}

func (c *etcd35) SnapshotSent(replica uint64, ok bool) {
	status := etcdraft.SnapshotFinish
	if !ok {
		status = etcdraft.SnapshotFailure
	}
	c.node.ReportSnapshot(replica, status)
}

// leads reports whether this replica leads by now, whatever the last Ready said.
func (c *etcd35) leads() bool { return c.node.BasicStatus().RaftState == etcdraft.StateLeader }

func (c *etcd35) Propose(data [][]byte) error {
	if len(data) == 0 {
		return nil
	}
	entries := make([]raftpb.Entry, len(data))
	for i := range data {
		entries[i].Data = data[i]
	}
	return c.stepProposal(entries)
}

func (c *etcd35) stepProposal(entries []raftpb.Entry) error {
	err := c.node.Step(raftpb.Message{Type: raftpb.MsgProp, Entries: entries})
	switch {
	case errors.Is(err, etcdraft.ErrProposalDropped):
		return ErrDropped
	case err != nil:
		return fmt.Errorf("propose: %w", err)
	}
	return nil
}

func (c *etcd35) ProposeChange(change Change) error {
	if !c.leads() {
		return ErrDropped
	}
	if len(c.members.Outgoing) > 0 || !c.led.free(c.state.Term, c.applied) {
		return ErrChanging
	}
	if err := change.check(&c.members); err != nil {
		return fmt.Errorf("core: change the membership: %w", err)
	}
	var cc raftpb.ConfChangeV2
	for _, set := range []struct {
		kind raftpb.ConfChangeType
		ids  []uint64
	}{
		{raftpb.ConfChangeAddNode, change.Voters},
		{raftpb.ConfChangeAddLearnerNode, change.Learners},
		{raftpb.ConfChangeRemoveNode, change.Remove},
	} {
		for _, id := range set.ids {
			cc.Changes = append(cc.Changes, raftpb.ConfChangeSingle{Type: set.kind, NodeID: id})
		}
	}
	data, err := cc.Marshal()
	if err != nil {
		return fmt.Errorf("core: encode a membership change: %w", err)
	}
	entries := []raftpb.Entry{{Type: raftpb.EntryConfChangeV2, Data: data}}
	if err := c.stepProposal(entries); err != nil {
		return err
	}
	if entries[0].Type != raftpb.EntryConfChangeV2 {
		// The library refuses a change by putting an empty entry in its place.
		panic("BUG: a membership change was refused that nothing stands against")
	}
	c.led.lastChange = maxIndex // until Ready knows
	return nil
}

// ReadIndex hands the id to the library as the context of the read. The library would answer too
// early when a context comes up again.
func (c *etcd35) ReadIndex(id uint64) error {
	s := c.node.BasicStatus()
	if s.RaftState != etcdraft.StateLeader || !c.led.open(s.Term, min(s.Commit, c.view.stable)) {
		return ErrDropped
	}
	c.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, id))
	return nil
}

func (c *etcd35) Step(m *Message) error {
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
func (c *etcd35) learnCommit(m *Message) error {
	s := c.node.BasicStatus()
	if !m.Reject || m.Commit <= s.Commit || m.Commit > c.view.last || s.Lead != 0 {
		return nil
	}
	// The library takes a commit index from a leader only. If it has no such entry, it refuses.
	err := c.node.Step(toPBMessage(&Message{Type: MsgApp, From: nobody, To: c.replica, Term: s.Term,
		Index: m.Commit, LogTerm: m.LogTerm, Commit: m.Commit}))
	if err != nil {
		return fmt.Errorf("core: learn a commit index: %w", err)
	}
	c.ForgetLeader()
	return nil
}

// check returns an error for messages that the library would choke on.
func (c *etcd35) check(m *Message) error {
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
	return c.led.check(m, c.view.last)
}

func (c *etcd35) Ready(rd *Ready) bool {
	if c.phase == applying35 {
		panic("BUG: Ready before the entries of the last one were applied")
	}
	rd.Reset()
	if c.void != nil {
		rd.Append.Snapshot, c.void = c.void, nil
		c.view.wrote(nil)
		c.phase = writing35
	}
	for c.work(rd) {
	}
	if c.phase == none35 && c.view.owes() {
		rd.Append.State = c.view.rewrite(c.state)
		c.view.wrote(nil)
		c.phase = writing35
	}
	rd.Term, rd.Lead, rd.Role = c.state.Term, c.lead, c.role
	if c.role == Leader && c.durableTerm != c.state.Term {
		rd.Lead, rd.Role = 0, Candidate // the only voter, which has its own vote only in memory
	}
	news := told{rd.Term, rd.Lead, rd.Role}
	changed := c.told != news
	c.told = news
	return changed || rd.outstanding()
}

// work does one step towards the next write or the next entries to apply; false when these are in rd
// or there is nothing to do.
func (c *etcd35) work(rd *Ready) bool {
	switch c.phase {
	case none35:
		if c.node.HasReady() {
			c.take(rd)
			return true
		}
		if !c.forget {
			return false
		}
		c.forgetLeader()
		return true
	case written35:
		for i := range c.held {
			c.send(&c.held[i], rd)
		}
		c.held = nil
		if c.rd == nil || !c.commit(rd) {
			c.advance()
			return true
		}
		c.phase = applying35
	}
	return false
}

// take begins with the next Ready of the library.
func (c *etcd35) take(rd *Ready) {
	lrd := c.node.Ready()
	c.rd = &lrd
	if lrd.SoftState != nil {
		c.lead, c.role = lrd.Lead, roles35[lrd.RaftState]
		c.view.again = nil
		if c.lead == nobody {
			c.lead = 0 // see learnCommit; it is forgotten when this Ready is done
		}
	}
	for _, r := range lrd.ReadStates {
		rd.Reads = append(rd.Reads, Read{ID: binary.LittleEndian.Uint64(r.RequestCtx), Index: r.Index})
	}
	if !etcdraft.IsEmptyHardState(lrd.HardState) {
		hs := lrd.HardState
		c.state = HardState{Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit}
	}
	to := &rd.Append
	// What a leader sends rests on its term only. It has none on the disk yet if it is the only voter
	// and just won.
	leads := c.role == Leader && c.state.Term == c.durableTerm
	if s := &lrd.Snapshot.Metadata; s.Index > 0 {
		meta := fromPBSnapshot(&lrd.Snapshot)
		to.Snapshot = &meta
		c.view.reset(to.Snapshot)
		c.tail.reset()
		c.applied, c.members = meta.Index, meta.Members
	}
	to.State = c.view.state(c.state, len(lrd.Entries))
	if len(lrd.Entries) > 0 {
		to.Entries = make([]Entry, len(lrd.Entries))
		added := make([]entry35, len(lrd.Entries))
		for i := range lrd.Entries {
			to.Entries[i] = fromPB(&lrd.Entries[i])
			added[i] = entry35{to.Entries[i]}
		}
		c.tail.add(added)
	}
	if c.role == Leader {
		c.led.appended(to.Entries, c.state.Term)
	}
	for i := range lrd.Messages {
		m := &lrd.Messages[i]
		// The only voter commits an entry in memory when it appends it: see etcd35. What says so to
		// learners waits.
		if leads && ofLeader35(m.Type) && m.Commit <= c.view.stable {
			c.send(m, rd)
			continue
		}
		if to.Empty() && !c.view.synced && promises35(m.Type) {
			// What the answer rests on was in the log at the start, but may be on its way to the disk
			// since an earlier core of this process wrote it. A write shows when it has arrived.
			to.State = c.view.rewrite(c.state)
		}
		c.held = append(c.held, *m)
	}
	c.phase = written35
	if !to.Empty() {
		c.view.wrote(to.Entries)
		c.phase = writing35
	}
}

func ofLeader35(t raftpb.MessageType) bool {
	return t == raftpb.MsgApp || t == raftpb.MsgHeartbeat || t == raftpb.MsgSnap || t == raftpb.MsgTimeoutNow
}

func promises35(t raftpb.MessageType) bool {
	return t == raftpb.MsgAppResp || t == raftpb.MsgVoteResp
}

// commit adds the committed entries of the Ready in work to rd, and reports whether there are any.
func (c *etcd35) commit(rd *Ready) bool {
	for i := range c.rd.CommittedEntries {
		e := fromPB(&c.rd.CommittedEntries[i])
		if e.Type != EntryNormal {
			cc, err := toChange(e.Data)
			if err != nil || e.Type != EntryConfChangeV2 {
				c.log.fail(fmt.Errorf("entry %d of type %d: %w", e.Index, e.Type, err))
			}
			c.changes = append(c.changes, cc)
		}
		rd.Committed = append(rd.Committed, e)
	}
	return len(rd.Committed) > 0
}

func (c *etcd35) Persisted(n int) {
	c.view.persisted(n)
	c.phase, c.durableTerm = written35, c.view.written.Term // there is one write at a time
}

func (c *etcd35) Applied() {
	if c.phase != applying35 {
		panic("BUG: Applied without entries to apply")
	}
	c.applied = c.rd.CommittedEntries[len(c.rd.CommittedEntries)-1].Index
	for _, cc := range c.changes {
		c.members = fromPBMembers(c.node.ApplyConfChange(cc))
	}
	if len(c.changes) > 0 {
		c.view.change = c.applied
	}
	changed := len(c.changes) > 0
	c.changes = nil
	c.tail.applied(c.applied)
	c.advance()
	if changed {
		c.stepDown()
	}
}

// stepDown makes a leader that is not a voter any more a follower, which this library does not. An
// answer of a later term does it: it is made up, and the next election will be in that term anyway.
func (c *etcd35) stepDown() {
	s := c.node.BasicStatus()
	if s.RaftState != etcdraft.StateLeader || c.members.votes(c.replica) {
		return
	}
	if err := c.node.Step(raftpb.Message{
		Type: raftpb.MsgAppResp, From: c.members.Voters[0], To: c.replica, Term: s.Term + 1,
	}); err != nil {
		panic(fmt.Sprintf("BUG: step down: %v", err))
	}
}

func (c *etcd35) advance() {
	if c.rd != nil {
		c.node.Advance(*c.rd)
		c.rd = nil
	}
	c.phase = none35
}

// send adds a message to another replica to rd.
func (c *etcd35) send(p *raftpb.Message, rd *Ready) {
	if p.To == nobody {
		return // the answer to learnCommit
	}
	kind := MessageType(0)
	if int(p.Type) < len(types35) {
		kind = types35[p.Type]
	}
	if kind == 0 {
		panic(fmt.Sprintf("BUG: %s to replica %d", p.Type, p.To))
	}
	m := Message{
		Type: kind, From: p.From, To: p.To, Term: p.Term, Reject: p.Reject, LogTerm: p.LogTerm,
		Index: p.Index, Commit: p.Commit, RejectHint: p.RejectHint, Context: p.Context,
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
		for i := range p.Entries {
			rd.entries = append(rd.entries, fromPB(&p.Entries[i]))
		}
		m.Entries = rd.entries[from:len(rd.entries):len(rd.entries)]
	case MsgSnap:
		meta := fromPBSnapshot(&p.Snapshot)
		m.Snapshot = &meta
	}
	rd.Messages = append(rd.Messages, m)
}

func (c *etcd35) Status() Status {
	ls := c.node.Status()
	s := Status{
		Term: ls.Term, Lead: ls.Lead, Role: roles35[ls.RaftState],
		Commit: max(c.applied, min(ls.Commit, c.view.stable)), Applied: c.applied,
		Last: c.view.last, Durable: c.view.stable, Stored: c.view.commit,
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

var roles35 = [...]Role{
	etcdraft.StateFollower: Follower, etcdraft.StatePreCandidate: PreCandidate,
	etcdraft.StateCandidate: Candidate, etcdraft.StateLeader: Leader,
}

// types35 maps the library's types of messages that go to other replicas; pbTypes35 is the inverse.
var (
	types35 = [32]MessageType{
		raftpb.MsgApp: MsgApp, raftpb.MsgAppResp: MsgAppResp,
		raftpb.MsgVote: MsgVote, raftpb.MsgVoteResp: MsgVoteResp,
		raftpb.MsgPreVote: MsgPreVote, raftpb.MsgPreVoteResp: MsgPreVoteResp,
		raftpb.MsgSnap: MsgSnap, raftpb.MsgTimeoutNow: MsgTimeoutNow,
		raftpb.MsgHeartbeat: MsgHeartbeat, raftpb.MsgHeartbeatResp: MsgHeartbeatResp,
	}
	pbTypes35 = func() (inverse [messageTypes]raftpb.MessageType) {
		for pb, t := range types35 {
			if t != 0 {
				inverse[t] = raftpb.MessageType(pb)
			}
		}
		return inverse
	}()
)

func toPBMessage(m *Message) raftpb.Message {
	p := raftpb.Message{
		Type: pbTypes35[m.Type], Reject: m.Reject, From: m.From, To: m.To, Term: m.Term,
		LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit, RejectHint: m.RejectHint,
		Context: m.Context, Entries: toPBEntries(m.Entries),
	}
	if m.Snapshot != nil {
		p.Snapshot = toPBSnapshot(m.Snapshot)
	}
	return p
}

// entry35 is an entry in the tail.
type entry35 struct{ Entry }

// GetIndex tells the tail where the entry belongs.
func (e entry35) GetIndex() uint64 { return e.Index }

func toPBEntries(entries []Entry) []raftpb.Entry {
	if len(entries) == 0 {
		return nil
	}
	pbs := make([]raftpb.Entry, len(entries))
	for i, e := range entries {
		pbs[i] = raftpb.Entry{Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Type), Data: e.Data}
	}
	return pbs
}

func fromPB(e *raftpb.Entry) Entry {
	return Entry{Index: e.Index, Term: e.Term, Type: uint8(e.Type), Data: e.Data}
}

func toPBSnapshot(s *SnapshotMeta) raftpb.Snapshot {
	return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
		Index: s.Index, Term: s.Term, ConfState: toPBMembers(&s.Members),
	}}
}

func fromPBSnapshot(s *raftpb.Snapshot) SnapshotMeta {
	m := &s.Metadata
	return SnapshotMeta{Index: m.Index, Term: m.Term, Members: fromPBMembers(&m.ConfState)}
}

func fromPBMembers(cs *raftpb.ConfState) Membership {
	return Membership{
		Voters: cs.Voters, Learners: cs.Learners, Outgoing: cs.VotersOutgoing,
		LearnersNext: cs.LearnersNext, AutoLeave: cs.AutoLeave,
	}
}

func toPBMembers(m *Membership) raftpb.ConfState {
	return raftpb.ConfState{
		Voters: slices.Clone(m.Voters), Learners: slices.Clone(m.Learners),
		VotersOutgoing: slices.Clone(m.Outgoing), LearnersNext: slices.Clone(m.LearnersNext),
		AutoLeave: m.AutoLeave,
	}
}

// toChange decodes the data of an entry of type EntryConfChangeV2.
func toChange(data []byte) (raftpb.ConfChangeV2, error) {
	var cc raftpb.ConfChangeV2
	if err := cc.Unmarshal(data); err != nil {
		return cc, fmt.Errorf("membership change: %w", err)
	}
	return cc, nil
}

// storage35 is the stored log as the library reads it.
type storage35 struct {
	core *etcd35
}

var _ etcdraft.Storage = (*storage35)(nil)

func (c *etcd35) storage() *storage35 { return &storage35{core: c} }

func (s *storage35) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	hs := s.core.state
	return raftpb.HardState{Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit}, toPBMembers(&s.core.members), nil
}

func (s *storage35) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	v := &s.core.view
	switch {
	case lo < v.first:
		return nil, etcdraft.ErrCompacted
	case hi > v.last+1:
		return nil, etcdraft.ErrUnavailable
	}
	if entries := s.core.tail.slice(lo, hi); entries != nil && maxSize < math.MaxUint64 {
		var pbs []raftpb.Entry
		for _, e := range fitting(entries, maxSize, func(e *entry35) []byte { return e.Data }) {
			pbs = append(pbs, raftpb.Entry{
				Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Type), Data: e.Data})
		}
		return pbs, nil
	}
	if maxSize < math.MaxUint64 {
		loaded, err := v.resend(lo, hi, maxSize)
		if err != nil && v.compacted() {
			return s.Entries(lo, hi, maxSize)
		}
		if errors.Is(err, ErrDamaged) {
			return nil, etcdraft.ErrCompacted // then it asks for a snapshot, which there is not
		}
		return toPBEntries(loaded), err
	}
	// The library looks for membership changes among all unapplied entries. It must not hold the data
	// of all of them at once.
	var all []raftpb.Entry
	for lo < hi {
		loaded, err := v.load(lo, hi, scanBytes)
		if err != nil {
			return nil, err
		}
		for _, e := range loaded {
			all = append(all, raftpb.Entry{Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Type)})
		}
		lo += uint64(len(loaded))
	}
	return all, nil
}

func (s *storage35) Term(index uint64) (uint64, error) {
	v := &s.core.view
	switch {
	case index+1 < v.first:
		return 0, etcdraft.ErrCompacted
	case index > v.last:
		return 0, etcdraft.ErrUnavailable
	}
	if e, ok := s.core.tail.at(index); ok {
		return e.Term, nil
	}
	term, err := v.term(index)
	if err != nil && v.compacted() {
		return s.Term(index) // the log was cut, and this core will be told
	}
	return term, err
}

func (s *storage35) LastIndex() (uint64, error)  { return s.core.view.last, nil }
func (s *storage35) FirstIndex() (uint64, error) { return s.core.view.first, nil }

// Snapshot is asked for when another replica needs entries that are gone.
func (s *storage35) Snapshot() (raftpb.Snapshot, error) {
	if s.core.view.damaged != 0 {
		return raftpb.Snapshot{}, etcdraft.ErrSnapshotTemporarilyUnavailable // what is wanted is the entry, see Entries
	}
	meta, ok := s.core.view.snapshot(&s.core.members)
	if !ok {
		return raftpb.Snapshot{}, etcdraft.ErrSnapshotTemporarilyUnavailable
	}
	return toPBSnapshot(&meta), nil
}
