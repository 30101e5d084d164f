package disk

import (
	"fmt"
	"strings"
)

// MinBytes is the smallest disk that is taken as an empty data disk, and the smallest state partition.
const MinBytes = 64 << 20

// OnSystem in place of a disk's name keeps data on the state partition.
const OnSystem = "system"

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
	Found
	Name      string // kernel name, such as "vda"
	Serial    string // of the maker; empty: the disk has none
	Model     string
	Bytes     int64
	ReadOnly  bool
	Removable bool
}

// called reports whether a name in the configuration means the disk: its kernel name, which may
// change between boots, or its serial number.
func (d Disk) called(name string) bool {
	return d.Name == name || d.Serial != "" && d.Serial == name
}

// String names the disk for people.
func (d Disk) String() string {
	if d.Serial == "" {
		return d.Name
	}
	return fmt.Sprintf("%s (serial %s)", d.Name, d.Serial)
}

// Action is what to do with the chosen disk.
type Action int

// The actions.
const (
	NoDisk   Action = iota // there is no disk to use
	Mount                  // check and mount it
	Format                 // format it, then mount it
	UseState               // keep data on the state partition
)

// Wish is what is known before disks are looked at: what the owner wants and what was so before.
type Wish struct {
	// Named is the disk in the configuration: kernel name, with or without "/dev/", serial number,
	// or OnSystem. Empty chooses by content.
	Named string

	// Bound is the file system of the disk that this box keeps its data on; empty: none yet.
	Bound string

	// Begun says that formatting the disk for Bound had begun when the box last knew.
	Begun bool

	// Known describes the bound disk to people.
	Known string

	// Erase is the serial number, or for a disk that has none the kernel name, of a disk that the
	// owner has given to be erased for data; empty: none.
	Erase string

	// NoFormat forbids formatting: what this box is bound to is not known, though it may be bound.
	NoFormat bool
}

// Decision is which disk becomes the data disk.
type Decision struct {
	Action Action
	Disk   string   // kernel name; empty for NoDisk and UseState
	Erase  bool     // the disk holds other data, which the owner has given up
	Notes  []string // what the owner should know, one sentence each
}

// Decide chooses the data disk.
//
//  1. A disk with other content is never chosen, except the one in Wish.Erase.
//  2. A box that is bound to a disk uses that one or none: never another, empty or not.
//  3. Of several that would do none is chosen.
func Decide(disks []Disk, w Wish) Decision {
	w.Named = strings.TrimPrefix(w.Named, "/dev/")
	switch {
	case w.Erase != "":
		return decideErase(disks, w)
	case w.Named == OnSystem:
		return decideSystem(w)
	case w.Bound != "" && !w.Begun:
		return decideBound(disks, w)
	case w.Named != "":
		return decideNamed(disks, w)
	}
	return decideFree(disks, w)
}

// decideSystem is Decide for data on the state partition.
func decideSystem(w Wish) Decision {
	var d Decision
	if w.Bound != "" && !w.Begun {
		d.note("data is to be kept on the system disk, but this box keeps it on disk %s: nothing is used until that is settled "+
			"(millrace node reset -data gives the disk up)", w.Known)
		return d
	}
	d.Action = UseState
	return d
}

// decideBound is Decide for a box that has its data disk.
func decideBound(disks []Disk, w Wish) Decision {
	var d Decision
	var found []Disk
	for _, x := range disks {
		if x.Content == Data && x.UUID == w.Bound {
			found = append(found, x)
		}
	}
	switch {
	case len(found) == 0:
		d.note("the data disk of this box, %s, is missing; no other is taken in its place "+
			"(millrace node disks -take gives the box another)", w.Known)
		for _, x := range disks {
			d.noteUnused(x)
		}
		return d
	case len(found) > 1:
		d.note("disks %s are copies of one another and none is used: remove one", names(found))
		return d
	case found[0].ReadOnly:
		d.note("the data disk of this box, %s, is read-only", found[0])
		return d
	}
	d.Action, d.Disk = Mount, found[0].Name
	if w.Named != "" && !found[0].called(w.Named) {
		d.note("disk %s is configured as data disk, but this box keeps its data on %s, which is used", w.Named, found[0])
	}
	for _, x := range disks {
		if x.Name != d.Disk {
			d.noteUnused(x)
		}
	}
	return d
}

