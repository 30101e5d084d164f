package index

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// counting counts the blocks that are read, and keeps them out of the heap's account.
type counting struct {
	*Memory
	reads atomic.Int64
	bytes int
}

func (c *counting) Put(key uint64, b []byte) {
	c.bytes += len(b)
	c.Memory.Put(key, b)
}

func (c *counting) Get(key uint64) ([]byte, error) {
	c.reads.Add(1)
	return c.Memory.Get(key)
}

// nowhere is a store without memory.
type nowhere struct{ bytes, blocks int }

func (n *nowhere) Put(_ uint64, b []byte)     { n.bytes += len(b); n.blocks++ }
func (n *nowhere) Get(uint64) ([]byte, error) { return nil, ErrNoBlock }
func (n *nowhere) Delete(...uint64)           {}
func (n *nowhere) Keys() []uint64             { return nil }

func TestIndexTakesNoMemoryForMessages(t *testing.T) {
	const messages, budget = 2_000_000, 1 << 20
	names := keys(1000)
	blocks := &nowhere{}
	before := heap()
	f := feed{ix: New(Config{Blocks: blocks, Cache: NewCache(budget)})}
	for i := range messages {
		f.add(t, names[i*7919%len(names)])
	}
	grown := float64(int64(heap()) - int64(before) - budget)
	if grown/messages > 0.5 {
		t.Errorf("%.2f bytes of heap a message beside the cache", grown/messages)
	}
	if per := float64(blocks.bytes) / messages; per > 16 {
		t.Errorf("%.2f bytes of blocks a message", per)
	}
	t.Logf("%.2f bytes of heap a message beside the cache, %.2f bytes in blocks", grown/messages, float64(blocks.bytes)/messages)
	runtime.KeepAlive(f.ix)
}

// A block of the widest that is usual: a message an entry, sizes that differ, random keys of a million.
func TestBlockIsSmall(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var recs []record
	for i := range uint64(BlockLen) {
		recs = append(recs, record{
			seq: 1e8 + i, index: 2e8 + i + i/100, time: int64(i) * 1e6, off: 24, size: rnd.Uint32N(4000), subject: rnd.Uint32N(1e6),
			distance: rnd.Uint32N(16e6),
		})
	}
	if n := len(encodeBlock(recs)); n > 16*BlockLen {
		t.Errorf("%d bytes, %.1f a message", n, float64(n)/BlockLen)
	} else {
		t.Logf("%.1f bytes a message", float64(n)/BlockLen)
	}
}

func TestIndexMemoryOfSubjects(t *testing.T) {
	const subjects = 50_000
	blocks := &nowhere{}
	before := heap()
	f := feed{ix: New(Config{Blocks: blocks, Cache: NewCache(1 << 20)})}
	var name []byte
	length := 0
	for i := range subjects {
		name = fmt.Appendf(name[:0], "$KV.bucket.customers.%08d.address", i*7919%subjects)
		length = len(name)
		f.add(t, name)
	}
	grown := float64(int64(heap())-int64(before)-1<<20) / subjects
	if grown > float64(length)+80 {
		t.Errorf("%.1f bytes of heap a subject with a name of %d", grown, length)
	}
	t.Logf("%.1f bytes of heap a subject with a name of %d", grown, length)
	for i := range subjects {
		name = fmt.Appendf(name[:0], "$KV.bucket.customers.%08d.address", i)
		if _, n, _, ok := f.ix.Find(name); !ok || n != 1 {
			t.Fatalf("%s: %d %v", name, n, ok)
		}
	}
}

