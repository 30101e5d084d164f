package disk

import (
	"bytes"
	"encoding/binary"
)

// Places in the ext4 superblock (Linux Documentation/filesystems/ext4/super.rst).
const (
	superblockAt   = 1024
	superblockSize = 1024
	superMagicAt   = 0x38
	superMagic     = 0xef53
	superLabelAt   = 0x78
	superLabelSize = 16
)

// superblock is what we need of an ext2, ext3 or ext4 superblock.
type superblock struct {
	label string
}

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
	return superblock{label: string(label)}, true
}
