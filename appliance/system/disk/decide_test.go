package disk

import (
	"fmt"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	const big = 8 << 30
	ours := func(name string) Disk { return Disk{Name: name, Bytes: big, Found: Found{Content: Data}} }
	empty := func(name string) Disk { return Disk{Name: name, Bytes: big, Found: Found{Content: Empty}} }
	system := Disk{Name: "vda", Bytes: big, Found: Found{Content: System}}
	foreign := Disk{Name: "vdf", Bytes: big, Found: Found{Content: Foreign, Detail: "ext4 file system labelled \"home\""}}
	broken := Disk{Name: "vdx", Bytes: big, Found: Found{Content: Unreadable, Detail: "input/output error"}}
	with := func(d Disk, change func(*Disk)) Disk { change(&d); return d }
	readOnly := func(d *Disk) { d.ReadOnly = true }
	removable := func(d *Disk) { d.Removable = true }
	small := func(d *Disk) { d.Bytes = MinBytes - 1 }
	interrupted := func(d *Disk) { d.Content = Interrupted }

	for _, tt := range []struct {
		name  string
		disks []Disk
		want  string // named by the owner
		act   Action
		disk  string
		notes string // words that each note must have, one word a note
	}{
		{"nothing", nil, "", NoDisk, "", ""},
		{"only the system disk", []Disk{system}, "", NoDisk, "", ""},
		{"empty", []Disk{system, empty("vdb")}, "", Format, "vdb", ""},
		{"ours", []Disk{system, ours("vdb")}, "", Mount, "vdb", ""},
		{"interrupted", []Disk{with(empty("vdb"), interrupted)}, "", Format, "vdb", ""},
		{"foreign", []Disk{foreign}, "", NoDisk, "", "vdf"},
		{"unreadable", []Disk{broken}, "", NoDisk, "", "vdx"},
		{"foreign and empty", []Disk{foreign, empty("vdb")}, "", Format, "vdb", "vdf"},
		{"ours and empty", []Disk{empty("vdb"), ours("vdc")}, "", Mount, "vdc", "vdb"},
		{"two ours", []Disk{ours("vdb"), ours("vdc")}, "", NoDisk, "", "vdb,"},
		{"two ours and empty", []Disk{ours("vdb"), ours("vdc"), empty("vdd")}, "", NoDisk, "", "vdb,"},
		{"two empty", []Disk{empty("vdb"), empty("vdc")}, "", NoDisk, "", "vdb,"},
		{"ours, read-only", []Disk{with(ours("vdb"), readOnly)}, "", NoDisk, "", "read-only"},
		{"empty, read-only", []Disk{with(empty("vdb"), readOnly)}, "", NoDisk, "", "read-only"},
		{"empty, removable", []Disk{with(empty("sda"), removable)}, "", NoDisk, "", "removable"},
		{"ours, removable", []Disk{with(ours("sda"), removable)}, "", Mount, "sda", ""},
		{"empty, small", []Disk{with(empty("vdb"), small)}, "", NoDisk, "", "smaller"},

		{"named: ours of two", []Disk{ours("vdb"), ours("vdc")}, "vdc", Mount, "vdc", ""},
		{"named: empty of two", []Disk{empty("vdb"), empty("vdc")}, "/dev/vdc", Format, "vdc", ""},
		{"named: removable", []Disk{with(empty("sda"), removable)}, "sda", Format, "sda", ""},
		{"named: foreign", []Disk{foreign, empty("vdb")}, "vdf", NoDisk, "", "vdf"},
		{"named: system", []Disk{system, empty("vdb")}, "vda", NoDisk, "", "vda"},
		{"named: unreadable", []Disk{broken}, "vdx", NoDisk, "", "vdx"},
		{"named: read-only", []Disk{with(ours("vdb"), readOnly)}, "vdb", NoDisk, "", "read-only"},
		{"named: small", []Disk{with(empty("vdb"), small)}, "vdb", NoDisk, "", "smaller"},
		{"named: missing", []Disk{ours("vdb")}, "vdz", NoDisk, "", "vdz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(tt.disks, Wish{Named: strings.Fields(tt.want)})
			if d.Action != tt.act || d.Disk != tt.disk {
				t.Errorf("got action %d on %q, want %d on %q", d.Action, d.Disk, tt.act, tt.disk)
			}
			words := strings.Fields(tt.notes)
			if len(words) != len(d.Notes) {
				t.Fatalf("notes %q, want %d", d.Notes, len(words))
			}
			for i, w := range words {
				if !strings.Contains(d.Notes[i], w) {
					t.Errorf("note %q does not say %q", d.Notes[i], w)
				}
			}
		})
	}
}

