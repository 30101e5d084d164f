package raft_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// A proposal to an idle group is in the store when Propose returns.
func TestGroupProposesAtOnceWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log})
		g := startGroup(t, h, 5, &recorder{})
		settle(log, 5)
		propose(t, g, "a")
		if got := log.Pending(5); got != 1 {
			t.Fatalf("%d writes when Propose returned, want 1", got)
		}
	})
}

func TestGroupPutsQueuedProposalsIntoOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log, Workers: 1})
		block := make(chan struct{})
		m := &recorder{onApply: func(data string) {
			if data == "first" {
				<-block
			}
		}}
		g := startGroup(t, h, 5, m)
		settle(log, 5)
		propose(t, g, "first")
		log.Sync(5, 1)
		synctest.Wait() // the worker is in Apply
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
		}
		propose(t, g, want...)
		close(block)
		synctest.Wait()
		if got := log.Pending(5); got != 1 {
			t.Fatalf("%d proposals made %d writes, want 1", len(want), got)
		}
		settle(log, 5)
		if got := m.data()[1:]; !slices.Equal(got, want) {
			t.Fatalf("applied %q, want %q", got, want)
		}
	})
}

func TestGroupProposesFromItsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewSyncedLog()
		h := openHost(t, raft.Config{Log: log})
		var g *raft.Group
		m := &recorder{}
		m.onLead = func() { propose(t, g, "from Lead") }
		m.onApply = func(data string) {
			if data == "from Lead" {
				propose(t, g, "from Apply")
			}
		}
		started := make(chan struct{})
		go func() {
			g = startGroup(t, h, 5, &gate{m, started})
			close(started)
		}()
		synctest.Wait()
		if got := m.data(); !slices.Equal(got, []string{"from Lead", "from Apply"}) {
			t.Fatalf("applied %q", got)
		}
	})
}

// gate delays a machine's first call until the test knows the group.
type gate struct {
	raft.Machine
	open chan struct{}
}

func (g *gate) Lead(term uint64, ready bool) {
	<-g.open
	g.Machine.Lead(term, ready)
}

func TestGroupBoundsPendingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log, MaxPendingBytes: 100})
		g := startGroup(t, h, 5, &recorder{})
		settle(log, 5)
		propose(t, g, strings.Repeat("a", 60), strings.Repeat("b", 40))
		if err := g.Propose([]byte("c")); !errors.Is(err, raft.ErrBusy) {
			t.Fatalf("proposal over the bound: %v, want ErrBusy", err)
		}
		synctest.Wait()
		log.Sync(5, 1)
		synctest.Wait()
		propose(t, g, strings.Repeat("c", 60)) // the room that the first one left
		if err := g.Propose([]byte("d")); !errors.Is(err, raft.ErrBusy) {
			t.Fatalf("proposal over the bound: %v, want ErrBusy", err)
		}
		settle(log, 5)
		propose(t, g, strings.Repeat("d", 100))
		if err := g.Propose(make([]byte, 101)); err == nil || errors.Is(err, raft.ErrBusy) ||
			!strings.Contains(err.Error(), "101 bytes exceed the bound of 100") {
			t.Fatalf("proposal that never fits: %v", err)
		}
		if err := g.Propose(nil); err == nil || !strings.Contains(err.Error(), "no data") {
			t.Fatalf("empty proposal: %v", err)
		}
	})
}

func TestGroupAsksForAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("disk is full")
		log := rafttest.NewSyncedLog()
		h := openHost(t, raft.Config{Log: log, Admit: func(n int) error {
			if n > 3 {
				return full
			}
			return nil
		}, AdmitControl: func(n int) error {
			if n > 5 {
				return full
			}
			return nil
		}})
		m := &recorder{}
		g := startGroup(t, h, 5, m)
		synctest.Wait()
		propose(t, g, "abc")
		if err := g.ProposeControl([]byte("abcdef")); !errors.Is(err, full) {
			t.Fatalf("control proposal that is not admitted: %v, want %v", err, full)
		}
		if err := g.ProposeControl([]byte("abcde")); err != nil {
			t.Fatalf("control proposal that is admitted: %v", err)
		}
		if err := g.Propose([]byte("abcd")); !errors.Is(err, full) {
			t.Fatalf("proposal that is not admitted: %v, want %v", err, full)
		}
		synctest.Wait()
		if got := m.data(); !slices.Equal(got, []string{"abc", "abcde"}) {
			t.Fatalf("applied %q, want abc and abcde", got)
		}
	})
}

func TestGroupStopWaitsForItsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log, Workers: 1})
		block := make(chan struct{})
		m := &recorder{onApply: func(string) { <-block }}
		g := startGroup(t, h, 5, m)
		settle(log, 5)
		propose(t, g, "a", "b", "c")
		synctest.Wait()
		log.SyncAll()
		synctest.Wait() // the worker is in Apply of a

		stopped := make(chan struct{})
		go func() {
			g.Stop()
			close(stopped)
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Fatal("Stop returned while the machine is called")
		default:
		}
		close(block)
		<-stopped
		got := m.data()
		if !slices.Equal(got, []string{"a"}) {
			t.Fatalf("applied %q, want a only: Stop was called during it", got)
		}
		settle(log, 5)
		if got := m.data(); len(got) != 1 {
			t.Fatalf("applied %q after Stop returned", got)
		}
		if err := g.Propose([]byte("d")); !errors.Is(err, raft.ErrStopped) {
			t.Fatalf("Propose after Stop: %v, want ErrStopped", err)
		}

		m = &recorder{}
		startGroup(t, h, 5, m)
		settle(log, 5)
		if got := m.data(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("started anew it applied %q, want a b c", got)
		}
	})
}
