package stream

import (
	"slices"
	"time"
)

// dedupe remembers the message ids of the duplicate window, by the times in the log.
type dedupe struct {
	window time.Duration
	ids    map[string]stamp
	// pages are the ids, oldest first, from head of the first page on. What is in a page does not
	// change, so that a snapshot can share it.
	pages [][]messageID
	head  int
	n     int
}

type stamp struct {
	seq  uint64
	time int64
}

type messageID struct {
	id    string
	seq   uint64
	time  int64
	index uint64 // of the entry that holds the message; 0: it came with a checkpoint
}

const idsPerPage = 256

func (d *dedupe) add(id string, seq uint64, now int64, index uint64) {
	if d.window > 0 {
		d.put(messageID{id, seq, now, index})
	}
}

func (d *dedupe) put(o messageID) {
	if d.ids == nil {
		d.ids = map[string]stamp{}
	}
	d.ids[o.id] = stamp{o.seq, o.time}
	last := len(d.pages) - 1
	if last < 0 || len(d.pages[last]) == idsPerPage {
		d.pages = append(d.pages, nil)
		last++
	}
	d.pages[last] = append(d.pages[last], o)
	d.n++
}

// expire forgets the ids whose window has passed at now.
func (d *dedupe) expire(now int64) {
	for d.n > 0 {
		o := &d.pages[0][d.head]
		if now-o.time < int64(d.window) {
			return
		}
		if d.ids[o.id].time == o.time {
			delete(d.ids, o.id)
		}
		d.n--
		if d.head++; d.head == len(d.pages[0]) {
			d.pages[0] = nil
			d.pages, d.head = d.pages[1:], 0
		}
	}
}

// each calls fn with the ids, oldest first, until it returns false.
func (d *dedupe) each(fn func(o *messageID) bool) {
	for i, page := range d.pages {
		if i == 0 {
			page = page[d.head:]
		}
		for k := range page {
			if !fn(&page[k]) {
				return
			}
		}
	}
}

// find returns the sequence that was given to id within the window that ends at now.
func (d *dedupe) find(id []byte, now int64) (uint64, bool) {
	s, ok := d.ids[string(id)]
	if !ok || now-s.time >= int64(d.window) {
		return 0, false
	}
	return s.seq, true
}

// captured returns the ids as they are now, for each only.
func (d *dedupe) captured() dedupe {
	return dedupe{window: d.window, pages: slices.Clone(d.pages), head: d.head, n: d.n}
}
