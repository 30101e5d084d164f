package journal

import "iter"

// rowChunk is how many rows a chunk of a rowTable holds: 32 KiB.
const rowChunk = 4096

// rowTable is a table of rows. It does not move what it holds as it grows, but while it is smaller than a chunk.
type rowTable struct {
	full [][]row // chunks
	tail []row   // less than a chunk
}

func (t *rowTable) len() int { return len(t.full)*rowChunk + len(t.tail) }

// chunk returns the i-th chunk, of which the last is the tail.
func (t *rowTable) chunk(i int) []row {
	if i < len(t.full) {
		return t.full[i]
	}
	return t.tail
}

// append adds rows at the end.
func (t *rowTable) append(rows []row) {
	for len(rows) > 0 {
		n := min(len(rows), rowChunk-len(t.tail))
		t.tail = append(t.tail, rows[:n]...)
		rows = rows[n:]
		if len(t.tail) == rowChunk {
			t.full, t.tail = append(t.full, t.tail), make([]row, 0, rowChunk)
		}
	}
}

// pop takes the last row off.
func (t *rowTable) pop() (last row) {
	if n := len(t.full); len(t.tail) == 0 {
		t.full, t.tail = t.full[:n-1], t.full[n-1]
	}
	n := len(t.tail) - 1
	last, t.tail = t.tail[n], t.tail[:n]
	return last
}

// all yields the rows in order.
func (t *rowTable) all() iter.Seq[row] {
	return func(yield func(row) bool) {
		for i := range len(t.full) + 1 {
			for _, r := range t.chunk(i) {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// copy returns a copy of rows [from, to).
func (t *rowTable) copy(from, to uint32) []row {
	rows := make([]row, 0, to-from)
	for from < to {
		chunk := t.chunk(int(from / rowChunk))
		at := from % rowChunk
		n := min(to-from, uint32(len(chunk))-at)
		rows = append(rows, chunk[at:at+n]...)
		from += n
	}
	return rows
}
