package journal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/storage/vfs"
)

// testKeys has a data key.
func testKeys(t testing.TB) keys {
	t.Helper()
	k := keys{data: bytes.Repeat([]byte{3, 1, 4, 1}, dataKeyBytes/4), stored: true}
	var err error
	if k.id, err = identify(k.data); err != nil {
		t.Fatal(err)
	}
	return k
}

// encrypted is imageHeader with encryption.
func encrypted(k keys) header {
	h := imageHeader(version3)
	h.cipher, h.key = cipherXTS, k.id
	return h
}

// openSectors returns a sectorFile on a new simulated disk.
func openSectors(t testing.TB, h header, k keys) (*vfs.Mem, *sectorFile) {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/j"); err != nil {
		t.Fatal(err)
	}
	raw, err := mem.Create("/j/a.seg")
	if err == nil {
		err = raw.Allocate(h.size)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.segmentCipher(h)
	if err != nil {
		t.Fatal(err)
	}
	return mem, newSectorFile(h, raw, c)
}

func TestSectorFileReadsWhatWasWritten(t *testing.T) {
	k := testKeys(t)
	for name, h := range map[string]header{"plain": imageHeader(version3), "encrypted": encrypted(k)} {
		h.size = 1 << 20 // more than one piece of ReadAt
		mem, f := openSectors(t, h, k)
		rnd := rand.New(rand.NewPCG(1, 2))
		want := make([]byte, f.logical(h.size))
		end, lsn := int64(dataOffset), uint64(0)
		for end < int64(len(want)) {
			n := min((1+rnd.IntN(20))*blockContent, len(want)-int(end))
			for i := range n {
				want[end+int64(i)] = byte(rnd.Uint32())
			}
			lsn++
			if err := f.write(inSectors(want[end:][:n]), 0, end, lsn); err != nil {
				t.Fatal(err)
			}
			end += int64(n)
		}
		if f.physical(end) != h.size {
			t.Errorf("%s: the contents end at %d, the file at %d", name, f.physical(end), h.size)
		}
		check := func(off, n int) {
			t.Helper()
			p := make([]byte, n)
			if got, err := f.ReadAt(p, int64(off)); got != n || err != nil || !bytes.Equal(p, want[off:][:n]) {
				t.Fatalf("%s: %d bytes at %d: got %d, %v, or other bytes", name, n, off, got, err)
			}
		}
		check(dataOffset, len(want)-dataOffset)
		for range 2000 {
			off := dataOffset + rnd.IntN(len(want)-dataOffset)
			check(off, 1+rnd.IntN(min(5000, len(want)-off)))
		}
		if n, err := f.ReadAt(make([]byte, 600), int64(len(want))-100); err != io.EOF || n > 100 {
			t.Errorf("%s: reading behind the end returned %d, %v", name, n, err)
		}
		// Every byte of a sector is covered: trailer, number and identity, too.
		for off := range int64(sectorBytes) {
			at := int64(dataOffset + 33*sectorBytes)
			if err := mem.Corrupt("/j/a.seg", at+off, 0x40); err != nil {
				t.Fatal(err)
			}
			var corrupt *CorruptError
			if _, err := f.ReadAt(make([]byte, 1), f.logical(at)+7); !errors.As(err, &corrupt) || corrupt.Offset != at {
				t.Errorf("%s: byte %d of a sector is changed: ReadAt returned %v", name, off, err)
			}
			if err := mem.Corrupt("/j/a.seg", at+off, 0x40); err != nil {
				t.Fatal(err)
			}
		}
		other := h
		other.identity++
		g := newSectorFile(other, f.raw, f.cipher)
		if _, err := g.ReadAt(make([]byte, 1), dataOffset); !errors.As(err, new(*CorruptError)) {
			t.Errorf("%s: a sector of another file was read: %v", name, err)
		}
		f.first = 5
		if _, err := f.ReadAt(make([]byte, 1), dataOffset); err == nil || !strings.Contains(err.Error(), "batch 1 from before") {
			t.Errorf("%s: a sector of an earlier life was read: %v", name, err)
		}
	}
}

