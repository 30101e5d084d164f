package disk

import (
	"fmt"
	"strings"
	"testing"

	"millrace/image/layout"
)

// What a further disk is and to which store it belongs stands in its superblock.
func TestClassifyPart(t *testing.T) {
	for label, want := range map[string]int{layout.DataLabel + "-2": 2, layout.DataLabel + "-16": 16} {
		if got := Classify(newImage().ext4(label), testDisk); got.Content != Part || got.Number != want || got.UUID == "" {
			t.Errorf("label %q: %+v", label, got)
		}
	}
	for _, label := range []string{layout.DataLabel + "-1", layout.DataLabel + "-17", layout.DataLabel + "-02", layout.DataLabel + "-"} {
		if got := Classify(newImage().ext4(label), testDisk); got.Content != Foreign {
			t.Errorf("label %q: %+v", label, got)
		}
	}
	if len(furtherLabel(MaxDisks)) > superLabelSize {
		t.Errorf("label %q is too long", furtherLabel(MaxDisks))
	}
	a, b, c := FurtherUUID("h", 2), FurtherUUID("h", 3), FurtherUUID("i", 2)
	if a == b || a == c || len(a) != 36 || a[14] != '8' {
		t.Errorf("UUIDs %s %s %s", a, b, c)
	}
}

const moreBytes = 8 << 30

func part(name, home string, number int) Disk {
	return Disk{Name: name, Serial: "S" + name, Bytes: moreBytes, Found: Found{Content: Part, UUID: FurtherUUID(home, number), Number: number}}
}

func blank(name string) Disk {
	return Disk{Name: name, Serial: "S" + name, Bytes: moreBytes, Found: Found{Content: Empty}}
}

