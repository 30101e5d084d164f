package core_test

import (
	"fmt"
	"testing"

	"millrace/raft/core"
)

// benchReplica does what a Ready asks for without storing or checking anything.
type benchReplica struct {
	core core.Core
	log  *benchLog
	rd   core.Ready
}

// benchLog stores nothing but the bounds: all reads come from memory.
type benchLog struct{ last, term uint64 }

func (l *benchLog) State(uint64) (core.HardState, bool)       { return core.HardState{}, false }
func (l *benchLog) Bounds(uint64) (first, last uint64)        { return 1, l.last }
func (l *benchLog) Term(_, _ uint64) (uint64, error)          { return l.term, nil }
func (l *benchLog) Snapshot(uint64) (core.SnapshotMeta, bool) { return core.SnapshotMeta{}, false }
func (l *benchLog) Entries(_, lo, hi, _ uint64) ([]core.Entry, error) {
	return nil, fmt.Errorf("entries [%d, %d) are read back", lo, hi)
}

// BenchmarkCore measures the CPU of three replicas together for one entry, from Propose until all have
// applied it, in proposals of some entries of 128 bytes. Messages are not encoded, disks are at once.
func BenchmarkCore(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) { benchCore(b, batch) })
	}
}

func benchCore(b *testing.B, batch int) {
	var replicas [4]*benchReplica
	for id := uint64(1); id <= 3; id++ {
		log := &benchLog{}
		c, err := core.New(core.Config{Group: group, Replica: id, Voters: []uint64{1, 2, 3}, Log: log,
			MaxApplyBytes: 1 << 20, ElectionTicks: 10, HeartbeatTicks: 2, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		replicas[id] = &benchReplica{core: c, log: log}
	}
	applied := 0
	run := func() {
		for again := true; again; {
			again = false
			for _, r := range replicas[1:] {
				for r.core.Ready(&r.rd) {
					again = true
					for i := range r.rd.Messages {
						m := &r.rd.Messages[i]
						if err := replicas[m.To].core.Step(m); err != nil {
							b.Fatal(err)
						}
					}
					if !r.rd.Append.Empty() {
						if n := len(r.rd.Append.Entries); n > 0 {
							r.log.last, r.log.term = r.rd.Append.Entries[n-1].Index, r.rd.Append.Entries[n-1].Term
						}
						r.core.Persisted(1)
					}
					if n := len(r.rd.Committed); n > 0 {
						applied += n
						r.core.Applied()
					}
				}
			}
		}
	}
	if err := replicas[1].core.Campaign(); err != nil {
		b.Fatal(err)
	}
	run()
	data := make([]byte, 128)
	applied = 0
	b.ReportAllocs()
	for b.Loop() {
		proposal := make([][]byte, batch)
		for i := range proposal {
			proposal[i] = data
		}
		if err := replicas[1].core.Propose(proposal); err != nil {
			b.Fatal(err)
		}
		run()
	}
	for range 3 { // a commit index may still be on its way
		for _, r := range replicas[1:] {
			r.core.Tick()
		}
		run()
	}
	if want := 3 * batch * b.N; applied != want {
		b.Fatalf("%d entries were applied, want %d", applied, want)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/entry")
}
