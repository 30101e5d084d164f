package index

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// model is the obvious implementation of an index.
type model struct{ msgs []modelMsg }

type modelMsg struct {
	Message
	name string
}

func (m *model) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(m.msgs, seq, func(x modelMsg, seq uint64) int {
		switch {
		case x.Seq < seq:
			return -1
		case x.Seq > seq:
			return 1
		}
		return 0
	})
}

// store is a store of blocks that demands that states find theirs.
type store struct {
	*Memory
	broken map[uint64]func([]byte) []byte
}

func newStore() *store { return &store{Memory: NewMemory()} }

func (s *store) Get(key uint64) ([]byte, error) {
	b, err := s.Memory.Get(key)
	if f := s.broken[key]; f != nil && err == nil {
		return f(slices.Clone(b)), nil
	}
	return b, err
}

// script drives an index and a model with the same operations, made from random numbers.
type script struct {
	t        testing.TB
	rnd      *rand.Rand
	ix       *Index
	m        model
	names    []string
	seq      uint64
	index    uint64
	off      uint32
	time     int64
	keep     int // messages that a trim leaves
	perName  int // limit of messages of a subject
	pDelete  int
	maxBatch int
}

func (s *script) append() {
	name := s.names[int(float64(len(s.names))*s.rnd.Float64()*s.rnd.Float64())]
	s.seq++
	if s.rnd.IntN(500) == 0 {
		s.seq += uint64(s.rnd.IntN(50))
	}
	if s.rnd.IntN(20) == 0 {
		s.index += 1 + uint64(s.rnd.IntN(3))
		s.off = 24
	}
	s.time += int64(s.rnd.IntN(1_000_000))
	m := Message{
		Seq: s.seq, Index: s.index, Off: s.off, Len: uint32(40 + s.rnd.IntN(200)), Headers: s.rnd.IntN(3) == 0, Time: s.time,
	}
	s.off += m.Len
	if _, err := s.ix.Append(m, []byte(name)); err != nil {
		s.t.Fatal(err)
	}
	s.m.msgs = append(s.m.msgs, modelMsg{m, name})
	if s.perName > 0 {
		id, count, last, ok := s.ix.Find([]byte(name))
		if !ok || last != m.Seq {
			s.t.Fatalf("find %q: %d %v", name, last, ok)
		}
		if count > uint64(s.perName) {
			got, err := s.ix.RemoveOldest(id)
			if err != nil {
				s.t.Fatal(err)
			}
			i := slices.IndexFunc(s.m.msgs, func(x modelMsg) bool { return x.name == name })
			if got.Seq != s.m.msgs[i].Seq {
				s.t.Fatalf("oldest of %q is %d, want %d", name, got.Seq, s.m.msgs[i].Seq)
			}
			s.m.msgs = slices.Delete(s.m.msgs, i, i+1)
		}
	}
	for s.keep > 0 && len(s.m.msgs) > s.keep {
		s.remove(s.m.msgs[0].Seq)
	}
}

func (s *script) remove(seq uint64) {
	m, ok, err := s.ix.Remove(seq)
	if err != nil {
		s.t.Fatal(err)
	}
	i, want := s.m.find(seq)
	if ok != want {
		s.t.Fatalf("remove %d: %v, want %v", seq, ok, want)
	}
	if ok {
		m.Subject, m.Off, m.Time = 0, s.m.msgs[i].Off, s.m.msgs[i].Time
		if m != s.m.msgs[i].Message {
			s.t.Fatalf("removed %+v, want %+v", m, s.m.msgs[i])
		}
		s.m.msgs = slices.Delete(s.m.msgs, i, i+1)
	}
}

// step makes some changes.
func (s *script) step() {
	switch n := s.rnd.IntN(100); {
	case n < s.pDelete && len(s.m.msgs) > 0:
		from := s.rnd.IntN(len(s.m.msgs))
		for range min(1+s.rnd.IntN(2*s.maxBatch), len(s.m.msgs)) {
			if len(s.m.msgs) == 0 {
				break
			}
			i := from % len(s.m.msgs)
			if s.rnd.IntN(4) == 0 {
				i = s.rnd.IntN(len(s.m.msgs))
			}
			s.remove(s.m.msgs[i].Seq)
		}
	case n == 99 && s.rnd.IntN(5) == 0:
		s.ix.Clear()
		s.m.msgs = nil
	default:
		for range 1 + s.rnd.IntN(s.maxBatch) {
			s.append()
		}
	}
}

