package core_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"millrace/raft/core"
)

func TestCoreReplicatesToThree(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a", "b")
	lead.propose("c")
	c.run()
	c.tick(2)
	c.wantPayloads("a b c", 1, 2, 3)
	for _, id := range []uint64{2, 3} {
		if m := c.replicas[id]; m.lead != 1 || m.role != core.Follower {
			t.Errorf("replica %d: role %d, leader %d", id, m.role, m.lead)
		}
	}
}

// Time alone makes a group elect a leader, and another one when that is gone.
func TestCoreElectsByTime(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.tick(40)
	lead := c.leader()
	c.cut[lead.id] = true
	c.tick(60)
	next := c.leader()
	if next == lead || lead.role == core.Leader {
		t.Fatalf("replica %d leads although nobody hears it", lead.id)
	}
	c.cut[lead.id] = false
	c.tick(10)
	if got := c.leader(); got != next || lead.lead != next.id {
		t.Fatalf("replica %d leads and the one that was cut off follows %d, want %d", got.id, lead.lead, next.id)
	}
}

func TestCoreCommitsOnQuorumWithoutLeadersDisk(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.autoSync = false
	lead.propose("a")
	c.run()
	if got := lead.payloads(); got != "" {
		t.Fatalf("applied %q, which is on no disk", got)
	}
	c.replicas[2].sync(1)
	c.run()
	c.wantPayloads("", 1)
	c.replicas[3].sync(1)
	c.run()
	if leaderDiskCounts {
		c.wantPayloads("", 1)
		lead.sync(1)
		c.run()
		c.wantPayloads("a", 1)
		return
	}
	c.wantPayloads("a", 1, 2, 3)
	s := lead.core.Status()
	if s.Durable >= s.Commit || s.Applied != s.Commit || s.Last != s.Commit {
		t.Fatalf("the leader's status is %+v, want its own disk to be behind", s)
	}
	// Nothing that is written says that the entry is committed before it is on this disk.
	lead.propose("b")
	for _, a := range lead.appends {
		if a.State != nil && a.State.Commit > s.Durable {
			t.Fatalf("the leader writes commit %d, its disk has %d", a.State.Commit, s.Durable)
		}
	}
	lead.sync(1)
	if s := lead.core.Status(); s.Durable != s.Commit {
		t.Fatalf("the leader's status is %+v, want all that is committed on its disk", s)
	}
}

// What was applied before it was on the leader's own disk is applied again after a crash.
func TestCoreLeaderCrashesBeforeOwnDisk(t *testing.T) {
	if leaderDiskCounts {
		t.Skip("a commit waits for the leader's disk")
	}
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.autoSync = false
	lead.propose("a")
	c.run()
	c.replicas[2].sync(1)
	c.replicas[3].sync(1)
	c.run()
	c.wantPayloads("a", 1, 2, 3)
	c.crash(1, 0, false)
	c.autoSync = true
	c.elect(2)
	c.wantPayloads("a", 1, 2, 3)
}

func TestCoreAnswersWaitForTheDisk(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.run()
	c.autoSync = false
	if err := c.replicas[1].core.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.run() // the pre-vote round needs no disk, but in one library
	sent := func(id uint64, kind core.MessageType) int {
		n := 0
		for _, m := range c.replicas[id].sent {
			if m.Type == kind {
				n++
			}
		}
		return n
	}
	for range 3 {
		for id := range c.replicas {
			if id != 1 {
				c.replicas[id].sync(1)
			}
		}
		c.run()
	}
	if n := sent(1, core.MsgVote); n != 0 {
		t.Fatalf("%d requests for votes before the term is on the disk", n)
	}
	c.replicas[1].sync(1)
	c.run()
	if n := sent(1, core.MsgVote); n != 2 {
		t.Fatalf("%d requests for votes, want 2", n)
	}
	if n := sent(2, core.MsgVoteResp); n != 0 {
		t.Fatalf("%d votes before they are on the disk", n)
	}
	c.replicas[2].sync(1)
	c.run()
	if n := sent(2, core.MsgVoteResp); n != 1 || c.replicas[1].role != core.Leader {
		t.Fatalf("%d votes and role %d, want 1 and a leader", n, c.replicas[1].role)
	}
	if leaderDiskCounts {
		c.replicas[1].sync(1)
		c.run()
	}
	if n := sent(1, core.MsgApp); n == 0 {
		t.Fatal("the leader waits for its own disk to send entries")
	}
	before := sent(2, core.MsgAppResp)
	if before != 0 {
		t.Fatalf("%d answers to appends before they are on the disk", before)
	}
	c.replicas[2].sync(1)
	c.run()
	if n := sent(2, core.MsgAppResp); n == 0 {
		t.Fatal("no answer to an append that is on the disk")
	}
}

