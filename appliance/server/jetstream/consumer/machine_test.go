package consumer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// randomOp returns an operation that fits m.
func randomOp(rng *rand.Rand, m *Machine, policy api.AckPolicy) Op {
	last := m.Delivered().Stream
	held := func() uint64 {
		if last == 0 {
			return 1
		}
		return max(last-min(last-1, rng.Uint64N(40)), 1)
	}
	switch rng.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		return Op{Kind: Deliver, Seq: last + 1 + rng.Uint64N(3), N: 1 + rng.Uint64N(4)}
	case 6, 7, 8, 9, 10:
		return Op{Kind: Ack, Seq: held(), N: 1 + rng.Uint64N(3)}
	case 11:
		return Op{Kind: AckAll, Seq: held()}
	case 12:
		return Op{Kind: Nak, Seq: held(), N: 1 + rng.Uint64N(3), Delay: time.Duration(rng.IntN(3)) * time.Second}
	case 13:
		return Op{Kind: Term, Seq: held()}
	case 14:
		return Op{Kind: Progress, Seq: held(), N: 2}
	case 15:
		return Op{Kind: Remove, Seq: held(), N: 1 + rng.Uint64N(2)}
	case 16:
		if d, ok := m.Due(); ok {
			return Op{Kind: Redeliver, Seq: d.Seq}
		}
		return Op{Kind: Skip, Seq: last + rng.Uint64N(2)}
	case 17:
		if rng.IntN(10) == 0 {
			return Op{Kind: Purge, Seq: held()}
		}
		return Op{Kind: Exceed, Seq: held()}
	case 18:
		if rng.IntN(20) == 0 {
			return Op{Kind: Reset, Seq: held(), N: last + rng.Uint64N(9)}
		}
		fallthrough
	default:
		return Op{Kind: SetConfig, Config: &Config{AckPolicy: policy, AckWait: time.Duration(1+rng.IntN(5)) * time.Second,
			MaxDeliver: rng.IntN(4), MaxAckPending: rng.IntN(50)}}
	}
}

// TestMachineReplayGivesEqualState decides a random log, then applies its entries to a second machine
// and, from a state entry in the middle, to a third.
func TestMachineReplayGivesEqualState(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		policy := api.AckPolicy(rng.IntN(3))
		m, batch := New(), &Batch{}
		now := time.Unix(100, 0)
		var entries [][]byte
		var settled []uint64
		state, stateAt := []byte(nil), 0
		ops := []Op{{Kind: SetConfig, Config: &Config{AckPolicy: policy, AckWait: time.Second}}, {Kind: Reset, Seq: 1}}
		for i := range 400 {
			var op Op
			if op = randomOp(rng, m, policy); i < len(ops) {
				op = ops[i]
			}
			var e Effects
			if err := m.Step(now, op, &e); err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, op, err)
			}
			batch.Add(now, op)
			settled = append(settled, e.Settled...)
			if rng.IntN(3) == 0 {
				now = now.Add(time.Duration(rng.Int64N(int64(time.Second))))
			}
			for _, x := range m.Expire(now, nil) {
				op := Op{Kind: Exceed, Seq: x.Seq}
				if err := m.Step(now, op, &e); err != nil {
					t.Fatal(err)
				}
				batch.Add(now, op)
			}
			if err := m.check(); err != nil {
				t.Fatalf("seed %d: after %+v: %v", seed, op, err)
			}
			if rng.IntN(10) == 0 && batch.Len() > 0 {
				entries = append(entries, batch.Take())
				if i > 200 && state == nil {
					state, stateAt = stateEntry(m), len(entries)
				}
			}
		}
		batch.Add(now, Op{Kind: Skip})
		entries = append(entries, batch.Take())
		if err := m.Step(now, Op{Kind: Skip}, &Effects{}); err != nil {
			t.Fatal(err)
		}
		want := m.Snapshot()

		replica := New()
		var replayed []uint64
		for _, entry := range entries {
			var e Effects
			if err := replica.Apply(entry, &e); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			replayed = append(replayed, e.Settled...)
		}
		if err := replica.check(); err != nil {
			t.Fatalf("seed %d: replica: %v", seed, err)
		}
		if !bytes.Equal(replica.Snapshot(), want) {
			t.Fatalf("seed %d: replay gives another state", seed)
		}
		if len(replayed) != len(settled) {
			t.Fatalf("seed %d: replay settles %d messages, the leader settled %d", seed, len(replayed), len(settled))
		}
		clone := replica.Clone()
		if err := clone.Step(now.Add(time.Hour), Op{Kind: Purge, Seq: 1 << 30}, &Effects{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(replica.Snapshot(), want) {
			t.Fatalf("seed %d: a change of a clone changes its origin", seed)
		}
		late := New()
		for _, entry := range append([][]byte{state}, entries[stateAt:]...) {
			if err := late.Apply(entry, &Effects{}); err != nil {
				t.Fatalf("seed %d: from state entry: %v", seed, err)
			}
		}
		if !bytes.Equal(late.Snapshot(), want) {
			t.Fatalf("seed %d: replay from a state entry gives another state", seed)
		}
	}
}

