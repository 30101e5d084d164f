package index

import "io"

// A snapshot of an index is, in the form of a [Writer]; numbers are uvarints if nothing else is said:
//
//	version             1
//	messages, last sequence, last index, last time (varint), next block key
//	subject numbers given out
//	free numbers        how many, and each in the order of the list
//	idle numbers        likewise
//	subjects            how many, and each in the order of names:
//	  bytes that the name shares with the one before, the rest of the name (bytes), number, messages,
//	  last sequence, last less first sequence
//	blocks              how many, and each by sequence:
//	  key, first sequence less the last one of the block before, last less first; indexes and times
//	  likewise (the first time of all as a varint), bytes of live messages, least subject number, most less
//	  least, checksum, records, live ones, head, fence (bytes)
//	  dead behind head: 0 and how many, and the distance of each to the one before, the first to head;
//	  or 1 and the 128 bytes of the set, when they are more than 64
//	open block          records (bytes): empty, or a block as in format.go, dead ones too; head
//	  and dead as above
const snapshotVersion = 1

const fewDead = 64 // are listed

// WriteTo writes the state: equal states give equal bytes.
func (c *Capture) WriteTo(w io.Writer) (int64, error) {
	x := NewWriter(w)
	c.Encode(x)
	n, err := x.Close()
	if err == nil {
		c.Written()
	}
	return n, err
}

// Written tells that the state was written completely by Encode.
func (c *Capture) Written() {
	c.ix.mu.Lock()
	defer c.ix.mu.Unlock()
	c.written = true
}

// Encode writes the state as a part of a larger snapshot. If that is written without an error,
// Written has to be called.
func (c *Capture) Encode(w *Writer) {
	w.Uvarint(snapshotVersion)
	w.Uvarint(c.count)
	w.Uvarint(c.last)
	w.Uvarint(c.lastIndex)
	w.Varint(c.lastTime)
	w.Uvarint(c.nextKey)
	c.encodeSubjects(w)
	c.encodeBlocks(w)
	var recs []byte
	if len(c.open.recs) > 0 {
		recs = encodeBlock(c.open.recs)
	}
	w.Bytes(recs)
	w.Uvarint(uint64(c.open.head))
	encodeDead(w, &c.open.dead, c.open.head, len(c.open.recs))
}

func (c *Capture) encodeSubjects(w *Writer) {
	t := &c.subjects
	w.Uvarint(uint64(t.n))
	for _, ids := range [][]uint32{t.free, t.idle} {
		w.Uvarint(uint64(len(ids)))
		for _, id := range ids {
			w.Uvarint(uint64(id))
		}
	}
	w.Uvarint(uint64(t.live))
	var before []byte
	for _, l := range t.order.leaves {
		for _, id := range l.ids {
			st := t.state(id)
			name := t.names.get(st.name)
			shared := 0
			for shared < min(len(name), len(before)) && name[shared] == before[shared] {
				shared++
			}
			w.Uvarint(uint64(shared))
			w.Bytes(name[shared:])
			w.Uvarint(uint64(id))
			w.Uvarint(st.count)
			w.Uvarint(st.last)
			w.Uvarint(st.last - st.first)
			before = name
		}
	}
}

func (c *Capture) encodeBlocks(w *Writer) {
	w.Uvarint(uint64(c.blocks.n))
	var before *summary
	for _, l := range c.blocks.lists {
		for i := range l.s {
			s := &l.s[i]
			w.Uvarint(s.key)
			if before == nil {
				w.Uvarint(s.first)
				w.Uvarint(s.firstIndex)
				w.Varint(s.firstTime)
			} else {
				w.Uvarint(s.first - before.last)
				w.Uvarint(s.firstIndex - before.lastIndex)
				w.Uvarint(uint64(s.firstTime - before.lastTime))
			}
			w.Uvarint(s.last - s.first)
			w.Uvarint(s.lastIndex - s.firstIndex)
			w.Uvarint(uint64(s.lastTime - s.firstTime))
			w.Uvarint(s.bytes)
			w.Uvarint(uint64(s.least))
			w.Uvarint(uint64(s.most - s.least))
			w.Uvarint(uint64(s.sum))
			w.Uvarint(uint64(s.n))
			w.Uvarint(uint64(s.live))
			w.Uvarint(uint64(s.head))
			w.Bytes([]byte(s.fence))
			var none deadBits
			dead := &none
			if s.dead != nil {
				dead = &s.dead.bits
			}
			encodeDead(w, dead, int(s.head), int(s.n))
			before = s
		}
	}
}

// encodeDead writes what is marked in [head, n).
func encodeDead(w *Writer, dead *deadBits, head, n int) {
	count := dead.count(n) - dead.count(head)
	if count > fewDead {
		var b [BlockLen / 8]byte
		rest := *dead
		for i := range head {
			rest[i/64] &^= 1 << (i % 64)
		}
		for i, word := range rest {
			le.PutUint64(b[8*i:], word)
		}
		w.Uvarint(1)
		w.Bytes(b[:])
		return
	}
	w.Uvarint(0)
	w.Uvarint(uint64(count))
	for i, before := head, head; count > 0; i++ {
		if dead.has(i) {
			w.Uvarint(uint64(i - before))
			before = i
			count--
		}
	}
}