// A replica that is started anew in the same process may find writes in its log that are not on the
// disk yet. It answers for them only when they are.
func TestCoreStartedAnewDoesNotAnswerForQueuedWrites(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.autoSync = false
	lead.propose("a")
	c.run()
	m := c.start(2, c.replicas[2].log)
	c.tick(4, 1, 3) // the leader finds out where it is
	if got := m.core.Status().Last; got != 2 {
		t.Fatalf("the last entry of replica 2 is %d, want 2", got)
	}
	for _, msg := range m.sent {
		if msg.Type == core.MsgAppResp {
			t.Fatalf("answer %+v before anything is on the disk", msg)
		}
	}
	for range 10 {
		for id := range c.replicas {
			c.replicas[id].sync(10)
		}
		c.tick(1, 1, 3)
	}
	c.wantPayloads("a", 1, 2, 3)
}

// Entries that were not committed give way to those of a new leader.
func TestCoreNewLeaderReplacesEntries(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.run()
	c.cut[1] = true
	lead.propose("lost1", "lost2")
	lead.propose("lost3")
	c.run()
	c.replicas[3].core.ForgetLeader()
	next := c.elect(2)
	next.propose("b")
	c.run()
	c.cut[1] = false
	c.tick(20)
	c.wantPayloads("a b", 1, 2, 3)
	if s := c.replicas[1].core.Status(); s.Last != s.Commit || s.Durable != s.Last {
		t.Fatalf("status of the old leader %+v, want the log of the new one", s)
	}
	c.crash(1, 0, false)
	c.tick(10)
	c.wantPayloads("a b", 1, 2, 3)
}

// A power failure leaves each replica with another part of its log, torn ones among them.
func TestCoreRestartsFromPartsOfTheLog(t *testing.T) {
	for seed := range 40 {
		c := newCluster(t, 1, 2, 3)
		lead := c.elect(1)
		lead.propose("a")
		c.run()
		c.autoSync = false
		for i := range 5 {
			lead.propose(fmt.Sprint(i))
			c.run()
		}
		c.queue = nil
		for i, id := range c.ids() {
			c.crash(id, (seed+i*seed/3)%6, seed%2 == i%2)
		}
		c.autoSync = true
		c.tick(60)
		next := c.leader()
		next.propose("z")
		c.tick(10)
		want := next.payloads()
		if !strings.HasPrefix(want, "a") || !strings.HasSuffix(want, "z") {
			t.Fatalf("seed %d: applied %q", seed, want)
		}
		c.wantPayloads(want, 1, 2, 3)
	}
}

func TestCoreBringsUpToDateBySnapshot(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[3] = true
	for i := range 10 {
		lead.propose(fmt.Sprint(i))
	}
	c.run()
	meta := lead.snapshot()
	lead.propose("after")
	c.run()
	c.cut[3] = false
	c.tick(10)
	m := c.replicas[3]
	if m.restored != 1 || m.base.Index != meta.Index || m.base.Term != meta.Term ||
		describe(&m.base.Members) != "voters [1 2 3]" {
		t.Fatalf("replica 3 was restored %d times to %+v, want %+v", m.restored, m.base, meta)
	}
	c.wantPayloads("after", 3)
	if s := m.core.Status(); s.Durable != s.Last || s.Last != lead.core.Status().Last {
		t.Fatalf("status after the snapshot: %+v", s)
	}
	// It starts again from the snapshot, and leads.
	c.crash(3, 0, false)
	c.cut[1] = true
	c.replicas[2].core.ForgetLeader()
	c.elect(3).propose("more")
	c.run()
	c.tick(3)
	c.wantPayloads("after more", 3)
}

