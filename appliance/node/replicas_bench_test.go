package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/appliance/node/logstore"
	"millrace/raft"
	"millrace/raft/rafttest"
	"millrace/storage/journal"
	"millrace/storage/storagetest"
	"millrace/storage/vfs"
)

// benchNode is a host over a journal on the disk.
type benchNode struct {
	journal *journal.Log
	host    *raft.Host
	disk    *vfs.Counter
}

func openBenchNode(b *testing.B, node uint64, net *rafttest.Mesh) *benchNode {
	b.Helper()
	n := &benchNode{disk: vfs.NewCounter(vfs.OS{})}
	var err error
	n.journal, err = journal.Open(journal.Config{
		FS: n.disk, Dir: filepath.Join(b.TempDir(), "journal"), Catalog: storagetest.NewCatalog(node),
		OnFatal: func(err error) { b.Error(err) },
	})
	if err != nil {
		b.Fatal(err)
	}
	cfg := raft.Config{Node: node, Log: logstore.Store{Log: n.journal}, LogFailed: n.journal.Failed()}
	if net != nil {
		cfg.Transport = net.Endpoint(node)
	}
	if n.host, err = raft.Open(cfg); err != nil {
		b.Fatal(err)
	}
	if net != nil {
		net.Attach(node, n.host)
	}
	return n
}

// appliedMachine tells of leadership and of what was applied.
type appliedMachine struct {
	lead    func(ready bool)
	applied func()
}

func (m *appliedMachine) Apply(uint64, []byte)      { m.applied() }
func (m *appliedMachine) Lead(_ uint64, ready bool) { m.lead(ready) }

// benchGroups proposes to groups, window proposals at a time in each.
func benchGroups(b *testing.B, nodes, groups, window, size int) {
	var net *rafttest.Mesh
	if nodes > 1 {
		net = rafttest.NewMesh()
	}
	all := make([]*benchNode, nodes)
	var voters []uint64
	for i := range all {
		all[i] = openBenchNode(b, uint64(i+1), net)
		voters = append(voters, uint64(i+1))
	}
	if net != nil {
		net.Start()
		defer net.Close()
	}
	defer func() {
		for _, n := range all {
			if err := errors.Join(n.host.Close(), n.journal.Close()); err != nil {
				b.Error(err)
			}
		}
	}()
	leaders := make([]atomic.Pointer[raft.Group], groups)
	var elections, changed atomic.Int64
	rooms := make([]chan struct{}, groups)
	var led sync.WaitGroup
	led.Add(groups)
	for i := range groups {
		rooms[i] = make(chan struct{}, window)
		var first sync.Once
		var gate sync.WaitGroup
		gate.Add(1)
		for _, n := range all {
			var g *raft.Group
			leads := false
			m := &appliedMachine{applied: func() {
				if leads {
					select {
					case <-rooms[i]:
					default:
					}
				}
			}}
			m.lead = func(ready bool) {
				gate.Wait()
				if leads = ready; !ready { // what was proposed may be lost
					for len(rooms[i]) > 0 {
						<-rooms[i]
					}
					return
				}
				elections.Add(1)
				changed.Store(time.Now().UnixNano())
				leaders[i].Store(g)
				first.Do(led.Done)
			}
			var err error
			if g, err = n.host.Start(raft.GroupSpec{ID: raft.GroupID(i + 1), Voters: voters}, m); err != nil {
				b.Fatal(err)
			}
		}
		gate.Done()
	}
	led.Wait()
	for time.Now().UnixNano()-changed.Load() < int64(time.Second) {
		<-time.After(100 * time.Millisecond)
	}
	data := make([]byte, size)
	var left atomic.Int64
	left.Store(int64(b.N))
	syncs := int64(0)
	for _, n := range all {
		syncs -= n.disk.Stats().Syncs
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	begin := time.Now()
	var work sync.WaitGroup
	for i := range groups {
		work.Go(func() {
			for left.Add(-1) >= 0 {
				rooms[i] <- struct{}{}
				for leaders[i].Load().Propose(data) != nil { // it was replaced
					<-time.After(10 * time.Millisecond)
				}
			}
			for range window { // until all are applied
				rooms[i] <- struct{}{}
			}
		})
	}
	work.Wait()
	took := time.Since(begin).Seconds()
	b.StopTimer()
	for _, n := range all {
		syncs += n.disk.Stats().Syncs
	}
	b.Logf("%d groups had %d elections", groups, elections.Load())
	b.ReportMetric(float64(b.N)/took, "proposals/s")
	b.ReportMetric(float64(syncs)/float64(nodes)/took, "fsyncs/s/node")
}

// BenchmarkGroups runs groups of one and of three replicas, the latter in one process, over journals on
// the disk.
func BenchmarkGroups(b *testing.B) {
	for _, c := range []struct{ nodes, groups, window, size int }{
		{1, 1000, 1, 128},
		{3, 1000, 1, 128},
		{3, 1, 1, 1024},
		{3, 1, 256, 1024},
		{3, 100, 16, 1024},
		{3, 1, 16, 16384},
	} {
		b.Run(fmt.Sprintf("%dreplicas/%dgroups/%dinflight/%dbytes", c.nodes, c.groups, c.window, c.size),
			func(b *testing.B) { benchGroups(b, c.nodes, c.groups, c.window, c.size) })
	}
}