// decideErase is Decide for a disk the owner gave to be erased. It goes by the serial number: kernel
// names may have changed since.
func decideErase(disks []Disk, w Wish) Decision {
	var d Decision
	var found []Disk
	for _, x := range disks {
		if x.Serial == w.Erase || x.Serial == "" && x.Name == w.Erase {
			found = append(found, x)
		}
	}
	if len(found) != 1 {
		d.note("disk %s is to be erased for data but %d disks are called that; there are: %s", w.Erase, len(found), names(disks))
		return d
	}
	x := found[0]
	if x.Content == System || x.Content == Unreadable {
		d.note("disk %s is to be erased for data but cannot be used (%s)", x, x.Detail)
		return d
	}
	x.Removable = false
	if reason := unfit(x); reason != "" {
		d.note("disk %s is to be erased for data but is %s", x, reason)
		return d
	}
	d.Action, d.Disk, d.Erase = Format, x.Name, true
	return d
}

// decideFree is Decide by content: the disk that carries our file system or, when there is none, the
// only empty one.
func decideFree(disks []Disk, w Wish) Decision {
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
		default:
			d.noteUnused(x)
		}
	}
	switch {
	case len(ours) == 1:
		d.Action, d.Disk = Mount, ours[0].Name
		for _, x := range empty {
			d.noteUnused(x)
		}
	case len(ours) > 1:
		d.note("disks %s all carry a Millrace store and none is chosen: name one as appliance { disks: %q }",
			names(ours), ours[0].Name)
	case len(empty) == 1:
		d.format(empty[0], w)
	case len(empty) > 1:
		d.note("disks %s are all empty and none is chosen: name one as appliance { disks: %q }", names(empty), empty[0].Name)
	}
	return d
}

// decideNamed is Decide for a disk named by the owner.
func decideNamed(disks []Disk, w Wish) Decision {
	var d Decision
	for _, x := range disks {
		if !x.called(w.Named) {
			continue
		}
		switch {
		case x.Content == Data && x.ReadOnly:
			d.note("disk %s is configured as data disk but is read-only", w.Named)
		case x.Content == Data:
			d.Action, d.Disk = Mount, x.Name
		case x.Content == Empty || x.Content == Interrupted:
			// Removable is fine here: the owner named it.
			x.Removable = false
			if reason := unfit(x); reason != "" {
				d.note("disk %s is configured as data disk but %s", w.Named, reason)
				break
			}
			d.format(x, w)
		default:
			d.note("disk %s is configured as data disk but holds something else (%s): left alone", w.Named, x.Detail)
		}
		return d
	}
	d.note("disk %s is configured as data disk but there is no such disk; there are: %s", w.Named, names(disks))
	return d
}

// format chooses an empty disk, unless that is forbidden.
func (d *Decision) format(x Disk, w Wish) {
	if w.NoFormat {
		d.note("disk %s is empty but not formatted, since the state of this box cannot be read: its data may be on a disk that is missing", x.Name)
		return
	}
	d.Action, d.Disk = Format, x.Name
}

// noteUnused says why a disk is not used, if that is worth a word.
func (d *Decision) noteUnused(x Disk) {
	switch x.Content {
	case Foreign:
		d.note("disk %s holds data that is not Millrace's (%s): left alone", x.Name, x.Detail)
	case Unreadable:
		d.note("disk %s cannot be read (%s): left alone", x.Name, x.Detail)
	case Data:
		d.note("disk %s carries a Millrace store that is not this box's: left alone", x.Name)
	case Empty, Interrupted:
		d.note("disk %s is empty and not used", x.Name)
	case System:
	}
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
