package consumer

import "slices"

// compactSlack is how many removed entries a list keeps beyond its live ones before it is compacted,
// so that compaction costs a constant per removal.
const compactSlack = 1024

// entry is one delivered, unacknowledged message; count 0 marks a removed one.
type entry struct {
	seq, dseq    uint64 // stream sequence, consumer sequence of the first delivery
	at, deadline int64  // last delivery or progress; when it is due again (unix ns)
	count        uint32 // deliveries so far
	naked        bool   // deadline was set by a negative acknowledgement
	ready        bool   // on the due queue
}

// pendingList holds entries in ascending stream sequence. First deliveries only append and
// acknowledgements mostly remove the first, so both are O(1); other look-ups are binary searches.
type pendingList struct {
	list []entry // list[head:] is in use and its first entry is live
	head int
	live int
}

func (p *pendingList) push(e entry) *entry {
	if len(p.list) == cap(p.list) && p.head > len(p.list)/2 {
		p.compact()
	}
	p.list = append(p.list, e)
	p.live++
	return &p.list[len(p.list)-1]
}

// find returns the live entry of seq, or nil.
func (p *pendingList) find(seq uint64) *entry {
	s := p.list[p.head:]
	if len(s) == 0 || seq < s[0].seq {
		return nil
	}
	// Without gaps in the sequences the place follows from the first entry.
	if i := seq - s[0].seq; i < uint64(len(s)) && s[i].seq == seq {
		if s[i].count == 0 {
			return nil
		}
		return &s[i]
	}
	i, ok := slices.BinarySearchFunc(s, seq, func(e entry, seq uint64) int {
		switch {
		case e.seq < seq:
			return -1
		case e.seq > seq:
			return 1
		}
		return 0
	})
	if !ok || s[i].count == 0 {
		return nil
	}
	return &s[i]
}

// first returns the live entry with the lowest sequence, or nil.
func (p *pendingList) first() *entry {
	if p.live == 0 {
		return nil
	}
	return &p.list[p.head]
}

// remove drops e, which must be a live entry of p; e is void afterwards.
func (p *pendingList) remove(e *entry) {
	e.count = 0
	p.live--
	if p.live == 0 {
		p.list, p.head = p.list[:0], 0
		return
	}
	for p.list[p.head].count == 0 {
		p.head++
	}
	if len(p.list)-p.head > 2*p.live+compactSlack {
		p.compact()
	}
}

func (p *pendingList) compact() {
	n := 0
	for i := p.head; i < len(p.list); i++ {
		if p.list[i].count != 0 {
			p.list[n] = p.list[i]
			n++
		}
	}
	p.list, p.head = p.list[:n], 0
}

func (p *pendingList) clear() { *p = pendingList{list: p.list[:0]} }
