package disk

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"millrace/image/layout"
)

// flashed is the size in bytes of the start of a disk as flashing leaves it: a table for an image of 8 MiB with one ESP.
const flashed = 8 << 20

// newSystem makes a disk of the given size on which such an image was written.
func newSystem(size int) image {
	m := make(image, size)
	t := &table{sector: 512, disk: [16]byte{1}, first: 34, last: flashed/512 - 34, alternate: flashed/512 - 1, entrySize: 128, entries: make([]byte, 128*128)}
	t.set(partition{number: 1, kind: layout.ESPType, name: layout.ESPName, first: 2048, last: 8191}, [16]byte{2})
	if err := t.write(m[:flashed]); err != nil {
		panic(err)
	}
	return m.with(510, 0x55, 0xaa)
}

func (m image) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m image) Sync() error                              { return nil }

const mib1 = 1 << 20

func mustState(t *testing.T, m image) (*table, partition, bool) {
	t.Helper()
	tab, ok := findGPT(m, int64(len(m)))
	if !ok {
		t.Fatal("no partition table")
	}
	want, state, changed, err := tab.withState(int64(len(m)), [16]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	return want, state, changed
}

// A state partition is made behind the ESP, found again, and grows with the disk. An independent
// implementation reads the same.
func TestTableWithState(t *testing.T) {
	m := newSystem(128 * mib1)
	want, state, changed := mustState(t, m)
	if !changed || state.number != 2 || state.first != flashed/512 || state.last != 127*2048-1 {
		t.Fatalf("changed %v, %+v; want a partition 2 from 8 MiB to 127 MiB", changed, state)
	}
	if err := want.write(m); err != nil {
		t.Fatal(err)
	}
	if _, again, changed := mustState(t, m); changed || again != state {
		t.Errorf("second look: changed %v, %+v", changed, again)
	}
	// What was flashed ends before it: nothing of ours is taken for somebody's data.
	if content, err := lookState(bytes.NewReader(m[state.first*512:(state.last+1)*512]), (state.last+1-state.first)*512); content != Empty || err != nil {
		t.Errorf("the new partition holds %d, %v", content, err)
	}
	m = append(m, make(image, 64*mib1)...)
	want, grown, changed := mustState(t, m)
	if !changed || grown.first != state.first || grown.last != 191*2048-1 {
		t.Errorf("on a larger disk: changed %v, %+v; want up to 191 MiB", changed, grown)
	}
	if err := want.write(m); err != nil {
		t.Fatal(err)
	}
	checkByOther(t, m, grown)
}

func checkByOther(t *testing.T, m image, state partition) {
	t.Helper()
	name := t.TempDir() + "/disk"
	if err := writeFile(name, m); err != nil {
		t.Fatal(err)
	}
	b, err := file.OpenFromPath(name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	other, err := gpt.Read(b, 512, 512)
	if err != nil {
		t.Fatalf("go-diskfs does not read the table: %v", err)
	}
	if err := other.Verify(b, uint64(len(m))); err != nil {
		t.Errorf("go-diskfs finds the table faulty: %v", err)
	}
	p := other.Partitions[1]
	if p.Name != layout.StateName || int64(p.Start) != state.first || int64(p.End) != state.last || p.Type != gpt.LinuxFilesystem {
		t.Errorf("go-diskfs reads partition 2 as %+v, want %+v", p, state)
	}
	if other.Partitions[0].Name != layout.ESPName {
		t.Errorf("go-diskfs reads partition 1 as %+v", other.Partitions[0])
	}
}

func TestTableWithStateRefuses(t *testing.T) {
	small := newSystem(flashed + 64*mib1)
	tab, _ := findGPT(small, int64(len(small)))
	if _, _, _, err := tab.withState(int64(len(small)), [16]byte{}); !errors.Is(err, errNoRoom) {
		t.Errorf("a full disk: got %v", err)
	}
	m := newSystem(128 * mib1)
	tab, _ = findGPT(m, int64(len(m)))
	for n := 2; n <= tab.count(); n++ {
		tab.set(partition{number: n, kind: layout.StateType, name: "other", first: 100, last: 101}, [16]byte{9})
	}
	if _, _, _, err := tab.withState(int64(len(m)), [16]byte{}); !errors.Is(err, errNoRoom) {
		t.Errorf("a full table: got %v", err)
	}
	tab.set(partition{number: 1, kind: layout.ESPType, name: layout.ESPName, first: 2048, last: 1 << 40}, [16]byte{})
	if _, _, _, err := tab.withState(int64(len(m)), [16]byte{}); err == nil || !strings.Contains(err.Error(), "partition 1 has sectors") {
		t.Errorf("a partition beyond the disk: got %v", err)
	}
}

// A partition of somebody else behind ours is neither moved nor covered.
func TestTableWithStateKeepsLaterPartition(t *testing.T) {
	m := newSystem(256 * mib1)
	want, state, _ := mustState(t, m)
	state.last = 100*2048 - 1
	want.set(state, [16]byte{3})
	want.set(partition{number: 3, kind: layout.StateType, name: "other", first: 150 * 2048, last: 160*2048 - 1}, [16]byte{4})
	if err := want.write(m); err != nil {
		t.Fatal(err)
	}
	if _, state, changed := mustState(t, m); !changed || state.last != 150*2048-1 {
		t.Errorf("changed %v, %+v; want it to end at 150 MiB", changed, state)
	}
}

// crashDisk records what is written between syncs.
type crashDisk struct {
	image
	writes []diskWrite
}

type diskWrite struct {
	off  int64
	data []byte
	sync bool
}

func (c *crashDisk) WriteAt(p []byte, off int64) (int, error) {
	c.writes = append(c.writes, diskWrite{off: off, data: bytes.Clone(p)})
	return len(p), nil
}

func (c *crashDisk) Sync() error {
	c.writes = append(c.writes, diskWrite{sync: true})
	return nil
}

// sectors splits what is written into sectors, which a disk writes whole or not.
func (c *crashDisk) sectors() []diskWrite {
	var list []diskWrite
	for _, w := range c.writes {
		if w.sync {
			list = append(list, w)
			continue
		}
		for i := 0; i < len(w.data); i += 512 {
			list = append(list, diskWrite{off: w.off + int64(i), data: w.data[i:][:512]})
		}
	}
	return list
}

// overlay is a disk with some sectors of 512 bytes changed.
type overlay struct {
	image
	changed map[int64][]byte
}

func (o overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.image.ReadAt(p, off)
	for at, data := range o.changed {
		if at < off+int64(n) && at+int64(len(data)) > off {
			from := max(0, off-at)
			copy(p[max(0, at-off):n], data[from:])
		}
	}
	return n, err
}

// tableAfterCrashes checks the table after every crash: what was synced is there, of the sectors
// written since then any one is missing, or only one is there, or they are there up to one.
func tableAfterCrashes(base image, c *crashDisk, check func(overlay) string) string {
	list := c.sectors()
	synced := map[int64][]byte{}
	begin := 0
	for end := 0; end <= len(list); end++ {
		if end < len(list) && !list[end].sync {
			continue
		}
		open := list[begin:end] // of these any may be lost
		for i := range open {
			for _, kept := range [][]diskWrite{open[:i], open[i : i+1], slices.Concat(open[:i], open[i+1:])} {
				o := overlay{base, maps.Clone(synced)}
				for _, w := range kept {
					o.changed[w.off] = w.data
				}
				if fault := check(o); fault != "" {
					return fault
				}
			}
		}
		for _, w := range open {
			synced[w.off] = w.data
		}
		begin = end + 1
	}
	return ""
}

// Whenever the power fails while the table is written, there is a table, the ESP is in it, and the
// next boot makes it what it should be.
func TestTableWriteSurvivesPowerCuts(t *testing.T) {
	for _, tt := range []struct {
		name string
		base func() image
	}{
		{"state partition made", func() image { return newSystem(80 * mib1) }},
		{"disk grown", func() image {
			m := newSystem(80 * mib1)
			want, _, _ := mustState(t, m)
			if err := want.write(m); err != nil {
				t.Fatal(err)
			}
			return append(m, make(image, 8*mib1)...)
		}},
	} {
		base := tt.base()
		want, state, _ := mustState(t, base)
		c := &crashDisk{image: base}
		if err := want.write(c); err != nil {
			t.Fatal(err)
		}
		size := int64(len(base))
		check := func(m overlay) string {
			tab, ok := findGPT(m, size)
			if !ok {
				return "no table"
			}
			if p := tab.partitions(); len(p) == 0 || p[0].name != layout.ESPName {
				return "no ESP"
			}
			again, p, _, err := tab.withState(size, [16]byte{3})
			if err != nil || p != state {
				return "the next boot makes another table"
			}
			if string(again.entries) != string(want.entries) || again.alternate != want.alternate {
				return "the next boot makes another table"
			}
			return ""
		}
		if fault := tableAfterCrashes(base, c, check); fault != "" {
			t.Errorf("%s: %s", tt.name, fault)
		}
		// The test sees what it is for: without the sync between, or with the primary first.
		unsynced := &crashDisk{image: base}
		for _, w := range c.writes {
			if !w.sync {
				unsynced.writes = append(unsynced.writes, w)
			}
		}
		if tt.name == "state partition made" {
			if fault := tableAfterCrashes(base, unsynced, check); fault == "" {
				t.Errorf("%s: a write without sync between the copies is not noticed", tt.name)
			}
		}
	}
}

func TestLookState(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    image
		want Content
		err  string
	}{
		{"empty", newImage(), Empty, ""},
		{"old data behind its start", newImage().with(testDisk/2, 1, 2, 3), Empty, ""},
		{"ours", newImage().ext4(layout.StateLabel), Data, ""},
		{"interrupted", newImage().ext4(layout.StateLabel).with(int(markAt(testDisk)), []byte(formatMark)...), Empty, ""},
		{"data disk", newImage().ext4(layout.DataLabel), Foreign, "not ours"},
		{"another's", newImage().ext4("root"), Foreign, `labelled "root"`},
		{"unknown", newImage().with(100, 1), Foreign, "byte 100"},
	} {
		got, err := lookState(tt.m, testDisk)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %d, %v; want %d, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
	if _, err := lookState(brokenDisk{newImage(), 4096}, testDisk); err == nil {
		t.Error("a disk that cannot be read may be formatted")
	}
}

func writeFile(name string, data []byte) error { return os.WriteFile(name, data, 0o600) }
