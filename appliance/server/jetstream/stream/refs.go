package stream

import "sort"

// ref tells where one message lies and what follows it. A removed message keeps subj and next, so
// that chains of its subject stay walkable, and has size zero.
type ref struct {
	off  uint32 // of the record in its entry
	size uint32 // of the record; refHeader set when the message has headers; 0: removed
	subj uint32 // subject id
	next uint32 // distance to the next message of the subject; 0: none yet; refFar: further than fits
	time int64  // ns since 1970
}

const (
	refHeader = 1 << 31
	refFar    = 1<<32 - 1
)

func (r *ref) live() bool { return r != nil && r.size != 0 }

// Place is where a message lies: Len bytes at Off of the entry at raft index Index.
type Place struct {
	Index    uint64
	Off, Len uint32
}

const chunkLen = 512

type entryRef struct{ seq, index uint64 }

// chunk holds the refs of chunkLen consecutive sequences.
type chunk struct {
	alive   int
	entries []entryRef // entries that hold these messages, by the first sequence they hold here
	refs    []ref
}

// refTable maps sequences to refs. Chunks without a live message are dropped.
type refTable struct {
	base   uint64 // chunk number of chunks[0]
	chunks []*chunk
}

func (t *refTable) chunk(seq uint64) *chunk {
	n := seq / chunkLen
	if n < t.base || n-t.base >= uint64(len(t.chunks)) {
		return nil
	}
	return t.chunks[n-t.base]
}

// get returns the ref of seq, live or removed, or nil.
func (t *refTable) get(seq uint64) *ref {
	c := t.chunk(seq)
	if i := seq % chunkLen; c != nil && i < uint64(len(c.refs)) {
		return &c.refs[i]
	}
	return nil
}

// add appends the ref of seq, which is larger than every sequence before.
func (t *refTable) add(seq, index uint64, r ref) {
	n := seq / chunkLen
	if len(t.chunks) == 0 {
		t.base = n
	}
	for n-t.base >= uint64(len(t.chunks)) {
		t.chunks = append(t.chunks, nil)
	}
	c := t.chunks[n-t.base]
	if c == nil {
		c = &chunk{}
		t.chunks[n-t.base] = c
		t.seal(n)
	}
	i := int(seq % chunkLen)
	for len(c.refs) < i {
		c.refs = append(c.refs, ref{}) // sequences that were skipped
	}
	c.refs = append(c.refs, r)
	if len(c.entries) == 0 || c.entries[len(c.entries)-1].index != index {
		c.entries = append(c.entries, entryRef{seq, index})
	}
	if r.live() {
		c.alive++
	}
}

// seal drops the chunk before number n if nothing in it is alive: nothing more is added to it.
func (t *refTable) seal(n uint64) {
	for i := int(n-t.base) - 1; i >= 0; i-- {
		if c := t.chunks[i]; c != nil {
			if c.alive == 0 {
				t.chunks[i] = nil
				t.trim()
			}
			return
		}
	}
}

// kill marks seq as removed and drops its chunk when nothing in it is alive and nothing more will
// be added to it.
func (t *refTable) kill(seq uint64) {
	c := t.chunk(seq)
	c.refs[seq%chunkLen].size = 0
	c.alive--
	if c.alive == 0 && len(c.refs) == chunkLen {
		t.chunks[seq/chunkLen-t.base] = nil
		t.trim()
	}
}

// trim drops the empty head of the table.
func (t *refTable) trim() {
	n := 0
	for n < len(t.chunks)-1 && t.chunks[n] == nil {
		n++
	}
	if n > 0 {
		t.chunks = append(t.chunks[:0], t.chunks[n:]...)
		t.base += uint64(n)
	}
}

// next returns the first live sequence in [seq, last].
func (t *refTable) next(seq, last uint64) (uint64, bool) {
	for seq <= last {
		c := t.chunk(seq)
		if c == nil || c.alive == 0 {
			if n := seq / chunkLen; n < t.base {
				seq = t.base * chunkLen
			} else {
				seq = (n + 1) * chunkLen
			}
			continue
		}
		for i := seq % chunkLen; i < uint64(len(c.refs)) && seq <= last; i, seq = i+1, seq+1 {
			if c.refs[i].size != 0 {
				return seq, true
			}
		}
		seq = (seq + chunkLen - 1) / chunkLen * chunkLen
	}
	return 0, false
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// prev returns the last live sequence in [first, seq].
func (t *refTable) prev(seq, first uint64) (uint64, bool) {
	for seq >= first && seq > 0 {
		c := t.chunk(seq)
		if c == nil || c.alive == 0 {
			start := seq / chunkLen * chunkLen
			if start == 0 {
				return 0, false
			}
			seq = start - 1
			continue
		}
		if t.get(seq).live() {
			return seq, true
		}
		seq--
	}
	return 0, false
}

// count returns the number of live messages in [from, last].
func (t *refTable) count(from, last uint64) uint64 {
	var n uint64
	for seq := max(from, t.base*chunkLen); seq <= last; {
		c := t.chunk(seq)
		end := (seq/chunkLen + 1) * chunkLen
		switch {
		case c == nil:
		case seq%chunkLen == 0:
			n += uint64(c.alive)
		default:
			for i := seq % chunkLen; i < uint64(len(c.refs)); i++ {
				n += b2u(c.refs[i].size != 0)
			}
		}
		seq = end
	}
	return n
}

// place returns where the live message seq lies.
func (t *refTable) place(seq uint64) (Place, bool) {
	r := t.get(seq)
	if !r.live() {
		return Place{}, false
	}
	es := t.chunk(seq).entries
	i := sort.Search(len(es), func(i int) bool { return es[i].seq > seq }) - 1
	return Place{Index: es[i].index, Off: r.off, Len: r.size &^ refHeader}, true
}