// While a state is sent, its receiver gets no entries; when that failed, it is sent another one.
func TestCoreSendsSnapshotAgain(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[3] = true
	lead.propose("a")
	c.run()
	lead.snapshot()
	c.cut[3] = false
	snaps := 0
	c.drop = func(m *core.Message) bool {
		if m.Type == core.MsgSnap {
			snaps++
		}
		return m.Type == core.MsgSnap
	}
	c.tick(6)
	if p := lead.progress(3); snaps != 1 || p.Snapshot == 0 {
		t.Fatalf("%d snapshots sent, progress %+v", snaps, p)
	}
	c.drop = nil
	lead.core.SnapshotSent(3, false)
	c.tick(6)
	if c.replicas[3].restored != 1 || lead.progress(3).Snapshot != 0 {
		t.Fatalf("replica 3 was restored %d times, progress %+v",
			c.replicas[3].restored, lead.progress(3))
	}
}

// A torn write may keep a received snapshot and lose the end of the log that it replaces.
func TestCoreRestartWithLogThatDoesNotLeadToSnapshot(t *testing.T) {
	meta := core.SnapshotMeta{Index: 10, Term: 3, Members: core.Membership{Voters: []uint64{1, 2, 3}}}
	for name, entries := range map[string][]core.Entry{
		"too short":      {{Index: 1, Term: 1}, {Index: 2, Term: 1}},
		"of other terms": termsOf(2, 12),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, 2, 3)
			log := newLog()
			log.add(write{Append: core.Append{Entries: entries, State: &core.HardState{Term: 3, Commit: 1}}})
			log.add(write{stored: &meta})
			log.sync(2, nil)
			m := c.start(1, log)
			m.work()
			if len(m.appends) != 1 || m.appends[0].Snapshot == nil || m.appends[0].Snapshot.Index != 10 {
				t.Fatalf("first writes %+v, want one that voids the log", m.appends)
			}
			if s := m.core.Status(); s.Last != 10 || s.Commit != 10 || s.Applied != 10 || s.Durable != 10 {
				t.Fatalf("status %+v, want all at the snapshot", s)
			}
			if err := m.core.Step(&core.Message{Type: core.MsgApp, From: 2, To: 1, Term: 4, Index: 10, LogTerm: 3,
				Commit: 11, Entries: []core.Entry{{Index: 11, Term: 4, Data: []byte("x")}}}); err != nil {
				t.Fatal(err)
			}
			c.chosen[11] = core.Entry{Index: 11, Term: 4, Data: []byte("x")}
			m.work()
			c.wantPayloads("x", 1)
		})
	}
}

// termsOf returns n entries of a term.
func termsOf(term, n uint64) []core.Entry {
	var entries []core.Entry
	for i := range n {
		entries = append(entries, core.Entry{Index: i + 1, Term: term})
	}
	return entries
}

// A log may begin above 1 without a snapshot: the state up to there is kept elsewhere.
func TestCoreLogBeginsAboveOneWithoutSnapshot(t *testing.T) {
	c := newCluster(t, 1)
	lead := c.elect(1)
	for i := range 10 {
		lead.propose(fmt.Sprint(i))
		c.run()
	}
	lead.log.add(write{compact: 6})
	lead.log.sync(1, nil)
	lead.core.Compacted()
	lead.propose("x")
	c.run()
	c.crash(1, 0, false)
	c.elect(1)
	c.wantPayloads("5 6 7 8 9 x", 1) // entry 1 opened the term
}

