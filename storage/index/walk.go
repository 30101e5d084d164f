package index

import "fmt"

// What a search for a message of one subject costs. There are two ways: through the blocks, one after the other,
// of which fences rule out many without a read; and along the chain of the subject from its newest
// message back. A stream of few subjects finds the message in the next block, but has long chains; a
// bucket of many keys has short chains, but a block holds hardly any key twice. So both are gone in
// turns, at most one block read a turn each, and the first to arrive ends the search: it costs at most
// twice the cheaper way, that is 2*min(blocks between, messages of the subject behind it) reads, hot
// ones of which are in the cache. For a subject whose messages are spread evenly over B blocks that
// is at most about 2*sqrt(B) whatever their number. A chain may be broken where blocks were merged;
// then the blocks remain.
const (
	stepsPerTurn  = 64  // of a chain within blocks at hand
	fencesPerTurn = 256 // of blocks that are ruled out
)

// chain walks from the newest message of a subject to older ones, dead ones too.
type chain struct {
	ix   *Index
	v    part
	i    int
	seq  uint64 // where it stands
	end  bool   // there is none before it
	lost bool   // what comes before it is not known
}

func (ix *Index) chainFrom(seq uint64) (chain, error) {
	c := chain{ix: ix, seq: seq}
	var err error
	if c.v, c.i, err = ix.locate(seq); err == nil && c.i < 0 {
		c.lost = true
	}
	return c, err
}

// back goes one message back. It reports whether it had to look at another block.
func (c *chain) back() (moved bool, err error) {
	switch d := c.v.distance(c.i); d {
	case 0:
		c.end = true
		return false, nil
	case farBack:
		c.lost = true
		return false, nil
	default:
		c.seq -= uint64(d)
	}
	if c.seq >= c.v.seq(0) {
		c.i = c.v.find(c.seq)
	} else {
		moved = true
		c.v, c.i, err = c.ix.locate(c.seq)
	}
	c.lost = c.i < 0
	return moved, err
}

func (c *chain) isLive() bool { return c.v.isLive(c.i) }

// oldestOf returns the first live message of a subject at or after from.
func (ix *Index) oldestOf(id uint32, from uint64) (uint64, bool, error) {
	st := ix.subjects.state(id)
	from = max(from, st.first)
	switch {
	case st.count == 0 || from > st.last:
		return 0, false, nil
	case st.count == 1 || from == st.last:
		return st.last, true, nil
	}
	// The block of from, and often the one: messages of a subject come in bursts.
	p := ix.blocks.seek(from)
	c := chain{seq: st.last}
	started := false
	best := st.last // the oldest live one that the chain has met
	for {
		for n := 0; n < fencesPerTurn; n++ {
			if !ix.blocks.isEnd(p) && !ix.blocks.at(p).mayHold(id) {
				p = ix.blocks.after(p)
				continue
			}
			v, err := ix.part(p)
			if err != nil {
				return 0, false, err
			}
			if seq, ok := v.oldest(id, from); ok {
				return seq, true, nil
			}
			if ix.blocks.isEnd(p) {
				panic(fmt.Sprintf("BUG: no message of subject %d from %d to %d", id, from, st.last))
			}
			p = ix.blocks.after(p)
			break
		}
		if c.lost {
			continue
		}
		if !started {
			started = true
			var err error
			if c, err = ix.chainFrom(st.last); err != nil {
				return 0, false, err
			}
			continue
		}
		for range stepsPerTurn {
			moved, err := c.back()
			if err != nil {
				return 0, false, err
			}
			if c.end || c.seq < from {
				return best, true, nil
			}
			if c.lost {
				break
			}
			if c.isLive() {
				best = c.seq
			}
			if moved {
				break
			}
		}
	}
}

// newestOf returns the last live message of a subject at or before upTo.
func (ix *Index) newestOf(id uint32, upTo uint64) (uint64, bool, error) {
	st := ix.subjects.state(id)
	switch {
	case st.count == 0 || upTo < st.first:
		return 0, false, nil
	case upTo >= st.last:
		return st.last, true, nil
	}
	c, err := ix.chainFrom(st.last)
	if err != nil {
		return 0, false, err
	}
	p := ix.blocks.seek(upTo)
	for blocks := true; ; {
		for n := 0; n < stepsPerTurn && !c.lost; n++ {
			moved, err := c.back()
			switch {
			case err != nil:
				return 0, false, err
			case c.end || c.seq < st.first:
				return 0, false, nil
			case !c.lost && c.seq <= upTo && c.isLive():
				return c.seq, true, nil
			}
			if moved {
				break
			}
		}
		for n := 0; n < fencesPerTurn && blocks; n++ {
			skip := !ix.blocks.isEnd(p) && !ix.blocks.at(p).mayHold(id)
			if !skip {
				v, err := ix.part(p)
				if err != nil {
					return 0, false, err
				}
				if seq, ok := v.newest(id, upTo); ok {
					return seq, seq >= st.first, nil
				}
			}
			if ix.blocks.n == 0 || ix.blocks.isFirst(p) || !ix.blocks.isEnd(p) && ix.blocks.at(p).first <= st.first {
				blocks = false
				break
			}
			p = ix.blocks.before(p)
			if !skip {
				break
			}
		}
		if !blocks {
			return 0, false, nil
		}
	}
}
