package raft_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// groupCommitLog makes writes durable on a goroutine of its own, all that there are at a time.
type groupCommitLog struct {
	*rafttest.Log
	wake chan struct{}
}

func newGroupCommitLog(wg *sync.WaitGroup) *groupCommitLog {
	l := &groupCommitLog{rafttest.NewLog(), make(chan struct{}, 1)}
	wg.Go(func() {
		for range l.wake {
			l.SyncAll()
		}
	})
	return l
}

func (l *groupCommitLog) Append(w raft.Write) {
	l.Log.Append(w)
	l.signal()
}

func (l *groupCommitLog) Drop(group uint64, done func()) {
	l.Log.Drop(group, done)
	l.signal()
}

func (l *groupCommitLog) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func TestHostWithManyProposers(t *testing.T) {
	const groups, proposers, each = 6, 4, 400
	var wg sync.WaitGroup
	log := newGroupCommitLog(&wg)
	h := openHost(t, raft.Config{Log: log, MaxPendingBytes: 1 << 10})
	var applied sync.WaitGroup
	applied.Add(groups * proposers * each)
	onApply := func(data string) {
		if data[0] != 'x' {
			applied.Done()
		}
	}
	var ms [groups]*recorder
	var gs [groups]*raft.Group
	for i := range groups {
		ready := make(chan struct{})
		ms[i] = &recorder{onApply: onApply, onLead: func() { close(ready) }}
		gs[i] = startGroup(t, h, raft.GroupID(i+1), ms[i])
		<-ready
	}
	var proposing sync.WaitGroup
	for p := range proposers {
		proposing.Go(func() {
			for i := range each {
				for _, g := range gs {
					data := fmt.Appendf(nil, "%d %d", p, i)
					err := g.Propose(data)
					for errors.Is(err, raft.ErrBusy) {
						runtime.Gosched()
						err = g.Propose(data)
					}
					if err != nil {
						t.Errorf("propose: %v", err)
						applied.Done()
					}
				}
			}
		})
	}
	proposing.Wait()
	applied.Wait()
	for i, m := range ms {
		var next [proposers]int
		for _, d := range m.data() {
			var p, n int
			if _, err := fmt.Sscan(d, &p, &n); err != nil || n != next[p] {
				t.Fatalf("group %d: %q is applied, want number %d of this proposer", i+1, d, next[p])
			}
			next[p]++
		}
	}

	// Close in the middle of proposals, completions and a removal.
	proposing.Go(func() {
		if err := h.Remove(raft.GroupSpec{ID: 1}); err != nil && !errors.Is(err, raft.ErrStopped) {
			t.Errorf("remove: %v", err)
		}
	})
	for range proposers {
		proposing.Go(func() {
			for !errors.Is(gs[1].Propose([]byte(strings.Repeat("x", 100))), raft.ErrStopped) {
				for _, g := range gs {
					_ = g.Propose([]byte("x"))
				}
			}
		})
	}
	h.Close()
	var after [groups]int
	for i, m := range ms {
		after[i] = len(m.data())
	}
	proposing.Wait()
	close(log.wake)
	wg.Wait()
	log.SyncAll()
	for i, m := range ms {
		if got := len(m.data()); got != after[i] {
			t.Errorf("group %d applied %d entries after Close", i+1, got-after[i])
		}
	}
}