func TestCoreReadIsConfirmedByQuorum(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.run()
	if err := lead.core.ReadIndex(77); err != nil {
		t.Fatal(err)
	}
	lead.work()
	if len(lead.reads) != 0 {
		t.Fatalf("reads %v before anybody confirmed", lead.reads)
	}
	c.run()
	if got := fmt.Sprint(lead.reads); got != "[{77 2}]" {
		t.Fatalf("reads %s, want 77 at index 2", got)
	}
	if err := c.replicas[2].core.ReadIndex(78); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("ReadIndex of a follower: %v, want ErrDropped", err)
	}
	// A confirmation that is lost is asked for again.
	c.cut[2], c.cut[3] = true, true
	if err := lead.core.ReadIndex(79); err != nil {
		t.Fatal(err)
	}
	c.run()
	c.cut[2], c.cut[3] = false, false
	c.tick(2)
	if got := fmt.Sprint(lead.reads); got != "[{77 2} {79 2}]" {
		t.Fatalf("reads %s, want 79 as well", got)
	}
}

func TestCoreReadOfOneVoter(t *testing.T) {
	c := newCluster(t, 1)
	c.run()
	m := c.replicas[1]
	if err := m.core.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.autoSync = false
	c.run()
	if err := m.core.ReadIndex(1); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("read before the term is open: %v, want ErrDropped", err)
	}
	for len(m.log.pending) > 0 {
		m.sync(1)
		c.run()
	}
	if err := m.core.ReadIndex(2); err != nil {
		t.Fatal(err)
	}
	c.run()
	if got := fmt.Sprint(m.reads); got != "[{2 1}]" {
		t.Fatalf("reads %s, want 2 at index 1", got)
	}
}

// A leader that was replaced without knowing must not answer a read.
func TestCoreStaleLeaderAnswersNoRead(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[1] = true
	if err := lead.core.ReadIndex(1); err != nil {
		t.Fatal(err)
	}
	c.run()
	c.replicas[3].core.ForgetLeader()
	next := c.elect(2)
	next.propose("b")
	c.run()
	if err := lead.core.ReadIndex(2); err != nil {
		t.Fatal(err) // it does not know
	}
	c.run()
	c.cut[1] = false
	c.tick(20)
	if lead.role == core.Leader || len(lead.reads) != 0 {
		t.Fatalf("the old leader has role %d and answers %v", lead.role, lead.reads)
	}
}

// A new leader knows what is committed only when an entry of its term is.
func TestCoreNewLeaderReadsOnlyWhenItsTermIsOpen(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.run()
	c.drop = func(m *core.Message) bool { return m.Type == core.MsgAppResp && m.To == 2 }
	c.cut[1] = true
	c.replicas[3].core.ForgetLeader()
	c.run()
	if err := c.replicas[2].core.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.run()
	m := c.replicas[2]
	if m.role != core.Leader {
		t.Fatalf("replica 2 has role %d", m.role)
	}
	if err := m.core.ReadIndex(1); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("read before the term is open: %v, want ErrDropped", err)
	}
	c.drop = nil
	c.tick(4, 2, 3)
	if err := m.core.ReadIndex(2); err != nil {
		t.Fatalf("read when the term is open: %v", err)
	}
	c.run()
	if len(m.reads) != 1 || m.reads[0].Index != 3 {
		t.Fatalf("reads %v, want one at index 3", m.reads)
	}
}

func TestCoreTransfersLeadership(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.replicas[2].core.TransferLeader(3) // not its business
	lead.core.TransferLeader(3)
	if s := lead.core.Status(); s.Transferring != 3 {
		t.Fatalf("status %+v, want a transfer to 3", s)
	}
	if err := lead.core.Propose([][]byte{[]byte("x")}); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("propose while handing over: %v, want ErrDropped", err)
	}
	c.run()
	if m := c.replicas[3]; m.role != core.Leader || lead.role != core.Follower || lead.lead != 3 {
		t.Fatalf("replica 3 has role %d, the old leader %d and follows %d", m.role, lead.role, lead.lead)
	}
	c.replicas[3].propose("b")
	c.run()
	c.tick(3)
	c.wantPayloads("a b", 1, 2, 3)
}

// A replica that was cut off does not depose the leader when it comes back.
func TestCorePreVoteDoesNotDisturb(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[3] = true
	c.tick(100)
	if m := c.replicas[3]; m.term != lead.term {
		t.Fatalf("the replica that is cut off is in term %d, the others in %d", m.term, lead.term)
	}
	term := lead.term
	c.cut[3] = false
	c.tick(20)
	if lead.role != core.Leader || lead.term != term {
		t.Fatalf("role %d in term %d, want the leader of term %d", lead.role, lead.term, term)
	}
}

