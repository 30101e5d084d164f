package image

import (
	"encoding/binary"
	"fmt"
	"io"
)

// fatEntrySize is the size of a FAT directory entry in bytes.
const fatEntrySize = 32

// fixDotDot repairs the FAT32 file system at off: the ".." of a directory in the root must name
// cluster 0, whatever cluster the root has, but go-diskfs 1.9 writes the root's number. Firmware
// and Linux do not mind; fsck.vfat reports a damaged file system.
func fixDotDot(disk interface {
	io.ReaderAt
	io.WriterAt
}, off int64) error {
	boot := make([]byte, sectorSize)
	if _, err := disk.ReadAt(boot, off); err != nil {
		return fmt.Errorf("read FAT boot sector: %w", err)
	}
	le := binary.LittleEndian
	cluster := int64(boot[13]) * sectorSize
	reserved := int64(le.Uint16(boot[14:])) * sectorSize
	fatBytes := int64(le.Uint32(boot[36:])) * sectorSize
	root := le.Uint32(boot[44:])
	data := off + reserved + int64(boot[16])*fatBytes
	if le.Uint16(boot[11:]) != sectorSize || cluster == 0 || root < 2 {
		return fmt.Errorf("FAT boot sector at %#x is not one of 512-byte sectors", off)
	}
	at := func(c uint32) int64 { return data + int64(c-2)*cluster }

	const endOfChain = 0x0ffffff8
	for c := root; c >= 2 && c < endOfChain; {
		dir := make([]byte, cluster)
		if _, err := disk.ReadAt(dir, at(c)); err != nil {
			return fmt.Errorf("read FAT root directory: %w", err)
		}
		for e := dir; len(e) >= fatEntrySize && e[0] != 0; e = e[fatEntrySize:] {
			const attrDir, attrLongName, deleted = 0x10, 0x0f, 0xe5
			if e[0] == deleted || e[11]&attrLongName == attrLongName || e[11]&attrDir == 0 {
				continue
			}
			child := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
			dotdot := at(child) + fatEntrySize
			entry := make([]byte, fatEntrySize)
			if _, err := disk.ReadAt(entry, dotdot); err != nil {
				return fmt.Errorf("read FAT directory %q: %w", e[:11], err)
			}
			if string(entry[:11]) != "..         " {
				return fmt.Errorf("second entry of FAT directory %q is %q, want \"..\"", e[:11], entry[:11])
			}
			le.PutUint16(entry[20:], 0)
			le.PutUint16(entry[26:], 0)
			if _, err := disk.WriteAt(entry, dotdot); err != nil {
				return fmt.Errorf("write FAT directory %q: %w", e[:11], err)
			}
		}
		next := make([]byte, 4)
		if _, err := disk.ReadAt(next, off+reserved+int64(c)*4); err != nil {
			return fmt.Errorf("read FAT: %w", err)
		}
		c = le.Uint32(next) & 0x0fffffff
	}
	return nil
}
