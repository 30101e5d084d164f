package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Places in the ext4 superblock (Linux Documentation/filesystems/ext4/super.rst).
const (
	superblockAt   = 1024
	superblockSize = 1024
	superMagicAt   = 0x38
	superMagic     = 0xef53
	superLabelAt   = 0x78
	superLabelSize = 16
	superBlocksAt  = 0x04
	superLogSizeAt = 0x18
	superUUIDAt    = 0x68
	superHighAt    = 0x150 // upper half of the number of blocks
)

// superblock is what we need of an ext2, ext3 or ext4 superblock.
type superblock struct {
	label     string
	uuid      string // lower case, with dashes
	blocks    int64
	blockSize int64 // bytes
}

// bytes is the size of the file system.
func (s superblock) bytes() int64 { return s.blocks * s.blockSize }

// parseExt4 reads the superblock out of the start of a disk.
func parseExt4(head []byte) (superblock, bool) {
	if len(head) < superblockAt+superblockSize {
		return superblock{}, false
	}
	sb := head[superblockAt:][:superblockSize]
	if binary.LittleEndian.Uint16(sb[superMagicAt:]) != superMagic {
		return superblock{}, false
	}
	label, _, _ := bytes.Cut(sb[superLabelAt:][:superLabelSize], []byte{0})
	le := binary.LittleEndian
	u := sb[superUUIDAt:][:16]
	return superblock{
		label:     string(label),
		uuid:      fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
		blocks:    int64(le.Uint32(sb[superHighAt:]))<<32 | int64(le.Uint32(sb[superBlocksAt:])),
		blockSize: 1024 << (le.Uint32(sb[superLogSizeAt:]) & 31),
	}, true
}
