package journal

import (
	"slices"
	"testing"
)

// A table of rows that grows and shrinks over the borders of its chunks has what a slice has.
func TestRowTable(t *testing.T) {
	var table rowTable
	var want []row
	next := uint32(0)
	check := func() {
		t.Helper()
		if got := slices.Collect(table.all()); table.len() != len(want) || !slices.Equal(got, want) {
			t.Fatalf("%d rows, want %d", table.len(), len(want))
		}
		for _, at := range []int{0, rowChunk - 1, rowChunk, 2*rowChunk + 1} {
			if at > len(want) {
				continue
			}
			for _, to := range []int{at, min(at+1, len(want)), len(want)} {
				if got := table.copy(uint32(at), uint32(to)); !slices.Equal(got, want[at:to]) {
					t.Fatalf("rows %d to %d of %d are not what was appended", at, to, len(want))
				}
			}
		}
	}
	for _, n := range []int{1, rowChunk - 2, 1, 1, -1, -1, -1, 3, 3 * rowChunk, -rowChunk - 5, 10, -3*rowChunk + 5, -8} {
		for ; n < 0 && len(want) > 0; n++ {
			if got := table.pop(); got != want[len(want)-1] {
				t.Fatalf("the last of %d rows is %v", len(want), got)
			}
			want = want[:len(want)-1]
		}
		rows := make([]row, max(n, 0))
		for i := range rows {
			rows[i] = row{next, ^next}
			next++
		}
		table.append(rows)
		want = append(want, rows...)
		check()
	}
}
