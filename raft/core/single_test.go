package core_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/raft/core"
)

// The tests of this file are the contract of Core. They hold for both builds:
//
//	go test ./raft/core
//	go test -tags etcdraft35 ./raft/core

const group = 7

// replica drives the core of the only voter over a log, as a host does.
type replica struct {
	t       testing.TB
	core    core.Core
	log     *memLog
	applied []core.Entry
	written []core.Append
	term    uint64
	leads   bool
}

func newCore(log core.Log, maxApply uint64) (core.Core, error) {
	return core.New(core.Config{
		Group: group, Replica: 3, Voters: []uint64{3}, Log: log, MaxApplyBytes: maxApply,
		ElectionTicks: 10, HeartbeatTicks: 2, Logger: quiet,
	})
}

func openReplica(t testing.TB, log *memLog) *replica {
	t.Helper()
	c, err := newCore(log, 1<<20)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return &replica{t: t, core: c, log: log}
}

// drain does all work that the core hands out.
func (r *replica) drain() {
	r.t.Helper()
	var rd core.Ready
	for range 1000 {
		if !r.core.Ready(&rd) {
			return
		}
		r.take(&rd)
	}
	r.t.Fatal("the core is never done")
}

func (r *replica) take(rd *core.Ready) {
	r.t.Helper()
	r.term, r.leads = rd.Term, rd.Role == core.Leader
	if len(rd.Messages) > 0 {
		r.t.Fatalf("the only voter sends %+v", rd.Messages)
	}
	if !rd.Append.Empty() {
		if s := rd.Append.State; s != nil {
			if n := r.log.durable.last(); s.Commit > n {
				r.t.Fatalf("the state to write has commit %d, %d entries are durable", s.Commit, n)
			}
		}
		r.written = append(r.written, rd.Append)
		r.log.add(write{Append: rd.Append, of: r.core})
	}
	if len(rd.Committed) == 0 {
		return
	}
	durable := r.log.durable.entries
	for _, e := range rd.Committed {
		if e.Index != uint64(len(r.applied))+1 {
			r.t.Fatalf("entry %d is to be applied after %d", e.Index, len(r.applied))
		}
		if e.Index > uint64(len(durable)) || !bytes.Equal(durable[e.Index-1].Data, e.Data) ||
			durable[e.Index-1].Term != e.Term {
			r.t.Fatalf("entry %d of term %d is to be applied, %d entries are durable",
				e.Index, e.Term, len(durable))
		}
		r.applied = append(r.applied, e)
	}
	r.core.Applied()
}

// sync makes n writes durable and does what follows.
func (r *replica) sync(n int) {
	r.t.Helper()
	r.log.sync(n, r.core)
	r.drain()
}

// elect campaigns and makes writes durable until the entry that opens the term is applied.
func (r *replica) elect() {
	r.t.Helper()
	r.drain()
	if err := r.core.Campaign(); err != nil {
		r.t.Fatalf("campaign: %v", err)
	}
	r.drain()
	for len(r.log.pending) > 0 {
		r.sync(1)
	}
	if !r.leads {
		r.t.Fatalf("the only voter does not lead after its campaign; term %d", r.term)
	}
	if last := r.applied[len(r.applied)-1]; last.Term != r.term || len(last.Data) != 0 {
		r.t.Fatalf("last applied entry of term %d: %+v, want the one that opens it", r.term, last)
	}
}

func (r *replica) propose(data ...string) {
	r.t.Helper()
	var all [][]byte
	for _, d := range data {
		all = append(all, []byte(d))
	}
	if err := r.core.Propose(all); err != nil {
		r.t.Fatalf("propose: %v", err)
	}
	r.drain()
}

// payloads returns the data of the applied entries that have some.
func (r *replica) payloads() string {
	var all []string
	for _, e := range r.applied {
		if len(e.Data) > 0 {
			all = append(all, string(e.Data))
		}
	}
	return strings.Join(all, " ")
}

func TestCoreElectsOnlyVoterAfterVoteIsDurable(t *testing.T) {
	r := openReplica(t, newLog())
	r.drain()
	if err := r.core.Campaign(); err != nil {
		t.Fatal(err)
	}
	r.drain()
	if len(r.applied) != 0 {
		t.Fatalf("applied %v before anything is durable", r.applied)
	}
	if n := len(r.log.pending); n != 1 {
		t.Fatalf("%d writes, want 1 with the vote", n)
	}
	if got := r.written[0].State; got == nil || *got != (core.HardState{Term: 1, Vote: 3}) {
		t.Fatalf("state of the first write: %v, want term 1, vote 3", got)
	}
	for len(r.log.pending) > 0 {
		r.sync(1)
	}
	if !r.leads || r.term != 1 || len(r.applied) != 1 || r.applied[0].Term != 1 {
		t.Fatalf("leads %t, term %d, applied %v; want the leader of term 1 with its first entry",
			r.leads, r.term, r.applied)
	}
}

func TestCoreCommitsOnlyAfterDurable(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	applied := len(r.applied)
	r.propose("a", "b")
	r.drain()
	if len(r.applied) != applied {
		t.Fatalf("applied %v while the write is on its way", r.applied[applied:])
	}
	if n := len(r.log.pending); n != 1 {
		t.Fatalf("one proposal of two entries made %d writes", n)
	}
	r.sync(1)
	if got := r.payloads(); got != "a b" {
		t.Fatalf("applied %q, want %q", got, "a b")
	}
}

func TestCoreCommitsInOrderWhileWritesAreUnderWay(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	rng := rand.New(rand.NewPCG(1, 2))
	var want []string
	for i := range 500 {
		if rng.IntN(3) > 0 {
			n := 1 + rng.IntN(3)
			var batch []string
			for j := range n {
				batch = append(batch, fmt.Sprintf("%d.%d", i, j))
			}
			want = append(want, batch...)
			r.propose(batch...)
			continue
		}
		r.sync(rng.IntN(len(r.log.pending) + 1)) // take checks that what is applied is durable
	}
	for len(r.log.pending) > 0 {
		r.sync(len(r.log.pending))
	}
	if got := r.payloads(); got != strings.Join(want, " ") {
		t.Fatalf("applied %q,\nwant %q", got, want)
	}
}

func TestCoreReadyAfterProposeOnlyAppends(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	if err := r.core.Propose([][]byte{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	var rd core.Ready
	if !r.core.Ready(&rd) || len(rd.Append.Entries) != 1 || len(rd.Committed) != 0 || rd.Role != core.Leader {
		t.Fatalf("Ready after Propose: %+v, want one entry to append", rd)
	}
	if r.take(&rd); r.core.Ready(&rd) {
		t.Fatalf("second Ready after Propose: %+v, want none", rd)
	}
}

func TestCoreDoesNotCopyData(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	data := []byte("payload")
	if err := r.core.Propose([][]byte{data}); err != nil {
		t.Fatal(err)
	}
	r.drain()
	if got := r.written[len(r.written)-1].Entries[0].Data; &got[0] != &data[0] {
		t.Error("the data to write is a copy of the proposed data")
	}
	r.sync(1)
	if got := r.applied[len(r.applied)-1].Data; &got[0] != &data[0] {
		t.Error("the data to apply is a copy of the proposed data")
	}
}

func TestCoreRefusesProposalWithoutLeadership(t *testing.T) {
	r := openReplica(t, newLog())
	r.drain()
	if err := r.core.Propose([][]byte{[]byte("x")}); !errors.Is(err, core.ErrDropped) {
		t.Fatalf("Propose: %v, want ErrDropped", err)
	}
}

func TestCoreRestartKeepsTermAndVote(t *testing.T) {
	log := newLog()
	for term := uint64(1); term <= 3; term++ {
		r := openReplica(t, log)
		r.elect()
		if r.term != term {
			t.Fatalf("start %d leads term %d", term, r.term)
		}
		if hs, ok := log.State(group); !ok || hs.Term != term || hs.Vote != 3 {
			t.Fatalf("stored state %v %t, want term %d and vote 3", hs, ok, term)
		}
		log = log.crash(0, false)
	}
}

func TestCoreRestartAppliesWholeLogInOrder(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	var want []string
	for i := range 1000 {
		d := fmt.Sprint("entry", i)
		want = append(want, d)
		r.propose(d)
		r.sync(1)
	}
	r = openReplica(t, r.log.crash(0, false))
	r.elect()
	if got := r.payloads(); got != strings.Join(want, " ") {
		t.Fatalf("a restart applied %.200q…, want %d entries in order", got, len(want))
	}
}

func TestCoreRestartReadsLogInBoundedPieces(t *testing.T) {
	r := openReplica(t, newLog())
	r.elect()
	for range 600 { // the stored commit index is behind by some
		r.propose(strings.Repeat("x", 100))
		r.sync(1)
	}
	c, err := newCore(r.log.crash(0, false), 1000)
	if err != nil {
		t.Fatal(err)
	}
	var rd core.Ready
	pieces := 0
	for c.Ready(&rd) {
		if n := len(rd.Committed); n > 12 { // 10 of 100 bytes, and empty ones
			t.Fatalf("%d entries of 100 bytes at once, the bound is 1000 bytes", n)
		}
		if len(rd.Committed) > 0 {
			pieces++
			c.Applied()
		}
	}
	if pieces < 20 {
		t.Fatalf("the log was applied in %d pieces before the election, want most of 60", pieces)
	}
}

// A write may reach the disk in part. What remains of it must not keep a replica from starting.
func TestCoreRestartAfterTornWrites(t *testing.T) {
	for _, test := range []struct {
		name  string
		write core.Append
	}{
		{"entries of a new term without the state", core.Append{Entries: []core.Entry{{Index: 3, Term: 2}}}},
		{"state without the entries", core.Append{State: &core.HardState{Term: 2, Vote: 3, Commit: 2}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := newLog()
			log.add(write{Append: core.Append{State: &core.HardState{Term: 1, Vote: 3, Commit: 1},
				Entries: []core.Entry{{Index: 1, Term: 1}, {Index: 2, Term: 1, Data: []byte("x")}}}})
			log.add(write{Append: test.write})
			log.sync(len(log.pending), nil)
			r := openReplica(t, log.crash(0, false))
			r.elect()
			if r.payloads() != "x" || r.term != 3 {
				t.Fatalf("leads term %d, applied %q; want term 3 and \"x\"", r.term, r.payloads())
			}
		})
	}
}

// A replica may be started anew while its writes are still on their way to the disk. They are in the
// log that it reads; nothing of them may be applied before they are durable.
func TestCoreStartedAnewDoesNotTrustQueuedWrites(t *testing.T) {
	log := newLog()
	r := openReplica(t, log)
	r.elect()
	r.propose("a")
	for range 3 {
		r = openReplica(t, log)
		r.drain() // take checks that what is applied is durable
		if err := r.core.Campaign(); err != nil {
			t.Fatal(err)
		}
		r.drain()
		if got := r.payloads(); got != "" {
			t.Fatalf("applied %q, which is not durable", got)
		}
	}
	for len(log.pending) > 0 {
		r.sync(1)
	}
	if got := r.payloads(); got != "a" {
		t.Fatalf("applied %q after all became durable, want %q", got, "a")
	}
}

func TestCoreRefusesLogWithoutCommittedEntries(t *testing.T) {
	log := newLog()
	log.add(write{Append: core.Append{State: &core.HardState{Term: 1, Vote: 3, Commit: 2},
		Entries: []core.Entry{{Index: 1, Term: 1}}}})
	_, err := newCore(log, 1<<20)
	want := "group 7: stored commit index 2 is beyond the log's last index 1"
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %q", err, want)
	}
}

// addLearner4 is the data of a membership change that adds learner 4.
var addLearner4 = []byte{0x12, 4, 8, 3, 16, 4}

func TestCoreHandsOutTypesOfEntries(t *testing.T) {
	log := newLog()
	log.add(write{Append: core.Append{State: &core.HardState{Term: 1, Vote: 3, Commit: 2},
		Entries: []core.Entry{{Index: 1, Term: 1},
			{Index: 2, Term: 1, Type: core.EntryConfChangeV2, Data: addLearner4}}}})
	log.sync(len(log.pending), nil)
	r := openReplica(t, log)
	r.drain()
	if len(r.applied) != 2 || r.applied[1].Type != core.EntryConfChangeV2 {
		t.Fatalf("applied %+v, want entry 2 of type %d", r.applied, core.EntryConfChangeV2)
	}
}

func TestCoreConfigIsChecked(t *testing.T) {
	for want, change := range map[string]func(c *core.Config){
		"replica id 0 is not valid":       func(c *core.Config) { c.Replica = 0 },
		"no voters":                       func(c *core.Config) { c.Voters = nil },
		"voters [1 3 3] are not sorted":   func(c *core.Config) { c.Voters = []uint64{3, 1, 3} },
		"replica 3 is both a voter and a": func(c *core.Config) { c.Learners = []uint64{3} },
		"log and logger are required":     func(c *core.Config) { c.Log = nil },
		"apply bound of 0 bytes":          func(c *core.Config) { c.MaxApplyBytes = 0 },
		"3 election ticks with a heartb":  func(c *core.Config) { c.ElectionTicks = 3 },
	} {
		cfg := core.Config{Group: group, Replica: 3, Voters: []uint64{3, 1}, Log: newLog(), Logger: quiet,
			MaxApplyBytes: 1, ElectionTicks: 10, HeartbeatTicks: 2}
		if _, err := core.New(cfg); err != nil {
			t.Fatalf("New: %v", err)
		}
		change(&cfg)
		if _, err := core.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want %q", err, want)
		}
	}
}