// Followers refuse pre-votes while they hear of a leader. Those that are told to forget it do not.
func TestCoreForgetsLeader(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.elect(1)
	c.cut[1] = true
	campaign := func() core.Role {
		if err := c.replicas[2].core.Campaign(); err != nil {
			t.Fatal(err)
		}
		c.run()
		return c.replicas[2].role
	}
	if role := campaign(); role == core.Leader {
		t.Fatal("replica 2 won although replica 3 hears of a leader")
	}
	c.replicas[3].core.ForgetLeader()
	c.run()
	if m := c.replicas[3]; m.lead != 0 || m.role != core.Follower {
		t.Fatalf("replica 3 follows %d in role %d", m.lead, m.role)
	}
	if role := campaign(); role != core.Leader {
		t.Fatalf("replica 2 has role %d, want a leader", role)
	}
	c.replicas[2].core.ForgetLeader() // nothing, on a leader
	c.cut[1] = false
	c.replicas[2].propose("a")
	c.run()
	c.tick(4)
	c.wantPayloads("a", 1, 2, 3)
}

// A leader without a quorum steps down by itself.
func TestCoreLeaderWithoutQuorumStepsDown(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[1] = true
	c.tick(25, 1)
	if lead.role == core.Leader {
		t.Fatal("a leader that hears of nobody leads on")
	}
}

// A group in which nothing happens has no work, and is not ticked.
func TestCoreQuietGroupHasNoWork(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.run()
	c.tick(4)
	var rd core.Ready
	for _, id := range c.ids() {
		m := c.replicas[id]
		writes := len(m.appends)
		for range 3 {
			if m.core.Ready(&rd) {
				t.Fatalf("replica %d has work: %+v", id, rd)
			}
		}
		s := m.core.Status()
		if s.Commit != s.Last || s.Applied != s.Last || s.Durable != s.Last {
			t.Fatalf("replica %d: status %+v, want all at the end", id, s)
		}
		c.tick(1, id)
		if n := len(m.appends) - writes; n > 0 {
			t.Fatalf("replica %d wrote %d times in a tick", id, n)
		}
	}
}

// What the commit index alone says needs no write.
func TestCoreCommitNeedsNoWrite(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.tick(4)
	before := len(c.replicas[2].appends)
	lead.propose("a")
	c.run()
	c.tick(4)
	if n := len(c.replicas[2].appends) - before; n != 1 {
		t.Fatalf("a follower wrote %d times for one entry", n)
	}
}

func TestCoreFollowerSharesDataWithMessage(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.elect(1)
	data := []byte("payload")
	m := c.replicas[2]
	s := m.core.Status()
	if err := m.core.Step(&core.Message{Type: core.MsgApp, From: 1, To: 2, Term: s.Term, Index: s.Last,
		LogTerm: s.Term, Entries: []core.Entry{{Index: s.Last + 1, Term: s.Term, Data: data}}}); err != nil {
		t.Fatal(err)
	}
	m.work()
	got := m.appends[len(m.appends)-1].Entries[0].Data
	if &got[0] != &data[0] {
		t.Error("the data to write is a copy of what was received")
	}
}

// Proposed data is sent as it is, also when it is sent from the log, in messages of bounded size.
func TestCoreSendsDataInBoundedPieces(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	c.cut[3] = true
	data := []byte(strings.Repeat("x", 100<<10))
	for range 50 {
		if err := lead.core.Propose([][]byte{data}); err != nil {
			t.Fatal(err)
		}
		lead.work()
		for _, m := range lead.sent[len(lead.sent)-1:] {
			if m.Type == core.MsgApp && len(m.Entries) == 1 && &m.Entries[0].Data[0] != &data[0] {
				t.Fatal("the data to send is a copy of the proposed data")
			}
		}
		c.run()
	}
	lead.sent = nil
	c.cut[3] = false
	c.tick(10)
	pieces := 0
	for i := range lead.sent {
		if m := &lead.sent[i]; m.To == 3 && len(m.Entries) > 0 {
			pieces++
			if n := m.DataSize(); n > 1<<20 {
				t.Fatalf("%d bytes in one message", n)
			}
		}
	}
	if pieces < 5 || pieces > 10 {
		t.Fatalf("5 MB were sent in %d messages", pieces)
	}
	c.wantPayloads(lead.payloads(), 3)
}

