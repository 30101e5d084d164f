package journal

import (
	"fmt"
	"testing"
)

// BenchmarkEncode makes the sectors of batches out of entries: all that is done with them between the queue
// and the disk.
func BenchmarkEncode(b *testing.B) {
	for _, of := range []struct{ size, entries int }{{128, 1}, {128, 512}, {1 << 10, 512}, {64 << 10, 1}, {512 << 10, 1}} {
		b.Run(fmt.Sprintf("bytes=%d/batch=%d", of.size, of.entries), func(b *testing.B) {
			h := imageHeader(version3)
			h.size = 64 << 20
			s := newSegment(h, newSectorFile(h, nil, nil))
			g := newGroup(1)
			entries := make([]Entry, of.entries)
			data := make([]byte, of.size)
			for i := range entries {
				entries[i] = Entry{Index: uint64(i + 1), Term: 1, Data: data}
			}
			var batch builder
			b.SetBytes(int64(of.size * of.entries))
			b.ReportAllocs()
			for b.Loop() {
				batch.start(s, s.end, 0)
				batch.addEntries(g, entries)
				buf, _ := batch.finish(link{})
				s.file.seal(buf, dataOffset, 1)
			}
		})
	}
}