// compare asks everything once.
func (s *script) compare() {
	t, rnd := s.t, s.rnd
	t.Helper()
	ix, msgs := s.ix, s.m.msgs
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if ix.Count() != uint64(len(msgs)) || ix.Last() != s.seq {
		t.Fatalf("%d messages up to %d, want %d up to %d", ix.Count(), ix.Last(), len(msgs), s.seq)
	}
	from := uint64(rnd.IntN(int(s.seq) + 3))
	if rnd.IntN(3) == 0 && len(msgs) > 0 {
		from = msgs[rnd.IntN(len(msgs))].Seq
	}
	at, exact := s.m.find(from)
	is := func(what string, m Message, ok bool, err error, i int) {
		t.Helper()
		fatal(err)
		if ok != (i >= 0 && i < len(msgs)) {
			t.Fatalf("%s %d: %v", what, from, ok)
		}
		if ok {
			if name := ix.Name(m.Subject); name != msgs[i].name {
				t.Fatalf("%s %d: subject %q, want %q", what, from, name, msgs[i].name)
			}
			if m.Subject = 0; m != msgs[i].Message {
				t.Fatalf("%s %d: %+v, want %+v", what, from, m, msgs[i])
			}
		}
	}
	m, ok, err := ix.Get(from)
	if exact {
		is("get", m, ok, err, at)
	} else {
		is("get", m, ok, err, -1)
	}
	m, ok, err = ix.Next(from)
	is("next", m, ok, err, at)
	m, ok, err = ix.First()
	is("first", m, ok, err, 0)
	m, ok, err = ix.Previous(from)
	if exact {
		is("previous", m, ok, err, at)
	} else {
		is("previous", m, ok, err, at-1)
	}
	n, err := ix.CountFrom(from)
	if fatal(err); n != uint64(len(msgs)-at) {
		t.Fatalf("count from %d: %d, want %d", from, n, len(msgs)-at)
	}
	to := from + uint64(rnd.IntN(3000))
	var missing [][2]uint64
	for seq, i := from, at; seq <= to; i++ {
		next := to + 1
		if i < len(msgs) {
			next = min(next, msgs[i].Seq)
		}
		if next > seq {
			missing = append(missing, [2]uint64{seq, next - seq})
		}
		seq = next + 1
	}
	var gaps [][2]uint64
	fatal(ix.Gaps(from, to, func(seq, n uint64) bool {
		gaps = append(gaps, [2]uint64{seq, n})
		return true
	}))
	if !slices.Equal(gaps, missing) {
		t.Fatalf("gaps in [%d, %d]: %v, want %v", from, to, gaps, missing)
	}
	time := rnd.Int64N(s.time + 2)
	if exact {
		time = msgs[at].Time
	}
	m, ok, err = ix.AtTime(time)
	is("time", m, ok, err, slices.IndexFunc(msgs, func(x modelMsg) bool { return x.Time >= time }))

	filters := [][]string{nil, {"a.*.x"}, {"c"}, {"b.>", "a.1.x"}, {"*.*.x", "b.1.*"}, {"none"}, {"*"}, {"many.*", "c"}, {"many.7"}, {"*.9"}}[rnd.IntN(10)]
	f := NewFilter(filters...)
	upTo := s.seq - min(s.seq, uint64(rnd.IntN(int(s.seq)/4+30)))
	var want []uint64
	last := map[string]uint64{}
	counts := map[string]uint64{}
	for _, x := range msgs {
		if !f.Matches(x.name) {
			continue
		}
		counts[x.name]++
		if x.Seq >= from {
			want = append(want, x.Seq)
		}
		if x.Seq <= upTo {
			last[x.name] = x.Seq
		}
	}
	cursor := from
	for _, w := range want[:min(len(want), 50)] {
		m, ok, err := ix.NextMatching(cursor, f)
		if fatal(err); !ok || m.Seq != w {
			t.Fatalf("next of %v at %d: %d %v, want %d", filters, cursor, m.Seq, ok, w)
		}
		cursor = m.Seq + 1
	}
	if len(want) <= 50 {
		m, ok, err := ix.NextMatching(cursor, f)
		if fatal(err); ok {
			t.Fatalf("next of %v at %d: %d, want none", filters, cursor, m.Seq)
		}
	}
	n, err = ix.CountMatching(from, f)
	if fatal(err); n != uint64(len(want)) {
		t.Fatalf("count of %v from %d: %d, want %d", filters, from, n, len(want))
	}
	var lasts []uint64
	for _, seq := range last {
		lasts = append(lasts, seq)
	}
	slices.Sort(lasts)
	got, err := ix.LastPerSubject(f, upTo)
	if fatal(err); !slices.Equal(got, lasts) {
		t.Fatalf("last per subject of %v up to %d: %v, want %v", filters, upTo, got, lasts)
	}
	ix.Each(f, func(name []byte, count, last uint64) bool {
		if counts[string(name)] != count {
			t.Fatalf("%q has %d messages, want %d", name, count, counts[string(name)])
		}
		delete(counts, string(name))
		return true
	})
	if len(counts) > 0 {
		t.Fatalf("%v passes over %v", filters, counts)
	}
	if len(msgs) > 0 {
		s.compareEntries(at)
	}
}

// compareEntries looks at entries and runs from message at on.
func (s *script) compareEntries(at int) {
	t, ix, msgs := s.t, s.ix, s.m.msgs
	t.Helper()
	at = min(at, len(msgs)-1)
	lo, hi := msgs[at].Index, msgs[min(at+s.rnd.IntN(300), len(msgs)-1)].Index+uint64(s.rnd.IntN(2))
	var want, got []string
	for i := 0; i < len(msgs); {
		entry, parts := msgs[i].Index, []Range(nil)
		for ; i < len(msgs) && msgs[i].Index == entry; i++ {
			if n := len(parts); n > 0 && parts[n-1].Off+parts[n-1].Len == msgs[i].Off {
				parts[n-1].Len += msgs[i].Len
			} else {
				parts = append(parts, Range{msgs[i].Off, msgs[i].Len})
			}
		}
		if entry >= lo && entry < hi {
			want = append(want, fmt.Sprint(entry, parts))
		}
	}
	if err := ix.Live(lo, hi, func(index uint64, parts []Range) bool {
		got = append(got, fmt.Sprint(index, parts))
		return true
	}); err != nil || !slices.Equal(got, want) {
		t.Fatalf("live in [%d, %d): %v %v, want %v", lo, hi, got, err, want)
	}
	var bytes, about uint64
	for _, x := range msgs {
		bytes += uint64(x.Len)
	}
	if about = ix.LiveBytes(0, s.index+1); about != bytes {
		t.Fatalf("%d live bytes, want %d", about, bytes)
	}
	probe := lo + uint64(s.rnd.IntN(5))
	has, err := ix.HasEntry(probe)
	if w := slices.ContainsFunc(msgs, func(x modelMsg) bool { return x.Index == probe }); err != nil || has != w {
		t.Fatalf("entry %d: %v %v, want %v", probe, has, err, w)
	}
	limit := s.rnd.IntN(2000)
	length := msgs[at].Len
	for i := at + 1; i < len(msgs) && msgs[i].Seq == msgs[i-1].Seq+1 && msgs[i].Index == msgs[at].Index && msgs[i].Off == msgs[at].Off+length &&
		int(length+msgs[i].Len) <= limit; i++ {
		length += msgs[i].Len
	}
	m, n, ok, err := ix.Run(msgs[at].Seq, limit)
	if err != nil || !ok || n != length || m.Off != msgs[at].Off {
		t.Fatalf("run of %d: %d bytes %v %v, want %d", msgs[at].Seq, n, ok, err, length)
	}
}

func snapshot(t testing.TB, ix *Index) []byte {
	t.Helper()
	c := ix.Capture()
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	c.Abandon()
	return b.Bytes()
}

