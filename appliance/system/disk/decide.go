package disk

import (
	"fmt"
	"strings"
)

// MinBytes is the smallest disk that is taken as an empty data disk.
const MinBytes = 64 << 20

// Content says what is on a disk.
type Content int

// The contents that are told apart.
const (
	Unreadable  Content = iota // reading it gave an error
	Empty                      // nothing at all
	Data                       // our file system
	Interrupted                // formatting it for us was cut short
	System                     // a Millrace image: the disk this box starts from
	Foreign                    // anything else
)

// Disk is a whole disk as found.
type Disk struct {
	Name      string // kernel name, such as "vda"
	Bytes     int64
	ReadOnly  bool
	Removable bool
	Content   Content
	Detail    string // what was seen, for people; such as `ext4 file system labelled "home"`
	ESP       int    // number of the EFI system partition when Content is System
}

// Action is what to do with the chosen disk.
type Action int

// The actions.
const (
	NoDisk Action = iota // there is no disk to use
	Mount                // check and mount it
	Format               // format it, then mount it
)

// Decision is which disk becomes the data disk.
type Decision struct {
	Action Action
	Disk   string   // kernel name; empty for NoDisk
	Notes  []string // what the owner should know of disks left alone, one sentence each
}

// Decide chooses the data disk. want names a disk by its kernel name, with or without "/dev/"; empty
// chooses the one that carries our file system or, when there is none, the only empty one. It never
// chooses a disk with other content, and none at all when two would do.
func Decide(disks []Disk, want string) Decision {
	if want = strings.TrimPrefix(want, "/dev/"); want != "" {
		return decideNamed(disks, want)
	}
	var ours, empty []Disk
	var d Decision
	for _, x := range disks {
		switch x.Content {
		case Data:
			if x.ReadOnly {
				d.note("disk %s carries a Millrace store but is read-only: left alone", x.Name)
				continue
			}
			ours = append(ours, x)
		case Empty, Interrupted:
			if reason := unfit(x); reason != "" {
				d.note("disk %s is empty but %s: left alone", x.Name, reason)
				continue
			}
			empty = append(empty, x)
		case Foreign:
			d.note("disk %s holds data that is not Millrace's (%s): left alone", x.Name, x.Detail)
		case Unreadable:
			d.note("disk %s cannot be read (%s): left alone", x.Name, x.Detail)
		case System:
		}
	}
	switch {
	case len(ours) == 1:
		d.Action, d.Disk = Mount, ours[0].Name
		for _, x := range empty {
			d.note("disk %s is empty and not used", x.Name)
		}
	case len(ours) > 1:
		d.note("disks %s all carry a Millrace store and none is chosen: name one as appliance { disks: %q }",
			names(ours), ours[0].Name)
	case len(empty) == 1:
		d.Action, d.Disk = Format, empty[0].Name
	case len(empty) > 1:
		d.note("disks %s are all empty and none is chosen: name one as appliance { disks: %q }", names(empty), empty[0].Name)
	}
	return d
}

// decideNamed is Decide for a disk named by the owner.
func decideNamed(disks []Disk, want string) Decision {
	var d Decision
	for _, x := range disks {
		if x.Name != want {
			continue
		}
		switch {
		case x.Content == Data && x.ReadOnly:
			d.note("disk %s is configured as data disk but is read-only", want)
		case x.Content == Data:
			d.Action, d.Disk = Mount, want
		case x.Content == Empty || x.Content == Interrupted:
			// Removable is fine here: the owner named it.
			x.Removable = false
			if reason := unfit(x); reason != "" {
				d.note("disk %s is configured as data disk but %s", want, reason)
				break
			}
			d.Action, d.Disk = Format, want
		default:
			d.note("disk %s is configured as data disk but holds something else (%s): left alone", want, x.Detail)
		}
		return d
	}
	d.note("disk %s is configured as data disk but there is no such disk; there are: %s", want, names(disks))
	return d
}

// unfit says why an empty disk cannot be taken; empty when it can.
func unfit(x Disk) string {
	switch {
	case x.ReadOnly:
		return "read-only"
	case x.Removable:
		return "removable"
	case x.Bytes < MinBytes:
		return fmt.Sprintf("smaller than %d MiB", MinBytes>>20)
	}
	return ""
}

func (d *Decision) note(format string, args ...any) {
	d.Notes = append(d.Notes, fmt.Sprintf(format, args...))
}

// names lists disks for a message.
func names(disks []Disk) string {
	var s []string
	for _, x := range disks {
		s = append(s, x.Name)
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}