func TestMachineRefusesMalformedEntries(t *testing.T) {
	var b Batch
	b.Add(time.Unix(1, 0), Op{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit}})
	b.Add(time.Unix(1, 0), Op{Kind: Reset, Seq: 1})
	b.Add(time.Unix(1, 0), Op{Kind: Deliver, Seq: 1, N: 5})
	entry := b.Take()
	if err := New().Apply(entry, &Effects{}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":     {},
		"version":   append([]byte{9}, entry[1:]...),
		"truncated": entry[:len(entry)-1],
		"operation": append(bytes.Clone(entry), 0x3f, 0x02),
		"run":       {entryVersion, byte(Ack | runFlag), 2, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"state":     {entryVersion, byte(opState), 200, 1},
	} {
		if err := New().Apply(data, &Effects{}); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
	m := New()
	if err := m.Apply(entry, &Effects{}); err != nil {
		t.Fatal(err)
	}
	snapshot := m.Snapshot()
	for n := range len(snapshot) {
		if err := New().Restore(snapshot[:n]); !errors.Is(err, ErrFormat) {
			t.Errorf("snapshot cut at %d: got %v, want ErrFormat", n, err)
		}
	}
}

// A run of deliveries and acknowledgements must cost a few bytes of log.
func TestBatchMergesRuns(t *testing.T) {
	var b Batch
	now := time.Unix(1700000000, 0)
	for seq := uint64(1); seq <= 10000; seq++ {
		b.Add(now, Op{Kind: Deliver, Seq: seq})
	}
	for seq := uint64(1); seq <= 10000; seq++ {
		b.Add(now, Op{Kind: Ack, Seq: seq})
	}
	if n := len(b.Take()); n > 32 {
		t.Errorf("entry of 20000 operations has %d bytes", n)
	}
}

// One message that stays pending must not keep the acknowledged ones behind it in memory.
// Messages that leave the stream count as acknowledged: they are what the floor moved for.
func TestMachineBooksRemovalsAsAcknowledged(t *testing.T) {
	for _, kind := range []Kind{Remove, Purge} {
		m := New()
		var e Effects
		start := time.Unix(100, 0)
		for i, op := range []Op{
			{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit, AckWait: time.Minute}},
			{Kind: Reset, Seq: 1}, {Kind: Deliver, Seq: 1, N: 2}, {Kind: kind, Seq: 2},
		} {
			if err := m.Step(start.Add(time.Duration(i)*time.Second), op, &e); err != nil {
				t.Fatal(err)
			}
		}
		if want := start.Add(3 * time.Second); !m.LastAcked().Equal(want) {
			t.Errorf("kind %d: last acknowledged at %v, want %v", kind, m.LastAcked(), want)
		}
	}
}

