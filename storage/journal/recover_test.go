package journal

import (
	"errors"
	"strings"
	"testing"
)

// image builds a segment from batches of records.
func image(batches ...[]recordHeader) []byte {
	var adds []func(*builder)
	for _, records := range batches {
		adds = append(adds, func(b *builder) {
			for _, r := range records {
				var payload []byte
				if r.kind != kindGroupDel {
					payload = le.AppendUint64(nil, uint64(r.length)) // what the small records hold
				}
				b.add(r, payload)
			}
		})
	}
	return mustImage(imageHeader(version3), adds...)
}

func entryRecord(group, index uint64) recordHeader {
	return recordHeader{kind: kindEntry, group: group, index: index, term: 1}
}

func boundsRecord(group, index uint64, last uint32) recordHeader {
	return recordHeader{kind: kindBounds, group: group, index: index, term: 1, length: last}
}

// A log whose checksums are right but whose records contradict each other is refused as well:
// something that was acknowledged is missing.
func TestRecoverChecksThatEntriesFollow(t *testing.T) {
	for _, tc := range []struct {
		name        string
		records     []recordHeader
		want        string // of the error
		first, last uint64 // of group 1, without an error
	}{
		{name: "follow", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 2)}, first: 1, last: 2},
		{name: "void", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 2), entryRecord(1, 1)}, first: 1, last: 1},
		{name: "gap", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 5)},
			want: "group 1 has no entries between 1 and 5, and they were not released"},
		{name: "gap at the start", records: []recordHeader{entryRecord(1, 3)}, want: "no entries between 0 and 3"},
		{name: "gap released later", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 5), boundsRecord(1, 4, 5)},
			first: 5, last: 5},
		{name: "gap released too little", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 5), boundsRecord(1, 3, 5)},
			want: "no entries between 1 and 5"},
		{name: "all released", records: []recordHeader{boundsRecord(1, 9, 9)}, first: 10, last: 9},
		{name: "last missing", records: []recordHeader{entryRecord(1, 1), boundsRecord(1, 1, 3)},
			want: "no entries between 1 and 4"},
		{name: "last missing, released later", records: []recordHeader{entryRecord(1, 1), boundsRecord(1, 1, 3),
			boundsRecord(1, 3, 3)}, first: 4, last: 3},
		{name: "gap, then back", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 7), entryRecord(1, 5),
			entryRecord(1, 6), boundsRecord(1, 6, 6)}, first: 7, last: 6},
		{name: "suffix voided by bounds", records: []recordHeader{entryRecord(1, 1), entryRecord(1, 2), entryRecord(1, 3),
			boundsRecord(1, 1, 2)}, first: 2, last: 2},
		{name: "stale entries voided behind a gap", records: []recordHeader{entryRecord(1, 8), boundsRecord(1, 4, 6),
			boundsRecord(1, 7, 7)}, first: 8, last: 7},
		{name: "entry after its release", records: []recordHeader{entryRecord(1, 1), boundsRecord(1, 1, 1), entryRecord(1, 1)},
			want: "group 1 has entry 1 after entries up to 1 were released"},
		{name: "release goes back", records: []recordHeader{boundsRecord(1, 5, 5), boundsRecord(1, 4, 5)},
			want: "releases entries up to 4 of 5 after it released up to 5"},
		{name: "dropped group goes on", records: []recordHeader{entryRecord(1, 1), {kind: kindGroupDel, group: 1},
			entryRecord(1, 2)}, want: "group 1 goes on after it was deleted"},
	} {
		for _, split := range []bool{false, true} { // all in one batch, or one batch each
			batches := [][]recordHeader{tc.records}
			if split {
				batches = nil
				for _, r := range tc.records {
					batches = append(batches, []recordHeader{r})
				}
			}
			l, err := openImage(image(batches...))
			if err != nil {
				var corrupt *CorruptError
				if tc.want == "" || !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) ||
					corrupt.File != "/j/0000000001.seg" || corrupt.Offset < dataOffset {
					t.Errorf("%s: Open returned %v, want %q", tc.name, err, tc.want)
				}
				continue
			}
			if first, last := l.Bounds(1); tc.want != "" || first != tc.first || last != tc.last {
				t.Errorf("%s: entries are %d to %d, want %d to %d, %q", tc.name, first, last, tc.first, tc.last, tc.want)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
