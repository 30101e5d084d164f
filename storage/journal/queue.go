package journal

import "sort"

// blob is a record with a payload of any size that waits to be written, or is being written.
type blob struct {
	kind      kind
	entryType uint8
	index     uint64
	term      uint64
	payload   []byte
	data      []byte // of a RELOCATED record, whose payload goes on with it
	cold      bool   // nobody here has asked for it
}

func (b *blob) size() int { return len(b.payload) + len(b.data) }

// item is one thing that was appended. Its records are written in the order of the fields.
type item struct {
	group    *group
	snapshot *blob
	special  kind // kindGroupDel, kindBounds or 0
	bounds   bounds
	blob     *blob // OBJECT, OBJECTDEL or RELOCATED
	entries  []Entry
	id       uint64 // of the first of entries
	state    HardState
	hasState bool
	bytes    int // its records' room in a batch
	foot     int // what they add to the segment's footer at most
	done     func()
}

// add accounts for a record with n bytes of payload, and what it takes in the footer.
func (it *item) add(n, foot int) {
	it.bytes += recordSize(n)
	it.foot += foot
}

// queue is what was appended since the last queue was taken, or what is being written. Entries are numbered
// through all queues, in the order of the items.
type queue struct {
	items  []item
	bytes  int64
	urgent bool // somebody waits
}

// join appends another queue, which follows this one, and empties it.
func (q *queue) join(from *queue) {
	q.items = append(q.items, from.items...)
	q.bytes += from.bytes
	from.reset()
}

// reset empties the queue for reuse.
func (q *queue) reset() {
	const keep = 1 << 16
	if cap(q.items) > keep {
		*q = queue{} // one flood does not pin memory for ever
		return
	}
	clear(q.items)
	*q = queue{items: q.items[:0]}
}

// find returns the entries from one on that were appended with it, if it is in the queue.
func (q *queue) find(id uint64) []Entry {
	i := sort.Search(len(q.items), func(i int) bool { return q.items[i].id+uint64(len(q.items[i].entries)) > id })
	if i == len(q.items) || q.items[i].id > id {
		return nil
	}
	return q.items[i].entries[id-q.items[i].id:]
}
