package core_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/raft/core"
)

var (
	schedules     = flag.Uint64("schedules", 30, "how many random schedules are run")
	firstSchedule = flag.Uint64("first-schedule", 0, "seed of the first one")
)

// schedule is one random run of a cluster: messages are delayed, reordered and lost, replicas crash at
// any time and lose what was not durable, disks are slow, members come and go. Elections are called by
// the schedule and not by time, because the libraries draw their timeouts from a source of their own.
type schedule struct {
	*cluster
	rng      *rand.Rand
	trace    []string
	proposed int
	nextID   uint64
	reads    map[uint64]uint64 // index that the answer to a read must have at least
}

func (s *schedule) logf(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

func (s *schedule) any() *member {
	ids := s.ids()
	return s.replicas[ids[s.rng.IntN(len(ids))]]
}

// aLeader returns a replica that thinks it leads, if there is one.
func (s *schedule) aLeader() *member {
	var leaders []*member
	for _, id := range s.ids() {
		if m := s.replicas[id]; m.role == core.Leader {
			leaders = append(leaders, m)
		}
	}
	if len(leaders) == 0 {
		return nil
	}
	return leaders[s.rng.IntN(len(leaders))]
}

func TestCoreRandomSchedules(t *testing.T) {
	for seed := *firstSchedule; seed < *firstSchedule+*schedules; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &schedule{rng: rand.New(rand.NewPCG(seed, 1)), nextID: 10, reads: make(map[uint64]uint64)}
			s.cluster = newCluster(t, []uint64{1, 2, 3, 4, 5}[:1+2*(seed%3)]...)
			s.autoSync = false
			defer func() {
				r := recover()
				if t.Failed() || r != nil {
					for _, line := range s.trace[max(0, len(s.trace)-60):] {
						t.Log(line)
					}
				}
				if r != nil {
					panic(r)
				}
			}()
			for range 3000 {
				s.step()
			}
			s.settle()
		})
	}
}

// step does one random thing.
func (s *schedule) step() {
	switch n := s.rng.IntN(1000); {
	case n < 450:
		if len(s.queue) > 0 {
			s.deliverOne()
		}
	case n < 650:
		m := s.any()
		if n := len(m.log.pending); n > 0 {
			n = 1 + s.rng.IntN(n)
			s.logf("replica %d: %d writes are durable", m.id, n)
			m.sync(n)
			m.work()
		}
	case n < 750:
		s.propose()
	case n < 850:
		if m := s.aLeader(); m != nil {
			s.logf("replica %d: tick", m.id)
			m.core.Tick()
			m.work()
		}
	case n < 880:
		s.campaign()
	case n < 900:
		s.restart()
	case n < 910:
		s.cut = make(map[uint64]bool)
		if s.rng.IntN(2) == 0 {
			s.cut[s.any().id] = true
		}
		s.logf("cut off: %v", s.cut)
	case n < 930:
		s.read()
	case n < 945:
		m := s.any()
		if lead := s.aLeader(); lead != nil && lead.core.Status().SnapshotWanted {
			m = lead
		}
		if st := m.core.Status(); st.Durable >= st.Applied && st.Applied >= m.log.now.base && st.Applied > 0 {
			meta := m.snapshot()
			s.logf("replica %d: snapshot %+v", m.id, meta)
			m.work()
		}
	case n < 960:
		s.change()
	case n < 970:
		if m := s.aLeader(); m != nil {
			to := s.any().id
			s.logf("replica %d: transfer to %d", m.id, to)
			m.core.TransferLeader(to)
			m.work()
		}
	case n < 980:
		if m := s.aLeader(); m != nil {
			to := s.any().id
			s.logf("replica %d: %d is unreachable", m.id, to)
			m.core.Unreachable(to)
			m.core.SnapshotSent(to, false)
			m.work()
		}
	case n < 990:
		if len(s.queue) > 0 {
			i := s.rng.IntN(len(s.queue))
			s.logf("lost: %+v", s.queue[i])
			s.queue = slices.Delete(s.queue, i, i+1)
		}
	case n == 999:
		s.checkLogs()
	}
}

// deliverOne delivers a message, mostly an old one.
func (s *schedule) deliverOne() {
	i := 0
	if s.rng.IntN(4) == 0 {
		i = s.rng.IntN(len(s.queue))
	}
	to := s.queue[i].To
	s.logf("deliver: %+v", s.queue[i])
	s.deliver(i)
	if m := s.replicas[to]; m != nil {
		m.work()
	}
}

func (s *schedule) propose() {
	m := s.aLeader()
	if m == nil {
		return
	}
	var data [][]byte
	for range 1 + s.rng.IntN(3) {
		s.proposed++
		data = append(data, fmt.Appendf(nil, "%d.%d.%d", m.id, m.life, s.proposed))
	}
	err := m.core.Propose(data)
	s.logf("replica %d: propose %q: %v", m.id, data, err)
	if err != nil && !errors.Is(err, core.ErrDropped) {
		s.t.Fatal(err)
	}
	m.work()
}

func (s *schedule) campaign() {
	for _, id := range s.ids() {
		if s.rng.IntN(3) > 0 {
			s.replicas[id].core.ForgetLeader()
			s.replicas[id].work()
		}
	}
	m := s.any()
	s.logf("replica %d: campaign", m.id)
	if err := m.core.Campaign(); err != nil {
		s.t.Fatal(err)
	}
	m.work()
}

