package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// fuzzCase is what the fuzzer makes up: the bytes behind the first two blocks of a segment.
type fuzzCase struct {
	data []byte
	// seal: data are contents, and the checksums that stand where the lengths in them say are made right,
	// so that the fuzzer gets behind them.
	seal bool
	old  bool // format version 1
	// damage, if not 0: the byte at damage/256 behind the two blocks is changed after all.
	damage uint32
}

func (c fuzzCase) header() header {
	if c.old {
		return imageHeader(version1)
	}
	return imageHeader(version3)
}

func (c fuzzCase) image() []byte {
	h := c.header()
	image := mustImage(h)
	area := image[dataOffset:]
	if !c.seal {
		copy(area, c.data)
	} else {
		file := newSectorFile(h, bytesFile{}, nil)
		contents := make([]byte, file.logical(h.size)-dataOffset)
		copy(contents, c.data)
		prev := link{}
		for off := 0; off < len(contents); {
			n := sealBatch(contents[off:], file.padded, h.seed(), &prev)
			if c.old {
				copy(area[off:], contents[off:off+n])
			} else if !isZero(contents[off : off+n]) {
				at := file.physical(int64(dataOffset + off))
				sectors := image[at:][:n/contentBytes*sectorBytes]
				spread(sectors, 0, contents[off:off+n])
				file.seal(sectors, at, max(prev.lsn, 1))
			}
			off += n
		}
	}
	area[int(c.damage/256)%len(area)] ^= byte(c.damage)
	return image
}

// sealBatch makes the checksums of one batch right and returns its padded length.
func sealBatch(b []byte, padded func(int) int, seed uint32, prev *link) int {
	h := batchHeader{count: le.Uint32(b[4:]), lsn: prev.lsn + 1, length: le.Uint32(b[16:]), prev: prev.crc, body: seed}
	if int64(h.length) > int64(len(b)) || h.length < batchBytes {
		return padded(1)
	}
	off := batchBytes
	for range min(h.count, 1000) {
		if off+recordBytes > int(h.length) {
			break
		}
		head := b[off : off+recordBytes]
		n := int64(le.Uint32(head[4:]))
		if end := int64(off + recordBytes); n <= int64(h.length)-end {
			le.PutUint32(head[32:], crc32.Update(seed, castagnoli, b[end:end+n]))
		}
		le.PutUint32(head[36:], crc32.Update(seed, castagnoli, head[:36]))
		h.body = crc32.Update(h.body, castagnoli, head)
		off = min(off+recordBytes+alignUp(int(min(n, int64(len(b)))), payloadAlign), len(b))
	}
	h.encode(b, seed)
	*prev = link{h.lsn, h.crc}
	return padded(int(h.length))
}

// fuzzSeeds are the inputs in testdata/fuzz/FuzzSegment.
func fuzzSeeds() map[string]fuzzCase {
	seeds := map[string]fuzzCase{"empty": {}, "noise": {data: bytes.Repeat([]byte{0xa5, 0x00, 0xff}, 1000)}}
	for _, version := range []uint32{version1, version3} {
		add := func(name string, c fuzzCase) {
			c.old = version == version1
			seeds[fmt.Sprintf("%s-v%d", name, version)] = c
		}
		good := sample(version)[dataOffset:]
		used := len(bytes.TrimRight(good, "\x00"))
		torn := bytes.Clone(good[:used])
		clear(torn[used/512*512:])
		add("valid", fuzzCase{data: good[:used]})
		add("cut", fuzzCase{data: good[:used/2]})
		add("flipped", fuzzCase{data: good[:used], damage: 9000<<8 | 1})
		add("torn", fuzzCase{data: torn})
		add("wronglast", fuzzCase{data: append(bytes.Clone(good[:8192]), good[:4096]...)})
		h := imageHeader(version)
		contents := make([]byte, newSectorFile(h, bytesFile{}, nil).logical(h.size)-dataOffset)
		src := bytesFile{ReaderAt: bytes.NewReader(sample(version))}
		n := newSectorFile(h, src, nil).padded(6000) // the first batch
		if _, err := newSectorFile(h, src, nil).ReadAt(contents[:n], dataOffset); err != nil {
			panic("BUG: the sample is not readable: " + err.Error())
		}
		add("sealed", fuzzCase{data: contents[:n], seal: true})
		add("sealedflipped", fuzzCase{data: contents[:n], seal: true, damage: 4000<<8 | 1})
	}
	return seeds
}

