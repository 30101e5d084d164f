package journal_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

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
			w := journal.Write{
				Group:   uint64(p + 1),
				Entries: make([]journal.Entry, 1),
				Done:    func() { done <- struct{}{} },
			}
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

// BenchmarkBareWriteSync is what the disk can do: the same bytes in the same pieces as
// BenchmarkAppend's batches would have with everybody waiting, written into a zero-filled file,
// with an fdatasync each.
func BenchmarkBareWriteSync(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 512 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			const fileBytes = 64 << 20
			f, err := vfs.OS{}.Create(filepath.Join(b.TempDir(), "bare"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			zeros := make([]byte, 1<<20)
			for off := int64(0); off < fileBytes; off += 1 << 20 {
				if _, err := f.WriteAt(zeros, off); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			data := make([]byte, size)
			b.SetBytes(int64(size))
			off := int64(0)
			for b.Loop() {
				if _, err := f.WriteAt(data, off); err != nil {
					b.Fatal(err)
				}
				if err := f.SyncData(); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(size)) % fileBytes
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

func openOnDisk(tb testing.TB) *journal.Log {
	tb.Helper()
	dir := tb.TempDir()
	c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
	if err != nil {
		tb.Fatal(err)
	}
	l, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c})
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
