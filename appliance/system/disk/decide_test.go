package disk

import (
	"fmt"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	const big = 8 << 30
	ours := func(name string) Disk { return Disk{Name: name, Bytes: big, Content: Data} }
	empty := func(name string) Disk { return Disk{Name: name, Bytes: big, Content: Empty} }
	system := Disk{Name: "vda", Bytes: big, Content: System}
	foreign := Disk{Name: "vdf", Bytes: big, Content: Foreign, Detail: "ext4 file system labelled \"home\""}
	broken := Disk{Name: "vdx", Bytes: big, Content: Unreadable, Detail: "input/output error"}
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
			d := Decide(tt.disks, tt.want)
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
	contents := []Content{Unreadable, Empty, Data, Interrupted, System, Foreign}
	for _, a := range contents {
		for _, b := range contents {
			for _, want := range []string{"", "vda", "vdb"} {
				disks := []Disk{{Name: "vda", Bytes: 1 << 30, Content: a}, {Name: "vdb", Bytes: 1 << 30, Content: b}}
				d := Decide(disks, want)
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
				if d.Action == Format && want == "" && (a == Data || b == Data) {
					t.Errorf("%s, though there is a store", at)
				}
			}
		}
	}
}
