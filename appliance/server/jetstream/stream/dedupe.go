package stream

import "time"

// dedupe remembers the message ids of the duplicate window, by the times in the log.
type dedupe struct {
	window time.Duration
	ids    map[string]stamp
	order  []dedupeID // oldest first, from head
	head   int
}

type stamp struct {
	seq  uint64
	time int64
}

type dedupeID struct {
	id    string
	time  int64
	index uint64 // of the entry that holds the message; 0: it came with a checkpoint
}

func (d *dedupe) add(id string, seq uint64, now int64, index uint64) {
	if d.window <= 0 {
		return
	}
	if d.ids == nil {
		d.ids = map[string]stamp{}
	}
	d.ids[id] = stamp{seq, now}
	d.order = append(d.order, dedupeID{id, now, index})
}

// expire forgets the ids whose window has passed at now.
func (d *dedupe) expire(now int64) {
	for d.head < len(d.order) && now-d.order[d.head].time >= int64(d.window) {
		if o := d.order[d.head]; d.ids[o.id].time == o.time {
			delete(d.ids, o.id)
		}
		d.order[d.head] = dedupeID{}
		d.head++
	}
	if d.head > 1024 && d.head > len(d.order)/2 {
		n := copy(d.order, d.order[d.head:])
		clear(d.order[n:])
		d.order, d.head = d.order[:n], 0
	}
}

// within returns the ids that are in the window which ends at now, oldest first.
func (d *dedupe) within(now int64) []dedupeID {
	i := d.head
	for i < len(d.order) && now-d.order[i].time >= int64(d.window) {
		i++
	}
	return d.order[i:]
}

// find returns the sequence that was given to id within the window that ends at now.
func (d *dedupe) find(id []byte, now int64) (uint64, bool) {
	s, ok := d.ids[string(id)]
	if !ok || now-s.time >= int64(d.window) {
		return 0, false
	}
	return s.seq, true
}
