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

// fuzzImage makes a segment whose batches are the fuzzer's bytes. With seal, the checksums that
// stand where the lengths in them say are made right, so that the fuzzer gets behind them.
func fuzzImage(data []byte, seal bool) []byte {
	image := make([]byte, minSegmentBytes)
	copy(image, sample()[:blockBytes])
	copy(image[dataOffset:], data)
	if seal {
		seed := header{id: 1, salt: 0x0123456789abcdef}.seed()
		prev := link{}
		for off := dataOffset; off+blockBytes <= len(image); {
			off += sealBatch(image[off:], seed, &prev)
		}
	}
	return image
}

// sealBatch makes the checksums of one batch right and returns its padded length.
func sealBatch(b []byte, seed uint32, prev *link) int {
	h := batchHeader{count: le.Uint32(b[4:]), lsn: prev.lsn + 1, length: le.Uint32(b[16:]), prev: prev.crc, body: seed}
	if int64(h.length) > int64(len(b)) || h.length < batchBytes {
		return blockBytes
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
	return alignUp(int(h.length), blockBytes)
}

// fuzzSeeds are the inputs in testdata/fuzz/FuzzSegment.
func fuzzSeeds() map[string][]byte {
	good := sample()[dataOffset:]
	used := len(bytes.TrimRight(good, "\x00"))
	flipped := bytes.Clone(good[:used])
	flipped[9000] ^= 1
	torn := bytes.Clone(good[:used])
	clear(torn[used/512*512:])
	return map[string][]byte{
		"valid":     good[:used],
		"empty":     {},
		"cut":       good[:used/2],
		"flipped":   flipped,
		"torn":      torn,
		"noise":     bytes.Repeat([]byte{0xa5, 0x00, 0xff}, 1000),
		"wronglast": append(bytes.Clone(good[:8192]), good[:4096]...),
	}
}

func FuzzSegment(f *testing.F) {
	if *rewrite {
		for name, data := range fuzzSeeds() {
			dir := filepath.Join("testdata", "fuzz", "FuzzSegment")
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nbool(%t)\n", data, name != "valid")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		image := fuzzImage(data, seal)
		seed := header{id: 1, salt: 0x0123456789abcdef}.seed()
		r := &batchReader{src: bytes.NewReader(image), size: int64(len(image)), seed: seed}
		records := 0
		found, err := r.scan(func(b batch) error {
			for _, rec := range b.records {
				records++
				checkRecord(t, image, b.off+int64(rec.off), rec, seed)
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
			if err == nil && !isZero(image[max(found.end, dirty):]) {
				t.Errorf("bytes after %d are not zero and were not reported", dirty)
			}
		}
		cfg, err := imageConfig(image)
		if err != nil {
			t.Fatal(err)
		}
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
			if entries, err := l.Entries(group, first, last+1, 1<<40); err != nil || uint64(len(entries)) != last+1-first {
				t.Errorf("group %d: %d entries %d to %d, %v", group, len(entries), first, last, err)
			}
		}
		if err := l.closeFiles(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// checkRecord verifies a record against the image from scratch.
func checkRecord(t *testing.T, image []byte, off int64, rec record, seed uint32) {
	head := image[off-recordBytes : off]
	sum := func(b []byte) uint32 { return crc32.Update(seed, crc32.MakeTable(crc32.Castagnoli), b) }
	stored := image[off : off+int64(le.Uint32(head[4:]))]
	if sum(head[:36]) != le.Uint32(head[36:]) || sum(stored) != le.Uint32(head[32:]) || !bytes.Equal(stored, rec.data) ||
		le.Uint64(head[8:]) != rec.group || le.Uint64(head[16:]) != rec.index {
		t.Errorf("the record at %d was returned with a wrong checksum", off)
	}
}

// A read error is an error, not damage.
func TestScanReportsReadErrors(t *testing.T) {
	r := &batchReader{src: failingReader{}, size: minSegmentBytes}
	if _, err := r.scan(func(batch) error { return nil }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("scan returned %v", err)
	}
	if _, err := r.tail(dataOffset, link{}, 0, &damage{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("tail returned %v", err)
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }
