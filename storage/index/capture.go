package index

import "slices"

// Capture is the state of an index at one time, to be written out while the index goes on. What both have
// in common is copied when the index changes it: lists of 64 summaries, of 256 subjects, of 512
// numbers. To take it copies the open block (40 KiB at most), the numbers that are not in use,
// and a pointer for each list: 1 ms for 10 million messages of a million subjects.
//
// Blocks that a stored state refers to must outlive it. So with Config.Captured blocks that the index gives up
// are deleted in this order: what it gave up before a capture was taken is deleted when that capture is
// released, if it was written completely, and not before all earlier ones are released. A capture
// must therefore be released only when it is the stored state, durably, or a later one is; one that
// was written and is not stored after all is ended by Abandon. Blocks of the state that Restore was
// given stay until the first capture after it is stored.
type Capture struct {
	ix      *Index
	gen     uint64
	garbage []uint64 // given up between the capture before and this one; under ix.mu
	written bool     // under ix.mu
	ended   bool     // under ix.mu

	count, last, lastIndex, nextKey uint64
	lastTime                        int64
	blocks                          blockList
	open                            openBlock
	subjects                        subjectTable // without its maps
}

// Capture captures the state. Changes cost more until the capture is released: what they touch first is copied.
func (ix *Index) Capture() *Capture {
	t := &ix.subjects
	c := &Capture{
		ix: ix, count: ix.count, last: ix.last, lastIndex: ix.lastIndex, nextKey: ix.nextKey, lastTime: ix.lastTime,
		blocks: blockList{lists: slices.Clone(ix.blocks.lists), n: ix.blocks.n},
		open:   ix.open,
		subjects: subjectTable{
			lists: slices.Clone(t.lists), n: t.n, live: t.live, idle: slices.Clone(t.idle), free: slices.Clone(t.free),
			names: names{pages: slices.Clone(t.names.pages)}, order: order{leaves: slices.Clone(t.order.leaves)},
		},
	}
	c.open.recs = slices.Clone(ix.open.recs)
	ix.mu.Lock()
	defer ix.mu.Unlock()
	c.gen = ix.gen
	c.garbage, ix.garbage = ix.garbage, nil
	ix.captures = append(ix.captures, c)
	ix.frozen.Store(ix.gen)
	ix.gen++
	return c
}

// Keys returns the keys of the blocks that the state refers to.
func (c *Capture) Keys() []uint64 {
	keys := make([]uint64, 0, c.blocks.n)
	for _, l := range c.blocks.lists {
		for i := range l.s {
			keys = append(keys, l.s[i].key)
		}
	}
	return keys
}

// Release ends the capture, which was stored if it was written. It may be called by any goroutine, once.
func (c *Capture) Release() { c.end(false) }

// Abandon ends a capture that was not stored.
func (c *Capture) Abandon() { c.end(true) }

func (c *Capture) end(abandoned bool) {
	ix := c.ix
	var keys []uint64
	ix.mu.Lock()
	c.ended = true
	c.written = c.written && !abandoned
	for len(ix.captures) > 0 && ix.captures[0].ended {
		x := ix.captures[0]
		ix.captures[0] = nil
		ix.captures = ix.captures[1:]
		switch {
		case x.written:
			keys = append(keys, x.garbage...)
		case len(ix.captures) > 0:
			ix.captures[0].garbage = append(x.garbage, ix.captures[0].garbage...)
		default:
			ix.garbage = append(x.garbage, ix.garbage...)
		}
		x.garbage = nil
	}
	if len(ix.captures) == 0 {
		ix.frozen.Store(0)
	}
	ix.mu.Unlock()
	if len(keys) > 0 {
		ix.cfg.Blocks.Delete(keys...)
	}
}
