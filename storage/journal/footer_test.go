package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"millrace/storage/vfs"
)

// laterBatches are records of the types that version 2 began without.
func laterBatches() []func(*builder) {
	add := func(b *builder, k kind, group, index, term uint64, payload []byte) {
		b.add(recordHeader{kind: k, group: group, index: index, term: term}, payload)
	}
	snap := &Snapshot{Index: 3, Term: 2, Members: []byte("members"), Objects: 10, Count: 2, Bytes: 12, Checksum: 0xabcdef01}
	part := relocated{size: 20, ranges: []Range{{2, 3}, {10, 4}}}
	whole := relocated{size: 4, log: true, ranges: []Range{{0, 4}}}
	return []func(*builder){
		func(b *builder) {
			for index := uint64(1); index <= 6; index++ {
				add(b, kindEntry, 1, index, 1+index/3, fmt.Appendf(nil, "entry %d", index))
			}
			add(b, kindHardState, 1, 5, 3, le.AppendUint64(nil, 7))
			add(b, kindObject, 1, 10, 0, []byte("object"))
			add(b, kindObject, 1, 11, 0, []byte("other"))
			add(b, kindObject, 1, 12, 0, nil)
			add(b, kindObjectDel, 1, 0, 0, le.AppendUint64(le.AppendUint64(nil, 12), 13))
			add(b, kindSnapshot, 1, snap.Index, snap.Term, encodeSnapshot(snap))
		},
		func(b *builder) {
			add(b, kindBounds, 1, 3, 2, bounds{last: 6, released: 1}.encode())
			add(b, kindRelocated, 1, 2, 1, append(part.encode(), "abcdefg"...))
			add(b, kindRelocated, 1, 4, 2, append(whole.encode(), "four"...))
			add(b, kindBounds, 2, 100, 9, bounds{last: 7, released: 7}.encode())
			add(b, kindGroupDel, 3, 0, 0, nil)
		},
	}
}