// Sectors between the parts that are wanted are not looked at, those of the parts are.
func TestPartsOfSectorsAreRead(t *testing.T) {
	for name, h := range map[string]header{"plain": imageHeader(version3), "encrypted": encrypted(testKeys(t))} {
		h.size = 1 << 20
		mem, f := openSectors(t, h, testKeys(t))
		rnd := rand.New(rand.NewPCG(3, 4))
		want := make([]byte, f.logical(h.size)-dataOffset)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		if err := f.write(inSectors(want), 0, dataOffset, 1); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			from := rnd.IntN(len(want) - 5000)
			p := make([]byte, 1+rnd.IntN(5000))
			if rnd.IntN(20) == 0 {
				p = make([]byte, 1+rnd.IntN(len(want)-from)) // more than one piece
			}
			var parts []Range
			bad := int64(rnd.IntN(len(p))) / contentBytes * contentBytes // which sector is damaged
			damaged := f.physical(dataOffset+int64(from)+bad) &^ (sectorBytes - 1)
			hit := false
			for at := rnd.IntN(600); at < len(p); at += rnd.IntN(3000) {
				n := 1 + rnd.IntN(min(700, len(p)-at))
				parts = append(parts, Range{uint32(at), uint32(n)})
				first, last := f.physical(dataOffset+int64(from+at)), f.physical(dataOffset+int64(from+at+n-1))
				hit = hit || first&^(sectorBytes-1) <= damaged && damaged <= last
				at += n
			}
			if len(parts) == 0 {
				continue
			}
			read := func() error {
				r := f.reader(dataOffset + int64(from+len(p)))
				defer r.close()
				for i, part := range parts {
					b := p[:part.Len]
					if n, err := r.ReadAt(b, dataOffset+int64(from)+int64(part.Off)); err != nil {
						return err
					} else if n != len(b) || !bytes.Equal(b, want[from+int(part.Off):][:n]) {
						t.Fatalf("%s: parts %v at %d: %d bytes of part %d, or others than were written", name, parts, from, n, i)
					}
				}
				return nil
			}
			if err := read(); err != nil {
				t.Fatalf("%s: %d bytes at %d, parts %v: %v", name, len(p), from, parts, err)
			}
			flip := func(off int64) {
				if err := mem.Corrupt("/j/a.seg", damaged+off, 1); err != nil {
					t.Fatal(err)
				}
			}
			off := int64(rnd.IntN(sectorBytes))
			flip(off)
			var corrupt *CorruptError
			if err := read(); errors.As(err, &corrupt) != hit || hit && corrupt.Offset != damaged {
				t.Fatalf("%s: %d bytes at %d, parts %v, the sector at %d is damaged: %v", name, len(p), from, parts, damaged, err)
			}
			flip(off)
		}
	}
}

// Equal contents at equal places are not equal on the disk, except in the same segment.
func TestSectorsAreEncryptedForTheirSegment(t *testing.T) {
	k := testKeys(t)
	one := encrypted(k)
	content := bytes.Repeat([]byte("secret! "), blockContent/8)
	seal := func(h header, at int64) []byte {
		c, err := k.segmentCipher(h)
		if err != nil {
			t.Fatal(err)
		}
		b := inSectors(content)
		newSectorFile(h, nil, c).seal(b, at, 1)
		return b[:contentBytes]
	}
	base := seal(one, dataOffset)
	salt, identity := one, one
	salt.salt++
	identity.identity++
	for name, b := range map[string][]byte{"content": content[:contentBytes], "another sector": seal(one, dataOffset+blockBytes),
		"another life": seal(salt, dataOffset), "another file": seal(identity, dataOffset)} {
		for i := 0; i < contentBytes; i += 16 {
			if bytes.Contains(b, base[i:i+16]) {
				t.Errorf("%s has the same 16 bytes at %d", name, i)
			}
		}
	}
	if !bytes.Equal(base, seal(one, dataOffset)) {
		t.Error("the same is not encrypted in the same way")
	}
}

