package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// espType is the type GUID of an EFI system partition (UEFI specification 5.3.3).
const espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

// Bounds of what is accepted of a partition table; UEFI asks for at least 128 entries of 128 bytes.
const (
	gptHeaderSize = 92
	maxEntries    = 1024
	maxEntrySize  = 4096
)

// partition is one entry of a GUID partition table.
type partition struct {
	number int    // from 1, as in the kernel's names
	kind   string // type GUID, lower case
	name   string
}

// findGPT reads the partition table of a disk: the primary one or, when that is damaged, the backup
// in the last sector. Disks with sectors of 512 and of 4096 bytes are understood. head is the start
// of the disk.
func findGPT(r io.ReaderAt, head []byte, size int64) ([]partition, bool) {
	for _, sector := range []int64{512, 4096} {
		for _, at := range []int64{sector, size/sector*sector - sector} {
			if at < sector {
				continue
			}
			header, err := readUpTo(r, at, sector, size)
			if err != nil {
				continue
			}
			h, err := parseGPTHeader(header, at/sector)
			if err != nil {
				continue
			}
			entries, err := readUpTo(r, h.entriesAt*sector, int64(h.entries*h.entrySize), size)
			if err != nil {
				continue
			}
			if parts, err := h.parseEntries(entries); err == nil {
				return parts, true
			}
		}
	}
	return nil, false
}

// gptHeader is what we need of a partition table header.
type gptHeader struct {
	entriesAt  int64 // sector of the first entry
	entries    int
	entrySize  int
	entriesCRC uint32
}

// parseGPTHeader checks and reads the header that stands in sector lba.
func parseGPTHeader(b []byte, lba int64) (gptHeader, error) {
	var h gptHeader
	if len(b) < gptHeaderSize || string(b[:8]) != "EFI PART" {
		return h, fmt.Errorf("no partition table")
	}
	le := binary.LittleEndian
	n := le.Uint32(b[12:])
	if n < gptHeaderSize || int(n) > len(b) {
		return h, fmt.Errorf("header size %d", n)
	}
	sum := append([]byte(nil), b[:n]...)
	clear(sum[16:20])
	if crc32.ChecksumIEEE(sum) != le.Uint32(b[16:]) {
		return h, fmt.Errorf("header checksum does not match")
	}
	if le.Uint64(b[24:]) != uint64(lba) {
		return h, fmt.Errorf("header is for sector %d, found in %d", le.Uint64(b[24:]), lba)
	}
	at, entries, entrySize := le.Uint64(b[72:]), le.Uint32(b[80:]), le.Uint32(b[84:])
	if at > 1<<40 || entries > maxEntries || entrySize < 128 || entrySize > maxEntrySize {
		return h, fmt.Errorf("%d entries of %d bytes at sector %d", entries, entrySize, at)
	}
	return gptHeader{int64(at), int(entries), int(entrySize), le.Uint32(b[88:])}, nil
}

// parseEntries checks and reads the partition entries.
func (h gptHeader) parseEntries(b []byte) ([]partition, error) {
	if len(b) != h.entries*h.entrySize {
		return nil, fmt.Errorf("partition entries are cut short")
	}
	if crc32.ChecksumIEEE(b) != h.entriesCRC {
		return nil, fmt.Errorf("checksum of partition entries does not match")
	}
	var parts []partition
	for i := range h.entries {
		e := b[i*h.entrySize:][:h.entrySize]
		if firstNonZero(e[:16]) < 0 {
			continue
		}
		parts = append(parts, partition{number: i + 1, kind: guidText(e[:16]), name: utf16Text(e[56:128])})
	}
	return parts, nil
}

// guidText prints a GUID, whose first three fields are stored with the low byte first.
func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// utf16Text reads a zero-terminated name.
func utf16Text(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