// sealedImage is a segment with all later records and their footer, whose payload change may change.
func sealedImage(t *testing.T, version uint32, change func(payload []byte, tables int)) (image []byte, s *segment, foot batch) {
	t.Helper()
	h := imageHeader(version)
	scan := func(image []byte) (*segment, batch) {
		s := newSegment(h, newSectorFile(h, bytesFile{ReaderAt: bytes.NewReader(image)}, nil))
		var last batch
		_, err := s.reader().scan(func(b batch) error {
			last = b
			last.records = slices.Clone(b.records)
			for _, r := range b.records {
				if _, err := s.applyLocked(r.recordHeader, uint32(b.off)+r.off, r.data); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return s, last
	}
	s, _ = scan(mustImage(h, laterBatches()...))
	p, tables, _ := s.encodeFooter()
	if need, room := batchBytes+recordSize(len(p)), footRoom(s.foot); need > room {
		t.Fatalf("a footer of %d bytes was given room for %d", need, room)
	}
	change(p, tables)
	image = mustImage(h, append(laterBatches(), func(b *builder) { b.add(recordHeader{kind: kindFooter}, p) })...)
	s, foot = scan(image)
	return image, s, foot
}

func keep([]byte, int) {}

// The later records, and a footer that says what they say, are what they were.
func TestFormatLaterRecords(t *testing.T) {
	for _, version := range []uint32{version2, version3} {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) { testLaterRecords(t, version) })
	}
}

func testLaterRecords(t *testing.T, version uint32) {
	image, _, foot := sealedImage(t, version, keep)
	name := fmt.Sprintf("v%d/0000000001.sealed", version)
	golden(t, name, image)
	var listing bytes.Buffer
	if err := Inspect(vfs.OS{}, "testdata/"+name, &listing); err != nil {
		t.Error(err)
	}
	golden(t, fmt.Sprintf("v%d/sealed.txt", version), listing.Bytes())
	for _, named := range []bool{false, true} { // the footer is found by a scan, or the manifest names it
		cfg, err := imageConfig(image)
		if err != nil {
			t.Fatal(err)
		}
		if named {
			h := imageHeader(version)
			m := manifestRecord{state: stateLive, size: h.size, salt: h.salt, identity: h.identity,
				last: link{foot.lsn, foot.crc}, foot: span64{foot.off, int64(blockContent)}}
			cfg.Catalog.(memCatalog)[1] = m.encode()
		}
		l, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if first, last := l.Bounds(1); first != 4 || last != 6 || fmt.Sprint(l.Groups()) != "[1 2]" {
			t.Errorf("groups %v, entries of the first are %d to %d", l.Groups(), first, last)
		}
		entries, err := l.Entries(1, 4, 7, 1<<20)
		if err != nil || len(entries) != 3 || string(entries[0].Data) != "four" || string(entries[2].Data) != "entry 6" {
			t.Errorf("Entries returned %v, %v", entries, err)
		}
		p := make([]byte, 4)
		if err := l.ReadAt(1, 2, 10, p); err != nil || string(p) != "defg" {
			t.Errorf("ReadAt returned %q, %v", p, err)
		}
		if err := l.ReadAt(1, 1, 0, p); !errors.Is(err, ErrCompacted) {
			t.Errorf("ReadAt of a released entry returned %v", err)
		}
		if data, err := l.Object(1, 10); err != nil || string(data) != "object" || fmt.Sprint(l.ObjectKeys(1)) != "[10 11]" {
			t.Errorf("Object returned %q, %v, keys %v", data, err, l.ObjectKeys(1))
		}
		if _, err := l.Object(1, 12); !errors.Is(err, ErrNoObject) {
			t.Errorf("Object of a deleted one returned %v", err)
		}
		if snap, ok := l.StoredSnapshot(1); !ok || snap.Index != 3 || string(snap.Members) != "members" || snap.Checksum != 0xabcdef01 {
			t.Errorf("StoredSnapshot returned %v, %t", snap, ok)
		}
		if first, last := l.Bounds(2); first != 101 || last != 100 {
			t.Errorf("entries of a group that was reset are %d to %d", first, last)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Every byte of a footer is covered by checksums of its own: those of the sectors do not help when it was
// wrong before it was written.
func TestFooterIsChecked(t *testing.T) {
	size, front := 0, 0
	sealedImage(t, version3, func(p []byte, tables int) { size, front = len(p), tables })
	for i := range size {
		_, s, foot := sealedImage(t, version3, func(p []byte, _ int) { p[i] ^= 0x10 })
		err := s.readFooter(foot.off, int64(len(foot.raw)), link{foot.lsn, foot.crc})
		if i < front {
			if !errors.Is(err, errFooter) {
				t.Fatalf("byte %d of the footer was changed: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("byte %d of the tables was changed: %v", i-front, err)
		}
		l := &Log{}
		if _, err := l.table(s, s.tables, 0); !errors.Is(err, errFooter) {
			t.Fatalf("byte %d of the tables was changed: %v", i-front, err)
		}
	}
}

func FuzzFooter(f *testing.F) {
	h := imageHeader(version3)
	s := newSegment(h, newSectorFile(h, bytesFile{}, nil))
	for i, r := range []recordHeader{{kind: kindEntry, group: 1, index: 1, term: 1}, {kind: kindHardState, group: 1, length: 8},
		{kind: kindObject, group: 2, index: 5}} {
		if _, err := s.applyLocked(r, uint32(10000+i), make([]byte, 8)); err != nil {
			f.Fatal(err)
		}
	}
	p, at, _ := s.encodeFooter()
	f.Add(p[footHeadBytes:at-4], uint32(2), uint32(16))
	f.Add([]byte{1, 2, 3}, uint32(1), uint32(0))
	f.Fuzz(func(t *testing.T, dir []byte, groups, tables uint32) {
		d := &footReader{b: dir, contents: make(map[uint64]*contents)}
		if int64(groups) > int64(len(dir))/footItemBytes || d.read(groups, tables) != nil {
			return
		}
		rows := uint64(0)
		for _, c := range d.contents {
			rows += uint64(c.rowCount)*rowBytes + uint64(c.sparseCount)*sparseBytes
			if uint64(c.rowsAt)+uint64(c.rowCount)*rowBytes > uint64(tables) {
				t.Errorf("rows of group %d end behind the tables", c.group)
			}
		}
		if rows > uint64(tables) {
			t.Errorf("%d bytes of rows in tables of %d", rows, tables)
		}
	})
}