func (s *schedule) restart() {
	m := s.any()
	if s.rng.IntN(4) == 0 {
		s.logf("replica %d: started anew", m.id)
		s.start(m.id, m.log).work()
		return
	}
	keep, torn := s.rng.IntN(len(m.log.pending)+1), s.rng.IntN(2) == 0
	s.logf("replica %d: crash, %d of %d writes are kept, torn %t", m.id, keep, len(m.log.pending), torn)
	s.crash(m.id, keep, torn).work()
}

// read asks for a read. Its answer covers all that was applied anywhere before.
func (s *schedule) read() {
	m := s.aLeader()
	if m == nil {
		return
	}
	id := uint64(len(s.reads)) + 1
	s.reads[id] = 0
	for index := range s.chosen {
		s.reads[id] = max(s.reads[id], index)
	}
	err := m.core.ReadIndex(id)
	s.logf("replica %d: read %d of %d: %v", m.id, id, s.reads[id], err)
	if err != nil && !errors.Is(err, core.ErrDropped) {
		s.t.Fatal(err)
	}
	m.work()
}

// checkReads checks the answers to reads so far.
func (s *schedule) checkReads() {
	s.t.Helper()
	for _, id := range s.ids() {
		for _, r := range s.replicas[id].reads {
			if r.Index < s.reads[r.ID] {
				s.t.Fatalf("read %d is served at index %d, %d was applied before it was asked for",
					r.ID, r.Index, s.reads[r.ID])
			}
		}
		s.replicas[id].reads = nil
	}
}

// change proposes a random change of the membership.
func (s *schedule) change() {
	m := s.aLeader()
	if m == nil {
		return
	}
	members := m.core.Status().Members
	var change core.Change
	pick := func(ids []uint64) uint64 { return ids[s.rng.IntN(len(ids))] }
	if s.rng.IntN(2) == 0 && len(members.Voters)+len(members.Learners) < 6 {
		s.nextID++
		change.Learners = append(change.Learners, s.nextID)
	}
	if len(members.Learners) > 0 && s.rng.IntN(2) == 0 {
		change.Voters = append(change.Voters, pick(members.Learners))
	}
	if id := pick(members.Voters); s.rng.IntN(2) == 0 {
		if s.rng.IntN(2) == 0 {
			change.Remove = append(change.Remove, id)
		} else {
			change.Learners = append(change.Learners, id)
		}
	}
	err := m.core.ProposeChange(change)
	s.logf("replica %d: change %+v: %v", m.id, change, err)
	if err == nil {
		for _, id := range change.Learners {
			if s.replicas[id] == nil {
				s.start(id, newLog()).work()
			}
		}
	}
	m.work()
}

// checkLogs checks that logs which agree on an entry agree on all before it (raft's log matching), and
// that reads were answered well.
func (s *schedule) checkLogs() {
	s.t.Helper()
	s.checkReads()
	ids := s.ids()
	for i, a := range ids {
		for _, b := range ids[i+1:] {
			x, y := &s.replicas[a].log.now, &s.replicas[b].log.now
			same := false
			for index := min(x.last(), y.last()); index > max(x.base, y.base); index-- {
				e, _ := x.entry(index)
				f, _ := y.entry(index)
				same = same || e.Term == f.Term
				if same && (e.Term != f.Term || e.Type != f.Type || !bytes.Equal(e.Data, f.Data)) {
					s.t.Fatalf("replicas %d and %d differ in entry %d: %+v, %+v", a, b, index, e, f)
				}
			}
		}
	}
}

// settle ends all trouble. Then the group has a leader and all members have all that was ever applied.
func (s *schedule) settle() {
	s.t.Helper()
	s.logf("settle")
	s.cut = make(map[uint64]bool)
	s.autoSync = true
	for _, id := range s.ids() {
		m := s.replicas[id]
		m.sync(len(m.log.pending))
	}
	s.run()
	s.checkLogs()
	last := uint64(0)
	for index := range s.chosen {
		last = max(last, index)
	}
	settled := func() bool {
		lead := s.aLeader()
		if lead == nil || lead.last() < last {
			return false
		}
		st := lead.core.Status()
		if len(st.Members.Outgoing) > 0 || lead.core.Propose([][]byte{[]byte("end")}) != nil {
			return false
		}
		s.run()
		s.tick(4)
		for _, id := range slices.Concat(st.Members.Voters, st.Members.Learners) {
			if s.replicas[id].last() != lead.last() {
				return false
			}
		}
		return lead.last() > st.Last
	}
	for range 100 {
		s.tick(20)
		if lead := s.aLeader(); lead != nil {
			if st := lead.core.Status(); st.SnapshotWanted && st.Durable >= st.Applied {
				lead.snapshot()
			}
			for _, p := range lead.core.Status().Progress {
				if p.Snapshot > 0 {
					lead.core.SnapshotSent(p.Replica, false) // it was lost
				}
			}
		}
		if settled() {
			s.checkLogs()
			return
		}
	}
	for _, id := range s.ids() {
		s.t.Logf("replica %d: %+v", id, s.replicas[id].core.Status())
	}
	s.t.Fatalf("the group does not recover, entry %d was applied", last)
}
