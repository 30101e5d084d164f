package raft_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"millrace/raft"
)

// noLog is a LogStore that keeps nothing and finds every write durable at once.
type noLog struct{}

func (noLog) State(uint64) (raft.HardState, bool)       { return raft.HardState{}, false }
func (noLog) Bounds(uint64) (first, last uint64)        { return 1, 0 }
func (noLog) Term(_, _ uint64) (uint64, error)          { return 0, errors.New("no entries are kept") }
func (noLog) Snapshot(uint64) (raft.SnapshotMeta, bool) { return raft.SnapshotMeta{}, false }
func (noLog) Append(w raft.Write)                       { w.Done() }
func (noLog) Drop(_ uint64, done func())                { done() }
func (noLog) Entries(_, _, _, _ uint64) ([]raft.Entry, error) {
	return nil, errors.New("no entries are kept")
}

// countMachine tells when it may propose and what was applied.
type countMachine struct {
	ready   chan struct{}
	applied chan struct{}
}

func newCountMachine(window int) *countMachine {
	return &countMachine{ready: make(chan struct{}, 1), applied: make(chan struct{}, window)}
}

func (m *countMachine) Apply(uint64, []byte) { m.applied <- struct{}{} }
func (m *countMachine) Lead(_ uint64, ready bool) {
	if ready {
		m.ready <- struct{}{}
	}
}

func benchPropose(b *testing.B, log raft.LogStore, groups, window int) {
	h, err := raft.Open(raft.Config{Node: 1, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	m := newCountMachine(window)
	var gs []*raft.Group
	for id := range groups {
		g, err := h.Start(raft.GroupSpec{ID: raft.GroupID(id + 1), Voters: []uint64{1}}, m)
		if err != nil {
			b.Fatal(err)
		}
		gs = append(gs, g)
		<-m.ready
	}
	data := make([]byte, 128)
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	inFlight, next := 0, 0
	for range b.N {
		if inFlight == window {
			<-m.applied
			inFlight--
		}
		if err := gs[next].Propose(data); err != nil {
			b.Fatal(err)
		}
		next = (next + 1) % len(gs)
		inFlight++
	}
	for ; inFlight > 0; inFlight-- {
		<-m.applied
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPropose(b *testing.B) {
	for _, c := range []struct {
		name           string
		groups, window int
	}{
		{"1group/1inflight", 1, 1},
		{"1group/4inflight", 1, 4},
		{"1group/256inflight", 1, 256},
		{"1000groups/256inflight", 1000, 256},
		{"1000groups/4096inflight", 1000, 4096},
	} {
		b.Run(c.name, func(b *testing.B) { benchPropose(b, noLog{}, c.groups, c.window) })
	}
}

// appendClock measures the way of a proposal to the store.
type appendClock struct {
	noLog
	at time.Time
}

func (l *appendClock) Append(w raft.Write) {
	l.at = time.Now()
	w.Done()
}

// BenchmarkProposeToAppend is the time from Propose of an idle group to LogStore.Append.
func BenchmarkProposeToAppend(b *testing.B) {
	log := &appendClock{}
	h, err := raft.Open(raft.Config{Node: 1, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	m := newCountMachine(1)
	g, err := h.Start(raft.GroupSpec{ID: 1, Voters: []uint64{1}}, m)
	if err != nil {
		b.Fatal(err)
	}
	<-m.ready
	data := make([]byte, 128)
	var total time.Duration
	for b.Loop() {
		start := time.Now()
		if err := g.Propose(data); err != nil {
			b.Fatal(err)
		}
		<-m.applied
		total += log.at.Sub(start)
	}
	b.ReportMetric(float64(total.Nanoseconds())/1e3/float64(b.N), "to-append-us/op")
}
