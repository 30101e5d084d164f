package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"millrace/board"
	"millrace/image/layout"
)

const (
	sectorSize = 512

	// sourceDateEpoch is the time of every file in the image, in seconds since 1970: equal input
	// gives equal images. 2026-01-01 00:00:00 UTC.
	sourceDateEpoch = "1767225600"

	// loaderConf makes systemd-boot start the newest version at once and offer nothing else.
	loaderConf = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nconsole-mode keep\n"
)

// espFile is a file on the EFI system partition; path starts with a slash.
type espFile struct {
	path string
	data []byte
}

// writeDisk writes a disk image: a partition table with one EFI system partition holding files. The
// image is sparse. seed makes the GUIDs; equal seeds give equal GUIDs.
func writeDisk(out, seed string, files []espFile) error {
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace image: %w", err)
	}
	restore, err := fixTime()
	if err != nil {
		return err
	}
	defer restore()
	d, err := diskfs.Create(out, layout.DiskBytes, diskfs.SectorSize512)
	if err != nil {
		return fmt.Errorf("create image %s: %w", out, err)
	}
	defer d.Close()
	table := &gpt.Table{
		LogicalSectorSize:  sectorSize,
		PhysicalSectorSize: sectorSize,
		ProtectiveMBR:      true,
		GUID:               guid(seed + "/disk"),
		Partitions: []*gpt.Partition{{
			Index: 1,
			Start: layout.AlignBytes / sectorSize,
			End:   (layout.AlignBytes+layout.ESPBytes)/sectorSize - 1,
			Size:  layout.ESPBytes,
			Type:  gpt.EFISystemPartition,
			Name:  layout.ESPName,
			GUID:  guid(seed + "/esp"),
		}},
	}
	if err := d.Partition(table); err != nil {
		return fmt.Errorf("partition image %s: %w", out, err)
	}
	esp, err := d.CreateFilesystem(disk.FilesystemSpec{
		Partition: 1, FSType: filesystem.TypeFat32, VolumeLabel: layout.ESPLabel, Reproducible: true,
	})
	if err != nil {
		return fmt.Errorf("format EFI system partition: %w", err)
	}
	return addFiles(d, esp, files)
}

// WriteDisk writes the disk image of a board; files are those on its EFI system partition, by their path,
// which starts with a slash.
func WriteDisk(out string, b board.Board, files map[string][]byte) error {
	var list []espFile
	for _, name := range slices.Sorted(maps.Keys(files)) {
		list = append(list, espFile{name, files[name]})
	}
	return writeDisk(out, diskSeed(b), list)
}

// ConfigOf returns the configuration file on an image; nil when there is none.
func ConfigOf(img string) ([]byte, error) {
	d, err := diskfs.Open(img, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", img, err)
	}
	defer d.Close()
	esp, err := d.GetFilesystem(1)
	if err != nil {
		return nil, fmt.Errorf("open EFI system partition of %s: %w", img, err)
	}
	if _, err := esp.Stat(strings.TrimPrefix(layout.ConfigFile, "/")); err != nil {
		return nil, nil
	}
	f, err := esp.OpenFile(layout.ConfigFile, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", layout.ConfigFile, img, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", layout.ConfigFile, img, err)
	}
	return b, nil
}

// SetConfig puts a configuration file on an image that has none yet, as flashing a box does.
func SetConfig(img string, conf []byte) error {
	restore, err := fixTime()
	if err != nil {
		return err
	}
	defer restore()
	d, err := diskfs.Open(img)
	if err != nil {
		return fmt.Errorf("open image %s: %w", img, err)
	}
	defer d.Close()
	esp, err := d.GetFilesystem(1)
	if err != nil {
		return fmt.Errorf("open EFI system partition of %s: %w", img, err)
	}
	return addFiles(d, esp, []espFile{{layout.ConfigFile, conf}})
}

// BoardOf returns the name of the board that an image is for.
func BoardOf(img string) (string, error) {
	d, err := diskfs.Open(img, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return "", fmt.Errorf("open image: %w", err)
	}
	defer d.Close()
	t, err := d.GetPartitionTable()
	if err != nil {
		return "", fmt.Errorf("not a Millrace image: %w", err)
	}
	table, ok := t.(*gpt.Table)
	if !ok || len(table.Partitions) == 0 || table.Partitions[0].Name != layout.ESPName {
		return "", fmt.Errorf("not a Millrace image: it has no partition %s", layout.ESPName)
	}
	for _, b := range board.All() {
		if strings.EqualFold(table.GUID, guid(diskSeed(b)+"/disk")) {
			return b.Name, nil
		}
	}
	return "", fmt.Errorf("a Millrace image for a board that is not known here, of a newer release?")
}

// diskSeed makes the GUIDs of a board's images.
func diskSeed(b board.Board) string { return "millrace/" + b.Name }

// epoch is the time that everything in an image has.
func epoch() (time.Time, error) {
	n, err := strconv.ParseInt(sourceDateEpoch, 10, 64)
	return time.Unix(n, 0).UTC(), err
}

// fixTime makes go-diskfs give FAT entries a fixed time; it takes the time from the environment and
// has no other way. restore puts the environment back.
func fixTime() (restore func(), err error) {
	const name = "SOURCE_DATE_EPOCH"
	old, had := os.LookupEnv(name)
	if err := os.Setenv(name, sourceDateEpoch); err != nil {
		return nil, fmt.Errorf("fix image time: %w", err)
	}
	return func() {
		if had {
			os.Setenv(name, old)
		} else {
			os.Unsetenv(name)
		}
	}, nil
}

// addFiles writes files to the EFI system partition and finishes it.
func addFiles(d *disk.Disk, esp filesystem.FileSystem, files []espFile) error {
	for _, f := range files {
		if err := addFile(esp, f); err != nil {
			return err
		}
	}
	if err := esp.Close(); err != nil {
		return fmt.Errorf("finish EFI system partition: %w", err)
	}
	raw, err := d.Backend.Writable()
	if err != nil {
		return fmt.Errorf("finish image: %w", err)
	}
	if err := fixDotDot(raw, layout.AlignBytes); err != nil {
		return fmt.Errorf("finish EFI system partition: %w", err)
	}
	return nil
}

// addFile writes one file and the directories above it.
func addFile(esp filesystem.FileSystem, f espFile) error {
	if err := esp.Mkdir(path.Dir(f.path)); err != nil {
		return fmt.Errorf("make %s on EFI system partition: %w", path.Dir(f.path), err)
	}
	if _, err := esp.Stat(strings.TrimPrefix(f.path, "/")); err == nil {
		return fmt.Errorf("%s is already on the EFI system partition", f.path)
	}
	w, err := esp.OpenFile(f.path, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("create %s on EFI system partition: %w", f.path, err)
	}
	if _, err := w.Write(f.data); err != nil {
		return fmt.Errorf("write %s on EFI system partition: %w", f.path, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write %s on EFI system partition: %w", f.path, err)
	}
	return nil
}

// guid makes a GUID (RFC 9562 version 8) from a seed.
func guid(seed string) string {
	h := sha256.Sum256([]byte(seed))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}