// A replica that answers heartbeats, but is slow to store what it lacks, is sent the same with each answer. That is not
// read from the log each time.
func TestCoreReadsOnceWhatIsSentAgain(t *testing.T) {
	for _, size := range []int{10, 5000} { // together less than is kept, and more
		c := newCluster(t, 1, 2, 3)
		lead := c.elect(1)
		c.cut[3] = true
		for range 50 {
			if err := lead.core.Propose([][]byte{[]byte(strings.Repeat("x", size))}); err != nil {
				t.Fatal(err)
			}
			c.run()
		}
		lead.sent, lead.log.reads = nil, 0
		c.cut[3] = false
		c.drop = func(m *core.Message) bool { return m.From == 3 && m.Type == core.MsgAppResp && !m.Reject }
		c.tick(60)
		sent := 0
		for i := range lead.sent {
			if m := &lead.sent[i]; m.To == 3 && len(m.Entries) > 0 {
				sent++
			}
		}
		if sent < 10 || lead.log.reads > 3 {
			t.Errorf("entries of %d bytes were sent %d times, and read %d times", size, sent, lead.log.reads)
		}
		c.drop = nil
		c.tick(10)
		c.wantPayloads(lead.payloads(), 2, 3)
	}
}

// A replica that lost what it said it has cannot go on; it says so by a panic.
func TestCorePanicsAfterAmnesia(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	lead.propose("a")
	c.run()
	m := c.start(2, newLog())
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, "lost") && !strings.Contains(r, "out of range") {
			t.Fatalf("recovered %q, want that the log was lost", r)
		}
	}()
	if err := m.core.Step(&core.Message{Type: core.MsgHeartbeat, From: 1, To: 2, Term: lead.term, Commit: 2}); err != nil {
		t.Fatal(err)
	}
}

func TestCoreRefusesMalformedMessages(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	lead := c.elect(1)
	for _, test := range malformed {
		m := samples()[test.sample]
		m.To = 1
		test.change(&m)
		if err := lead.core.Step(&m); err == nil || !strings.Contains(err.Error(), test.want) &&
			!strings.Contains(test.want, "to") {
			t.Errorf("step: %v, want %q", err, test.want)
		}
	}
	last := lead.core.Status().Last
	for want, m := range map[string]core.Message{
		"it has entry": {Type: core.MsgAppResp, Index: last + 1},
		"membership change": {Type: core.MsgApp, Index: last, LogTerm: lead.term, Entries: []core.Entry{
			{Index: last + 1, Term: lead.term, Type: core.EntryConfChangeV2, Data: []byte("nonsense")}}},
	} {
		m.From, m.To, m.Term = 2, 1, lead.term
		if err := lead.core.Step(&m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("step %s: %v, want %q", m.Type, err, want)
		}
	}
	// These are ignored: they may be late.
	for _, m := range []core.Message{
		{Type: core.MsgAppResp, From: 9, To: 1, Term: lead.term, Index: 1}, // of a stranger
		{Type: core.MsgVoteResp, From: 2, To: 7, Term: lead.term},          // to another one
		{Type: core.MsgVoteResp, From: 3, To: 1, Term: lead.term},          // from an election that is over
		{Type: core.MsgTimeoutNow, From: 2, To: 1, Term: lead.term},        // to a leader
		{Type: core.MsgSnap, From: 2, To: 1, Term: lead.term, Snapshot: &core.SnapshotMeta{
			Index: 1, Term: 1, Members: core.Membership{Voters: []uint64{1, 2, 3}}}},
	} {
		if err := lead.core.Step(&m); err != nil {
			t.Errorf("step %+v: %v", m, err)
		}
	}
	lead.propose("a")
	c.run()
	c.tick(2)
	c.wantPayloads("a", 1, 2, 3)
}