func TestDecideMore(t *testing.T) {
	home := Disk{Name: "vdb", Bytes: moreBytes, Found: Found{Content: Data, UUID: "h"}}
	foreign := Disk{Name: "vdf", Serial: "Svdf", Bytes: moreBytes, Found: Found{Content: Foreign, Detail: "something"}}
	readOnly := part("vdc", "h", 2)
	readOnly.ReadOnly = true
	removable := blank("sdb")
	removable.Removable = true
	named := func(names ...string) Wish { return Wish{Named: names} }
	knows := func(w Wish, ready bool, numbers ...int) Wish {
		for _, n := range numbers {
			w.Further = append(w.Further, Further{Number: n, Known: fmt.Sprintf("serial K%d", n), Ready: ready})
		}
		return w
	}
	for _, tt := range []struct {
		name    string
		disks   []Disk
		wish    Wish
		want    string // number:disk, with + for one that is formatted
		refused string
		note    string // in the only note; empty: none
	}{
		{"one disk", []Disk{home}, Wish{}, "", "", ""},
		{"an empty one that nobody named", []Disk{home, blank("vdc")}, Wish{}, "", "", ""},
		{"a new store", []Disk{home, blank("vdc"), blank("vdd")}, named("vdb", "vdc", "Svdd"), "2:vdc+ 3:vdd+", "", ""},
		{"all", []Disk{home, blank("vdc"), blank("vdd")}, named(AllDisks), "2:vdc+ 3:vdd+", "", ""},
		{"there", []Disk{home, part("vdd", "h", 2), part("vdc", "h", 3)}, knows(Wish{}, true, 2, 3), "2:vdd 3:vdc", "", ""},
		{"there, by a box that has forgotten", []Disk{home, part("vdd", "h", 2), part("vdc", "h", 3)}, Wish{}, "2:vdd 3:vdc", "", ""},
		{"one more", []Disk{home, part("vdc", "h", 2), blank("vdd")}, knows(named("vdb", "vdc", "vdd"), true, 2), "2:vdc 3:vdd+", "", ""},
		{"named wins over removable", []Disk{home, removable}, named("vdb", "sdb"), "2:sdb+", "", ""},
		{"all is nothing removable", []Disk{home, removable}, named(AllDisks), "", "", "removable"},
		{"foreign named", []Disk{home, foreign}, named("vdb", "vdf"), "", "", ""},
		{"another store's part", []Disk{home, part("vdc", "i", 2)}, named(AllDisks), "", "", ""},
		{"missing", []Disk{home, part("vdc", "h", 2)}, knows(Wish{}, true, 2, 3), "", "lies on 3 disks, of which are missing: number 3, serial K3", ""},
		{"missing, an empty one in its place", []Disk{home, blank("vdc")}, knows(named(AllDisks), true, 2), "", "missing: number 2, serial K2", ""},
		{"missing, by a box that has forgotten", []Disk{home, part("vdc", "h", 3)}, Wish{}, "", "missing: number 2;", ""},
		{"begun, still empty", []Disk{home, blank("vdc")}, knows(named("vdc"), false, 2), "2:vdc+", "", ""},
		{"begun, gone before it held anything", []Disk{home}, knows(named("vdc"), false, 2), "", "", ""},
		{"begun, made", []Disk{home, part("vdc", "h", 2)}, knows(Wish{}, false, 2), "2:vdc", "", ""},
		{"two copies", []Disk{home, part("vdc", "h", 2), part("vdd", "h", 2)}, Wish{}, "", "copies", ""},
		{"read-only", []Disk{home, readOnly}, Wish{}, "", "read-only", ""},
		{"state unreadable", []Disk{home, blank("vdc")}, Wish{Named: []string{AllDisks}, NoFormat: true}, "", "", "not formatted"},
	} {
		d := DecideMore(tt.disks, "vdb", "h", tt.wish)
		var got []string
		for _, m := range d.Disks {
			s := fmt.Sprintf("%d:%s", m.Number, m.Disk)
			if m.Format {
				s += "+"
			}
			if m.UUID != FurtherUUID("h", m.Number) {
				t.Errorf("%s: disk %s has UUID %s", tt.name, m.Disk, m.UUID)
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: disks %q, want %q", tt.name, got, tt.want)
		}
		if (d.Refused == "") != (tt.refused == "") || !strings.Contains(d.Refused, tt.refused) {
			t.Errorf("%s: refused %q, want %q", tt.name, d.Refused, tt.refused)
		}
		if (len(d.Notes) == 0) != (tt.note == "") || tt.note != "" && !strings.Contains(d.Notes[0], tt.note) {
			t.Errorf("%s: notes %q, want %q", tt.name, d.Notes, tt.note)
		}
	}
}

// The first disk of several: the one with a store, or the first that is empty; never one beside parts of a store
// whose first disk is missing.
func TestDecideFirstOfSeveral(t *testing.T) {
	home := Disk{Name: "vdd", Serial: "Svdd", Bytes: moreBytes, Found: Found{Content: Data, UUID: "h"}}
	for _, tt := range []struct {
		name  string
		disks []Disk
		wish  Wish
		act   Action
		disk  string
		note  string
	}{
		{"all, empty", []Disk{blank("vdb"), blank("vdc")}, Wish{Named: []string{AllDisks}}, Format, "vdb", ""},
		{"all, one with a store", []Disk{blank("vdb"), home}, Wish{Named: []string{AllDisks}}, Mount, "vdd", ""},
		{"named, empty", []Disk{blank("vdb"), blank("vdc")}, Wish{Named: []string{"/dev/vdc", "Svdb"}}, Format, "vdc", ""},
		{"named, the second has a store", []Disk{blank("vdb"), home}, Wish{Named: []string{"vdb", "vdd"}}, Mount, "vdd", ""},
		{"named, one is gone", []Disk{blank("vdb")}, Wish{Named: []string{"vdc", "vdb"}}, Format, "vdb", "no such disk"},
		{"parts without the first", []Disk{blank("vdb"), part("vdc", "h", 2)}, Wish{Named: []string{AllDisks}}, NoDisk, "", "first disk is not"},
		{"parts without the first, unnamed", []Disk{blank("vdb"), part("vdc", "h", 2)}, Wish{}, NoDisk, "", "first disk is not"},
		{"parts without the first, named", []Disk{blank("vdb"), part("vdc", "h", 2)}, Wish{Named: []string{"vdb", "vdc"}}, NoDisk, "", "first disk is not"},
		{"bound, one to be added", []Disk{blank("vdb"), part("vdc", "h", 2), home}, Wish{Bound: "h", Named: []string{"Svdd", "vdb"}}, Mount, "vdd", ""},
		{"bound, another store's part", []Disk{part("vdc", "i", 2), home}, Wish{Bound: "h"}, Mount, "vdd", "not this box's"},
	} {
		d := Decide(tt.disks, tt.wish)
		if d.Action != tt.act || d.Disk != tt.disk {
			t.Errorf("%s: action %d on %q, want %d on %q", tt.name, d.Action, d.Disk, tt.act, tt.disk)
		}
		if (len(d.Notes) == 0) != (tt.note == "") || tt.note != "" && !strings.Contains(d.Notes[0], tt.note) {
			t.Errorf("%s: notes %q, want %q", tt.name, d.Notes, tt.note)
		}
	}
}
