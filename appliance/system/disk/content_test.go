package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"unicode/utf16"

	"millrace/image/layout"
)

const testDisk = 32 << 20 // bytes

// image is a disk in memory.
type image []byte

func newImage() image { return make(image, testDisk) }

func (m image) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }

func (m image) with(off int, b ...byte) image {
	copy(m[off:], b)
	return m
}

// ext4 puts a superblock on the disk.
func (m image) ext4(label string) image {
	sb := m[superblockAt:]
	binary.LittleEndian.PutUint16(sb[superMagicAt:], superMagic)
	copy(sb[superLabelAt:][:superLabelSize], label)
	return m.with(superblockAt+superUUIDAt, bytes.Repeat([]byte{0xab}, 16)...)
}

// The UUID is that which blkid prints, and only our file system has one for us.
func TestClassifyUUID(t *testing.T) {
	const want = "abababab-abab-abab-abab-abababababab"
	if got := Classify(newImage().ext4(layout.DataLabel), testDisk); got.UUID != want {
		t.Errorf("ours: UUID %q, want %q", got.UUID, want)
	}
	if got := Classify(newImage().ext4("home"), testDisk); got.UUID != "" {
		t.Errorf("another's: UUID %q, want none", got.UUID)
	}
}

// espTypeBytes is layout.ESPType as stored.
var espTypeBytes = []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// gpt puts a primary and a backup table with one partition of that name as second entry.
func (m image) gpt(sector int, kind []byte, name string) image {
	le := binary.LittleEndian
	const entries, entrySize = 128, 128
	table := make([]byte, entries*entrySize)
	e := table[entrySize:]
	copy(e, kind)
	for i, c := range utf16.Encode([]rune(name)) {
		le.PutUint16(e[56+2*i:], c)
	}
	last := len(m)/sector - 1
	for _, at := range []struct{ header, table int }{{1, 2}, {last, last - len(table)/sector}} {
		h := make([]byte, gptHeaderSize)
		copy(h, "EFI PART")
		le.PutUint32(h[12:], gptHeaderSize)
		le.PutUint64(h[24:], uint64(at.header))
		le.PutUint64(h[72:], uint64(at.table))
		le.PutUint32(h[80:], entries)
		le.PutUint32(h[84:], entrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
		copy(m[at.header*sector:], h)
		copy(m[at.table*sector:], table)
	}
	return m.with(510, 0x55, 0xaa) // the protective MBR
}

func TestClassify(t *testing.T) {
	linux := bytes.Repeat([]byte{7}, 16)
	for _, tt := range []struct {
		name   string
		disk   image
		want   Content
		detail string
		esp    int
	}{
		{"empty", newImage(), Empty, "", 0},
		{"tiny", make(image, 512), Empty, "", 0},
		{"no bytes", nil, Empty, "", 0},
		{"ours", newImage().ext4(layout.DataLabel), Data, "MILLRACE", 0},
		{"other label", newImage().ext4("MILLRACE2"), Foreign, "MILLRACE2", 0},
		{"full label", newImage().ext4("sixteen-letters!"), Foreign, "sixteen-letters!", 0},
		{"marked", newImage().with(int(markAt(testDisk)), []byte(formatMark)...), Interrupted, "", 0},
		{"marked, half made", newImage().ext4(layout.DataLabel).with(int(markAt(testDisk)), []byte(formatMark)...), Interrupted, "", 0},
		{"part of a mark", newImage().with(int(markAt(testDisk)), 'M', 'I'), Foreign, "", 0},
		{"image", newImage().gpt(512, espTypeBytes, layout.ESPName), System, "", 2},
		{"image, 4096-byte sectors", newImage().gpt(4096, espTypeBytes, layout.ESPName), System, "", 2},
		{"other ESP", newImage().gpt(512, espTypeBytes, "EFI System"), Foreign, "1 partitions", 0},
		{"our name, other type", newImage().gpt(512, linux, layout.ESPName), Foreign, "1 partitions", 0},
		{"primary table damaged", newImage().gpt(512, espTypeBytes, layout.ESPName).with(512+20, 1), System, "", 2},
		{"primary entries damaged", newImage().gpt(512, espTypeBytes, layout.ESPName).with(1024+300, 1), System, "", 2},
		{"MBR", newImage().with(510, 0x55, 0xaa), Foreign, "MBR", 0},
		{"a byte at the start", newImage().with(0, 1), Foreign, "byte 0", 0},
		{"LUKS", newImage().with(0, []byte("LUKS\xba\xbe")...), Foreign, "byte 0", 0},
		{"btrfs", newImage().with(0x10040, []byte("_BHRfS_M")...), Foreign, "byte 65600", 0},
		{"RAID at the end", newImage().with(testDisk-8192, 0xfc), Foreign, "byte 33546240", 0},
		{"last byte", newImage().with(testDisk-1, 1), Foreign, "byte 33554431", 0},
		{"data in the middle", newImage().with(testDisk/2, bytes.Repeat([]byte{1}, 1<<20)...), Foreign, "byte 16777216", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Classify(tt.disk, int64(len(tt.disk)))
			if got.Content != tt.want || got.ESP != tt.esp || !strings.Contains(got.Detail, tt.detail) {
				t.Errorf("got %+v; want %d, %q, partition %d", got, tt.want, tt.detail, tt.esp)
			}
		})
	}
}

// brokenDisk fails from a byte on.
type brokenDisk struct {
	io.ReaderAt
	from int64
}

func (d brokenDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.from {
		return 0, errors.New("input/output error")
	}
	return d.ReaderAt.ReadAt(p, off)
}

// A disk that cannot be read everywhere we look is never empty.
func TestClassifyReadErrors(t *testing.T) {
	for _, from := range []int64{0, 4096, edgeBytes, testDisk / 2, testDisk - 1} {
		got := Classify(brokenDisk{newImage(), from}, testDisk)
		if got.Content != Unreadable || !strings.Contains(got.Detail, "input/output error") {
			t.Errorf("broken from byte %d: got %+v", from, got)
		}
	}
}

func FuzzClassify(f *testing.F) {
	small := func(m image) []byte { return m[:64<<10] }
	f.Add([]byte{})
	f.Add(small(newImage().ext4(layout.DataLabel)))
	f.Add(small(newImage().gpt(512, espTypeBytes, layout.ESPName)))
	f.Add(small(newImage().gpt(4096, espTypeBytes, layout.ESPName)))
	f.Add(small(newImage().with(510, 0x55, 0xaa)))
	f.Fuzz(func(t *testing.T, b []byte) {
		content := Classify(image(b), int64(len(b))).Content
		// These small disks are read wholly: empty must mean that nothing is there.
		if zero := len(bytes.Trim(b, "\x00")) == 0; (content == Empty) != zero {
			t.Fatalf("content %d of a disk whose being all zero is %v", content, zero)
		}
	})
}