func TestMachineForgetsAcknowledged(t *testing.T) {
	m := New()
	now := time.Unix(1, 0)
	var e Effects
	step := func(op Op) {
		if err := m.Step(now, op, &e); err != nil {
			t.Fatal(err)
		}
	}
	step(Op{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit, AckWait: time.Hour}})
	step(Op{Kind: Reset, Seq: 1})
	step(Op{Kind: Deliver, Seq: 1})
	m.NextDeadline() // timers are kept from now on
	for seq := uint64(2); seq < 100_000; seq++ {
		e.Settled = e.Settled[:0]
		step(Op{Kind: Deliver, Seq: seq})
		step(Op{Kind: Ack, Seq: seq})
	}
	if n := len(m.pending.list); n > 2*compactSlack {
		t.Errorf("%d entries kept for 1 pending message", n)
	}
	if n := len(m.timers); n > 2*compactSlack {
		t.Errorf("%d timers kept for 1 pending message", n)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

func TestMachineSteadyStateDoesNotAllocate(t *testing.T) {
	m, run := steadyState(t)
	run(10_000)
	if n := testing.AllocsPerRun(100, func() { run(100) }); n > 0 {
		t.Errorf("%v allocations per 100 deliveries and acknowledgements", n)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// stateEntry returns an entry that stands for all entries up to now, as logs had them before groups
// took snapshots of their machines.
func stateEntry(m *Machine) []byte {
	state := m.Snapshot()
	entry := append([]byte{entryVersion, byte(opState)}, binary.AppendUvarint(nil, uint64(len(state)))...)
	return append(entry, state...)
}

// A clone goes on as its origin would, deadlines included.
func TestMachineCloneIsDueAsItsOrigin(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		policy := api.AckPolicy(1 + rng.IntN(2))
		m, now := New(), time.Unix(100, 0)
		ops := []Op{{Kind: SetConfig, Config: &Config{AckPolicy: policy, AckWait: time.Second}}, {Kind: Reset, Seq: 1}}
		for i := range 200 {
			op := randomOp(rng, m, policy)
			if i < len(ops) {
				op = ops[i]
			}
			if err := m.Step(now, op, &Effects{}); err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, op, err)
			}
			now = now.Add(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
			if rng.IntN(4) == 0 { // before the first time the machine keeps no timers
				m.Expire(now, nil)
			}
		}
		c := m.Clone()
		if !bytes.Equal(c.Snapshot(), m.Snapshot()) {
			t.Fatalf("seed %d: a clone has another state", seed)
		}
		late := now.Add(2 * time.Second)
		if n := m.NumDue(); m.cfg.MaxDeliver == 0 {
			m.Expire(late, nil)
			c.Expire(late, nil)
			if c.NumDue() != m.NumDue() || n > c.NumDue() {
				t.Errorf("seed %d: %d messages of the clone are due, %d of its origin", seed, c.NumDue(), m.NumDue())
			}
		}
		if err := c.check(); err != nil {
			t.Fatalf("seed %d: clone: %v", seed, err)
		}
	}
}

func steadyState(tb testing.TB) (*Machine, func(n int)) {
	m := New()
	now := time.Unix(1, 0)
	var e Effects
	step := func(op Op) {
		if err := m.Step(now, op, &e); err != nil {
			tb.Fatal(err)
		}
	}
	step(Op{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit, AckWait: 30 * time.Second}})
	step(Op{Kind: Reset, Seq: 1})
	m.NextDeadline() // a leader's machine keeps timers
	seq := uint64(0)
	return m, func(n int) {
		for range n {
			seq++
			e.Settled = e.Settled[:0]
			step(Op{Kind: Deliver, Seq: seq})
			if seq > 500 {
				step(Op{Kind: Ack, Seq: seq - 500})
			}
		}
	}
}

func BenchmarkMachineDeliverAck(b *testing.B) {
	_, run := steadyState(b)
	b.ReportAllocs()
	for b.Loop() {
		run(1)
	}
}

func FuzzMachineApply(f *testing.F) {
	var b Batch
	now := time.Unix(1700000000, 0)
	b.Add(now, Op{Kind: SetConfig, Config: &Config{AckPolicy: api.AckExplicit, AckWait: time.Second, BackOff: []time.Duration{1, 2}, MaxDeliver: 3}})
	b.Add(now, Op{Kind: Reset, Seq: 5, N: 9})
	b.Add(now, Op{Kind: Deliver, Seq: 5, N: 20})
	b.Add(now.Add(1), Op{Kind: Ack, Seq: 6, N: 3})
	b.Add(now.Add(2), Op{Kind: Nak, Seq: 9, Delay: 5})
	b.Add(now.Add(2), Op{Kind: Redeliver, Seq: 9})
	b.Add(now.Add(2), Op{Kind: Exceed, Seq: 9})
	b.Add(now.Add(3), Op{Kind: Remove, Seq: 11})
	b.Add(now.Add(3), Op{Kind: AckAll, Seq: 12})
	b.Add(now.Add(3), Op{Kind: Progress, Seq: 13})
	b.Add(now.Add(3), Op{Kind: Skip, Seq: 30})
	b.Add(now.Add(3), Op{Kind: Purge, Seq: 14})
	entry := b.Take()
	f.Add(entry)
	m := New()
	if err := m.Apply(entry, &Effects{}); err != nil {
		f.Fatal(err)
	}
	f.Add(stateEntry(m))
	f.Add([]byte{entryVersion})
	f.Add([]byte{entryVersion, byte(Deliver | runFlag), 2, 0xff, 0xff, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := New()
		if err := m.Apply(data, &Effects{}); err != nil {
			return
		}
		if err := m.check(); err != nil {
			t.Fatal(err)
		}
		again := New()
		if err := again.Restore(m.Snapshot()); err != nil {
			t.Fatalf("restore of a snapshot: %v", err)
		}
		if !bytes.Equal(again.Snapshot(), m.Snapshot()) {
			t.Fatal("a restored snapshot gives another one")
		}
	})
}
