// Package flash writes an image to a disk or a file, once it is sure that it is the disk that was meant,
// and reads back what it wrote. It does not make images and knows no configuration; millrace flash calls
// it.
//
// Reading order:
//
//	target.go        Target, Check: whether a disk may be overwritten; pure
//	write.go         Write: writing, and reading back
//	sparse.go        CopySparse: files full of zeros
//	device_linux.go  what the kernel knows of a disk
//	device_other.go  other systems: files only
package flash

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrInUse is returned for a disk that is mounted, or otherwise claimed.
	ErrInUse = errors.New("flash: the disk is in use")

	// ErrNotSure is returned for a target that is overwritten only when its name is repeated.
	ErrNotSure = errors.New("flash: this could be a disk that was not meant")

	// ErrTooSmall is returned for a disk that does not hold the image.
	ErrTooSmall = errors.New("flash: the disk is too small")

	// ErrDiffers is returned when a disk gives back other bytes than were written to it.
	ErrDiffers = errors.New("flash: the disk did not keep what was written")
)

// sectorBytes is what the partition table of an image counts in.
const sectorBytes = 512

// Target is a disk or a file that an image is to be written to, as the system knows it.
type Target struct {
	Path   string
	Device bool   // a block device; else a file
	Exists bool   // of a file: it is there already
	Name   string // of a device: as the kernel calls it, such as "sdb"
	Whole  string // of a partition: the disk that it is on; empty for whole disks
	Model  string // of a device; empty: unknown
	Serial string // of a device; empty: unknown
	Bytes  int64  // size of a device

	SectorBytes int  // logical sectors of a device
	Removable   bool // a device that people plug in and out
	ReadOnly    bool
	Busy        string // why the disk is in use, such as "/dev/sdb1 is mounted on /mnt"; empty: it is not
}

// Identity is what must be repeated for a target that could be one that was not meant: the serial number
// or, of a device without one, its name; of a file its path.
func (t Target) Identity() string {
	switch {
	case !t.Device:
		return t.Path
	case t.Serial != "":
		return t.Serial
	}
	return t.Name
}

// String describes the target for people who are about to lose what is on it.
func (t Target) String() string {
	if !t.Device {
		return "file " + t.Path
	}
	text := fmt.Sprintf("%s: %s", t.Path, formatBytes(t.Bytes))
	if t.Model != "" {
		text += ", " + t.Model
	}
	if t.Serial != "" {
		text += ", serial number " + t.Serial
	}
	if !t.Removable {
		text += ", built in"
	}
	return text
}

// Check reports why an image of that many bytes must not be written to the target; nil when it may. forced
// is the identity that the owner has repeated.
func (t Target) Check(image int64, forced string) error {
	switch {
	case t.Whole != "":
		return fmt.Errorf("%s is a partition; an image takes the whole disk, /dev/%s", t.Path, t.Whole)
	case t.ReadOnly:
		return fmt.Errorf("%s is write-protected", t.Path)
	case t.Busy != "":
		return fmt.Errorf("%w: %s", ErrInUse, t.Busy)
	case t.Device && t.SectorBytes != sectorBytes:
		return fmt.Errorf("%s has sectors of %d bytes; images are made for sectors of %d", t.Path, t.SectorBytes, sectorBytes)
	case t.Device && t.Bytes < image:
		return fmt.Errorf("%w: %s has %d bytes, the image %d", ErrTooSmall, t.Path, t.Bytes, image)
	}
	sure := t.Device && t.Removable || !t.Device && !t.Exists
	if forced != "" && forced != t.Identity() {
		return fmt.Errorf("%w: --force says %q, but this is %s: --force %q", ErrNotSure, forced, t, t.Identity())
	}
	if !sure && forced == "" {
		why := "it is not a disk that is plugged in and out"
		if !t.Device {
			why = "it is there already"
		}
		return fmt.Errorf("%w: %s; %s. To overwrite it, and lose what is on it, repeat its name: --force %q",
			ErrNotSure, t, why, t.Identity())
	}
	return nil
}

// formatBytes writes a size as it stands on disks.
func formatBytes(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%d MB", n/1e6)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/1e9), ".0") + " GB"
}
