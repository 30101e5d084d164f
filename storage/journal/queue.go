package journal

import "slices"

// queued is one entry that waits to be written.
type queued struct {
	Entry
	group *group
}

// blob is a record with a payload of any size that waits to be written, or is being written.
type blob struct {
	kind      kind
	entryType uint8
	index     uint64
	term      uint64
	payload   []byte
	data      []byte // of a RELOCATED record, whose payload goes on with it
}

func (b *blob) size() int { return len(b.payload) + len(b.data) }

// item is one thing that was appended. Its records are written in the order of the fields.
type item struct {
	group    *group
	snapshot *blob
	special  kind // kindGroupDel, kindBounds or 0
	bounds   bounds
	blob     *blob // OBJECT, OBJECTDEL or RELOCATED
	entries  int   // how many of queue.entries are its own
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

// queue is what was appended since the last queue was taken, or what is being written. Entries keep their
// data until written, and are numbered through all queues: entries[i] has id base+i.
type queue struct {
	entries []queued
	items   []item
	base    uint64
	bytes   int64
	urgent  bool // somebody waits
}

// put appends entries and returns the id of the first of them.
func (q *queue) put(entries []Entry, g *group) (id uint64) {
	id = q.base + uint64(len(q.entries))
	q.entries = slices.Grow(q.entries, len(entries))
	for i := range entries {
		q.entries = append(q.entries, queued{Entry: entries[i], group: g})
	}
	return id
}

// join appends another queue, which follows this one, and empties it.
func (q *queue) join(from *queue) {
	q.entries = append(q.entries, from.entries...)
	q.items = append(q.items, from.items...)
	q.bytes += from.bytes
	base := from.base + uint64(len(from.entries))
	from.reset()
	from.base = base
}

// drop forgets the first items and entries.
func (q *queue) drop(items, entries int) {
	q.items = slices.Delete(q.items, 0, items)
	q.entries = slices.Delete(q.entries, 0, entries)
	q.base += uint64(entries)
}

// reset empties the queue for reuse.
func (q *queue) reset() {
	const keep = 1 << 16
	if cap(q.entries) > keep || cap(q.items) > keep {
		*q = queue{} // one flood does not pin memory for ever
		return
	}
	clear(q.entries)
	clear(q.items)
	*q = queue{entries: q.entries[:0], items: q.items[:0]}
}

// get returns the entry with the given low half of its id, if it is in the queue.
func (q *queue) get(id uint32) (Entry, bool) {
	i := id - uint32(q.base)
	if uint64(i) >= uint64(len(q.entries)) {
		return Entry{}, false
	}
	return q.entries[i].Entry, true
}