// recycled is a segment in a file that had another one before: every sector behind the first two
// blocks is of batch 1 of that. Batch 2 is whole, and batch 3 is where the test damages it.
func recycled(t *testing.T, k keys, h header) (image []byte, start, end int64) {
	t.Helper()
	old := h
	old.id, old.salt = 9, 99
	_, f := openSectors(t, old, k)
	if err := f.write(make([]byte, h.size-dataOffset), 0, dataOffset, 1); err != nil {
		t.Fatal(err)
	}
	c, err := k.segmentCipher(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeHeader(f.raw, h); err != nil {
		t.Fatal(err)
	}
	s := newSegment(h, newSectorFile(h, f.raw, c))
	b, prev := &builder{}, link{lsn: 1, crc: 77}
	for i, n := range []int{500, 10000} {
		b.start(s, s.end, 0)
		b.add(entryRecord(1, uint64(i+1)), bytes.Repeat([]byte{byte(i + 1)}, n))
		buf, last := b.finish(prev)
		if err := s.file.write(buf, 0, s.end, last.lsn); err != nil {
			t.Fatal(err)
		}
		start = s.physical(s.end)
		s.end += int64(b.size)
		prev = last
	}
	image = make([]byte, h.size)
	if err := readFull(f.raw, image, 0); err != nil {
		t.Fatal(err)
	}
	return image, start, s.physical(s.end)
}

// The cases of storage/DESIGN.md, "Torn or corrupt", where batch 3 is expected.
func TestTailTellsTornFromCorrupt(t *testing.T) {
	k := testKeys(t)
	plain := imageHeader(version3)
	fresh := func(image []byte, start int64) func(i int64) {
		return func(i int64) { clear(image[start+i*sectorBytes:][:sectorBytes]) }
	}
	for _, tc := range []struct {
		name   string
		mark   uint64
		change func(image []byte, start, end int64, old func(i int64))
		want   string // of the damage; empty: torn or nothing
		dirty  bool   // something is to be cut
	}{
		{name: "nothing", change: func(_ []byte, start, end int64, old func(int64)) {
			for i := range (end - start) / sectorBytes {
				old(i)
			}
		}},
		{name: "nothing, but the mark knows it", mark: 3, want: "batches up to 3 were synced",
			change: func(_ []byte, start, end int64, old func(int64)) {
				for i := range (end - start) / sectorBytes {
					old(i)
				}
			}},
		{name: "first sector missing", dirty: true, change: func(_ []byte, _, _ int64, old func(int64)) { old(0) }},
		{name: "first sector missing, another one damaged", dirty: true,
			change: func(image []byte, start, _ int64, old func(int64)) { old(0); image[start+5*sectorBytes] ^= 1 }},
		{name: "middle sector missing", dirty: true, change: func(_ []byte, _, _ int64, old func(int64)) { old(7) }},
		{name: "all but the first missing", dirty: true, change: func(_ []byte, start, end int64, old func(int64)) {
			for i := range (end-start)/sectorBytes - 1 {
				old(i + 1)
			}
		}},
		{name: "last sector missing", dirty: true,
			change: func(_ []byte, start, end int64, old func(int64)) { old((end-start)/sectorBytes - 1) }},
		{name: "middle sector missing, but the mark knows it", mark: 3, want: "batches up to 3 were synced",
			change: func(_ []byte, _, _ int64, old func(int64)) { old(7) }},
		{name: "first sector damaged", want: "first sector is not what a write leaves behind",
			change: func(image []byte, start, _ int64, _ func(int64)) { image[start+100] ^= 1 }},
		{name: "middle sector damaged", want: "a sector of batch 3 has a wrong checksum",
			change: func(image []byte, start, _ int64, _ func(int64)) { image[start+5*sectorBytes+100] ^= 1 }},
		{name: "middle sector damaged, another one missing", want: "a sector of batch 3 has a wrong checksum",
			change: func(image []byte, start, _ int64, old func(int64)) { old(3); image[start+5*sectorBytes] ^= 1 }},
		{name: "sectors swapped", want: "a sector of batch 3 has a wrong checksum",
			change: func(image []byte, start, _ int64, _ func(int64)) {
				copy(image[start+5*sectorBytes:][:sectorBytes], image[start+6*sectorBytes:][:sectorBytes])
			}},
		{name: "whole, but not what its checksums say", want: "no sector of it is missing",
			change: func(image []byte, start, _ int64, _ func(int64)) {
				f := newSectorFile(plain, bytesFile{ReaderAt: bytes.NewReader(image)}, nil)
				sector := bytes.Clone(image[start:][:sectorBytes])
				sector[batchBytes+9] ^= 1 // in the header of the record
				le.PutUint32(sector[contentBytes+8:], sectorSum(f.seed, uint32(start/sectorBytes), sector))
				copy(image[start:], sector)
			}},
		{name: "a later batch behind a missing one", want: "a sector of batch 4 stands after it",
			change: func(image []byte, start, end int64, old func(int64)) {
				for i := range (end - start) / sectorBytes {
					old(i)
				}
				f := newSectorFile(plain, bytesFile{}, nil)
				f.seal(image[end:][:blockBytes], end, 4)
			}},
	} {
		for _, kind := range []string{"recycled", "fresh"} {
			image, start, end := recycled(t, k, plain)
			old := func(i int64) { // the sector as it was before batch 3
				f := newSectorFile(plain, bytesFile{}, nil)
				b := make([]byte, sectorBytes)
				at := start + i*sectorBytes
				f.seal(b, at, 1)
				copy(image[at:], b)
			}
			if kind == "fresh" {
				clear(image[end:])
				old = fresh(image, start)
			}
			tc.change(image, start, end, old)
			r := &batchReader{file: newSectorFile(plain, bytesFile{ReaderAt: bytes.NewReader(image)}, nil), size: plain.size,
				seed: plain.seed()}
			found, err := r.scan(func(batch) error { return nil })
			if err != nil || found.last.lsn != 2 {
				t.Fatalf("%s, %s: scan found batches up to %d, %v", tc.name, kind, found.last.lsn, err)
			}
			dirty, err := r.tail(found.end, found.last, tc.mark, found.stop)
			var d *damage
			switch {
			case tc.want != "":
				if !errors.As(err, &d) || !strings.Contains(d.reason, tc.want) || d.off < start || d.off >= end {
					t.Errorf("%s, %s: tail returned %v, want %q", tc.name, kind, err, tc.want)
				}
				continue
			case err != nil || (dirty > 0) != tc.dirty:
				t.Errorf("%s, %s: tail returned %d, %v; want a cut: %t", tc.name, kind, dirty, err, tc.dirty)
				continue
			}
			for at := r.file.physical(max(dirty, found.end)); at < plain.size; at += sectorBytes {
				if lsn, ok := r.file.check(image[at:][:sectorBytes], at); ok && lsn > 2 {
					t.Errorf("%s, %s: the cut up to %d leaves a sector of batch %d", tc.name, kind, dirty, lsn)
				}
			}
		}
	}
}

// An encrypted segment in a recycled file reads like another one.
func TestTailOfEncryptedSegment(t *testing.T) {
	k := testKeys(t)
	h := encrypted(k)
	image, start, _ := recycled(t, k, h)
	c, err := k.segmentCipher(h)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (span, error) {
		r := &batchReader{file: newSectorFile(h, bytesFile{ReaderAt: bytes.NewReader(image)}, c), size: h.size, seed: h.seed()}
		found, err := r.scan(func(batch) error { return nil })
		if err == nil {
			_, err = r.tail(found.end, found.last, 0, found.stop)
		}
		return found, err
	}
	if found, err := read(); err != nil || found.last.lsn != 3 {
		t.Errorf("the whole segment: batches up to %d, %v", found.last.lsn, err)
	}
	clear(image[start+7*sectorBytes:][:sectorBytes])
	if found, err := read(); err != nil || found.last.lsn != 2 {
		t.Errorf("with a torn batch: batches up to %d, %v", found.last.lsn, err)
	}
	image[start+3*sectorBytes] ^= 1
	if found, err := read(); !errors.As(err, new(*damage)) || found.last.lsn != 2 {
		t.Errorf("with a damaged batch: batches up to %d, %v", found.last.lsn, err)
	}
}

func TestWriteOfSectorsDoesNotAllocate(t *testing.T) {
	k := testKeys(t)
	_, f := openSectors(t, imageHeader(version3), k)
	buf := make([]byte, 8*blockBytes)
	if n := testing.AllocsPerRun(100, func() { f.seal(buf, dataOffset, 1) }); n > 0 {
		t.Errorf("sealing sectors allocates %v times", n)
	}
	f.raw = bytesFile{ReaderAt: bytes.NewReader(append(make([]byte, dataOffset), buf...))}
	p := make([]byte, 3000)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.ReadAt(p, dataOffset+100); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("reading sectors allocates %v times", n)
	}
}

