package delivery

// walkBacklog is how many sequences are looked at one by one before the source is asked to count.
const walkBacklog = 64

// backlog counts the messages that wait for their first delivery, for the number that every delivery
// carries. It never drifts: it is the source's own count at a point, less the deliveries since, and a
// message that is not covered or one that left the stream makes it be counted anew.
type backlog struct {
	count uint64 // stored matches from the cursor up to upTo, beyond the last-per-subject list
	upTo  uint64 // sequences above are not counted
	valid bool
	fresh bool // nothing arrived since it was counted, or not yet worth to look
}

// taken books the delivery of the first counted message.
func (b *backlog) taken() {
	if b.count > 0 {
		b.count--
	}
}

// left returns how many messages wait for their first delivery.
func (c *Consumer) left() uint64 {
	if c.stale.Swap(false) {
		c.backlog.valid = false
	}
	first, last := c.cfg.Source.Bounds()
	if first > max(c.cursor, c.m.Delivered().Stream+1) {
		c.cursor, c.backlog.valid = first, false // of what was counted some has left at the head
	}
	from := max(c.m.Delivered().Stream, c.m.Horizon()) + 1 // beyond the end where the stream is behind
	switch {
	case !c.backlog.valid:
		c.backlog = backlog{count: c.countFrom(max(from, c.cursor), last), upTo: last, valid: true}
	case last > c.backlog.upTo:
		c.backlog.count += c.countFrom(max(from, c.backlog.upTo+1), last)
		c.backlog.upTo = last
	}
	return c.backlog.count + uint64(len(c.skip))
}

// countFrom counts stored matches in [from, last].
func (c *Consumer) countFrom(from, last uint64) (n uint64) {
	if from > last {
		return 0
	}
	if last-from >= walkBacklog {
		n = c.cfg.Source.Pending(from, c.filters)
		// Messages that arrived meanwhile are counted when they are covered.
		if _, now := c.cfg.Source.Bounds(); now > last {
			n -= min(n, c.cfg.Source.Pending(last+1, c.filters))
		}
		return n
	}
	for from <= last {
		seq, ok := c.cfg.Source.Next(from, c.filters)
		if !ok || seq > last {
			break
		}
		n++
		from = seq + 1
	}
	return n
}

// leftAfter returns how many messages will wait for their first delivery after that of next. What
// arrives within a step is counted in the next one.
func (c *Consumer) leftAfter(next candidate) uint64 {
	b := &c.backlog
	var n uint64
	if b.fresh && b.valid && next.seq <= b.upTo && !c.stale.Load() {
		n = b.count + uint64(len(c.skip))
	} else {
		n = c.left()
		b.fresh = true
	}
	if next.count == 1 && n > 0 {
		n--
	}
	return n
}
