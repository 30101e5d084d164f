package stream

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/storage/index"
)

// objects is the object store of a group: what is put stays over a restart. A key stands for one
// block for ever, as it does when equal logs give equal blocks.
type objects struct {
	t      testing.TB
	blocks map[uint64][]byte
	damage bool
}

func newObjects(t testing.TB) *objects {
	return &objects{t: t, blocks: map[uint64][]byte{}}
}

func (o *objects) Put(key uint64, b []byte) {
	if old, ok := o.blocks[key]; ok && !bytes.Equal(old, b) {
		o.t.Errorf("another block under key %d", key)
	}
	o.blocks[key] = b
}

func (o *objects) Get(key uint64) ([]byte, error) {
	b, ok := o.blocks[key]
	if !ok {
		return nil, index.ErrNoBlock
	}
	if o.damage {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
	}
	return b, nil
}

func (o *objects) Delete(keys ...uint64) {
	for _, key := range keys {
		delete(o.blocks, key)
	}
}

func (o *objects) Keys() []uint64 { return slices.Collect(maps.Keys(o.blocks)) }

func written(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestMachineRestartsFromSnapshots runs random entries, stores a snapshot now and then, and restarts from the
// stored one and the entries after it: the state is the same, byte for byte, and no block is missing.
func TestMachineRestartsFromSnapshots(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		store := newObjects(t)
		storage := Storage{Blocks: store, Cache: index.NewCache(1 << 16), Snapshots: true}
		m := NewOn(storage)
		b := &bench{t: t, m: m, now: time.Unix(1_000_000, 0)}
		cfg := api.StreamConfig{Name: "S", MaxMsgSize: -1, AllowRollup: true, Duplicates: time.Minute}
		switch seed % 3 {
		case 0:
			cfg.MaxMsgs = 3000
		case 1:
			cfg.MaxMsgsPer = 2
		}
		if seed%2 == 1 {
			cfg.Retention, cfg.FirstSeq = api.InterestPolicy, 1000*seed
		}
		wanted := func(string) bool { return rnd.IntN(4) > 0 }
		b.apply(EncodeConfig(b.now, cfg))
		b.a = NewAdmission(m, wanted)
		var snapshot []byte
		var after int // entries that it covers
		var held []*State
		for step := range 300 {
			b.now = b.now.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
			switch rnd.IntN(30) {
			case 0:
				b.quick(EncodePurge(b.now, Purge{Filter: fmt.Sprintf("a.%d.>", rnd.IntN(30)), Keep: uint64(rnd.IntN(2))}))
			case 1:
				r := Remove{}
				for range 200 {
					r.Seqs = append(r.Seqs, rnd.Uint64N(b.m.last+1))
				}
				b.quick(EncodeRemove(b.now, r))
			case 2:
				cfg.MaxAge += time.Second
				cfg.Duplicates = time.Duration(rnd.IntN(60)) * time.Second
				b.quick(EncodeConfig(b.now, cfg))
			case 7: // of everything, and mostly ahead of the stream
				if rnd.IntN(4) == 0 {
					b.quick(EncodePurge(b.now, Purge{Seq: b.m.last + uint64(rnd.IntN(100))}))
					b.a.Moved()
				}
			case 3, 4:
				s := b.m.Snapshot()
				snapshot, after = written(t, s), len(b.log)
				held = append(held, s)
				for len(held) > rnd.IntN(3) { // released when it is stored, or later
					held[0].Release()
					held = held[1:]
				}
			case 5:
				s := b.m.Snapshot()
				written(t, s)
				s.Abandon()
			case 6:
				if snapshot == nil || rnd.IntN(3) > 0 {
					break
				}
				held = nil
				want, wantState := dump(b.m), b.m.Snapshot()
				restarted := NewOn(storage)
				if err := restarted.Restore(uint64(after), bytes.NewReader(snapshot)); err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				for i := after; i < len(b.log); i++ {
					if _, err := restarted.Apply(uint64(i+1), b.log[i]); err != nil {
						t.Fatalf("seed %d step %d: %v", seed, step, err)
					}
				}
				if got := dump(restarted); !bytes.Equal(got, want) {
					t.Fatalf("seed %d step %d: %s", seed, step, difference(got, want))
				}
				s := restarted.Snapshot()
				if !bytes.Equal(written(t, s), written(t, wantState)) {
					t.Fatalf("seed %d step %d: snapshots differ", seed, step)
				}
				s.Abandon()
				b.m = restarted
				b.a = NewAdmission(b.m, wanted)
			default:
				for range rnd.IntN(300) {
					var hdr []string
					switch rnd.IntN(100) {
					case 0, 1, 2, 3, 4, 5, 6, 7, 8, 9:
						hdr = []string{HeaderMsgID, fmt.Sprint(rnd.IntN(1000))}
					case 10:
						hdr = []string{HeaderRollup, "sub"}
					case 11:
						if rnd.IntN(50) == 0 {
							hdr = []string{HeaderRollup, "all"}
						}
					}
					b.admit(fmt.Sprintf("a.%d.x", rnd.IntN(500)), "data", hdr...)
				}
				if e := b.a.Take(); e != nil {
					b.quick(e)
					b.a.Applied()
				}
			}
		}
		for i := range 2500 { // so that there is a block at the end
			b.admit(fmt.Sprint("z.", i), "data")
		}
		b.quick(b.a.Take())
		b.a.Applied()
		if err := b.m.check(); err != nil {
			t.Fatal(err)
		}
		for _, s := range held {
			s.Release()
		}
		s := b.m.Snapshot()
		written(t, s)
		s.Release()
		if n := len(s.Objects()); len(store.blocks) != n || n == 0 {
			t.Errorf("seed %d: %d blocks stored, %d in use", seed, len(store.blocks), n)
		}
	}
}

// quick applies without a check of everything.
func (b *bench) quick(entry []byte) Effects {
	b.t.Helper()
	b.log = append(b.log, entry)
	fx, err := b.m.Apply(uint64(len(b.log)), entry)
	if err != nil {
		b.t.Fatal(err)
	}
	return fx
}

// filled returns a bench of messages in entries of 50 on 3 subjects.
func filled(t *testing.T, messages int, storage Storage) *bench {
	t.Helper()
	b := &bench{t: t, m: NewOn(storage), now: time.Unix(1_000_000, 0)}
	b.quick(EncodeConfig(b.now, api.StreamConfig{Name: "S", MaxMsgSize: -1}))
	b.a = NewAdmission(b.m, nil)
	for i := range messages {
		b.now = b.now.Add(time.Second)
		if _, err := b.admit(fmt.Sprintf("a.%d", i%3), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 || i == messages-1 {
			b.quick(b.a.Take())
			b.a.Applied()
		}
	}
	return b
}

// A stream whose index cannot be read says so, whatever it is asked, and applies nothing that needs it.
func TestMachineFailsLoudlyOnDamage(t *testing.T) {
	store := newObjects(t)
	b := filled(t, 5000, Storage{Blocks: store, Cache: index.NewCache(0)})
	b.m.Close()
	store.damage = true
	queries := map[string]func(m *Machine) error{
		"place":    func(m *Machine) error { _, _, err := m.Place(100); return err },
		"next":     func(m *Machine) error { _, _, err := m.Next(100, NewFilter("a.1")); return err },
		"pending":  func(m *Machine) error { _, err := m.Pending(100, NewFilter("a.1")); return err },
		"last":     func(m *Machine) error { _, err := m.LastPerSubject(NewFilter(), 100); return err },
		"subject":  func(m *Machine) error { _, _, err := m.SubjectOf(100); return err },
		"time":     func(m *Machine) error { _, err := m.TimeToSeq(time.Unix(1_000_100, 0)); return err },
		"older":    func(m *Machine) error { _, err := m.OlderThan(time.Unix(1_000_100, 0)); return err },
		"oldest":   func(m *Machine) error { _, _, err := m.Oldest(); return err },
		"state":    func(m *Machine) error { _, err := m.State(true); return err },
		"run":      func(m *Machine) error { _, _, err := m.Run(100, 1000); return err },
		"needed":   func(m *Machine) error { _, _, err := m.Needed(b.now); return err },
		"remember": func(m *Machine) error { _, _, err := m.Checkpoint(b.now); return err },
		"live":     func(m *Machine) error { return m.Live(1, 10, func(uint64, []Range) bool { return true }) },
		"remove":   func(m *Machine) error { _, err := m.Apply(1000, EncodeRemove(b.now, Remove{Upto: 5})); return err },
		"purge":    func(m *Machine) error { _, err := m.Apply(1001, EncodePurge(b.now, Purge{Seq: 5})); return err },
		"filter":   func(m *Machine) error { _, err := m.Apply(1002, EncodePurge(b.now, Purge{Filter: "a.1"})); return err },
		"limit": func(m *Machine) error {
			_, err := m.Apply(1003, EncodeConfig(b.now, api.StreamConfig{Name: "S", MaxMsgs: 100}))
			return err
		},
	}
	for name, query := range queries {
		err := query(b.m)
		var damage *index.BlockError
		if !errors.As(err, &damage) || !errors.Is(err, index.ErrBlock) || !strings.Contains(err.Error(), "index block") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What needs no old block goes on.
	if seq, ok := b.m.LastOf("a.1"); !ok || seq < 4990 {
		t.Errorf("last: %d %v", seq, ok)
	}
	if _, err := b.m.Apply(2000, EncodePurge(b.now, Purge{})); err != nil {
		t.Errorf("purge of everything: %v", err)
	}
}

// Damaged blocks are made again from what the log still has.
func TestMachineRebuildsBlocksFromTheLog(t *testing.T) {
	store := newObjects(t)
	storage := Storage{Blocks: store, Cache: index.NewCache(0)}
	var b *bench
	storage.Entries = func(first, last uint64, yield func(uint64, uint32, []byte) error) error {
		type part struct {
			index uint64
			parts []Range
		}
		store.damage = false // the test asks the machine itself what a garbage collector would have left
		defer func() { store.damage = true }()
		var kept []part
		if err := b.m.Live(first, last+1, func(i uint64, parts []Range) bool {
			kept = append(kept, part{i, append([]Range(nil), parts...)})
			return true
		}); err != nil {
			return err
		}
		for _, p := range kept {
			data := b.log[p.index-1]
			if p.index%2 == 0 { // this one was not collected
				if err := yield(p.index, 0, data); err != nil {
					return err
				}
				continue
			}
			for _, r := range p.parts {
				if err := yield(p.index, r.Off, data[r.Off:r.Off+r.Len]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	b = filled(t, 5000, storage)
	b.quick(EncodeRemove(b.now, Remove{Seqs: []uint64{2, 3, 77, 1500, 1501, 1502, 4999}, Upto: 1}))
	want := dump(b.m)
	b.m.Close()
	store.damage = true
	if got := dump(b.m); !bytes.Equal(got, want) {
		t.Error(difference(got, want))
	}
	if n, err := b.m.Pending(3, NewFilter("a.*")); n != 4992 || err != nil {
		t.Errorf("%d messages pending, %v", n, err)
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	b := filled(t, 1200, Storage{})
	b.publish("a.b", "x", HeaderMsgID, "1")
	s := b.m.Snapshot()
	good := written(t, s)
	s.Release()
	m := New()
	for i := 0; i < len(good); i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if m.Restore(1, bytes.NewReader(bad)) == nil {
			t.Fatalf("byte %d wrong: no error", i)
		}
		if m.Restore(1, bytes.NewReader(good[:i])) == nil {
			t.Fatalf("cut at %d: no error", i)
		}
	}
	if !bytes.Equal(dump(m), dump(New())) {
		t.Error("a refused snapshot has changed the machine")
	}
	if err := m.Restore(1, bytes.NewReader(good)); !errors.Is(err, index.ErrNoBlock) {
		t.Errorf("without its blocks: %v", err)
	}
}

// A memory stream names each entry as dead when its last message goes, once.
func TestMachineListsDeadEntries(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	b := newBench(t, api.StreamConfig{Storage: api.MemoryStorage, MaxMsgs: 3000})
	dead := map[uint64]bool{1: true} // the configuration
	for range 400 {
		var fx Effects
		switch rnd.IntN(6) {
		case 0:
			r := Remove{}
			for range 20 {
				r.Seqs = append(r.Seqs, rnd.Uint64N(b.m.last+1))
			}
			fx = b.quick(EncodeRemove(b.now, r))
		case 1:
			fx = b.quick(EncodePurge(b.now, Purge{Seq: min(b.m.first+3, b.m.last)}))
		default:
			for range 1 + rnd.IntN(30) {
				b.admit("a", "x")
			}
			fx = b.quick(b.a.Take())
			b.a.Applied()
		}
		for _, i := range fx.Dead {
			if dead[i] {
				t.Fatalf("entry %d is dead twice", i)
			}
			dead[i] = true
		}
	}
	live := map[uint64]bool{}
	for _, seq := range b.live() {
		p, _, _ := b.m.Place(seq)
		live[p.Index] = true
	}
	for i := range uint64(len(b.log)) {
		if live[i+1] == dead[i+1] {
			t.Errorf("entry %d: live %v, dead %v", i+1, live[i+1], dead[i+1])
		}
	}
}

var messages = flag.Int("messages", 300_000, "size of TestMachineOfManyMessages")

// TestMachineOfManyMessages stores many small messages, and tells what they take in the heap and how long a restore
// takes; -messages 5000000 for a large one.
func TestMachineOfManyMessages(t *testing.T) {
	blocks := &blackHole{}
	heap := func() int64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	const cache = 1 << 20
	storage := Storage{Blocks: blocks, Cache: index.NewCache(cache), Snapshots: true}
	before := heap()
	m := NewOn(storage)
	if _, err := m.Apply(1, EncodeConfig(time.Now(), api.StreamConfig{Name: "S", MaxMsgSize: -1})); err != nil {
		t.Fatal(err)
	}
	a := NewAdmission(m, nil)
	begin := time.Now()
	at := time.Unix(1_700_000_000, 0)
	var subject []byte
	for i := range *messages {
		subject = fmt.Appendf(subject[:0], "sensor.%d.temperature", i%1000)
		at = at.Add(10 * time.Microsecond)
		if _, err := a.Admit(at, Publish{Subject: subject, Data: subject[:16]}); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			if _, err := m.Apply(uint64(i), a.Take()); err != nil {
				t.Fatal(err)
			}
			a.Applied()
		}
	}
	took := time.Since(begin)
	grown := heap() - before - cache
	s := m.Snapshot()
	var state bytes.Buffer
	begin = time.Now()
	size, err := s.WriteTo(&state)
	if err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(begin)
	s.Release()
	m.Close()
	begin = time.Now()
	restored := NewOn(storage)
	if err := restored.Restore(1, &state); err != nil {
		t.Fatal(err)
	}
	n, _ := restored.Usage()
	t.Logf("%d messages applied in %v; %.2f bytes of heap and %.2f of blocks a message; snapshot of %d bytes in %v, restored in %v",
		n, took.Round(time.Millisecond), float64(grown)/float64(*messages), float64(blocks.bytes)/float64(*messages),
		size, wrote.Round(10*time.Microsecond), time.Since(begin).Round(10*time.Microsecond))
	if per := float64(grown) / float64(*messages); per > 1.5 {
		t.Errorf("%.2f bytes of heap a message", per)
	}
	runtime.KeepAlive(m)
	runtime.KeepAlive(a)
}

// blackHole keeps the first block only.
type blackHole struct {
	first []byte
	bytes int
}

func (h *blackHole) Put(key uint64, b []byte) {
	if h.bytes += len(b); key == 1 {
		h.first = b
	}
}

func (h *blackHole) Get(key uint64) ([]byte, error) {
	if key == 1 {
		return h.first, nil
	}
	return nil, index.ErrNoBlock
}

func (h *blackHole) Delete(...uint64) {}
func (h *blackHole) Keys() []uint64   { return nil }

var _ io.WriterTo = (*State)(nil)
