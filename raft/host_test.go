package raft_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// recorder is a machine that notes its calls.
type recorder struct {
	mu      sync.Mutex
	applied []string
	indexes []uint64
	leads   []string
	onApply func(data string) // called without mu
	onLead  func()
}

func (r *recorder) Apply(index uint64, data []byte) {
	r.mu.Lock()
	r.applied = append(r.applied, string(data))
	r.indexes = append(r.indexes, index)
	r.mu.Unlock()
	if r.onApply != nil {
		r.onApply(string(data))
	}
}

func (r *recorder) Lead(term uint64, ready bool) {
	r.mu.Lock()
	r.leads = append(r.leads, fmt.Sprintf("%d:%t after %d", term, ready, len(r.applied)))
	r.mu.Unlock()
	if r.onLead != nil {
		r.onLead()
	}
}

func (r *recorder) data() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.applied)
}

func (r *recorder) leaderships() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.leads)
}

func openHost(t testing.TB, cfg raft.Config) *raft.Host {
	t.Helper()
	cfg.Node = 1
	h, err := raft.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func startGroup(t testing.TB, h *raft.Host, id raft.GroupID, m raft.Machine) *raft.Group {
	t.Helper()
	g, err := h.Start(raft.GroupSpec{ID: id, Voters: []uint64{1}}, m)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func propose(t testing.TB, g *raft.Group, data ...string) {
	t.Helper()
	for _, d := range data {
		if err := g.Propose([]byte(d)); err != nil {
			t.Fatalf("propose %q: %v", d, err)
		}
	}
}

// settle makes writes durable until nothing happens any more. It is for synctest bubbles.
func settle(log *rafttest.Log, id uint64) {
	synctest.Wait()
	for log.Pending(id) > 0 {
		log.Sync(id, 1)
		synctest.Wait()
	}
}

func TestHostAppliesProposalsAfterTheyAreDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log})
		m := &recorder{}
		g := startGroup(t, h, 5, m)
		if err := g.Propose([]byte("x")); !errors.Is(err, raft.ErrNotLeader) {
			t.Fatalf("Propose before the election: %v, want ErrNotLeader", err)
		}
		settle(log, 5)
		if got := m.leaderships(); len(got) != 1 || got[0] != "1:true after 0" {
			t.Fatalf("leaderships %q, want 1:true", got)
		}
		propose(t, g, "a", "b")
		synctest.Wait()
		if got := m.data(); len(got) != 0 {
			t.Fatalf("applied %q before it is durable", got)
		}
		settle(log, 5)
		if got := m.data(); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("applied %q, want a b", got)
		}
	})
}

func TestHostRestartAppliesLogBeforeLeading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log})
		g := startGroup(t, h, 5, &recorder{})
		settle(log, 5)
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprint(i))
			propose(t, g, want[i])
			settle(log, 5)
		}
		h.Close()

		log = log.Crash(nil)
		h = openHost(t, raft.Config{Log: log, MaxApplyBytes: 10})
		m := &recorder{}
		g = startGroup(t, h, 5, m)
		settle(log, 5)
		if got := m.data(); !slices.Equal(got, want) {
			t.Fatalf("a restart applied %d entries, want %d in order", len(got), len(want))
		}
		if got := m.leaderships(); len(got) != 1 || got[0] != "2:true after 300" {
			t.Fatalf("leaderships %q, want term 2 after all entries", got)
		}
		propose(t, g, "next")
		settle(log, 5)
		if got := m.data(); got[len(got)-1] != "next" {
			t.Fatalf("applied %q last, want next", got[len(got)-1])
		}
	})
}

// readCounter counts the entries that are read back.
type readCounter struct {
	*rafttest.Log
	read int
}

func (l *readCounter) Entries(group, lo, hi, maxBytes uint64) ([]raft.Entry, error) {
	entries, err := l.Log.Entries(group, lo, hi, maxBytes)
	l.read += len(entries)
	return entries, err
}

func TestHostReadsEntriesOnlyAtRestartAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &readCounter{Log: rafttest.NewSyncedLog()}
		for restart := range 2 {
			h := openHost(t, raft.Config{Log: log})
			log.read = 0
			g := startGroup(t, h, 5, &recorder{})
			synctest.Wait()
			_, last := log.Bounds(5)
			// The end that is not known to be committed is looked through for membership changes, too.
			if want := int(last) + 256; log.read > want {
				t.Fatalf("start %d read %d entries, the log had %d", restart, log.read, want)
			}
			if restart == 1 && log.read < 1000 {
				t.Fatalf("the restart read %d entries, the log had over 1000", log.read)
			}
			log.read = 0
			for range 1000 {
				propose(t, g, "a")
				synctest.Wait()
			}
			if log.read != 0 {
				t.Fatalf("%d entries were read back to be applied", log.read)
			}
			h.Close()
		}
	})
}

func TestHostStopsGroupFromAnotherGroupsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewSyncedLog()
		h := openHost(t, raft.Config{Log: log, Workers: 1})
		other := &recorder{}
		g2 := startGroup(t, h, 2, other)
		m := &recorder{onApply: func(string) {
			propose(t, g2, "queued") // on the worker that runs this
			propose(t, g2, "queued too")
			g2.Stop()
		}}
		g1 := startGroup(t, h, 1, m)
		synctest.Wait()
		propose(t, g1, "stop the other one")
		synctest.Wait()
		if got := other.data(); len(got) != 0 {
			t.Fatalf("the stopped group applied %q", got)
		}
	})
}

func TestHostRemoveEndsWhenTheLogFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan struct{})
		h := openHost(t, raft.Config{Log: rafttest.NewLog(), LogFailed: failed})
		removed := make(chan error, 1)
		go func() { removed <- h.Remove(raft.GroupSpec{ID: 5}) }()
		synctest.Wait()
		if len(removed) > 0 {
			t.Fatalf("Remove returned (%v) before the removal is durable", <-removed)
		}
		close(failed)
		if err := <-removed; !errors.Is(err, raft.ErrLogFailed) {
			t.Fatalf("Remove after the log failed: %v, want ErrLogFailed", err)
		}
	})
}

func TestHostRemoveDropsLogDurably(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewLog()
		h := openHost(t, raft.Config{Log: log})
		g := startGroup(t, h, 5, &recorder{})
		settle(log, 5)
		propose(t, g, "a")
		removed := make(chan error, 1)
		go func() { removed <- h.Remove(raft.GroupSpec{ID: 5}) }()
		synctest.Wait()
		select {
		case err := <-removed:
			t.Fatalf("Remove returned (%v) before the removal is durable", err)
		default:
		}
		if _, err := h.Start(raft.GroupSpec{ID: 5, Voters: []uint64{1}}, &recorder{}); !errors.Is(err, raft.ErrGroupExists) {
			t.Fatalf("Start during Remove: %v, want ErrGroupExists", err)
		}
		next, err := h.Start(raft.GroupSpec{ID: 5, Log: 1<<44 | 5, Voters: []uint64{1}}, &recorder{}) // need not wait for it
		if err != nil {
			t.Fatalf("Start of a replica with another log during Remove: %v", err)
		}
		next.Stop()
		if err := h.Remove(raft.GroupSpec{ID: 5}); err == nil || errors.Is(err, raft.ErrStopped) {
			t.Fatalf("second Remove: %v", err)
		}
		log.SyncAll()
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		if _, last := log.Crash(nil).Bounds(5); last != 0 {
			t.Fatalf("the log ends at %d after Remove", last)
		}
		if err := g.Propose([]byte("b")); !errors.Is(err, raft.ErrStopped) {
			t.Fatalf("Propose after Remove: %v, want ErrStopped", err)
		}

		go func() { removed <- h.Remove(raft.GroupSpec{ID: 6}) }() // of a group that does not run; never durable
		synctest.Wait()
		h.Close()
		if err := <-removed; !errors.Is(err, raft.ErrStopped) {
			t.Fatalf("Remove when the host is closed: %v, want ErrStopped", err)
		}
	})
}

func TestHostQuarantinesFailedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("bad sector")
		var failures []string
		h := openHost(t, raft.Config{
			Log: rafttest.NewSyncedLog(),
			OnGroupFailure: func(id raft.GroupID, err error) {
				failures = append(failures, fmt.Sprint(id, " ", err))
			},
		})
		m, healthy := &recorder{onApply: func(string) { panic(cause) }}, &recorder{}
		g := startGroup(t, h, 1, m)
		g2 := startGroup(t, h, 2, healthy)
		synctest.Wait()
		propose(t, g, "a")
		synctest.Wait()
		if want := []string{"1 raft: group 1: panic: bad sector"}; !slices.Equal(failures, want) {
			t.Fatalf("failures %q, want %q", failures, want)
		}
		err := g.Propose([]byte("b"))
		if !errors.Is(err, raft.ErrStopped) || !errors.Is(err, cause) {
			t.Fatalf("Propose to the failed group: %v, want ErrStopped and the cause", err)
		}
		propose(t, g2, "still here")
		synctest.Wait()
		if got := healthy.data(); !slices.Equal(got, []string{"still here"}) {
			t.Fatalf("the other group applied %q", got)
		}
		g.Stop() // must not hang
	})
}

