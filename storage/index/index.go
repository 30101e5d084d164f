package index

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Config is what an index is given.
type Config struct {
	// Blocks stores the blocks; nil: a [Memory] of its own.
	Blocks Blocks

	// Cache is shared by the indexes of a node; nil: one of its own, of defaultCache bytes.
	Cache *Cache

	// Captured says that snapshots of the index are stored which refer to its blocks. Blocks
	// are then deleted only when no stored or captured state can refer to them, see [Capture]. Without
	// it they are deleted at once.
	Captured bool

	// Rebuild reads again, from the log, the messages of a block that is damaged; nil: its error is
	// returned. See [Rebuild].
	Rebuild Rebuild
}

const defaultCache = 4 << 20

// Message is what the index knows of one stored message.
type Message struct {
	Seq     uint64
	Index   uint64 // of the entry that holds it
	Off     uint32 // in the entry's data
	Len     uint32 // in bytes; below 1<<31
	Headers bool
	Time    int64 // ns since 1970
	Subject Subject
}

// Index is the index of one stream. Append, Remove, Clear, Capture and Restore are for one goroutine and
// exclude all other methods. All other methods only read and may be called by several goroutines
// at once; what they load goes to the cache, which has its own lock. Methods with an error
// return those of the store of blocks, as [*BlockError]. After an error of a change other than
// [ErrOrder] the index may be half changed: it must not be changed any more.
//
//  1. Blocks are in ascending order of sequences, those of the open block behind them.
//  2. Sequences grow; raft indexes and times do not fall.
//  3. count is the number of live messages, and the sum of the counts of subjects.
//  4. Neighbouring blocks have more than half of BlockLen live messages together: so the heap
//     takes about 1/4 byte a live message whatever was removed.
//  5. The chain of distances from the newest message of a subject leads to all live ones, as
//     long as it meets no record that a merge of blocks took out.
type Index struct {
	cfg   Config
	owner uint64 // in the cache

	count     uint64
	last      uint64 // sequence of the last message appended, live or not
	lastIndex uint64
	lastTime  int64
	nextKey   uint64
	blocks    blockList
	open      openBlock
	subjects  subjectTable

	gen    uint64        // goes up with each capture
	frozen atomic.Uint64 // what was made in this generation or before belongs to a capture

	mu       sync.Mutex
	captures []*Capture // not yet released, or behind one that is not; oldest first
	garbage  []uint64   // keys of blocks that no state after the last capture refers to
}

// New returns an empty index.
func New(cfg Config) *Index {
	if cfg.Blocks == nil {
		cfg.Blocks = NewMemory()
	}
	if cfg.Cache == nil {
		cfg.Cache = NewCache(defaultCache)
	}
	return &Index{cfg: cfg, owner: cfg.Cache.owners.Add(1), nextKey: 1, gen: 1, subjects: newSubjectTable()}
}

// Close forgets what the cache holds of the index. The index must not be used any more.
func (ix *Index) Close() { ix.cfg.Cache.forget(ix.owner) }

// Append adds a message behind all others; m.Subject is not looked at. A time before that of the message
// before counts as that one's. It returns the number of the subject; the error is [ErrOrder].
func (ix *Index) Append(m Message, subject []byte) (Subject, error) {
	switch {
	case m.Seq <= ix.last || m.Index < ix.lastIndex:
		return 0, fmt.Errorf("%w: sequence %d of entry %d after %d of %d", ErrOrder, m.Seq, m.Index, ix.last, ix.lastIndex)
	case len(subject) > maxName || m.Len >= 1<<31:
		return 0, fmt.Errorf("%w: message %d of %d bytes, subject of %d", ErrOrder, m.Seq, m.Len, len(subject))
	}
	r := record{seq: m.Seq, index: m.Index, time: max(m.Time, ix.lastTime), off: m.Off, size: m.Len << 1}
	if m.Headers {
		r.size |= 1
	}
	id, known := ix.subjects.find(subject)
	if !known {
		id = ix.subjects.add(ix, subject)
	}
	r.subject, ix.subjects.recent = id, id
	st := ix.subjects.own(ix, id)
	if st.count == 0 {
		st.first = m.Seq
	} else {
		r.distance = uint32(min(m.Seq-st.last, farBack))
	}
	st.last = m.Seq
	st.count++
	ix.count++
	ix.last, ix.lastIndex, ix.lastTime = m.Seq, m.Index, r.time
	ix.open.add(r)
	if len(ix.open.recs) == BlockLen {
		ix.fill()
	}
	return Subject(id), nil
}

// fill makes room in the full open block: it takes out what is dead, and makes it a block if it is still
// nearly full. So what dies young never gets into the store.
func (ix *Index) fill() {
	ix.open.compact()
	if len(ix.open.recs) <= BlockLen*7/8 {
		return
	}
	ix.blocks.add(ix, ix.store(ix.open.recs))
	ix.open = openBlock{recs: ix.open.recs[:0]}
}

