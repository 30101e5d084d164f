package raft_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// liveMachine counts what it applies.
type liveMachine struct {
	mu      sync.Mutex
	applied []string
	onLead  func(ready bool)
	onApply func()
}

func (m *liveMachine) Apply(_ uint64, data []byte) {
	m.mu.Lock()
	m.applied = append(m.applied, string(data))
	m.mu.Unlock()
	if m.onApply != nil {
		m.onApply()
	}
}

func (m *liveMachine) Lead(_ uint64, ready bool) {
	if m.onLead != nil {
		m.onLead(ready)
	}
}

func (m *liveMachine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.applied)
}

// closeHosts ends hosts, and then the network between them.
func closeHosts(net *rafttest.Mesh, hosts []*raft.Host) {
	for _, h := range hosts[1:] {
		h.Close()
	}
	net.Close()
}

// ended reports whether the last entry was applied.
func (m *liveMachine) ended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.applied) > 0 && m.applied[len(m.applied)-1] == "end"
}

// Three hosts with all their goroutines: proposals, reads, changes of leaders, and stops at once.
func TestHostsUnderLoad(t *testing.T) {
	const groups, each = 8, 300
	net := rafttest.NewMesh()
	hosts := make([]*raft.Host, 4)
	var stores sync.WaitGroup
	var logs []*groupCommitLog
	for node := range uint64(3) {
		log := newGroupCommitLog(&stores)
		logs = append(logs, log)
		h, err := raft.Open(raft.Config{
			Node: node + 1, Log: log, Transport: net.Endpoint(node + 1), TickInterval: 10 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		hosts[node+1] = h
		net.Attach(node+1, h)
	}
	net.Start()
	var all [4][groups]*raft.Group
	var machines [4][groups]*liveMachine
	for i := range groups {
		for node := 1; node <= 3; node++ {
			machines[node][i] = &liveMachine{}
			g, err := hosts[node].Start(raft.GroupSpec{ID: raft.GroupID(i + 1), Voters: []uint64{1, 2, 3}}, machines[node][i])
			if err != nil {
				t.Fatal(err)
			}
			all[node][i] = g
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	var work sync.WaitGroup
	for i := range groups {
		work.Go(func() {
			for n := 0; n < each; {
				if time.Now().After(deadline) {
					t.Errorf("group %d: %d proposals of %d until the deadline", i+1, n, each)
					return
				}
				accepted := false
				for node := 1; node <= 3; node++ {
					err := all[node][i].Propose(fmt.Appendf(nil, "%d", n))
					if err == nil {
						accepted = true
						break
					}
					if !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrBusy) {
						t.Error(err)
						return
					}
				}
				if accepted {
					n++
				} else {
					runtime.Gosched()
				}
				if n%100 == 50 {
					for node := 1; node <= 3; node++ {
						all[node][i].TransferLeader(uint64(n/100%3 + 1))
						all[node][i].LeaseRead(func(error) {})
						all[node][i].ReadIndex(func(error) {})
						if _, err := all[node][i].Status(t.Context()); err != nil {
							t.Error(err)
						}
					}
					n++
				}
			}
		})
	}
	work.Wait()
	for i := range groups {
		// A last entry shows that all before it have arrived, or were lost with a leader.
		next := time.Now()
		for time.Now().Before(deadline) {
			if !time.Now().Before(next) {
				next = time.Now().Add(time.Second)
				for node := 1; node <= 3; node++ {
					if all[node][i].Propose([]byte("end")) == nil {
						break
					}
				}
			}
			n := machines[1][i].count()
			if machines[1][i].ended() && machines[2][i].count() == n && machines[3][i].count() == n {
				break
			}
			runtime.Gosched()
		}
	}
	closeHosts(net, hosts)
	for i := range groups {
		shortest := min(machines[1][i].count(), machines[2][i].count(), machines[3][i].count())
		for node := 2; node <= 3; node++ {
			if !slices.Equal(machines[1][i].applied[:shortest], machines[node][i].applied[:shortest]) {
				t.Errorf("group %d: nodes 1 and %d applied different entries", i+1, node)
			}
		}
		if shortest < 3 || !machines[1][i].ended() {
			t.Errorf("group %d: %d entries were applied", i+1, shortest)
		}
	}
	for _, l := range logs {
		close(l.wake)
	}
	stores.Wait()
}

// Ten thousand groups of three replicas that sleep.
func BenchmarkIdleGroups(b *testing.B) {
	const groups = 10000
	net := rafttest.NewMesh()
	hosts := make([]*raft.Host, 4)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	logs := make([]*rafttest.Log, 4)
	for node := range uint64(3) {
		logs[node+1] = rafttest.NewSyncedLog()
		h, err := raft.Open(raft.Config{Node: node + 1, Log: logs[node+1], Transport: net.Endpoint(node + 1)})
		if err != nil {
			b.Fatal(err)
		}
		hosts[node+1] = h
		net.Attach(node+1, h)
	}
	net.Start()
	defer closeHosts(net, hosts)
	var led sync.WaitGroup
	led.Add(groups)
	for i := range groups {
		var once sync.Once
		for node := 1; node <= 3; node++ {
			m := &liveMachine{onLead: func(ready bool) {
				if ready {
					once.Do(led.Done)
				}
			}}
			if _, err := hosts[node].Start(raft.GroupSpec{ID: raft.GroupID(i + 1), Voters: []uint64{1, 2, 3}}, m); err != nil {
				b.Fatal(err)
			}
		}
	}
	led.Wait()
	// Until they sleep: no CPU is used any more.
	for quiet := 0; quiet < 2; {
		from := cpuTime(b)
		<-time.After(time.Second)
		if used := cpuTime(b) - from; used < 60*time.Millisecond {
			quiet++
		} else {
			quiet = 0
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	cpu := cpuTime(b)
	const watch = 5 * time.Second
	b.ResetTimer()
	for range b.N {
		<-time.After(watch)
	}
	b.StopTimer()
	used := (cpuTime(b) - cpu) / time.Duration(b.N)
	b.ReportMetric(100*used.Seconds()/watch.Seconds()/3, "%core/node")
	b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/groups/3, "bytes/replica")
}
