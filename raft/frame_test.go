package raft

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"millrace/raft/core"
)

// sampleFrame is a frame with a record of each kind, and what it holds.
func sampleFrame() (parts [][]byte, want []record) {
	big := bytes.Repeat([]byte("x"), 2*maxPart)
	app := core.Message{Type: core.MsgApp, From: 1, To: 2, Term: 3, LogTerm: 2, Index: 6, Commit: 5, Entries: []core.Entry{
		{Index: 7, Term: 2, Data: []byte("small")}, {Index: 8, Term: 3, Data: big}, {Index: 9, Term: 3},
	}}
	snap := core.Message{Type: core.MsgSnap, From: 1, To: 2, Term: 3, Snapshot: &core.SnapshotMeta{
		Index: 40, Term: 2, Members: core.Membership{Voters: []uint64{1, 2}},
	}}
	var b builder
	b.message(77, 5, &app, 9)
	b.message(77, 1<<40, &core.Message{Type: core.MsgHeartbeat, From: 1, To: 2, Term: 3}, 0)
	start := b.begin(77, recOffer, 6)
	b.uvarints(1, 2, 3, 4)
	b.meta = snap.AppendHeader(b.meta)
	b.end(start)
	start = b.begin(77, recPiece, 6)
	b.uvarints(1, 2, 3, 4, 5, 6, 7, 8)
	b.data(big)
	b.end(start)
	want = []record{
		{kind: recMessage, group: 5, stamp: 9, msg: app},
		{kind: recMessage, group: 1 << 40, msg: core.Message{Type: core.MsgHeartbeat, From: 1, To: 2, Term: 3}},
		{kind: recOffer, group: 6, num: [8]uint64{1, 2, 3, 4}, msg: snap},
		{kind: recPiece, group: 6, num: [8]uint64{1, 2, 3, 4, 5, 6, 7, 8}, data: big},
	}
	for kind := recBeat; kind < recOffer; kind++ {
		r := record{kind: kind, group: 8}
		for i := range numbers[kind] {
			r.num[i] = 1 << (7 * i)
		}
		b.record(77, kind, 8, r.num[:numbers[kind]]...)
		want = append(want, r)
	}
	return b.parts(), want
}

func decodeAll(frame []byte) (all []record, err error) {
	err = decodeFrame(frame, func(incarnation uint64, r *record) {
		if incarnation != 77 {
			panic("BUG: incarnation")
		}
		r.size = 0
		all = append(all, *r)
	})
	return all, err
}

func TestFrameKeepsRecords(t *testing.T) {
	parts, want := sampleFrame()
	shared := slices.ContainsFunc(parts, func(p []byte) bool { return len(p) == 2*maxPart })
	if !shared {
		t.Error("the data of a large entry was copied")
	}
	frame := slices.Concat(parts...)
	got, err := decodeAll(frame)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	// The data is that of the frame.
	data := got[0].msg.Entries[1].Data
	at := bytes.Index(frame, data)
	frame[at]++
	if data[0] != 'x'+1 {
		t.Error("the data of an entry was copied")
	}
}

func TestFrameRefusesWhatNoHostSends(t *testing.T) {
	parts, want := sampleFrame()
	frame := slices.Concat(parts...)
	whole := 0
	for n := range frame {
		got, err := decodeAll(frame[:n])
		switch {
		case err == nil && n >= frameHeader:
			whole++ // it ends behind a record
		case !errors.Is(err, ErrBadFrame):
			t.Fatalf("%d bytes of %d: %v", n, len(frame), err)
		}
		if len(got) > len(want) {
			t.Fatalf("%d bytes hold %d records", n, len(got))
		}
	}
	if whole != len(want) { // none, one, ... all but the last
		t.Errorf("%d prefixes of a frame with %d records are frames", whole, len(want))
	}
	frame[0]++
	if _, err := decodeAll(frame); !errors.Is(err, ErrBadFrame) {
		t.Errorf("unknown version: %v", err)
	}
}

// FuzzFrame: whatever arrives, it is refused or put together again to the same bytes.
func FuzzFrame(f *testing.F) {
	parts, _ := sampleFrame()
	f.Add(slices.Concat(parts...))
	var b builder
	b.record(1, recQuery, 3, 4, 5)
	f.Add(slices.Concat(b.parts()...))
	f.Add([]byte{frameVersion, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		var again builder
		err := decodeFrame(frame, func(incarnation uint64, r *record) {
			switch r.kind {
			case recMessage:
				again.message(incarnation, r.group, &r.msg, r.stamp)
			default:
				start := again.begin(incarnation, r.kind, r.group)
				again.uvarints(r.num[:numbers[r.kind]]...)
				if r.kind == recOffer {
					again.meta = r.msg.AppendHeader(again.meta)
				}
				again.data(r.data)
				again.end(start)
			}
		})
		if err != nil {
			return
		}
		if got := slices.Concat(again.parts()...); len(frame) > frameHeader && !bytes.Equal(got, frame) {
			t.Fatalf("%x\nbecame %x", frame, got)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(encodeManifest([]uint64{9, 1, 5}))
	f.Add([]byte{manifestVersion, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if keys, err := decodeManifest(b); err == nil && !bytes.Equal(encodeManifest(keys), b) {
			t.Fatalf("%x holds %d", b, keys)
		}
	})
}

func FuzzRanges(f *testing.F) {
	f.Add([]byte{2, 0, 1, 5, 2, 1, 2, 3}, uint64(9))
	f.Fuzz(func(t *testing.T, b []byte, size uint64) {
		ranges, data, err := decodeRanges(b, size)
		if err != nil {
			return
		}
		sum := uint64(0)
		for _, r := range ranges {
			if uint64(r.Off)+uint64(r.Len) > size {
				t.Fatalf("range %+v of %d bytes", r, size)
			}
			sum += uint64(r.Len)
		}
		if sum != uint64(len(data)) {
			t.Fatalf("ranges of %d bytes with %d", sum, len(data))
		}
	})
}