func TestHostQuarantinesGroupWithUnreadableLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewSyncedLog()
		h := openHost(t, raft.Config{Log: log})
		g := startGroup(t, h, 1, &recorder{})
		synctest.Wait()
		for range 300 { // the stored commit index is behind, but not by so many
			propose(t, g, "a")
			synctest.Wait()
		}
		h.Close()
		log = log.Crash(func(_ uint64, n int) int { return n })
		log.FailReadsBelow(1, 100, errors.New("bad sector")) // what is looked at by Start is good
		var failures []error
		h = openHost(t, raft.Config{Log: log, OnGroupFailure: func(_ raft.GroupID, err error) {
			failures = append(failures, err)
		}})
		m := &recorder{}
		startGroup(t, h, 1, m)
		synctest.Wait()
		if len(failures) != 1 || !strings.Contains(failures[0].Error(), "group 1") ||
			!strings.Contains(failures[0].Error(), "bad sector") {
			t.Fatalf("failures %v, want one with group and cause", failures)
		}
		if len(m.leaderships()) != 0 {
			t.Fatalf("a group with an unreadable log leads: %q", m.leaderships())
		}
	})
}

func TestHostRefusesEntriesItCannotApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := rafttest.NewSyncedLog()
		log.Append(raft.Write{Group: 1, State: &raft.HardState{Term: 1, Vote: 1, Commit: 1},
			Entries: []raft.Entry{{Index: 1, Term: 1, Type: 7, Data: []byte("x")}}})
		var failures []error
		h := openHost(t, raft.Config{Log: log, OnGroupFailure: func(_ raft.GroupID, err error) {
			failures = append(failures, err)
		}})
		startGroup(t, h, 1, &recorder{})
		synctest.Wait()
		if len(failures) != 1 || !strings.Contains(failures[0].Error(), "entry 1 of type 7") {
			t.Fatalf("failures %v, want one that names entry and type", failures)
		}
	})
}

func TestHostChecksStart(t *testing.T) {
	log := rafttest.NewSyncedLog()
	log.Append(raft.Write{Group: 9, State: &raft.HardState{Term: 1, Vote: 1, Commit: 3}})
	h := openHost(t, raft.Config{Log: log})
	for _, test := range []struct {
		id     raft.GroupID
		voters []uint64
		m      raft.Machine
		want   string
	}{
		{1, nil, &recorder{}, "voters []"},
		{1, []uint64{2}, &recorder{}, "voters [2]"},
		{1, []uint64{1, 2, 3}, &recorder{}, "without a transport"},
		{1, []uint64{1}, nil, "no machine"},
		{9, []uint64{1}, &recorder{}, "stored commit index 3 is beyond the log's last index 0"},
		{9, []uint64{1}, &recorder{}, "stored commit index 3"}, // it did not stay registered
	} {
		if _, err := h.Start(raft.GroupSpec{ID: test.id, Voters: test.voters}, test.m); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("start group %d of %v: %v, want %q", test.id, test.voters, err, test.want)
		}
	}
	startGroup(t, h, 1, &recorder{})
	if _, err := h.Start(raft.GroupSpec{ID: 1, Voters: []uint64{1}}, &recorder{}); !errors.Is(err, raft.ErrGroupExists) {
		t.Errorf("second start: %v, want ErrGroupExists", err)
	}
	h.Close()
	if _, err := h.Start(raft.GroupSpec{ID: 2, Voters: []uint64{1}}, &recorder{}); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("start after Close: %v, want ErrStopped", err)
	}
	if err := h.Remove(raft.GroupSpec{ID: 1}); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("remove after Close: %v, want ErrStopped", err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestHostChecksConfig(t *testing.T) {
	log := rafttest.NewLog()
	for want, cfg := range map[string]raft.Config{
		"Node is 0":                   {Log: log},
		"Log is nil":                  {Node: 1},
		"Workers is negative":         {Node: 1, Log: log, Workers: -1},
		"MaxPendingBytes is negative": {Node: 1, Log: log, MaxPendingBytes: -1},
		"MaxApplyBytes is negative":   {Node: 1, Log: log, MaxApplyBytes: -1},
	} {
		if _, err := raft.Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open: %v, want %q", err, want)
		}
	}
}

// An idle group is memory and nothing else.
func TestHostIdleGroupsCostNothing(t *testing.T) {
	const groups = 5000
	h := openHost(t, raft.Config{Log: noLog{}})
	m := newCountMachine(1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	for id := range groups {
		startGroup(t, h, raft.GroupID(id+1), m)
		<-m.ready
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines with %d groups, %d before", got, groups, goroutines)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perGroup := int64(after.HeapAlloc-before.HeapAlloc) / groups
	t.Logf("%d bytes per idle group", perGroup)
	if perGroup > 4096 {
		t.Errorf("%d bytes per idle group, want at most 4096", perGroup)
	}
}
