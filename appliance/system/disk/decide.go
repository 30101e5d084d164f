package disk

import (
	"fmt"
	"slices"
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
	Part                       // our file system on a further disk of a store
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
	// Named are the disks in the configuration: kernel names, with or without "/dev/", or serial numbers; or
	// OnSystem, or AllDisks. Empty chooses by content.
	Named []string

	// Bound is the file system of the disk that this box keeps its data on; empty: none yet.
	Bound string

	// Begun says that formatting the disk for Bound had begun when the box last knew.
	Begun bool

	// Known describes the bound disk to people.
	Known string

	// Further are the other disks that this box keeps its data on.
	Further []Further

	// Erase is the serial number, or for a disk that has none the kernel name, of a disk that the
	// owner has given to be erased for data; empty: none.
	Erase string

	// NoFormat forbids formatting: what this box is bound to is not known, though it may be bound.
	NoFormat bool
}

// all reports whether every empty disk is wanted.
func (w Wish) all() bool { return len(w.Named) == 1 && w.Named[0] == AllDisks }

// names reports whether one of the names in the configuration means the disk.
func (w Wish) names(d Disk) bool { return slices.ContainsFunc(w.Named, d.called) }

// Decision is which disk becomes the data disk.
type Decision struct {
	Action Action
	Disk   string   // kernel name; empty for NoDisk and UseState
	Erase  bool     // the disk holds other data, which the owner has given up
	Notes  []string // what the owner should know, one sentence each
}

// Decide chooses the data disk, or the first one of several: that which has the catalogue of the store.
//
//  1. A disk with other content is never chosen, except the one in Wish.Erase.
//  2. A box that is bound to a disk uses that one or none: never another, empty or not.
//  3. Of several that would do none is chosen, unless the owner wants all of them and they are empty.
func Decide(disks []Disk, w Wish) Decision {
	w.Named = slices.Clone(w.Named)
	for i, name := range w.Named {
		w.Named[i] = strings.TrimPrefix(name, "/dev/")
	}
	switch {
	case w.Erase != "":
		return decideErase(disks, w)
	case len(w.Named) == 1 && w.Named[0] == OnSystem:
		return decideSystem(w)
	case w.Bound != "" && !w.Begun:
		return decideBound(disks, w)
	case len(w.Named) > 0 && !w.all():
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
			if x.Content != Part || x.UUID != FurtherUUID(w.Bound, x.Number) {
				d.noteUnused(x)
			}
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
	if len(w.Named) > 0 && !w.all() && !w.names(found[0]) {
		d.note("disk %s is configured as data disk, but this box keeps its data on %s, which is used", strings.Join(w.Named, ", "), found[0])
	}
	for _, x := range disks {
		if x.Name != d.Disk && !d.further(x, found[0].UUID, w) {
			d.noteUnused(x)
		}
	}
	return d
}

// further reports whether DecideMore has the say about a disk: it is a part of the store, or may become one.
func (d *Decision) further(x Disk, home string, w Wish) bool {
	blank := x.Content == Empty || x.Content == Interrupted
	return x.Content == Part && x.UUID == FurtherUUID(home, x.Number) || blank && (w.all() || w.names(x))
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
	var ours, parts, empty []Disk
	var d Decision
	for _, x := range disks {
		switch x.Content {
		case Data:
			if x.ReadOnly {
				d.note("disk %s carries a Millrace store but is read-only: left alone", x.Name)
				continue
			}
			ours = append(ours, x)
		case Part:
			parts = append(parts, x)
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
		for _, x := range slices.Concat(empty, parts) {
			if !d.further(x, ours[0].UUID, w) {
				d.noteUnused(x)
			}
		}
	case len(ours) > 1:
		d.note("disks %s all carry a Millrace store and none is chosen: name one as appliance { disks: %q }",
			names(ours), ours[0].Name)
	case len(parts) > 0:
		d.note("disks %s carry parts of a Millrace store whose first disk is not there: none is used, nor an empty one", names(parts))
	case len(empty) == 1 || w.all() && len(empty) > 0:
		d.format(empty[0], w)
	case len(empty) > 1:
		d.note("disks %s are all empty and none is chosen: name those to use as appliance { disks: %q }, or all of them by %q",
			names(empty), empty[0].Name, AllDisks)
	}
	return d
}

// decideNamed is Decide for disks named by the owner: the one that carries a store, or the first of those that are
// empty.
func decideNamed(disks []Disk, w Wish) Decision {
	var d Decision
	var ours, parts, empty []Disk
	for _, name := range w.Named {
		i := slices.IndexFunc(disks, func(x Disk) bool { return x.called(name) })
		if i < 0 {
			d.note("disk %s is configured as data disk but there is no such disk; there are: %s", name, names(disks))
			continue
		}
		switch x := disks[i]; {
		case x.Content == Data && x.ReadOnly:
			d.note("disk %s is configured as data disk but is read-only", name)
			return d
		case x.Content == Data:
			ours = append(ours, x)
		case x.Content == Part:
			parts = append(parts, x)
		case x.Content == Empty || x.Content == Interrupted:
			// Removable is fine here: the owner named it.
			x.Removable = false
			if reason := unfit(x); reason != "" {
				d.note("disk %s is configured as data disk but %s", name, reason)
				continue
			}
			empty = append(empty, x)
		default:
			d.note("disk %s is configured as data disk but holds something else (%s): left alone", name, x.Detail)
		}
	}
	switch {
	case len(ours) > 1:
		d.note("disks %s are configured as data disks but carry a Millrace store each: name the one to use", names(ours))
	case len(ours) == 1:
		d.Action, d.Disk = Mount, ours[0].Name
	case len(parts) > 0:
		d.note("disks %s are configured as data disks and carry parts of a Millrace store whose first disk is not: none is used", names(parts))
	case len(empty) > 0:
		d.format(empty[0], w)
	}
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
	case Part:
		d.note("disk %s carries a part of a Millrace store that is not this box's: left alone", x.Name)
	case Empty, Interrupted:
		d.note("disk %s is empty and not used; appliance { disks: … } names the disks of this box", x.Name)
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