// store makes a block of live records and returns its summary.
func (ix *Index) store(recs []record) summary {
	n := len(recs)
	b := encodeBlock(recs)
	k, err := parseBlock(b)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	s := summary{
		key: ix.nextKey, first: recs[0].seq, last: recs[n-1].seq, firstIndex: recs[0].index, lastIndex: recs[n-1].index,
		firstTime: recs[0].time, lastTime: recs[n-1].time, sum: k.sum, n: uint16(n), live: uint16(n),
	}
	for i := range recs {
		s.bytes += uint64(recs[i].size >> 1)
	}
	ids := make([]uint32, k.subjects)
	for i := range ids {
		ids[i] = k.dictionary(i)
	}
	s.least, s.most, s.fence = ids[0], ids[len(ids)-1], newFence(ids)
	ix.nextKey++
	ix.cfg.Blocks.Put(s.key, b)
	ix.cfg.Cache.put(cacheKey{ix.owner, s.key}, k)
	return s
}

// load returns the block of a summary.
func (ix *Index) load(s *summary) (*block, error) {
	key := cacheKey{ix.owner, s.key}
	if k := ix.cfg.Cache.get(key); k != nil && k.sum == s.sum {
		return k, nil
	}
	b, err := ix.cfg.Blocks.Get(s.key)
	var k *block
	if err == nil {
		k, err = decodeBlock(b)
	}
	if err == nil && (k.sum != s.sum || k.first != s.first || k.n != int(s.n)) {
		err = fmt.Errorf("%w: it holds %d records from %d, not %d from %d, or others", ErrBlock, k.n, k.first, s.n, s.first)
	}
	if err != nil {
		if k, err = ix.rebuild(s, err); err != nil {
			return nil, &BlockError{Key: s.key, First: s.first, Last: s.last, Err: err}
		}
		k.sum = s.sum // it stands for that block from now on: the cache is asked for it by this
	}
	ix.cfg.Cache.put(key, k)
	return k, nil
}

// discard takes the block at p out of the index.
func (ix *Index) discard(p pos) {
	key := ix.blocks.at(p).key
	ix.blocks.remove(ix, p)
	ix.drop(key)
}

// drop gives up a stored block.
func (ix *Index) drop(key uint64) {
	ix.cfg.Cache.drop(cacheKey{ix.owner, key})
	if !ix.cfg.Captured {
		ix.cfg.Blocks.Delete(key)
		return
	}
	ix.mu.Lock()
	ix.garbage = append(ix.garbage, key)
	ix.mu.Unlock()
}

// Remove takes out a message and returns it without Off and Time. ok is false if it is not stored.
func (ix *Index) Remove(seq uint64) (m Message, ok bool, err error) {
	v, i, err := ix.locate(seq)
	if err != nil || i < 0 || !v.isLive(i) {
		return Message{}, false, err
	}
	m, err = ix.remove(v, i, false)
	return m, true, err
}

// RemoveOldest takes out the oldest message of a subject that has messages, and returns it as Remove does.
func (ix *Index) RemoveOldest(id Subject) (Message, error) {
	v, i, err := ix.locate(ix.subjects.state(uint32(id)).first)
	if err == nil && (i < 0 || !v.isLive(i) || v.subject(i) != uint32(id)) {
		seq, ok, e := ix.oldestOf(uint32(id), 0)
		if e == nil && !ok {
			panic(fmt.Sprintf("BUG: subject %d has no message", id))
		}
		if err = e; err == nil {
			v, i, err = ix.locate(seq)
		}
	}
	if err != nil {
		return Message{}, err
	}
	return ix.remove(v, i, true)
}

// remove takes out a live record; oldest says that it is known to be the oldest of its subject.
func (ix *Index) remove(v part, i int, oldest bool) (m Message, err error) {
	r := v.kept(i)
	st := ix.subjects.state(r.subject)
	last := st.last
	if r.seq == last && st.count > 1 {
		if last, _, err = ix.newestOf(r.subject, r.seq-1); err != nil {
			return Message{}, err
		}
	}
	oldest = oldest || r.seq == st.first || ix.isHead(v, i)
	ix.count--
	if st.count == 1 {
		ix.subjects.drop(ix, r.subject)
	} else {
		st = ix.subjects.own(ix, r.subject)
		st.count--
		st.last = last
		if oldest {
			st.first = r.seq + 1
		}
		if st.count == 1 {
			st.first = st.last
		}
	}
	switch {
	case v.blk == nil:
		ix.open.kill(i)
	case v.sum.live == 1:
		ix.discard(v.at)
	default:
		ix.blocks.kill(ix, v.at, i, r.size>>1)
		err = ix.merge(v.at)
	}
	return r.message(), err
}

// Clear takes out all messages. Sequences go on.
func (ix *Index) Clear() {
	for !ix.blocks.isEnd(pos{}) {
		ix.discard(pos{})
	}
	ix.count = 0
	ix.open = openBlock{}
	ix.subjects.clear()
}

func (r *record) message() Message {
	return Message{
		Seq: r.seq, Index: r.index, Off: r.off, Len: r.size >> 1, Headers: r.size&1 != 0, Time: r.time,
		Subject: Subject(r.subject),
	}
}
