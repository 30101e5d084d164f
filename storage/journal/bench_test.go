package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// BenchmarkAppend has a number of producers, each with a group of its own, append entries and wait
// for the sync.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{128, 1 << 10, 8 << 10, 64 << 10} {
		for _, producers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("bytes=%d/producers=%d", size, producers), func(b *testing.B) {
				benchmarkAppend(b, size, producers)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, size, producers int) {
	l := openOnDisk(b)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for p := range producers {
		wg.Go(func() {
			done := make(chan struct{}, 1)
			w := journal.Write{Group: uint64(p + 1), Entries: make([]journal.Entry, 1), Done: func() { done <- struct{}{} }}
			for index := uint64(1); left.Add(-1) >= 0; index++ {
				w.Entries[0] = journal.Entry{Index: index, Term: 1, Data: data}
				l.Append(w)
				<-done
				if index%1024 == 0 {
					l.Release(w.Group, index)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkSteady appends batches whose entries are released soon after, on the files of segments that
// died, and after each batch writes as many bytes to a file that was written before, with an fdatasync:
// what the disk can do at that moment. It reports the ratio of the times (x-bare; of the medians:
// p50-x-bare) and what was written to segment files for each byte of payload, zeros included
// (written/payload).
func BenchmarkSteady(b *testing.B) {
	for _, key := range [][]byte{nil, bytes.Repeat([]byte{7}, journal.KeyBytes)} {
		for _, of := range []struct{ size, entries int }{
			{128, 1}, {128, 64}, {128, 512}, {1 << 10, 1}, {1 << 10, 64}, {1 << 10, 512},
			{64 << 10, 1}, {512 << 10, 1}, // as a busy stream writes: one entry holds many messages
		} {
			b.Run(fmt.Sprintf("bytes=%d/batch=%d/encrypted=%t", of.size, of.entries, key != nil), func(b *testing.B) {
				benchmarkSteady(b, of.size, of.entries, 1, key)
			})
		}
	}
}

// BenchmarkPipelined is BenchmarkSteady with several batches in flight, as a stream has: the next one is
// appended when the oldest is durable. Rounds of 16 batches are compared with as many bare writes, each with
// its fdatasync; what queues while the log syncs becomes one batch there (syncs/batch). p50-x-bare-merged
// compares with the same bytes in as many bare writes and syncs as the log made.
func BenchmarkPipelined(b *testing.B) {
	for _, of := range []struct{ size, entries int }{
		{128, 64}, {128, 512}, {1 << 10, 64}, {1 << 10, 512}, {512 << 10, 1},
	} {
		for _, inFlight := range []int{2, 4} {
			b.Run(fmt.Sprintf("bytes=%d/batch=%d/inflight=%d", of.size, of.entries, inFlight), func(b *testing.B) {
				benchmarkSteady(b, of.size, of.entries, inFlight, nil)
			})
		}
	}
}

func benchmarkSteady(b *testing.B, size, entries, inFlight int, key []byte) {
	const segmentBytes = 64 << 20
	counter := vfs.NewCounter(vfs.OS{})
	l := openWith(b, func(cfg *journal.Config, c *catalog.Catalog) {
		cfg.FS, cfg.SegmentBytes, cfg.FirstSegmentBytes = counter, segmentBytes, segmentBytes
		cfg.Key, cfg.Keys = key, c
	})
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	done := make(chan struct{}, inFlight)
	w := journal.Write{Group: 1, Done: func() { done <- struct{}{} }}
	free := make([][]journal.Entry, inFlight) // in turn
	for i := range free {
		free[i] = make([]journal.Entry, entries)
	}
	index, durable := uint64(1), uint64(0)
	wait := func() {
		<-done
		durable += uint64(entries)
		l.Release(1, durable)
	}
	batches := 1
	if inFlight > 1 {
		batches = 16
	}
	round := func() {
		for n := range batches {
			w.Entries = free[n%inFlight]
			for i := range w.Entries {
				w.Entries[i] = journal.Entry{Index: index, Term: 1, Data: data}
				index++
			}
			l.Append(w)
			if n+1 >= inFlight {
				wait()
			}
		}
		for durable+1 < index {
			wait()
		}
	}
	bytes := int64(entries*(size+41)+96)/3968*4096 + 4096
	bare := newBareFile(b, segmentBytes)
	for start := counter.Stats().Bytes; counter.Stats().Bytes < start+6*segmentBytes; {
		round() // until there are spares
	}
	var ours, theirs, merged []time.Duration
	last := counter.Stats()
	b.SetBytes(int64(size * entries * batches))
	b.ResetTimer()
	for range b.N {
		syncs := counter.Stats().Syncs
		begin := time.Now()
		round()
		between := time.Now()
		syncs = counter.Stats().Syncs - syncs
		for range batches {
			bare.write(b, bytes)
		}
		ours, theirs = append(ours, between.Sub(begin)), append(theirs, time.Since(between))
		if inFlight > 1 {
			n := max(int64(syncs), 2)
			begin = time.Now()
			for range n {
				bare.write(b, bytes*int64(batches)/n/4096*4096)
			}
			merged = append(merged, time.Since(begin))
		}
	}
	b.StopTimer()
	now := counter.Stats()
	payload := float64(b.N * size * entries * batches)
	b.ReportMetric(float64(now.Bytes-last.Bytes)/payload, "written/payload")
	b.ReportMetric(float64(now.Syncs-last.Syncs)/float64(b.N*batches), "syncs/batch")
	b.ReportMetric(total(ours)/total(theirs), "x-bare")
	b.ReportMetric(median(ours)/median(theirs), "p50-x-bare")
	if inFlight > 1 {
		b.ReportMetric(median(ours)/median(merged), "p50-x-bare-merged")
	}
}

// BenchmarkBulk installs pieces of 512 KiB, as a replica does that gets a state, with so many bytes on their way
// to the disk at once. Then as many bytes are written to a new file, with one sync at the end: what a copy takes.
func BenchmarkBulk(b *testing.B) {
	const piece = 512 << 10
	data := make([]byte, piece)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	for _, window := range []int{4 << 20, 8 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			l := openOnDisk(b)
			room := make(chan struct{}, window/piece)
			b.SetBytes(piece)
			b.ResetTimer()
			begin := time.Now()
			for i := range b.N {
				room <- struct{}{}
				l.Install(1, uint64(i+1), 1, piece, []journal.Range{{Off: 0, Len: piece}}, data, func() { <-room })
			}
			for range cap(room) {
				room <- struct{}{}
			}
			ours := time.Since(begin)
			b.StopTimer()
			f, err := vfs.OS{}.Create(filepath.Join(b.TempDir(), "copy"))
			if err != nil {
				b.Fatal(err)
			}
			begin = time.Now()
			for i := range b.N {
				if _, err := f.WriteAt(data, int64(i)*piece); err != nil {
					b.Fatal(err)
				}
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(100*time.Since(begin).Seconds()/ours.Seconds(), "%of-copy")
		})
	}
}

func total(all []time.Duration) (sum float64) {
	for _, d := range all {
		sum += float64(d)
	}
	return sum
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2])
}

// bareFile is a file that was filled once and is written round and round.
type bareFile struct {
	file vfs.File
	data []byte
	size int64
	off  int64
}

func newBareFile(b *testing.B, size int64) *bareFile {
	f, err := vfs.OS{}.Create(filepath.Join(b.TempDir(), "bare"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	})
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	const piece = 256 << 10 // in whose pages small writes are the fastest, as in the journal's segments
	for off := int64(0); off < size; off += piece {
		if _, err := f.WriteAt(data[:piece], off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return &bareFile{file: f, data: data, size: size}
}

func (f *bareFile) write(b *testing.B, n int64) {
	if f.off+n > f.size {
		f.off = 0
	}
	if _, err := f.file.WriteAt(f.data[:n], f.off); err != nil {
		b.Fatal(err)
	}
	if err := f.file.SyncData(); err != nil {
		b.Fatal(err)
	}
	f.off += n
}

// BenchmarkBareWriteSync is what the disk can do: pieces as BenchmarkAppend's batches would be with
// everybody waiting, written into a filled file, with an fdatasync each.
func BenchmarkBareWriteSync(b *testing.B) {
	for _, size := range []int64{4 << 10, 64 << 10, 512 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			f := newBareFile(b, 64<<20)
			b.SetBytes(size)
			for b.Loop() {
				f.write(b, size)
			}
		})
	}
}

// BenchmarkReadAt reads 128 bytes out of entries that are in the page cache.
func BenchmarkReadAt(b *testing.B) {
	l := openOnDisk(b)
	const n = 1000
	done := make(chan struct{})
	for i := range uint64(n) {
		w := journal.Write{Group: 1, Entries: []journal.Entry{{Index: i + 1, Term: 1, Data: make([]byte, 4096)}}}
		if i == n-1 {
			w.Done = func() { close(done) }
		}
		l.Append(w)
	}
	<-done
	p := make([]byte, 128)
	b.ReportAllocs()
	index := uint64(0)
	for b.Loop() {
		index = index%n + 1
		if err := l.ReadAt(1, index, 512, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEntries reads 100 entries of 50 bytes that one group wrote one at a time: with no other group beside it, and with
// three.
func BenchmarkEntries(b *testing.B) {
	for _, groups := range []uint64{1, 4} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			l := openOnDisk(b)
			const n = 100
			done := make(chan struct{})
			for i := range n * groups {
				l.Append(journal.Write{Group: i%groups + 1, Entries: []journal.Entry{{Index: i/groups + 1, Term: 1, Data: make([]byte, 50)}},
					Done: func() { done <- struct{}{} }})
				<-done
			}
			b.ReportAllocs()
			for b.Loop() {
				if e, err := l.Entries(1, 1, n+1, 1<<20); err != nil || len(e) != n {
					b.Fatalf("%d entries, %v", len(e), err)
				}
			}
		})
	}
}

func openOnDisk(tb testing.TB) *journal.Log {
	tb.Helper()
	return openWith(tb, func(*journal.Config, *catalog.Catalog) {})
}

// openWith opens a log on the real disk.
func openWith(tb testing.TB, change func(*journal.Config, *catalog.Catalog)) *journal.Log {
	tb.Helper()
	dir := tb.TempDir()
	c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
	if err != nil {
		tb.Fatal(err)
	}
	cfg := journal.Config{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c}
	change(&cfg, c)
	l, err := journal.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// BenchmarkOpen opens logs with more and more small entries, written in batches. The heap is that of the
// open log, for each entry.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []uint64{100_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			cfg := journal.Config{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c}
			l, err := journal.Open(cfg)
			if err != nil {
				b.Fatal(err)
			}
			fill(l, n)
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			before := heap()
			var opening time.Duration
			for b.Loop() {
				start := time.Now()
				if l, err = journal.Open(cfg); err != nil {
					b.Fatal(err)
				}
				opening += time.Since(start)
				b.StopTimer()
				b.ReportMetric(float64(heap()-before)/float64(n), "heap-B/entry")
				p := make([]byte, 8)
				if err := l.ReadAt(1, n/2, 0, p); err != nil {
					b.Fatal(err)
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(opening.Milliseconds())/float64(b.N), "open-ms")
		})
	}
}

// fill appends n entries of 8 bytes to group 1.
func fill(l *journal.Log, n uint64) {
	const batch = 10_000
	for first := uint64(1); first <= n; first += batch {
		entries := make([]journal.Entry, batch)
		data := make([]byte, 8*batch)
		for i := range entries {
			entries[i] = journal.Entry{Index: first + uint64(i), Term: 1, Data: data[8*i:][:8]}
		}
		done := make(chan struct{})
		l.Append(journal.Write{Group: 1, Entries: entries, Done: func() { close(done) }})
		<-done
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// latest is the Retainer of a group that keeps the last value of each key.
type latest struct {
	mu    sync.Mutex
	index []uint64 // by key
	live  []bool   // by index
	size  uint32
}

func (k *latest) put(key int, index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live[k.index[key]] = false
	k.index[key], k.live[index] = index, true
}

func (k *latest) Live(lo, hi uint64, yield func(uint64, []journal.Range) bool) error {
	for index := max(lo, 1); index < min(hi, uint64(len(k.live))); index++ {
		k.mu.Lock()
		live := k.live[index]
		k.mu.Unlock()
		if live && !yield(index, []journal.Range{{Off: 0, Len: k.size}}) {
			return nil
		}
	}
	return nil
}

func (k *latest) LiveBytes(lo, hi uint64) (n int64) {
	k.Live(lo, hi, func(uint64, []journal.Range) bool { n += int64(k.size); return true })
	return n
}

// BenchmarkMover overwrites values of 1 KiB, in batches of 64: 20,000 hot keys, and 5,000 that are written
// once. It reports the room on disk for each byte that is needed, and the bytes written for each byte of
// payload.
func BenchmarkMover(b *testing.B) {
	const size, hot, cold, batch = 1024, 20_000, 5_000, 64
	dir := b.TempDir()
	c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	l, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c, SegmentBytes: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	keys := &latest{index: make([]uint64, hot+cold), live: make([]bool, b.N*batch+cold+batch+1), size: size}
	l.Retain(1, keys)
	rnd := rand.New(rand.NewPCG(1, 2))
	index := uint64(0)
	write := func(key func(i int) int) {
		entries := make([]journal.Entry, batch)
		chosen := make([]int, batch)
		for i := range entries {
			index++
			chosen[i] = key(i)
			entries[i] = journal.Entry{Index: index, Term: 1, Data: make([]byte, size)}
		}
		done := make(chan struct{})
		l.Append(journal.Write{Group: 1, Entries: entries, State: &journal.HardState{Term: 1, Commit: index}, Done: func() { close(done) }})
		<-done
		for i := range entries {
			keys.put(chosen[i], entries[i].Index)
		}
		l.Compact(1, index)
	}
	for n := 0; n < cold; n += batch {
		write(func(i int) int { return hot + min(n+i, cold-1) })
	}
	b.ResetTimer()
	most := int64(0)
	for n := range b.N {
		write(func(int) int { return rnd.IntN(hot) })
		if n > b.N/2 {
			most = max(most, l.Stats().Bytes)
		}
	}
	b.StopTimer()
	st := l.Stats()
	b.ReportMetric(float64(most)/((hot+cold)*size), "disk-B/live-B")
	b.ReportMetric(float64(st.Appended)/float64(index*size), "written-B/payload-B")
	b.ReportMetric(float64(st.Moved)/float64(index*size), "moved-B/payload-B")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