func BenchmarkSectors(b *testing.B) {
	k := testKeys(b)
	for name, h := range map[string]header{"plain": imageHeader(version3), "encrypted": encrypted(k)} {
		h.size = 4 << 20
		_, f := openSectors(b, h, k)
		buf := make([]byte, 1<<20)
		b.Run("seal/"+name, func(b *testing.B) {
			b.SetBytes(1 << 20)
			for b.Loop() {
				f.seal(buf, dataOffset, 1)
			}
		})
		image := make([]byte, dataOffset+1<<20)
		copy(image[dataOffset:], buf)
		f.seal(image[dataOffset:], dataOffset, 1)
		f.raw = bytesFile{ReaderAt: bytes.NewReader(image)}
		for _, n := range []int{128, 64 << 10} {
			p := make([]byte, n)
			b.Run("open/"+name+"/bytes="+map[int]string{128: "128", 64 << 10: "64k"}[n], func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					if _, err := f.ReadAt(p, dataOffset+5000); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// Two processors encrypt a batch as one does.
func TestSealOnTwoProcessors(t *testing.T) {
	k := testKeys(t)
	h := encrypted(k)
	c, err := k.segmentCipher(h)
	if err != nil {
		t.Fatal(err)
	}
	f := newSectorFile(h, nil, c)
	for _, blocks := range []int{1, bothBytes/blockBytes - 1, bothBytes / blockBytes, bothBytes/blockBytes + 1, 517} {
		want := make([]byte, blocks*blockBytes)
		rand.NewChaCha8([32]byte{byte(blocks)}).Read(want)
		got := bytes.Clone(want)
		at := dataOffset + int64(blocks)*blockBytes
		f.sealPart(want, at, 7)
		f.seal(got, at, 7)
		if !bytes.Equal(got, want) {
			t.Errorf("%d blocks are not the sectors of their content", blocks)
		}
	}
}

// pieced notes where what is written ends.
type pieced struct {
	vfs.File
	ends []int64
}

func (p *pieced) WriteAt(b []byte, off int64) (int, error) {
	p.ends = append(p.ends, off+int64(len(b)))
	return p.File.WriteAt(b, off)
}

// A batch that is written in pieces has the same bytes as one that is sealed as a whole, whatever its length and place.
// No piece ends in the middle of a page that the next one begins in.
func TestLargeBatchIsWrittenInPieces(t *testing.T) {
	const batch = 7
	const piece = pieceBytes / blockBytes
	const early = earlyBytes / blockBytes
	for _, blocks := range []int{1, early - 1, early, early + 1, piece, 2*piece + 1, 3*piece - 1, 3 * piece, 9*piece/2 + 1} {
		for _, before := range []int{1, 31, 62, 95} {
			h := imageHeader(version3)
			h.size = dataOffset + int64(before+blocks+1)*blockBytes
			_, f := openSectors(t, h, testKeys(t))
			raw := &pieced{File: f.raw}
			f.raw = raw
			want := make([]byte, blocks*blockBytes)
			rand.NewChaCha8([32]byte{byte(blocks)}).Read(want)
			buf := bytes.Clone(want)
			off := int64(dataOffset + before*blockContent)
			at := f.physical(off)
			f.seal(want, at, batch)
			if err := f.write(buf, 0, off, batch); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, h.size)
			if err := readFull(f.raw, got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[at:][:len(want)], want) {
				t.Errorf("a batch of %d blocks behind %d is not what was sealed", blocks, before)
			}
			if !isZero(got[dataOffset:at]) || !isZero(got[at+int64(len(want)):]) {
				t.Errorf("a batch of %d blocks behind %d wrote beside its place", blocks, before)
			}
			if (len(raw.ends) > 1) != (blocks >= early) {
				t.Errorf("a batch of %d blocks was written in %d pieces", blocks, len(raw.ends))
			}
			for _, end := range raw.ends[:len(raw.ends)-1] {
				if end%zeroBytes != 0 {
					t.Errorf("a piece of a batch of %d blocks ends at %d", blocks, end)
				}
			}
		}
	}
}
