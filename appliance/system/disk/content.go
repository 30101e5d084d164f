package disk

import (
	"bytes"
	"fmt"
	"io"

	"millrace/image/layout"
)

// formatMark stands behind the place of the file system while the disk is being formatted. It
// outlives a power cut in the middle: the disk was found empty before, so formatting may start
// again.
const formatMark = "MILLRACE IS FORMATTING THIS DISK\n"

// markAt is where the mark stands on a disk of the given size, and where the file system ends. It
// cannot be at the start, which mke2fs clears before it does anything.
func markAt(size int64) int64 {
	return size>>20<<20 - 1<<20
}

const (
	// edgeBytes at either end of a disk must be zero for it to count as empty. Every signature that
	// blkid knows lies within.
	edgeBytes = 4 << 20

	// samples is how many blocks between the ends must be zero as well, in case somebody wiped
	// only the ends of a disk in use.
	samples     = 256
	sampleBytes = 4096

	// scanBytes are read at once.
	scanBytes = 128 << 10
)

// Found is what Classify saw.
type Found struct {
	Content Content
	Detail  string // for people
	UUID    string // of our data file system
	Number  int    // of the disk in its store when Content is Part, from 2
	ESP     int    // number of the EFI system partition when Content is System
}

// Classify reads what is on a disk of the given size. It reads some KiB of a disk that it knows, some
// 9 MiB of one that it does not, and writes nothing.
func Classify(r io.ReaderAt, size int64) Found {
	fail := func(err error) Found { return Found{Content: Unreadable, Detail: err.Error()} }
	head, err := readUpTo(r, 0, superblockAt+superblockSize, size)
	if err != nil {
		return fail(err)
	}
	interrupted, err := marked(r, size)
	if err != nil {
		return fail(err)
	}
	if interrupted {
		return Found{Content: Interrupted, Detail: "interrupted formatting"}
	}
	if sb, ok := parseExt4(head); ok {
		f := Found{Content: Foreign, Detail: fmt.Sprintf("ext4 file system labelled %q", sb.label)}
		if sb.label == layout.DataLabel {
			f.Content, f.UUID = Data, sb.uuid
		} else if n := furtherNumber(sb.label); n > 0 {
			f.Content, f.UUID, f.Number = Part, sb.uuid, n
		}
		return f
	}
	if t, ok := findGPT(r, size); ok {
		parts := t.partitions()
		for _, p := range parts {
			if p.kind == layout.ESPType && p.name == layout.ESPName {
				return Found{Content: System, Detail: "Millrace image", ESP: p.number}
			}
		}
		return Found{Content: Foreign, Detail: fmt.Sprintf("partition table with %d partitions", len(parts))}
	}
	if len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa {
		return Found{Content: Foreign, Detail: "boot sector or MBR partition table"}
	}
	off, err := firstData(r, size)
	if err != nil {
		return fail(err)
	}
	if off >= 0 {
		return Found{Content: Foreign, Detail: fmt.Sprintf("unknown data at byte %d", off)}
	}
	return Found{Content: Empty, Detail: "empty"}
}

// marked reports whether formatting was cut short.
func marked(r io.ReaderAt, size int64) (bool, error) {
	mark, err := readUpTo(r, max(0, markAt(size)), int64(len(formatMark)), size)
	return string(mark) == formatMark, err
}

// firstData returns where the first non-zero byte among those looked at is, or -1.
func firstData(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, scanBytes)
	if off, err := firstDataIn(r, 0, min(edgeBytes, size), buf); off >= 0 || err != nil {
		return off, err
	}
	step := size / samples / sampleBytes * sampleBytes
	for i := range int64(samples) {
		at := i * step
		if off, err := firstDataIn(r, at, min(at+sampleBytes, size), buf); off >= 0 || err != nil {
			return off, err
		}
	}
	return firstDataIn(r, max(0, size-edgeBytes), size, buf)
}

// firstDataIn returns where the first non-zero byte from off to before end is, or -1. It reads into buf, a
// piece at a time: fresh memory for all of it costs more than reading it.
func firstDataIn(r io.ReaderAt, off, end int64, buf []byte) (int64, error) {
	for off < end {
		b := buf[:min(int64(len(buf)), end-off)]
		if _, err := r.ReadAt(b, off); err != nil && err != io.EOF {
			return -1, fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
		}
		if i := firstNonZero(b); i >= 0 {
			return off + int64(i), nil
		}
		off += int64(len(b))
	}
	return -1, nil
}

// readUpTo reads n bytes at off, or fewer at the end of the disk.
func readUpTo(r io.ReaderAt, off, n, size int64) ([]byte, error) {
	b := make([]byte, max(0, min(n, size-off)))
	if _, err := r.ReadAt(b, off); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
	}
	return b, nil
}

// firstNonZero returns the position of the first non-zero byte, or -1. It compares whole blocks
// first: a byte at a time takes a second at boot in an emulator.
func firstNonZero(b []byte) int {
	var zero [sampleBytes]byte
	for off := 0; off < len(b); off += len(zero) {
		block := b[off:min(off+len(zero), len(b))]
		if bytes.Equal(block, zero[:len(block)]) {
			continue
		}
		for i, c := range block {
			if c != 0 {
				return off + i
			}
		}
	}
	return -1
}
