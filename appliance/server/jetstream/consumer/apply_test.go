package consumer

import (
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// BenchmarkMachineApply applies entries as a busy leader makes them: 256 deliveries and as many
// acknowledgements, with up to 500 messages pending.
func BenchmarkMachineApply(b *testing.B) {
	m := New()
	now := time.Unix(1_700_000_000, 0)
	var batch Batch
	batch.Add(now, Op{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit, AckWait: 30 * time.Second}})
	batch.Add(now, Op{Kind: Reset, Seq: 1})
	if err := m.Apply(batch.Take(), &Effects{}); err != nil {
		b.Fatal(err)
	}
	const size, ring = 256, 1 << 10
	seq := uint64(1)
	var entries [][]byte
	refill := func() {
		entries = entries[:0]
		for range ring {
			now = now.Add(time.Millisecond)
			for i := range uint64(size) {
				batch.Add(now, Op{Kind: Deliver, Seq: seq + i})
			}
			if seq > 2*size {
				for i := range uint64(size) {
					batch.Add(now, Op{Kind: Ack, Seq: seq - 2*size + i})
				}
			}
			seq += size
			entries = append(entries, batch.Take())
		}
	}
	b.ReportAllocs()
	var e Effects
	next := ring
	for b.Loop() {
		if next == ring {
			b.StopTimer()
			refill()
			next = 0
			b.StartTimer()
		}
		e.Settled = e.Settled[:0]
		if err := m.Apply(entries[next], &e); err != nil {
			b.Fatal(err)
		}
		next++
	}
}
