package core_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/raft/core"
)

// cluster is one group on several replicas, in one goroutine, with a network and disks that do what
// the test says. It checks as it goes that what replicas do agrees with the others and with their
// disks.
type cluster struct {
	t        testing.TB
	voters   []uint64
	learners []uint64
	replicas map[uint64]*member
	queue    []core.Message // on their way, oldest first
	cut      map[uint64]bool
	drop     func(m *core.Message) bool
	autoSync bool            // writes are durable at once
	slow     map[uint64]bool // but those of these replicas

	chosen  map[uint64]core.Entry // by index: what was applied somewhere
	leaders map[uint64]uint64     // by term
	lives   map[uint64]int        // by term: which life of that leader led it
}

// member is one replica.
type member struct {
	c       *cluster
	id      uint64
	life    int
	core    core.Core
	log     *memLog
	rd      core.Ready
	applied []core.Entry      // after the snapshot
	base    core.SnapshotMeta // the snapshot that the state began with
	members core.Membership
	// membersBefore are those before the last change.
	membersBefore core.Membership
	role          core.Role
	term          uint64
	lead          uint64
	reads         []core.Read
	sent          []core.Message
	appends       []core.Append
	restored      int
}

func (m *member) last() uint64 { return m.base.Index + uint64(len(m.applied)) }

func newCluster(t testing.TB, voters ...uint64) *cluster {
	c := &cluster{
		t: t, voters: voters, replicas: make(map[uint64]*member), cut: make(map[uint64]bool),
		autoSync: true, chosen: make(map[uint64]core.Entry), leaders: make(map[uint64]uint64),
		lives: make(map[uint64]int),
	}
	for _, id := range voters {
		c.start(id, newLog())
	}
	return c
}

// start starts or restarts a replica with a log.
func (c *cluster) start(id uint64, log *memLog) *member {
	c.t.Helper()
	m := &member{c: c, id: id, log: log}
	if old := c.replicas[id]; old != nil {
		m.life = old.life + 1
	}
	var err error
	m.core, err = core.New(core.Config{
		Group: group, Replica: id, Voters: c.voters, Learners: c.learners, Log: log,
		MaxApplyBytes: 1 << 20, ElectionTicks: 10, HeartbeatTicks: 2,
		Logger: quiet,
	})
	if err != nil {
		c.t.Fatalf("start replica %d: %v", id, err)
	}
	if meta, ok := log.Snapshot(group); ok {
		m.base = meta
	} else {
		m.base.Index = log.now.base
	}
	m.members = m.core.Status().Members
	c.replicas[id] = m
	return m
}

// crash restarts a replica with what a power failure leaves of its log.
func (c *cluster) crash(id uint64, keep int, torn bool) *member {
	c.t.Helper()
	return c.start(id, c.replicas[id].log.crash(keep, torn))
}

