package disk

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"millrace/image/layout"
)

// AllDisks in place of disks' names takes every empty disk, now and later.
const AllDisks = "all"

// MaxDisks bounds the disks of one store.
const MaxDisks = 16

// firstFurther is the number of the first disk of a store beside the one that it began on.
const firstFurther = 2

// FurtherUUID is the UUID of the file system on a further disk of the store that began on the file system home
// (RFC 9562 version 8). So a disk tells by itself, without a file that would have to be kept true, which store
// it is a part of and which part: a box that has lost its state, or another box, finds them together.
func FurtherUUID(home string, number int) string {
	b := sha256.Sum256(fmt.Appendf(nil, "millrace data disk %s %d", home, number))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// furtherLabel is the label of the file system on a further disk.
func furtherLabel(number int) string {
	return fmt.Sprintf("%s-%d", layout.DataLabel, number)
}

// furtherNumber reads the number out of such a label; 0: it is none.
func furtherNumber(label string) int {
	for n := firstFurther; n <= MaxDisks; n++ {
		if label == furtherLabel(n) {
			return n
		}
	}
	return 0
}

// Further is a disk that a box keeps data on beside the first one.
type Further struct {
	Number int    // from 2
	Known  string // describes it to people
	Ready  bool   // it was made, and may hold data
}

// More is a further disk to use.
type More struct {
	Number int
	Disk   string // kernel name
	UUID   string // of its file system
	Format bool   // it is empty, and made now
}

// MoreDecision is which disks are used beside the first one, by number.
type MoreDecision struct {
	Disks []More
	// Refused says why the store cannot be used at all; empty: it can.
	Refused string
	Notes   []string // what the owner should know, one sentence each
}

// DecideMore chooses the disks that are used beside the first one, name, whose file system is home.
//
//  1. All disks that hold a part of the store are used, or the store is not: half of it is none.
//  2. Only an empty disk becomes a new one, and only when the owner has named it or said AllDisks.
//  3. A disk that holds a part of another store is left alone.
func DecideMore(disks []Disk, name, home string, w Wish) MoreDecision {
	var d MoreDecision
	parts := make(map[int]Disk)
	for _, x := range disks {
		if x.Content != Part || x.UUID != FurtherUUID(home, x.Number) {
			continue
		}
		if other, twice := parts[x.Number]; twice {
			d.Refused = fmt.Sprintf("disks %s and %s are copies of one another and none is used: remove one", other, x)
			return d
		}
		if x.ReadOnly {
			d.Refused = fmt.Sprintf("disk %s, a part of this store, is read-only", x)
			return d
		}
		parts[x.Number] = x
	}
	last := 1 // the highest number that may hold data
	known := make(map[int]string)
	for _, f := range w.Further {
		if f.Ready {
			last, known[f.Number] = max(last, f.Number), f.Known
		}
	}
	for n := range parts {
		last = max(last, n)
	}
	var missing []string
	for n := firstFurther; n <= last; n++ {
		x, ok := parts[n]
		if !ok {
			what := fmt.Sprintf("number %d", n)
			if known[n] != "" {
				what += ", " + known[n]
			}
			missing = append(missing, what)
			continue
		}
		d.Disks = append(d.Disks, More{Number: n, Disk: x.Name, UUID: x.UUID})
	}
	if len(missing) > 0 {
		d.Disks = nil
		d.Refused = fmt.Sprintf("this store lies on %d disks, of which are missing: %s; the others are left as they are", last, strings.Join(missing, "; "))
		return d
	}
	for _, x := range d.fresh(disks, name, w) {
		if last++; last > MaxDisks {
			d.note("disk %s is not used: a store has at most %d disks", x, MaxDisks)
			continue
		}
		d.Disks = append(d.Disks, More{Number: last, Disk: x.Name, UUID: FurtherUUID(home, last), Format: true})
	}
	return d
}

// fresh returns the empty disks that the owner wants used.
func (d *MoreDecision) fresh(disks []Disk, home string, w Wish) []Disk {
	var list []Disk
	for _, x := range disks {
		named := slices.ContainsFunc(w.Named, x.called)
		if x.Name == home || x.Content != Empty && x.Content != Interrupted || !named && !w.all() {
			continue
		}
		// Removable is fine when the owner has named it.
		x.Removable = x.Removable && !named
		switch reason := unfit(x); {
		case reason != "":
			d.note("disk %s is empty but %s: not used", x, reason)
		case w.NoFormat:
			d.note("disk %s is empty but not formatted, since the state of this box cannot be read: a part of its store may be missing", x)
		default:
			list = append(list, x)
		}
	}
	return list
}

func (d *MoreDecision) note(format string, args ...any) {
	d.Notes = append(d.Notes, fmt.Sprintf(format, args...))
}
