package disk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"millrace/image/layout"
)

// errNoRoom is why no state partition is made.
var errNoRoom = errors.New("disk: no room for a state partition")

// writer is a disk that can be changed.
type writer interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// stateOf returns the state partition of a table; ok is false when there is none.
func (t *table) stateOf() (p partition, ok bool) {
	for _, p := range t.partitions() {
		if p.kind == layout.StateType && p.name == layout.StateName {
			return p, true
		}
	}
	return partition{}, false
}

// withState returns the table that a disk of the given size is to have: with a state partition that
// reaches to the disk's end. changed is false when the table on the disk is that already. unique
// identifies a new partition.
//
// A partition behind the state partition, which we never make, stops it from growing.
func (t *table) withState(size int64, unique [16]byte) (want *table, state partition, changed bool, err error) {
	perMiB := layout.AlignBytes / t.sector
	tableSectors := (int64(len(t.entries)) + t.sector - 1) / t.sector
	lastSector := size/t.sector - 1
	want = &table{
		sector: t.sector, disk: t.disk, first: t.first, last: lastSector - tableSectors - 1, alternate: lastSector,
		entrySize: t.entrySize, entries: append([]byte(nil), t.entries...),
	}
	if t.first < 2+tableSectors {
		return nil, state, false, fmt.Errorf("partition table: first usable sector is %d, the table itself takes %d", t.first, 2+tableSectors)
	}
	state, found := t.stateOf()
	end := (want.last+1)/perMiB*perMiB - 1 // the last sector a partition may have
	begin := int64(0)
	if t.alternate < lastSector {
		// The image that was flashed ended here, with its backup table.
		begin = (t.alternate + perMiB) / perMiB * perMiB
	}
	for _, p := range t.partitions() {
		if p.first < t.first || p.last < p.first || p.last > lastSector {
			return nil, state, false, fmt.Errorf("partition table: partition %d has sectors %d to %d of %d to %d", p.number, p.first, p.last, t.first, lastSector)
		}
		switch {
		case found && p.number == state.number:
		case found && p.first > state.last:
			end = min(end, p.first/perMiB*perMiB-1)
		case !found:
			begin = max(begin, (p.last+perMiB)/perMiB*perMiB)
		}
	}
	switch {
	case !found:
		if (end+1-begin)*t.sector < MinBytes {
			return nil, state, false, fmt.Errorf("%w: %d MiB are free, %d are needed", errNoRoom,
				max(0, end+1-begin)*t.sector>>20, MinBytes>>20)
		}
		state = partition{kind: layout.StateType, name: layout.StateName, first: begin, last: end}
		if state.number = want.free(); state.number == 0 {
			return nil, state, false, fmt.Errorf("%w: all %d entries of the partition table are used", errNoRoom, t.count())
		}
		want.set(state, unique)
	case end > state.last:
		state.last = end
		binary.LittleEndian.PutUint64(want.entry(state.number)[40:], uint64(end))
	}
	changed = t.backup || t.alternate != want.alternate || t.last != want.last || string(t.entries) != string(want.entries)
	return want, state, changed, nil
}

// free returns the first unused entry, 0 when there is none.
func (t *table) free() int {
	for n := 1; n <= t.count(); n++ {
		if firstNonZero(t.entry(n)[:16]) < 0 {
			return n
		}
	}
	return 0
}

// set fills in an unused entry.
func (t *table) set(p partition, unique [16]byte) {
	e := t.entry(p.number)
	clear(e)
	le := binary.LittleEndian
	copy(e, guidBytes(p.kind))
	copy(e[16:], unique[:])
	le.PutUint64(e[32:], uint64(p.first))
	le.PutUint64(e[40:], uint64(p.last))
	for i, c := range utf16.Encode([]rune(p.name)) {
		le.PutUint16(e[56+2*i:], c)
	}
}

// write puts the table on the disk, the backup first. Whenever the power fails, one of the two is
// whole: the old primary until the new backup is on the disk, the new backup until the new primary
// is. findGPT reads either; writing again repairs the other.
func (t *table) write(w writer) error {
	tableSectors := (int64(len(t.entries)) + t.sector - 1) / t.sector
	for _, at := range []struct{ header, other, entries int64 }{
		{t.alternate, 1, t.alternate - tableSectors},
		{1, t.alternate, 2},
	} {
		if _, err := w.WriteAt(t.entries, at.entries*t.sector); err != nil {
			return fmt.Errorf("write partition entries: %w", err)
		}
		if _, err := w.WriteAt(t.header(at.header, at.other, at.entries), at.header*t.sector); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
		if err := w.Sync(); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}

// header makes the header that stands in sector lba.
func (t *table) header(lba, other, entriesAt int64) []byte {
	b := make([]byte, t.sector)
	le := binary.LittleEndian
	copy(b, "EFI PART")
	le.PutUint32(b[8:], 0x00010000) // revision 1.0
	le.PutUint32(b[12:], gptHeaderSize)
	le.PutUint64(b[24:], uint64(lba))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], uint64(t.first))
	le.PutUint64(b[48:], uint64(t.last))
	copy(b[56:], t.disk[:])
	le.PutUint64(b[72:], uint64(entriesAt))
	le.PutUint32(b[80:], uint32(t.count()))
	le.PutUint32(b[84:], uint32(t.entrySize))
	le.PutUint32(b[88:], crc32.ChecksumIEEE(t.entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:gptHeaderSize]))
	return b
}

// guidBytes is the inverse of guidText; it panics on anything else.
func guidBytes(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		panic("BUG: GUID " + text)
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b
}
