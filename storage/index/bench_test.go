package index

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
)

// feed appends messages as a stream would: eight in an entry, 100,000 a second.
type feed struct {
	ix  *Index
	seq uint64
	off uint32
}

func (f *feed) add(tb testing.TB, name []byte) {
	if f.seq%8 == 0 {
		f.off = 24
	}
	f.seq++
	m := Message{Seq: f.seq, Index: 1 + f.seq/8, Off: f.off, Len: uint32(100 + f.seq%50), Time: int64(f.seq) * 10_000}
	f.off += m.Len
	if _, err := f.ix.Append(m, name); err != nil {
		tb.Fatal(err)
	}
}

func keys(n int) [][]byte {
	names := make([][]byte, n)
	for i := range names {
		names[i] = fmt.Appendf(nil, "$KV.bucket.customers.%08d.address", i)
	}
	return names
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkAppend(b *testing.B) {
	for _, subjects := range []int{1, 1000, 1_000_000} {
		b.Run(fmt.Sprint(subjects), func(b *testing.B) {
			names := keys(subjects)
			f := feed{ix: New(Config{})}
			for _, name := range names {
				f.add(b, name)
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			order := make([]int, 1<<16)
			for i := range order {
				order[i] = rnd.IntN(subjects)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.add(b, names[order[i%len(order)]])
			}
		})
	}
}

// BenchmarkFIFO appends a message and removes the oldest.
func BenchmarkFIFO(b *testing.B) {
	for _, subjects := range []int{1, 100_000} {
		b.Run(fmt.Sprint(subjects), func(b *testing.B) {
			names := keys(subjects)
			f := feed{ix: New(Config{})}
			for i := range 1_000_000 {
				f.add(b, names[i*7919%subjects])
			}
			head := uint64(0)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.add(b, names[i*7919%subjects])
				head++
				if _, ok, err := f.ix.Remove(head); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// BenchmarkKV overwrites random keys of a million, of which history values are kept.
func BenchmarkKV(b *testing.B) {
	const n = 1_000_000
	for _, history := range []uint64{1, 5, 64} {
		for _, cache := range []int{1 << 30, 1 << 20} {
			if history > 5 && cache < 1<<30 {
				continue
			}
			b.Run(fmt.Sprintf("history=%d/cache=%dMiB", history, cache>>20), func(b *testing.B) {
				names := keys(n / int(history))
				f := feed{ix: New(Config{Cache: NewCache(cache)})}
				rnd := rand.New(rand.NewPCG(1, 1))
				put := func() {
					name := names[rnd.IntN(len(names))]
					f.add(b, name)
					if id, count, _, _ := f.ix.Find(name); count > history {
						if _, err := f.ix.RemoveOldest(id); err != nil {
							b.Fatal(err)
						}
					}
				}
				for range 2 * n {
					put()
				}
				b.ReportMetric(float64(f.ix.blocks.n), "blocks")
				for b.Loop() {
					put()
				}
			})
		}
	}
}

func BenchmarkNext(b *testing.B) {
	names := keys(1000)
	f := feed{ix: New(Config{Cache: NewCache(256 << 20)})}
	const n = 10_000_000
	rare := []byte("rare.one")
	for i := range n {
		if i%1_000_000 == 500_000 {
			f.add(b, rare)
		} else {
			f.add(b, names[i*7919%1000])
		}
	}
	for _, bb := range []struct {
		name   string
		filter []string
	}{{"all", nil}, {"dense", []string{"$KV.bucket.*.*.address"}}, {"one in 1000", []string{"$KV.bucket.customers.00000500.address"}},
		{"one in 500", []string{"$KV.bucket.customers.00000500.*", "$KV.bucket.customers.00000501.*"}},
		{"rare literal", []string{"rare.one"}}, {"rare", []string{"rare.*"}}} {
		b.Run(bb.name, func(b *testing.B) {
			filter := NewFilter(bb.filter...)
			from := uint64(0)
			for b.Loop() {
				m, ok, err := f.ix.NextMatching(from, filter)
				if err != nil {
					b.Fatal(err)
				}
				if from = m.Seq + 1; !ok {
					from = 0
				}
			}
		})
		b.Run("count "+bb.name, func(b *testing.B) {
			filter := NewFilter(bb.filter...)
			for i := uint64(0); b.Loop(); i++ {
				if _, err := f.ix.CountMatching(i*977_777%n, filter); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWildcards(b *testing.B) {
	ix := New(Config{})
	f := feed{ix: ix}
	for i := range 1_000_000 {
		f.add(b, fmt.Appendf(nil, "orders.%d.%d.created", i%1000, i))
	}
	for _, filter := range []string{"orders.17.*.created", "orders.17.>", "orders.*.500017.created", "orders.*.*.created", "orders.*.*.none"} {
		b.Run(filter, func(b *testing.B) {
			x := NewFilter(filter)
			n := 0
			for b.Loop() {
				n = 0
				ix.Each(x, func([]byte, uint64, uint64) bool { n++; return true })
			}
			b.ReportMetric(float64(n), "matches")
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, bb := range []struct{ messages, subjects int }{{1_000_000, 1_000_000}, {20_000_000, 1000}} {
		f := feed{ix: New(Config{Captured: true})}
		names := keys(bb.subjects)
		before := heap()
		for i := range bb.messages {
			f.add(b, names[i*7919%bb.subjects])
		}
		runtime.KeepAlive(names)
		_ = before
		name := fmt.Sprintf("%dM of %d subjects", bb.messages/1_000_000, bb.subjects)
		var data bytes.Buffer
		b.Run("capture/"+name, func(b *testing.B) {
			for b.Loop() {
				f.ix.Capture().Abandon()
			}
		})
		b.Run("write/"+name, func(b *testing.B) {
			for b.Loop() {
				c := f.ix.Capture()
				n, err := c.WriteTo(io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n), "bytes")
				c.Abandon()
			}
		})
		c := f.ix.Capture()
		c.WriteTo(&data)
		c.Abandon()
		b.Run("restore/"+name, func(b *testing.B) {
			for b.Loop() {
				if err := New(Config{Blocks: f.ix.cfg.Blocks}).Restore(bytes.NewReader(data.Bytes())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