func TestIndexTellsCollidingNamesApart(t *testing.T) {
	f := feed{ix: New(Config{})}
	byHash := map[uint32]string{}
	var a, b string
	for i := 0; a == ""; i++ {
		b = fmt.Sprint("subject.", i)
		h := f.ix.subjects.hash([]byte(b))
		a = byHash[h]
		byHash[h] = b
	}
	for _, order := range [][]uint64{{1, 2}, {2, 1}} {
		f.add(t, []byte(a))
		f.add(t, []byte(b))
		base := f.seq - 2
		if len(f.ix.subjects.collided) != 1 {
			t.Fatalf("%q and %q do not collide", a, b)
		}
		for i, n := range order {
			for k, name := range []string{a, b} {
				_, _, last, ok := f.ix.Find([]byte(name))
				if want := i == 0 || k+1 == int(n); ok != want || ok && last != base+uint64(k)+1 {
					t.Errorf("%q: %d %v, want %v", name, last, ok, want)
				}
			}
			if _, ok, err := f.ix.Remove(base + n); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := f.ix.check(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A few messages among many others are found without reading the others' blocks.
func TestIndexFindsRareSubjects(t *testing.T) {
	const messages = 400_000
	for _, dense := range []int{50, 5000} { // fences tell the one, subjects the other
		blocks := &counting{Memory: NewMemory()}
		f := feed{ix: New(Config{Blocks: blocks, Cache: NewCache(16 << 10)})}
		names := keys(dense)
		var rare []uint64
		for i := range messages {
			if i%50_000 == 25_000 {
				rare = append(rare, f.seq+1)
				f.add(t, fmt.Appendf(nil, "rare.%d", i%4/2))
			} else {
				f.add(t, names[i*7919%dense])
			}
		}
		read := func(what string, most int64, call func() error) {
			t.Helper()
			before := blocks.reads.Load()
			if err := call(); err != nil {
				t.Fatal(err)
			}
			if n := blocks.reads.Load() - before; n > most {
				t.Errorf("%d subjects: %s read %d blocks of %d", dense, what, n, f.ix.blocks.n)
			}
		}
		for _, filter := range []*Filter{NewFilter("rare.*"), NewFilter("rare.0"), NewFilter("rare.0", "rare.1", "rare.2")} {
			read("next", 200, func() error {
				var got []uint64
				for from := uint64(0); ; {
					m, ok, err := f.ix.NextMatching(from, filter)
					if !ok || err != nil {
						if !slices.Equal(got, rare) {
							t.Errorf("found %v, want %v", got, rare)
						}
						return err
					}
					got = append(got, m.Seq)
					from = m.Seq + 1
				}
			})
			read("count", 20, func() error {
				n, err := f.ix.CountMatching(rare[3]+1, filter)
				if n != uint64(len(rare)-4) {
					t.Errorf("%d, want %d", n, len(rare)-4)
				}
				return err
			})
			read("last", 20, func() error {
				got, err := f.ix.LastPerSubject(filter, rare[2])
				if !slices.Equal(got, []uint64{rare[2]}) {
					t.Errorf("last %v, want %d", got, rare[2])
				}
				return err
			})
		}
		all := NewFilter("$KV.>")
		for _, from := range []uint64{messages / 4, messages / 2, messages - 1000} {
			want := uint64(messages - from + 1)
			for _, seq := range rare {
				if seq >= from {
					want--
				}
			}
			if n, err := f.ix.CountMatching(from, all); err != nil || n != want {
				t.Errorf("%d from %d, want %d: %v", n, from, want, err)
			}
			if n, err := f.ix.CountFrom(from); err != nil || n != messages-from+1 {
				t.Errorf("%d from %d: %v", n, from, err)
			}
		}
		// The newest of each before a time long ago: all at once, going back.
		read("last of many", 30, func() error {
			got, err := f.ix.LastPerSubject(NewFilter("$KV.>"), messages/2)
			if len(got) != dense {
				t.Errorf("%d, want %d", len(got), dense)
			}
			return err
		})
	}
}

// Overwriting a bucket reads one block for what goes, and not more blocks stay than half full ones would take.
func TestIndexKeepsSparseBlocksTogether(t *testing.T) {
	const subjects = 20_000
	blocks := &counting{Memory: NewMemory()}
	f := feed{ix: New(Config{Blocks: blocks, Cache: NewCache(0)})}
	names := keys(subjects)
	rnd := rand.New(rand.NewPCG(1, 1))
	const puts = 100_000
	for i := range puts {
		name := names[int(float64(subjects)*rnd.Float64()*rnd.Float64()*rnd.Float64())]
		if i < subjects {
			name = names[i]
		}
		f.add(t, name)
		if id, n, _, _ := f.ix.Find(name); n > 1 {
			if _, err := f.ix.RemoveOldest(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.ix.check(); err != nil {
		t.Fatal(err)
	}
	if most := subjects/(BlockLen/4) + 2; f.ix.blocks.n > most || blocks.Len() != f.ix.blocks.n {
		t.Errorf("%d blocks for %d messages, %d stored", f.ix.blocks.n, subjects, blocks.Len())
	}
	if per := float64(blocks.reads.Load()) / puts; per > 1.5 {
		t.Errorf("%.2f reads a put", per)
	}
	t.Logf("%d blocks, %.2f reads and %.1f bytes written a put", f.ix.blocks.n, float64(blocks.reads.Load())/puts, float64(blocks.bytes)/puts)
}

// Names come and go; their pages and numbers do not pile up.
func TestIndexReusesSubjects(t *testing.T) {
	f := feed{ix: New(Config{})}
	var name []byte
	for i := range uint64(200_000) {
		name = fmt.Appendf(name[:0], "requests.%d.answer", i*i)
		f.add(t, name)
		if i >= 100 {
			if _, ok, err := f.ix.Remove(i - 99); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}
	if err := f.ix.check(); err != nil {
		t.Fatal(err)
	}
	s := &f.ix.subjects
	pages := 0
	for _, p := range s.names.pages {
		pages += len(p)
	}
	if s.n > 3*reuseAfter || pages > 3*pageLen {
		t.Errorf("%d numbers and %d bytes of names for %d subjects", s.n, pages, s.live)
	}
}

// A merge takes out a record that a later one refers to: what comes before it is found through the blocks.
func TestIndexFindsBehindBrokenChain(t *testing.T) {
	f := feed{ix: New(Config{})}
	rare := []uint64{10, BlockLen + 10, 4*BlockLen + 10, 4*BlockLen + 20}
	for range 5 * BlockLen {
		if slices.Contains(rare, f.seq+1) {
			f.add(t, []byte("rare"))
		} else {
			f.add(t, []byte("x"))
		}
	}
	for seq := uint64(BlockLen + 1); seq <= 3*BlockLen; seq++ { // what is left of two blocks becomes one
		if seq%8 == 0 {
			continue
		}
		if _, ok, err := f.ix.Remove(seq); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	c, err := f.ix.chainFrom(rare[2])
	if _, e := c.back(); err != nil || e != nil || !c.lost {
		t.Fatalf("the chain is whole: %v %v", err, e)
	}
	if got, err := f.ix.LastPerSubject(NewFilter("rare"), rare[2]-1); err != nil || !slices.Equal(got, rare[:1]) {
		t.Errorf("before %d: %v %v", rare[2], got, err)
	}
	if n, err := f.ix.CountMatching(11, NewFilter("rare")); err != nil || n != 2 {
		t.Errorf("%d from 11: %v", n, err)
	}
	for _, seq := range []uint64{rare[3], rare[2]} {
		if _, ok, err := f.ix.Remove(seq); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, count, last, ok := f.ix.Find([]byte("rare")); !ok || count != 1 || last != rare[0] {
		t.Errorf("%d messages up to %d", count, last)
	}
	if err := f.ix.check(); err != nil {
		t.Fatal(err)
	}
}

// A filter that a reader keeps tells old and new subjects apart that had the same number.
func TestFilterOutlivesSubjects(t *testing.T) {
	f := feed{ix: New(Config{})}
	filters := map[string]*Filter{"a": NewFilter("a.>", "none"), "b": NewFilter("b.>", "none")}
	reused := false
	for round := range 6 {
		prefix := string("ab"[round%2])
		var seqs []uint64
		before := f.ix.subjects.n
		for i := range 1500 {
			f.add(t, []byte("kept"))
			f.add(t, fmt.Appendf(nil, "%s.%d.%d.%050d", prefix, round, i, 0))
			seqs = append(seqs, f.seq)
		}
		reused = reused || f.ix.subjects.n < before+1500
		for _, removed := range []bool{false, true} {
			for name, filter := range filters {
				var got, want []uint64
				if name == prefix && !removed {
					want = seqs
				}
				for m, ok, err := f.ix.NextMatching(0, filter); ok || err != nil; m, ok, err = f.ix.NextMatching(m.Seq+1, filter) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, m.Seq)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("round %d: %s.> finds %d messages, want %d", round, name, len(got), len(want))
				}
				for p := (pos{}); !f.ix.blocks.isEnd(p); p = f.ix.blocks.after(p) { // dead ones too
					if _, _, err := f.ix.matchIn(p, 0, filter); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !removed {
				for _, seq := range seqs {
					if _, ok, err := f.ix.Remove(seq); !ok || err != nil {
						t.Fatal(ok, err)
					}
				}
			}
		}
	}
	if !reused {
		t.Error("no number was used twice")
	}
}

func TestCacheHammer(t *testing.T) {
	cache := NewCache(200 << 10)
	var wg sync.WaitGroup
	for range 3 { // indexes, each with a writer and readers
		var mu sync.RWMutex
		f := feed{ix: New(Config{Cache: cache, Captured: true})}
		for range 5000 {
			f.add(t, []byte("a"))
		}
		wg.Go(func() {
			for i := range uint64(4000) {
				mu.Lock()
				f.add(t, []byte{byte('a' + i%3)})
				f.ix.Remove(i + 1)
				var c *Capture
				if i%500 == 0 {
					c = f.ix.Capture()
				}
				mu.Unlock()
				if c != nil {
					wg.Go(func() {
						c.WriteTo(new(bytes.Buffer))
						c.Release()
					})
				}
			}
		})
		for r := range 2 {
			wg.Go(func() {
				filter := NewFilter("b", "c")
				for i := range uint64(3000) {
					mu.RLock()
					if _, _, err := f.ix.Next(i); err != nil {
						t.Error(err)
					}
					if _, _, err := f.ix.NextMatching(i*uint64(r+1), filter); err != nil {
						t.Error(err)
					}
					mu.RUnlock()
				}
			})
		}
	}
	wg.Wait()
	if n := cache.Bytes(); n > 200<<10 {
		t.Errorf("cache of %d bytes", n)
	}
}

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

// TestFormat opens a snapshot and its blocks as version 1 wrote them.
func TestFormat(t *testing.T) {
	dir := filepath.Join("testdata", "v1")
	build := func(blocks Blocks) *Index {
		s := &script{
			t: t, rnd: rand.New(rand.NewPCG(7, 7)), ix: New(Config{Blocks: blocks}), index: 1, time: 1,
			names: []string{"a.1", "a.2", "b", "c.d.e"}, keep: 2500, maxBatch: 100, pDelete: 20,
		}
		for len(s.m.msgs) < 2400 || s.ix.blocks.n < 2 {
			s.step()
		}
		return s.ix
	}
	written := NewMemory()
	ix := build(written)
	want := snapshot(t, ix)
	if *rewrite {
		os.MkdirAll(dir, 0o755)
		os.WriteFile(filepath.Join(dir, "snapshot"), want, 0o644)
		for key, b := range written.blocks {
			os.WriteFile(filepath.Join(dir, fmt.Sprintf("block-%d", key)), b, 0o644)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the same changes give another snapshot than they did")
	}
	stored := NewMemory()
	files, _ := filepath.Glob(filepath.Join(dir, "block-*"))
	for _, file := range files {
		var key uint64
		fmt.Sscanf(filepath.Base(file), "block-%d", &key)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stored.Put(key, b)
	}
	old := New(Config{Blocks: stored})
	if err := old.Restore(bytes.NewReader(got)); err != nil {
		t.Fatal(err)
	}
	if err := old.check(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshot(t, old), want) {
		t.Error("it reads differently")
	}
}