func (c *cluster) ids() []uint64 {
	ids := make([]uint64, 0, len(c.replicas))
	for id := range c.replicas {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// work does all work of a replica that can be done without time, disk and network going on.
func (m *member) work() {
	m.c.t.Helper()
	for range 1000 {
		if !m.core.Ready(&m.rd) {
			return
		}
		m.take()
	}
	m.c.t.Fatalf("replica %d is never done", m.id)
}

// take handles a Ready as a host does.
func (m *member) take() {
	c, rd := m.c, &m.rd
	c.t.Helper()
	m.role, m.term, m.lead = rd.Role, rd.Term, rd.Lead
	if rd.Role == core.Leader {
		if id, ok := c.leaders[rd.Term]; ok && (id != m.id || c.lives[rd.Term] != m.life) {
			c.t.Fatalf("replica %d (life %d) leads term %d, which %d (life %d) led",
				m.id, m.life, rd.Term, id, c.lives[rd.Term])
		}
		c.leaders[rd.Term], c.lives[rd.Term] = m.id, m.life
	}
	for _, msg := range rd.Messages {
		m.checkSent(&msg)
		msg.Entries = slices.Clone(msg.Entries)
		m.sent = append(m.sent, msg)
		c.queue = append(c.queue, msg)
	}
	if !rd.Append.Empty() {
		m.write(rd.Append)
	}
	if len(rd.Committed) > 0 {
		m.apply(rd.Committed)
		m.core.Applied()
		if slices.ContainsFunc(rd.Committed, func(e core.Entry) bool { return e.Type != core.EntryNormal }) {
			m.membersBefore, m.members = m.members, m.core.Status().Members
		}
	}
	m.reads = append(m.reads, rd.Reads...)
}

// checkSent checks that a message rests on nothing that could be lost.
func (m *member) checkSent(msg *core.Message) {
	m.c.t.Helper()
	d := &m.log.durable
	state := core.HardState{}
	if d.state != nil {
		state = *d.state
	}
	switch {
	case msg.From != m.id:
		m.c.t.Fatalf("replica %d sends a message from %d", m.id, msg.From)
	case msg.Type == core.MsgVoteResp && !msg.Reject &&
		(state.Term != msg.Term || state.Vote != msg.To) && state.Term <= msg.Term:
		m.c.t.Fatalf("replica %d votes for %d in term %d, on its disk is %+v", m.id, msg.To, msg.Term, state)
	case msg.Type == core.MsgVote && state.Term < msg.Term:
		m.c.t.Fatalf("replica %d asks for votes in term %d, on its disk is %+v", m.id, msg.Term, state)
	case msg.Type == core.MsgAppResp && !msg.Reject && msg.Index > d.last() && msg.Term >= state.Term:
		m.c.t.Fatalf("replica %d says that it has entry %d, the last on its disk is %d",
			m.id, msg.Index, d.last())
	}
}

// write hands a write to the replica's disk.
func (m *member) write(a core.Append) {
	m.c.t.Helper()
	if s := a.State; s != nil {
		if a.Snapshot == nil && s.Commit > m.log.durable.last() {
			m.c.t.Fatalf("replica %d: the state to write has commit %d, the last durable entry is %d",
				m.id, s.Commit, m.log.durable.last())
		}
	}
	if a.Snapshot != nil {
		m.base, m.applied, m.members = *a.Snapshot, nil, a.Snapshot.Members
		m.restored++
	}
	m.appends = append(m.appends, a)
	m.log.add(write{Append: a, of: m.core})
	if m.c.autoSync && !m.c.slow[m.id] {
		m.sync(1)
	}
}

func (m *member) sync(n int) { m.log.sync(n, m.core) }

func (m *member) apply(entries []core.Entry) {
	c := m.c
	c.t.Helper()
	for _, e := range entries {
		if e.Index != m.last()+1 {
			c.t.Fatalf("replica %d applies entry %d after %d", m.id, e.Index, m.last())
		}
		if got, ok := c.chosen[e.Index]; !ok {
			m.mustBeSafe(&e)
			c.chosen[e.Index] = e
		} else if got.Term != e.Term || got.Type != e.Type || !bytes.Equal(got.Data, e.Data) {
			c.t.Fatalf("replica %d applies entry %d of term %d, another applied one of term %d",
				m.id, e.Index, e.Term, got.Term)
		}
		m.applied = append(m.applied, e)
	}
}

// mustBeSafe checks that a majority of disks hold an entry when a leader is the first to apply it: of
// its voters and, in a joint change, of those before it. A leader commits entries behind a change before
// it applies the change, so it may have been a majority before the last change.
func (m *member) mustBeSafe(e *core.Entry) {
	m.c.t.Helper()
	if m.role != core.Leader || m.safe(e, &m.members) || m.safe(e, &m.membersBefore) {
		return // others may have a membership of long ago
	}
	m.c.t.Fatalf("replica %d applies entry %d, it is not on enough disks of %+v", m.id, e.Index, m.members)
}

// safe reports whether a majority of disks hold an entry.
func (m *member) safe(e *core.Entry, members *core.Membership) bool {
	for _, voters := range [][]uint64{members.Voters, members.Outgoing} {
		n := 0
		for _, id := range voters {
			if m.c.replicas[id] == nil {
				continue
			}
			d := &m.c.replicas[id].log.durable
			if got, ok := d.entry(e.Index); ok && got.Term == e.Term || e.Index <= d.base {
				n++
			}
		}
		if n <= len(voters)/2 && len(voters) > 0 {
			return false
		}
	}
	return len(members.Voters) > 0
}

// run does all work until nothing is left but what waits for time or disks.
func (c *cluster) run() {
	c.t.Helper()
	for range 100000 {
		for _, id := range c.ids() {
			c.replicas[id].work()
		}
		if len(c.queue) == 0 {
			return
		}
		c.deliver(0)
	}
	c.t.Fatal("the cluster is never done")
}

// deliver takes one message out of the queue to its receiver, through the codec.
func (c *cluster) deliver(i int) {
	c.t.Helper()
	msg := c.queue[i]
	c.queue = slices.Delete(c.queue, i, i+1)
	to := c.replicas[msg.To]
	if to == nil || c.cut[msg.From] || c.cut[msg.To] || c.drop != nil && c.drop(&msg) {
		return
	}
	to.step(&msg)
}

// step takes a message, after the state of a snapshot was stored.
func (m *member) step(msg *core.Message) {
	m.c.t.Helper()
	if err := m.core.Step(msg); err != nil {
		m.c.t.Fatalf("replica %d: step %+v: %v", m.id, msg, err)
	}
}

// tick lets n units of time pass for the replicas, all of them if none is named.
func (c *cluster) tick(n int, ids ...uint64) {
	c.t.Helper()
	if len(ids) == 0 {
		ids = c.ids()
	}
	for range n {
		for _, id := range ids {
			c.replicas[id].core.Tick()
		}
		c.run()
	}
}

// elect makes a replica lead.
func (c *cluster) elect(id uint64) *member {
	c.t.Helper()
	c.run()
	m := c.replicas[id]
	if err := m.core.Campaign(); err != nil {
		c.t.Fatal(err)
	}
	c.run()
	if m.role != core.Leader {
		c.t.Fatalf("replica %d does not lead after its campaign", id)
	}
	return m
}

func (m *member) propose(data ...string) {
	m.c.t.Helper()
	var all [][]byte
	for _, d := range data {
		all = append(all, []byte(d))
	}
	if err := m.core.Propose(all); err != nil {
		m.c.t.Fatalf("propose to replica %d: %v", m.id, err)
	}
	m.work()
}

// payloads returns the data of the applied normal entries that have some.
func (m *member) payloads() string {
	var all []string
	for _, e := range m.applied {
		if len(e.Data) > 0 && e.Type == core.EntryNormal {
			all = append(all, string(e.Data))
		}
	}
	return strings.Join(all, " ")
}

func (c *cluster) wantPayloads(want string, ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		if got := c.replicas[id].payloads(); got != want {
			c.t.Fatalf("replica %d applied %q, want %q", id, got, want)
		}
	}
}

func describe(m *core.Membership) string {
	s := fmt.Sprint("voters ", m.Voters)
	if len(m.Learners) > 0 {
		s += fmt.Sprint(" learners ", m.Learners)
	}
	if len(m.Outgoing) > 0 {
		s += fmt.Sprint(" outgoing ", m.Outgoing, " next ", m.LearnersNext, " auto ", m.AutoLeave)
	}
	return s
}

// leader returns the replica that leads the highest term.
func (c *cluster) leader() *member {
	c.t.Helper()
	var lead *member
	for _, id := range c.ids() {
		if m := c.replicas[id]; m.role == core.Leader && (lead == nil || m.term > lead.term) {
			lead = m
		}
	}
	if lead == nil {
		c.t.Fatal("nobody leads")
	}
	return lead
}

// snapshot stores a snapshot of what a replica applied, and cuts its log there.
func (m *member) snapshot() core.SnapshotMeta {
	m.c.t.Helper()
	s := m.core.Status()
	if s.Durable < s.Applied {
		m.c.t.Fatalf("replica %d applied %d, its disk has %d", m.id, s.Applied, s.Durable)
	}
	term, err := m.log.Term(group, s.Applied)
	if err != nil {
		m.c.t.Fatal(err)
	}
	meta := core.SnapshotMeta{Index: s.Applied, Term: term, Members: s.Members}
	m.log.add(write{stored: &meta, compact: meta.Index})
	m.log.sync(len(m.log.pending), m.core)
	m.core.Compacted()
	return meta
}

// progress returns what a leader knows of another replica.
func (m *member) progress(id uint64) core.Progress {
	m.c.t.Helper()
	for _, p := range m.core.Status().Progress {
		if p.Replica == id {
			return p
		}
	}
	m.c.t.Fatalf("replica %d knows nothing of %d", m.id, id)
	return core.Progress{}
}
