package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Bounds of what is accepted of a partition table; UEFI asks for at least 128 entries of 128 bytes.
const (
	gptHeaderSize = 92
	maxEntries    = 1024
	maxEntrySize  = 4096
)

// partition is one entry of a GUID partition table.
type partition struct {
	number      int    // from 1, as in the kernel's names
	kind        string // type GUID, lower case
	name        string
	first, last int64 // sectors, both included
}

// table is a GUID partition table as it stands on a disk. What we do not know of an entry is kept as
// its bytes.
type table struct {
	sector    int64 // bytes
	disk      [16]byte
	first     int64 // sector that partitions may use, as the table has it
	last      int64 // as first
	alternate int64 // sector of the other header, as the table has it
	entrySize int
	entries   []byte
	backup    bool // read from the end of the disk: what is at its start is damaged
}

// findGPT reads the partition table of a disk: the primary one or, when that is damaged, the backup
// in the last sector. Disks with sectors of 512 and of 4096 bytes are understood.
func findGPT(r io.ReaderAt, size int64) (*table, bool) {
	for _, sector := range []int64{512, 4096} {
		for _, at := range []int64{sector, size/sector*sector - sector} {
			if at < sector {
				continue
			}
			if t, err := readGPT(r, size, sector, at/sector); err == nil {
				return t, true
			}
		}
	}
	return nil, false
}

// readGPT reads and checks the table whose header stands in sector lba.
func readGPT(r io.ReaderAt, size, sector, lba int64) (*table, error) {
	header, err := readUpTo(r, lba*sector, sector, size)
	if err != nil {
		return nil, err
	}
	t, h, err := parseGPTHeader(header, lba)
	if err != nil {
		return nil, err
	}
	t.sector, t.backup = sector, lba != 1
	if t.entries, err = readUpTo(r, h.entriesAt*sector, int64(h.entries*t.entrySize), size); err != nil {
		return nil, err
	}
	if len(t.entries) != h.entries*t.entrySize {
		return nil, fmt.Errorf("partition entries are cut short")
	}
	if crc32.ChecksumIEEE(t.entries) != h.entriesCRC {
		return nil, fmt.Errorf("checksum of partition entries does not match")
	}
	return t, nil
}

// gptHeader is what only reading needs of a partition table header.
type gptHeader struct {
	entriesAt  int64 // sector of the first entry
	entries    int
	entriesCRC uint32
}

// parseGPTHeader checks and reads the header that stands in sector lba.
func parseGPTHeader(b []byte, lba int64) (*table, gptHeader, error) {
	var h gptHeader
	if len(b) < gptHeaderSize || string(b[:8]) != "EFI PART" {
		return nil, h, fmt.Errorf("no partition table")
	}
	le := binary.LittleEndian
	n := le.Uint32(b[12:])
	if n < gptHeaderSize || int(n) > len(b) {
		return nil, h, fmt.Errorf("header size %d", n)
	}
	sum := append([]byte(nil), b[:n]...)
	clear(sum[16:20])
	if crc32.ChecksumIEEE(sum) != le.Uint32(b[16:]) {
		return nil, h, fmt.Errorf("header checksum does not match")
	}
	if le.Uint64(b[24:]) != uint64(lba) {
		return nil, h, fmt.Errorf("header is for sector %d, found in %d", le.Uint64(b[24:]), lba)
	}
	at, entries, entrySize := le.Uint64(b[72:]), le.Uint32(b[80:]), le.Uint32(b[84:])
	if at > 1<<40 || entries > maxEntries || entrySize < 128 || entrySize > maxEntrySize {
		return nil, h, fmt.Errorf("%d entries of %d bytes at sector %d", entries, entrySize, at)
	}
	t := &table{
		first: int64(le.Uint64(b[40:])), last: int64(le.Uint64(b[48:])), alternate: int64(le.Uint64(b[32:])),
		entrySize: int(entrySize),
	}
	copy(t.disk[:], b[56:72])
	return t, gptHeader{int64(at), int(entries), le.Uint32(b[88:])}, nil
}

// count is the number of entries, used or not.
func (t *table) count() int { return len(t.entries) / t.entrySize }

// entry returns the bytes of partition number, from 1.
func (t *table) entry(number int) []byte {
	return t.entries[(number-1)*t.entrySize:][:t.entrySize]
}

// partitions lists the used entries.
func (t *table) partitions() []partition {
	var parts []partition
	le := binary.LittleEndian
	for n := 1; n <= t.count(); n++ {
		e := t.entry(n)
		if firstNonZero(e[:16]) < 0 {
			continue
		}
		parts = append(parts, partition{
			number: n, kind: guidText(e[:16]), name: utf16Text(e[56:128]),
			first: int64(le.Uint64(e[32:])), last: int64(le.Uint64(e[40:])),
		})
	}
	return parts
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