func subjectNames(rnd *rand.Rand) []string {
	names := strings.Fields("a.1.x a.2.x b.1.x b.1 b c d.e.f.g a-b a.1 a.1.y x.9 y.9")
	if rnd.IntN(2) == 0 {
		for i := range 40 {
			names = append(names, fmt.Sprint("many.", i))
		}
	}
	if rnd.IntN(3) == 0 {
		for i := range 4000 {
			names = append(names, fmt.Sprintf("many.%d.k%d", i%37, i))
		}
	}
	rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

// TestIndexAgainstModel compares every query with the obvious implementation, over and over,
// continues from snapshots, and demands that an index that was restored in between ends with the same
// bytes as one that was not.
func TestIndexAgainstModel(t *testing.T) {
	seeds := uint64(9)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 1))
		blocks := newStore()
		cache := NewCache(1 << (10 + rnd.IntN(12)))
		cfg := Config{Blocks: blocks, Cache: cache, Captured: true}
		s := &script{t: t, rnd: rnd, ix: New(cfg), names: subjectNames(rnd), index: 1, maxBatch: 400, pDelete: rnd.IntN(60), time: 1}
		switch rnd.IntN(3) {
		case 0:
			s.keep = 1 + rnd.IntN(6000)
		case 1:
			s.perName = 1 + rnd.IntN(10)
		}
		var held []*Capture
		var states [][]byte
		for step := range 120 {
			s.step()
			for range 4 {
				s.compare()
			}
			if step%10 == 9 {
				if err := s.ix.check(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			switch rnd.IntN(12) {
			case 0: // taken now, written later
				states = append(states, snapshot(t, s.ix))
				held = append(held, s.ix.Capture())
			case 1:
				if len(held) == 0 {
					break
				}
				var b bytes.Buffer
				if _, err := held[0].WriteTo(&b); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b.Bytes(), states[0]) {
					t.Fatalf("seed %d: a capture has changed", seed)
				}
				other := New(cfg)
				if err := other.Restore(&b); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := other.check(); err != nil {
					t.Fatalf("seed %d: restored: %v", seed, err)
				}
				held[0].Release()
				held, states = held[1:], states[1:]
			case 2: // goes on from a snapshot
				if len(held) > 0 {
					break
				}
				before := snapshot(t, s.ix)
				other := New(cfg)
				if err := other.Restore(bytes.NewReader(before)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if !bytes.Equal(snapshot(t, other), before) {
					t.Fatalf("seed %d: a restored index differs", seed)
				}
				s.ix.Close()
				s.ix = other
			}
		}
		for _, c := range held {
			c.Abandon()
		}
		c := s.ix.Capture()
		c.WriteTo(new(bytes.Buffer))
		c.Release()
		if got := blocks.Len(); got != s.ix.blocks.n {
			t.Fatalf("seed %d: %d blocks stored, %d in use", seed, got, s.ix.blocks.n)
		}
	}
}

// TestIndexIsDeterministic makes the same changes in one index and in another that has no cache, is captured
// all the time and goes on from its own snapshots.
func TestIndexIsDeterministic(t *testing.T) {
	for seed := range uint64(6) {
		make := func(cfg Config) *script {
			rnd := rand.New(rand.NewPCG(seed, 2))
			return &script{t: t, rnd: rnd, ix: New(cfg), names: subjectNames(rnd), index: 1, maxBatch: 300, pDelete: 40, time: 1, perName: int(seed % 3)}
		}
		blocks := newStore()
		a, b := make(Config{}), make(Config{Blocks: blocks, Cache: NewCache(0), Captured: true})
		rnd := rand.New(rand.NewPCG(seed, 3))
		var held *Capture
		for range 150 {
			a.step()
			b.step()
			switch rnd.IntN(4) {
			case 0:
				if held != nil {
					held.Abandon()
				}
				held = b.ix.Capture()
			case 1:
				if err := b.ix.Restore(bytes.NewReader(snapshot(t, b.ix))); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(snapshot(t, a.ix), snapshot(t, b.ix)) {
				t.Fatalf("seed %d: they differ", seed)
			}
		}
		if err := b.ix.check(); err != nil {
			t.Fatal(err)
		}
		for _, l := range a.ix.blocks.lists {
			for i := range l.s {
				x, _ := a.ix.cfg.Blocks.Get(l.s[i].key)
				y, err := blocks.Get(l.s[i].key)
				if err != nil || !bytes.Equal(x, y) {
					t.Fatalf("seed %d: block %d differs: %v", seed, l.s[i].key, err)
				}
			}
		}
	}
}
