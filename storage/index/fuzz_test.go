package index

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// FuzzBlock decodes blocks with right checksums: they are refused or can be used.
func FuzzBlock(f *testing.F) {
	f.Add(encodeBlock([]record{{seq: 1, index: 1, size: 80}}))
	f.Add(encodeBlock([]record{{seq: 1, index: 1, size: 80}, {seq: 9, index: 4, time: 77, off: 24, size: 81, subject: 5, distance: 3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
		}
		k, err := decodeBlock(b)
		if err != nil {
			return
		}
		for i := range k.n {
			k.record(i)
			k.lower(k.seq(i))
			k.numberOf(k.subject(i))
		}
	})
}

// FuzzRestore restores snapshots with right checksums: they are refused or are a state that can be written again.
func FuzzRestore(f *testing.F) {
	var plain bytes.Buffer
	ix, _ := filled(f, BlockLen+40, Config{})
	for _, seq := range []uint64{1, 2, 9, BlockLen + 10} {
		ix.Remove(seq)
	}
	// The values without frames: the fuzzer changes these.
	for b := snapshot(f, ix); ; {
		n := le.Uint32(b)
		if n == 0 {
			break
		}
		plain.Write(b[frameHead : frameHead+n])
		b = b[frameHead+n:]
	}
	f.Add(plain.Bytes())
	f.Fuzz(func(t *testing.T, values []byte) {
		var b bytes.Buffer
		crc := uint32(0)
		for rest := values; ; {
			n := min(len(rest), frameLen)
			crc = crc32.Update(crc, castagnoli, rest[:n])
			head := le.AppendUint32(le.AppendUint32(nil, uint32(n)), crc)
			b.Write(append(head, rest[:n]...))
			if rest = rest[n:]; n == 0 {
				break
			}
		}
		x := New(Config{Blocks: ix.cfg.Blocks})
		if err := x.Restore(&b); err != nil {
			return
		}
		again := snapshot(t, x)
		y := New(Config{})
		if err := y.Restore(bytes.NewReader(again)); err != nil {
			t.Fatal(err)
		}
		x.Next(0)
		x.CountMatching(1, NewFilter("a"))
	})
}

// FuzzChanges makes changes that the bytes choose and compares with the model.
func FuzzChanges(f *testing.F) {
	f.Add([]byte("\x00\x01\x02 append and remove"), uint64(1), uint8(0), uint8(20))
	f.Add(bytes.Repeat([]byte{0xff, 0x03, 0x40}, 30), uint64(2), uint8(3), uint8(200))
	f.Fuzz(func(t *testing.T, steps []byte, seed uint64, perName, batch uint8) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		s := &script{t: t, rnd: rnd, ix: New(Config{Cache: NewCache(0)}), names: subjectNames(rnd), index: 1, time: 1, perName: int(perName), maxBatch: int(batch) + 1}
		for _, b := range steps[:min(len(steps), 200)] {
			s.pDelete = int(b) % 100
			s.step()
		}
		s.compare()
		if err := s.ix.check(); err != nil {
			t.Fatal(err)
		}
	})
}