// Every combination of two disks: whatever is chosen is ours or empty, and never one of two.
func TestDecideNeverTakesForeign(t *testing.T) {
	contents := []Content{Unreadable, Empty, Data, Part, Interrupted, System, Foreign}
	for _, a := range contents {
		for _, b := range contents {
			for _, want := range []string{"", "vda", "vdb", "vda vdb", AllDisks} {
				disks := []Disk{{Name: "vda", Bytes: 1 << 30, Found: Found{Content: a}}, {Name: "vdb", Bytes: 1 << 30, Found: Found{Content: b}}}
				d := Decide(disks, Wish{Named: strings.Fields(want)})
				at := fmt.Sprintf("contents %d %d, named %q: action %d on %q", a, b, want, d.Action, d.Disk)
				for _, x := range disks {
					if x.Name != d.Disk {
						continue
					}
					blank := x.Content == Empty || x.Content == Interrupted
					if d.Action == Mount && x.Content != Data || d.Action == Format && !blank {
						t.Error(at)
					}
				}
				if (d.Action == NoDisk) != (d.Disk == "") {
					t.Error(at)
				}
				if d.Action == Format && (want == "" || want == AllDisks) && (a == Data || b == Data || a == Part || b == Part) {
					t.Errorf("%s, though there is a store", at)
				}
			}
		}
	}
}

// A box that is bound to a disk uses that one or none, whatever else is there.
func TestDecideBound(t *testing.T) {
	const big = 8 << 30
	data := func(name, uuid string) Disk {
		return Disk{Name: name, Serial: "S" + name, Bytes: big, Found: Found{Content: Data, UUID: uuid}}
	}
	empty := func(name string) Disk { return Disk{Name: name, Bytes: big, Found: Found{Content: Empty}} }
	bound := Wish{Bound: "u1", Known: "serial X"}
	named := func(w Wish, name string) Wish { w.Named = []string{name}; return w }
	begun := func(w Wish) Wish { w.Begun = true; return w }
	readOnly := data("vdb", "u1")
	readOnly.ReadOnly = true
	for _, tt := range []struct {
		name  string
		disks []Disk
		wish  Wish
		act   Action
		disk  string
		note  string // in the first note; empty: none
	}{
		{"there", []Disk{data("vdb", "u1")}, bound, Mount, "vdb", ""},
		{"there, and an empty one", []Disk{empty("vdb"), data("vdc", "u1")}, bound, Mount, "vdc", "vdb is empty and not used"},
		{"there, and another box's", []Disk{data("vdb", "u2"), data("vdc", "u1")}, bound, Mount, "vdc", "vdb carries a Millrace store that is not"},
		{"missing, an empty one there", []Disk{empty("vdb")}, bound, NoDisk, "", "serial X, is missing"},
		{"missing, another box's there", []Disk{data("vdb", "u2")}, bound, NoDisk, "", "serial X, is missing"},
		{"missing, an empty one named", []Disk{empty("vdb")}, named(bound, "vdb"), NoDisk, "", "serial X, is missing"},
		{"two copies", []Disk{data("vdb", "u1"), data("vdc", "u1")}, bound, NoDisk, "", "copies"},
		{"read-only", []Disk{readOnly}, bound, NoDisk, "", "read-only"},
		{"there, another named", []Disk{data("vdb", "u1"), empty("vdc")}, named(bound, "vdc"), Mount, "vdb", "vdc is configured"},
		{"there, named by serial", []Disk{data("vdb", "u1")}, named(bound, "Svdb"), Mount, "vdb", ""},
		{"data on the system disk wanted", []Disk{data("vdb", "u1")}, named(bound, OnSystem), NoDisk, "", "serial X"},
		{"not bound, data on the system disk", []Disk{empty("vdb")}, Wish{Named: []string{OnSystem}}, UseState, "", ""},
		{"begun, still empty", []Disk{empty("vdb")}, begun(bound), Format, "vdb", ""},
		{"begun, made", []Disk{data("vdb", "u1")}, begun(bound), Mount, "vdb", ""},
		{"state unreadable, empty", []Disk{empty("vdb")}, Wish{NoFormat: true}, NoDisk, "", "not formatted"},
		{"state unreadable, empty named", []Disk{empty("vdb")}, Wish{NoFormat: true, Named: []string{"vdb"}}, NoDisk, "", "not formatted"},
		{"state unreadable, a store", []Disk{data("vdb", "u2")}, Wish{NoFormat: true}, Mount, "vdb", ""},
		{"erase", []Disk{data("vdb", "u1"), data("vdc", "u2")}, Wish{Bound: "u1", Erase: "Svdc"}, Format, "vdc", ""},
		{"erase what is gone", []Disk{data("vdb", "u1"), empty("vdc")}, Wish{Erase: "Svdd"}, NoDisk, "", "0 disks are called that"},
		{"erase by name what has a serial", []Disk{data("vdb", "u1")}, Wish{Erase: "vdb"}, NoDisk, "", "0 disks are called that"},
		{"erase the system disk", []Disk{{Name: "vda", Bytes: big, Found: Found{Content: System}}}, Wish{Erase: "vda"}, NoDisk, "", "cannot be used"},
	} {
		d := Decide(tt.disks, tt.wish)
		if d.Action != tt.act || d.Disk != tt.disk {
			t.Errorf("%s: action %d on %q, want %d on %q", tt.name, d.Action, d.Disk, tt.act, tt.disk)
		}
		if tt.note == "" && len(d.Notes) > 0 || tt.note != "" && (len(d.Notes) == 0 || !strings.Contains(d.Notes[0], tt.note)) {
			t.Errorf("%s: notes %q, want %q", tt.name, d.Notes, tt.note)
		}
		if d.Erase != (tt.wish.Erase != "" && tt.act == Format) {
			t.Errorf("%s: erase is %v", tt.name, d.Erase)
		}
	}
}
