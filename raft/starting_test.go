package raft_test

import (
	"testing"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// askedLog calls a function whenever it is asked for a hard state, which is while a group starts.
type askedLog struct {
	*rafttest.Log
	asked func()
}

func (l askedLog) State(group uint64) (raft.HardState, bool) {
	l.asked()
	return l.Log.State(group)
}

// Other nodes may be faster: their first messages arrive while a group is being started.
func TestGroupTakesMessagesWhileItStarts(t *testing.T) {
	c := newCluster(t, 2, nil)
	first, second := c.nodes[1], c.nodes[2]
	c.net.Detach(2)
	second.host.Close()
	spec := raft.GroupSpec{ID: 7, Voters: []uint64{1, 2}}
	var h *raft.Host
	arrived := 0
	c.tune = func(cfg *raft.Config) {
		if cfg.Node == 2 {
			cfg.Log = askedLog{second.log, func() {
				if h == nil {
					return
				}
				for range 100 { // until the first node asks for a vote
					first.host.Tick()
					first.host.Run()
					arrived += c.net.Deliver(1 << 20)
				}
				h.Run()
			}}
		}
	}
	c.start(second)
	h = second.host
	c.startGroup(first, spec)
	g := c.startGroup(second, spec)
	h = nil
	if arrived == 0 {
		t.Fatal("nothing arrived while the group was being started")
	}
	c.propose(7, "a")
	if err := second.failures; len(err) > 0 {
		t.Errorf("failures %v", err)
	}
	if lead, _ := g.Leader(); lead == 0 {
		t.Error("no leader")
	}
}