func FuzzSegment(f *testing.F) {
	if *rewrite {
		for name, c := range fuzzSeeds() {
			dir := filepath.Join("testdata", "fuzz", "FuzzSegment")
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nbool(%t)\nbool(%t)\nuint32(%d)\n", c.data, c.seal, c.old, c.damage)
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, seal, old bool, damaged uint32) {
		fuzzCase{data, seal, old, damaged}.try(t)
	})
}

// try reads the segment, and demands that what is returned is what is there, and that the tail is
// judged consistently.
func (c fuzzCase) try(t *testing.T) {
	image, h := c.image(), c.header()
	seed := h.seed()
	file := newSectorFile(h, bytesFile{ReaderAt: bytes.NewReader(image)}, nil)
	r := &batchReader{file: file, size: int64(len(image)), seed: seed}
	records := 0
	found, err := r.scan(func(b batch) error {
		for _, rec := range b.records {
			records++
			checkRecord(t, file, b.off+int64(rec.off), rec, seed)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	for _, mark := range []uint64{0, found.last.lsn, found.last.lsn + 1} {
		dirty, err := r.tail(found.end, found.last, mark, found.stop)
		if err != nil && !errors.As(err, new(*damage)) {
			t.Fatalf("tail: %v", err)
		}
		if err == nil && mark > found.last.lsn {
			t.Errorf("the loss of batch %d was not noticed", mark)
		}
		if err == nil && c.old && !isZero(image[max(found.end, dirty):]) {
			t.Errorf("bytes after %d are not zero and were not reported", dirty)
		}
		for at := file.physical(max(found.end, dirty)); err == nil && !c.old && at < int64(len(image)); at += sectorBytes {
			if lsn, ok := file.check(image[at:][:sectorBytes], at); ok && lsn > found.last.lsn {
				t.Errorf("the sector of batch %d at %d was not reported", lsn, at)
			}
		}
	}
	cfg, err := imageConfig(image)
	if err != nil {
		t.Fatal(err)
	}
	salvaged, damaged := 0, false
	lenientReader := &batchReader{file: file, size: int64(len(image)), seed: seed, lenient: lenient{on: true}}
	if _, err := lenientReader.scan(func(b batch) error {
		salvaged += int(b.count)
		damaged = damaged || b.cause != nil
		for _, rec := range b.records {
			if !rec.damaged {
				checkRecord(t, file, b.off+int64(rec.off), rec, seed)
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("lenient scan: %v", err)
	}
	records = max(records, salvaged)
	l := newLog(cfg.withDefaults())
	if err := l.recover(); err != nil {
		if !errors.As(err, new(*CorruptError)) {
			t.Fatalf("recover: %v", err)
		}
		return
	}
	for _, group := range l.Groups() {
		first, last := l.Bounds(group)
		if last-first > uint64(records) && last+1 != first {
			t.Errorf("group %d has entries %d to %d out of %d records", group, first, last, records)
		}
		entries, err := l.Entries(group, first, last+1, 1<<40)
		if errors.As(err, new(*CorruptError)) && damaged {
			continue
		}
		if err != nil || uint64(len(entries)) != last+1-first {
			t.Errorf("group %d: %d entries %d to %d, %v", group, len(entries), first, last, err)
		}
	}
	if err := l.closeFiles(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// checkRecord verifies a record against the file from scratch.
func checkRecord(t *testing.T, file *sectorFile, off int64, rec record, seed uint32) {
	b := make([]byte, recordBytes+len(rec.data))
	if err := readFull(file, b, off-recordBytes); err != nil {
		t.Errorf("the record at %d was returned, and reading it: %v", off, err)
		return
	}
	head, stored := b[:recordBytes], b[recordBytes:]
	sum := func(b []byte) uint32 { return crc32.Update(seed, crc32.MakeTable(crc32.Castagnoli), b) }
	if sum(head[:36]) != le.Uint32(head[36:]) || !bytes.Equal(stored, rec.data) ||
		file.version < version3 && sum(stored) != le.Uint32(head[32:]) || // later, the read has checked it
		le.Uint32(head[4:]) != uint32(len(stored)) || le.Uint64(head[8:]) != rec.group || le.Uint64(head[16:]) != rec.index {
		t.Errorf("the record at %d was returned with a wrong checksum", off)
	}
}

// A read error is an error, not damage.
func TestScanReportsReadErrors(t *testing.T) {
	file := newSectorFile(imageHeader(version3), bytesFile{ReaderAt: failingReader{}}, nil)
	r := &batchReader{file: file, size: minSegmentBytes}
	if _, err := r.scan(func(batch) error { return nil }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("scan returned %v", err)
	}
	if _, err := r.tail(dataOffset, link{}, 0, &damage{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("tail returned %v", err)
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }
