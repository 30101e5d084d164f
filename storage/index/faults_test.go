package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// filled returns an index of n messages on the subjects a, b and c in turn, in a store that can be broken.
func filled(t testing.TB, n int, cfg Config) (*Index, *store) {
	t.Helper()
	blocks := newStore()
	cfg.Blocks = blocks
	if cfg.Cache == nil {
		cfg.Cache = NewCache(0)
	}
	ix := New(cfg)
	for i := range uint64(n) {
		m := Message{Seq: i + 1, Index: i/4 + 1, Off: uint32(i % 4 * 100), Len: 100, Time: int64(i)}
		if _, err := ix.Append(m, []byte{byte('a' + i%3)}); err != nil {
			t.Fatal(err)
		}
	}
	ix.Close() // nothing is cached
	return ix, blocks
}

func TestIndexReportsDamagedBlocks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"flipped", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }},
		{"empty", func([]byte) []byte { return nil }},
		{"another block", func([]byte) []byte {
			return encodeBlock([]record{{seq: 1, index: 1, size: 200}})
		}},
		{"the same with another place", func(b []byte) []byte {
			k, _ := decodeBlock(b)
			var recs []record
			for i := range k.n {
				recs = append(recs, k.record(i))
			}
			recs[7].off++
			return encodeBlock(recs)
		}},
		{"missing", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ix, blocks := filled(t, 3*BlockLen, Config{})
			if tt.damage != nil {
				blocks.broken = map[uint64]func([]byte) []byte{2: tt.damage}
			} else {
				blocks.Delete(2)
			}
			in := uint64(BlockLen + 10)
			f := NewFilter("a")
			for name, call := range map[string]func() error{
				"get":      func() error { _, _, err := ix.Get(in); return err },
				"next":     func() error { _, _, err := ix.Next(in); return err },
				"previous": func() error { _, _, err := ix.Previous(in); return err },
				"run":      func() error { _, _, _, err := ix.Run(in, 1000); return err },
				"count":    func() error { _, err := ix.CountFrom(in); return err },
				"matching": func() error { _, _, err := ix.NextMatching(in, f); return err },
				"counting": func() error { _, err := ix.CountMatching(in, f); return err },
				"time":     func() error { _, _, err := ix.AtTime(BlockLen + 10); return err },
				"entry":    func() error { _, err := ix.HasEntry(in / 4); return err },
				"last":     func() error { _, err := ix.LastPerSubject(f, in); return err },
				"live":     func() error { return ix.Live(0, 1<<40, func(uint64, []Range) bool { return true }) },
				"remove":   func() error { _, _, err := ix.Remove(in); return err },
			} {
				err := call()
				var e *BlockError
				if !errors.As(err, &e) || e.Key != 2 || e.First != BlockLen+1 || e.Last != 2*BlockLen {
					t.Errorf("%s: %v", name, err)
				} else if !strings.Contains(err.Error(), "block 2 of messages 1025 to 2048") {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, seq := range []uint64{1, 3 * BlockLen} {
				if _, ok, err := ix.Get(seq); !ok || err != nil {
					t.Errorf("message %d of another block: %v %v", seq, ok, err)
				}
			}
		})
	}
}

// Every single flipped bit of a block is noticed.
func TestIndexDetectsEveryFlippedBit(t *testing.T) {
	var recs []record
	for i := range uint64(20) {
		recs = append(recs, record{seq: 10 + 2*i, index: 7 + i/3, time: int64(i * i), off: uint32(i), size: 99, subject: uint32(i % 4), distance: uint32(i)})
	}
	b := encodeBlock(recs)
	k, err := decodeBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		if got := k.record(i); got != recs[i] {
			t.Errorf("record %d: %+v, want %+v", i, got, recs[i])
		}
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := decodeBlock(b); err == nil {
			t.Fatalf("bit %d flipped: no error", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestBlockHoldsExtremes(t *testing.T) {
	const most = 1<<64 - 1
	recs := []record{
		{seq: 1, time: -1 << 63},
		{seq: 1 << 63, index: 1 << 63, off: 1<<32 - 1, size: 1<<32 - 1, subject: 1<<32 - 1, distance: farBack},
		{seq: most, index: most, time: 1<<63 - 1, subject: 3},
	}
	k, err := decodeBlock(encodeBlock(recs))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range recs {
		if got := k.record(i); got != want {
			t.Errorf("record %d: %+v, want %+v", i, got, want)
		}
		if got := k.lower(want.seq); got != i {
			t.Errorf("lower(%d) = %d", want.seq, got)
		}
	}
}

func TestIndexRebuildsDamagedBlocks(t *testing.T) {
	gone := map[uint64]bool{}
	rebuilds := 0
	rebuild := func(first, last, firstIndex, lastIndex uint64, yield func(Message, []byte) error) error {
		rebuilds++
		for i := firstIndex*4 - 4; i < lastIndex*4; i++ {
			if i+1 < first || i+1 > last || gone[i+1] {
				continue
			}
			m := Message{Seq: i + 1, Index: i/4 + 1, Off: uint32(i % 4 * 100), Len: 100, Time: int64(i)}
			if err := yield(m, []byte{byte('a' + i%3)}); err != nil {
				return err
			}
		}
		return nil
	}
	ix, blocks := filled(t, 3*BlockLen, Config{Rebuild: rebuild})
	for _, seq := range []uint64{BlockLen + 1, BlockLen + 5, BlockLen + 6, 2 * BlockLen} { // dead, and collected from the log
		if _, ok, err := ix.Remove(seq); !ok || err != nil {
			t.Fatal(ok, err)
		}
		gone[seq] = true
	}
	ix.Close()
	blocks.broken = map[uint64]func([]byte) []byte{2: func(b []byte) []byte { return b[:10] }}
	if err := ix.check(); err != nil {
		t.Fatal(err)
	}
	rebuilds = 0
	ix.Close()
	for seq := uint64(BlockLen); seq <= 2*BlockLen+1; seq++ {
		m, ok, err := ix.Get(seq)
		if err != nil || ok == gone[seq] {
			t.Fatalf("message %d: %v %v", seq, ok, err)
		}
		if want := (seq - 1) % 4 * 100; ok && (uint64(m.Off) != want || ix.Name(m.Subject) != string(rune('a'+(seq-1)%3))) {
			t.Fatalf("message %d: %+v", seq, m)
		}
	}
	if rebuilds != 1 {
		t.Errorf("the block was rebuilt %d times for its messages", rebuilds)
	}
	if seqs, err := ix.LastPerSubject(NewFilter(), BlockLen+7); err != nil || !slices.Equal(seqs, []uint64{BlockLen + 2, BlockLen + 3, BlockLen + 7}) {
		t.Errorf("last per subject: %v %v", seqs, err)
	}
	gone[BlockLen+100] = true // live, and not in the log
	ix.Close()
	if _, _, err := ix.Get(BlockLen + 7); err == nil || !strings.Contains(err.Error(), "1124 is not in the log") {
		t.Errorf("rebuilt without a message: %v", err)
	}
	fails := errors.New("unreadable")
	ix.cfg.Rebuild = func(uint64, uint64, uint64, uint64, func(Message, []byte) error) error { return fails }
	if _, _, err := ix.Get(BlockLen + 7); !errors.Is(err, fails) || !errors.Is(err, ErrBlock) {
		t.Errorf("failed rebuild: %v", err)
	}
}

func TestIndexRefusesWhatDoesNotFollow(t *testing.T) {
	ix, _ := filled(t, 10, Config{})
	for _, m := range []Message{{Seq: 10, Index: 3}, {Seq: 11, Index: 2}, {Seq: 11, Index: 9, Len: 1 << 31}} {
		if _, err := ix.Append(m, []byte("a")); !errors.Is(err, ErrOrder) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if _, err := ix.Append(Message{Seq: 11, Index: 3}, make([]byte, maxName+1)); !errors.Is(err, ErrOrder) {
		t.Errorf("long name: %v", err)
	}
}

// Blocks that a stored state refers to outlive it.
func TestCaptureKeepsBlocks(t *testing.T) {
	ix, blocks := filled(t, 5*BlockLen, Config{Captured: true})
	trim := func(upTo uint64) {
		t.Helper()
		for m, ok, err := ix.First(); ok && m.Seq <= upTo; m, ok, err = ix.First() {
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ix.Remove(m.Seq); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored := func(want ...uint64) {
		t.Helper()
		var got []uint64
		for key := range uint64(100) {
			if _, err := blocks.Get(key); err == nil {
				got = append(got, key)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("blocks %v, want %v", got, want)
		}
	}
	write := func(c *Capture) {
		t.Helper()
		if _, err := c.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	trim(BlockLen)
	stored(1, 2, 3, 4, 5)
	first := ix.Capture()
	trim(2 * BlockLen)
	second := ix.Capture()
	if !slices.Equal(first.Keys(), []uint64{2, 3, 4, 5}) || !slices.Equal(second.Keys(), []uint64{3, 4, 5}) {
		t.Fatal(first.Keys(), second.Keys())
	}
	write(second)
	second.Release() // first may still be in use
	stored(1, 2, 3, 4, 5)
	write(first)
	first.Release()
	stored(3, 4, 5)
	trim(3 * BlockLen)
	failed := ix.Capture()
	failed.Release() // was not written
	stored(3, 4, 5)
	gone := ix.Capture()
	write(gone)
	gone.Abandon()
	stored(3, 4, 5)
	third := ix.Capture()
	write(third)
	third.Release()
	stored(4, 5)

	// A crash before the deletion leaves blocks behind, which the next restore finds.
	blocks.Put(2, []byte("given up before"))
	blocks.Put(99, []byte("put after the snapshot, will be again"))

	// What a restored state refers to stays until the next is stored.
	other := New(ix.cfg)
	if err := other.Restore(bytes.NewReader(snapshot(t, ix))); err != nil {
		t.Fatal(err)
	}
	ix = other
	trim(4 * BlockLen)
	stored(2, 4, 5, 99)
	fourth := ix.Capture()
	write(fourth)
	stored(2, 4, 5, 99)
	fourth.Release()
	stored(5, 99)
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

func TestCaptureThatIsNotWrittenFreesNothing(t *testing.T) {
	ix, blocks := filled(t, 3*BlockLen, Config{Captured: true})
	ix.Clear()
	c := ix.Capture()
	if _, err := c.WriteTo(&failingWriter{10}); err == nil {
		t.Fatal("no error")
	}
	c.Release()
	if blocks.Len() != 3 {
		t.Errorf("%d blocks", blocks.Len())
	}
}

// A snapshot that is cut or of which a bit is wrong is refused, and the index stays as it is.
func TestRestoreRefusesDamage(t *testing.T) {
	ix, _ := filled(t, 2*BlockLen+50, Config{})
	for _, seq := range []uint64{1, 5, 7, BlockLen + 3, 2*BlockLen + 4} {
		if _, ok, err := ix.Remove(seq); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	good := snapshot(t, ix)
	other, _ := filled(t, 10, Config{})
	before := snapshot(t, other)
	refused := func(what string, b []byte) {
		t.Helper()
		if err := other.Restore(bytes.NewReader(b)); err == nil {
			t.Fatalf("%s: no error", what)
		}
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		refused(fmt.Sprint("byte ", i), bad)
		refused(fmt.Sprint("cut at ", i), good[:i])
	}
	if !bytes.Equal(snapshot(t, other), before) {
		t.Error("a refused snapshot has changed the index")
	}
	if err := other.Restore(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
}
