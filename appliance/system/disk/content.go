package disk

import (
	"bytes"
	"fmt"
	"io"
)

// Label is the label of the data file system.
const Label = "MILLRACE"

// espName is the GPT name of the EFI system partition of our images; package image writes it.
const espName = "MILLRACE-ESP"

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
)

// Classify reads what is on a disk of the given size. It reads some 9 MiB and writes nothing.
func Classify(r io.ReaderAt, size int64) (content Content, detail string, esp int) {
	fail := func(err error) (Content, string, int) { return Unreadable, err.Error(), 0 }
	head, err := readUpTo(r, 0, edgeBytes, size)
	if err != nil {
		return fail(err)
	}
	mark, err := readUpTo(r, max(0, markAt(size)), int64(len(formatMark)), size)
	if err != nil {
		return fail(err)
	}
	if string(mark) == formatMark {
		return Interrupted, "interrupted formatting", 0
	}
	if sb, ok := parseExt4(head); ok {
		if sb.label == Label {
			return Data, fmt.Sprintf("ext4 file system labelled %q", sb.label), 0
		}
		return Foreign, fmt.Sprintf("ext4 file system labelled %q", sb.label), 0
	}
	if parts, ok := findGPT(r, head, size); ok {
		for _, p := range parts {
			if p.kind == espType && p.name == espName {
				return System, "Millrace image", p.number
			}
		}
		return Foreign, fmt.Sprintf("partition table with %d partitions", len(parts)), 0
	}
	if len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa {
		return Foreign, "boot sector or MBR partition table", 0
	}
	off, err := firstData(r, head, size)
	if err != nil {
		return fail(err)
	}
	if off >= 0 {
		return Foreign, fmt.Sprintf("unknown data at byte %d", off), 0
	}
	return Empty, "empty", 0
}

// firstData returns where the first non-zero byte among those looked at is, or -1.
func firstData(r io.ReaderAt, head []byte, size int64) (int64, error) {
	if i := firstNonZero(head); i >= 0 {
		return int64(i), nil
	}
	step := size / samples / sampleBytes * sampleBytes
	for i := range int64(samples) {
		b, err := readUpTo(r, i*step, sampleBytes, size)
		if err != nil {
			return 0, err
		}
		if j := firstNonZero(b); j >= 0 {
			return i*step + int64(j), nil
		}
	}
	start := max(0, size-edgeBytes)
	end, err := readUpTo(r, start, edgeBytes, size)
	if err != nil {
		return 0, err
	}
	if i := firstNonZero(end); i >= 0 {
		return start + int64(i), nil
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
