package raft

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"millrace/raft/core"
)

// scriptCore is a Core that hands out what a test put into it.
type scriptCore struct {
	readies    []core.Ready
	proposed   [][]byte
	proposeErr error
}

func (c *scriptCore) Campaign() error { return nil }
func (c *scriptCore) Propose(data [][]byte) error {
	c.proposed = append(c.proposed, data...)
	return c.proposeErr
}
func (c *scriptCore) Ready(rd *core.Ready) bool {
	if len(c.readies) == 0 {
		return false
	}
	*rd = c.readies[0]
	c.readies = c.readies[1:]
	return true
}
func (c *scriptCore) Persisted(int)                   {}
func (c *scriptCore) Applied()                        {}
func (c *scriptCore) Tick()                           {}
func (c *scriptCore) ForgetLeader()                   {}
func (c *scriptCore) TransferLeader(uint64)           {}
func (c *scriptCore) Step(*core.Message) error        { return nil }
func (c *scriptCore) ProposeChange(core.Change) error { return nil }
func (c *scriptCore) ReadIndex(uint64) error          { return nil }
func (c *scriptCore) Unreachable(uint64)              {}
func (c *scriptCore) SnapshotSent(uint64, bool)       {}
func (c *scriptCore) Compacted()                      {}
func (c *scriptCore) Damage() (uint64, error)         { return 0, nil }
func (c *scriptCore) Repaired()                       {}
func (c *scriptCore) Settle(uint64)                   {}
func (c *scriptCore) Status() core.Status {
	return core.Status{Members: core.Membership{Voters: []uint64{1}}}
}

// dropLog is a LogStore of which no method but Append is called; its writes never end.
type dropLog struct{ LogStore }

func (dropLog) Append(Write) {}

// callLog is a machine that notes its calls.
type callLog struct{ calls []string }

func (m *callLog) Apply(index uint64, data []byte) {
	m.calls = append(m.calls, fmt.Sprintf("apply %d %s", index, data))
}
func (m *callLog) Lead(term uint64, ready bool) {
	m.calls = append(m.calls, fmt.Sprintf("lead %d %t", term, ready))
}

// scriptGroup is a group on a scripted core, and a function that hands out readies.
func scriptGroup(t *testing.T, cfg Config) (*Group, *callLog, func(...core.Ready)) {
	cfg.Node, cfg.Log, cfg.Workers = 1, dropLog{}, 1
	h, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	m, c := &callLog{}, &scriptCore{}
	g := &Group{id: 1, log: 1, replica: 1, host: h, cfg: &h.cfg, worker: h.workers[0], machine: m, core: c}
	g.setMembers(c.Status().Members)
	if err := h.reserve(g); err != nil {
		t.Fatal(err)
	}
	return g, m, func(readies ...core.Ready) {
		c.readies = append(c.readies, readies...)
		g.leave(true, nil)
		synctest.Wait()
	}
}

func opening(term, index uint64) core.Ready {
	return core.Ready{Term: term, Lead: 1, Role: core.Leader, Committed: []core.Entry{{Index: index, Term: term}}}
}

func TestGroupTellsMachineOfLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, m, hand := scriptGroup(t, Config{MaxPendingBytes: 10})
		old := core.Entry{Index: 1, Term: 1, Data: []byte("old")}
		hand(core.Ready{Term: 2, Lead: 1, Role: core.Leader, Committed: []core.Entry{old}})
		if err := g.Propose([]byte("x")); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("Propose before the term is open: %v, want ErrNotLeader", err)
		}
		hand(opening(2, 2))
		c := g.core.(*scriptCore)
		c.readies = []core.Ready{{Term: 2, Lead: 1, Role: core.Leader}}
		if err := g.Propose([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		if err := g.Propose([]byte("x")); !errors.Is(err, ErrBusy) {
			t.Fatalf("Propose over the bound: %v, want ErrBusy", err)
		}
		hand(core.Ready{Term: 3})
		if err := g.Propose([]byte("x")); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("Propose after the loss: %v, want ErrNotLeader", err)
		}
		// Candidate, leader of term 5, and at once a follower again: never ready, so never lost.
		hand(core.Ready{Term: 5, Lead: 1, Role: core.Leader}, core.Ready{Term: 6})
		hand(core.Ready{Term: 7, Lead: 1, Role: core.Leader}, opening(7, 4))
		c.readies = []core.Ready{{Term: 7, Lead: 1, Role: core.Leader}}
		if err := g.Propose([]byte("9876543210")); err != nil {
			t.Fatalf("Propose in a new term: %v; what the lost one left must not count", err)
		}
		want := []string{"apply 1 old", "lead 2 true", "lead 2 false", "lead 7 true"}
		if !slices.Equal(m.calls, want) {
			t.Fatalf("calls %q,\nwant %q", m.calls, want)
		}
	})
}

func TestGroupFailureOnProposersGoroutineIsReportedByWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []error
		cause := errors.New("no room")
		g, _, hand := scriptGroup(t, Config{
			OnGroupFailure: func(_ GroupID, err error) { failures = append(failures, err) },
		})
		hand(opening(1, 1))
		g.core.(*scriptCore).proposeErr = cause
		if err := g.Propose([]byte("x")); err != nil {
			t.Fatalf("Propose: %v, want the failure by OnGroupFailure", err)
		}
		synctest.Wait()
		if len(failures) != 1 || !errors.Is(failures[0], cause) {
			t.Fatalf("failures %v, want one: %v", failures, cause)
		}
		if err := g.Propose([]byte("x")); !errors.Is(err, ErrStopped) || !errors.Is(err, cause) {
			t.Fatalf("Propose: %v, want ErrStopped and the cause", err)
		}
	})
}

func TestGroupProposesInBoundedPieces(t *testing.T) {
	g := &Group{}
	big := make([]byte, maxProposeBytes/2)
	huge := make([]byte, 2*maxProposeBytes)
	g.queue = [][]byte{big, big, big, huge, big}
	var got []int
	for len(g.queue) > 0 {
		got = append(got, len(g.takeProposalsLocked()))
	}
	if want := []int{2, 1, 1, 1}; !slices.Equal(got, want) {
		t.Fatalf("taken in pieces of %v proposals, want %v", got, want)
	}
}
