package journal

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"
)

// The footer of a segment is written when the log leaves it: one batch with one FOOTER record, whose
// payload says all that Open needs to know of the segment. Checksums start from the seed of the
// segment. Open reads and checks what stands before the tables; blocks of the tables are read and checked
// when an entry is looked for.
//
//	 0  4  magic "FTR1"
//	 4  4  number of groups
//	 8  4  length of the directory, a multiple of 8
//	12  4  length of the tables, a multiple of 16
//	16  4  checksum of bytes 0..15, the directory and the checksums of the table blocks
//	20  4  zero
//	24     directory: one item for each group, sorted by group
//	       checksums of the table blocks, 4 bytes each; a block has 4096 bytes, the last one less
//	       tables
//
// Item of the directory. What its flags say is not there takes no room.
//
//	 0  8  group
//	 8  4  flags: 1 deleted, 2 void, 4 last index, 8 bounds, 16 hard state, 32 snapshot
//	12  4  number of entries             place of their rows in the tables: after those of the item before
//	16  4  number of RELOCATED records   likewise, after the rows of all entries, up to a multiple of 16
//	20  4  number of runs of entries
//	24  4  number of term runs of the entries
//	28  4  number of runs of RELOCATED records that stand for entries in the log
//	32  4  number of objects
//	36  4  number of deleted objects
//	40  8  length of the data of the entries
//	48  8  length of the payloads of the RELOCATED records
//	56  8  lowest index of a RELOCATED record
//	64  8  highest index of a RELOCATED record
//	72     void:       8 lowest index from which entries in older segments are void
//	       last index: 8
//	       bounds:     8 index, 8 term, 8 last, 8 released, as in a BOUNDS record
//	       hard state: 8 term, 8 vote, 8 commit
//	       snapshot:   8 index, 8 term, 8 length of the payload of the SNAPSHOT record, that payload, zeros up to
//	                   a multiple of 8
//	       runs:       8 first index, 8 number of entries
//	       term runs:  8 first index, 8 term
//	       moved runs: 8 first index, 8 term, 8 number
//	       objects:    8 key, 4 offset of the payload in the segment, 4 length
//	       deleted:    8 key
//
// Row of an entry: 4 offset of the payload in the segment, 4 length. Row of a RELOCATED record: 8
// index, the highest bit set when it stands for the entry in the log; 4 offset, 4 length.
const (
	footMagic     = 'F' | 'T'<<8 | 'R'<<16 | '1'<<24
	footHeadBytes = 24
	footItemBytes = 72
	rowBytes      = 8
	sparseBytes   = 16
	tableBlock    = 4096
	logBit        = 1 << 63

	// footGroupMax is what a group with one run of entries takes in a footer at most, without its rows,
	// its snapshot, and more than one term.
	footGroupMax = footItemBytes + 8 + 8 + 32 + 24 + 24 + 16 + 16
	// footEntryMax is what an entry, footMovedMax what a RELOCATED record, takes at most.
	footEntryMax = rowBytes
	footMovedMax = sparseBytes + 24
)

const (
	footDeleted = 1 << iota
	footVoid
	footLast
	footBounds
	footState
	footSnapshot
)

// footBytes is the room that the contents take in a footer. A snapshot's members may be large.
func (c *contents) footBytes() int {
	n := footItemBytes + 16*len(c.runs) + 16*len(c.terms) + 24*len(c.moved) + 16*len(c.objects) + 8*len(c.removed) +
		rowBytes*int(c.rowCount) + sparseBytes*int(c.sparseCount)
	if c.void > 0 {
		n += 8
	}
	if c.hasLast {
		n += 8
	}
	if c.bounds != nil {
		n += 32
	}
	if c.state != nil {
		n += 24
	}
	if c.snap != nil {
		n += footSnapshotBytes(c.snap)
	}
	return n
}

func footSnapshotBytes(s *Snapshot) int { return 24 + alignUp(snapshotBytes+len(s.Members), 8) }

// footRoom is the room of a batch with a footer for contents that take n bytes in it.
func footRoom(n int) int {
	return int(roundUp(int64(batchBytes+recordSize(footHeadBytes+n+4*(n/tableBlock+2)+sparseBytes)), blockContent))
}

// tables says where the tables of a footer are. It does not change once it is set.
type tables struct {
	off    int64 // in the file
	length uint32
	sums   []uint32 // of the blocks
}

// encodeFooter returns the payload of the segment's footer, notes in the contents where their tables
// are, and returns where all tables begin in the payload.
func (s *segment) encodeFooter() (p []byte, at int, sums []uint32) {
	p = make([]byte, footHeadBytes, footRoom(s.foot))
	rows, sparse := uint32(0), uint32(0)
	groups := slices.SortedFunc(maps.Values(s.groups), func(a, b *contents) int { return cmp.Compare(a.group, b.group) })
	for _, c := range groups {
		rows += c.rowCount * rowBytes
	}
	sparse = uint32(alignUp(int(rows), sparseBytes))
	tab := make([]byte, sparse)
	rows = 0
	for _, c := range groups {
		p = c.appendItem(p)
		c.rowsAt, c.sparseAt = rows, uint32(len(tab))
		for r := range c.rows.all() {
			le.PutUint32(tab[rows:], r.off)
			le.PutUint32(tab[rows+4:], r.length)
			rows += rowBytes
		}
		for _, r := range c.sparse {
			index := r.index
			if r.log {
				index |= logBit
			}
			tab = le.AppendUint64(tab, index)
			tab = le.AppendUint32(tab, r.off)
			tab = le.AppendUint32(tab, r.length)
		}
	}
	le.PutUint32(p[0:], footMagic)
	le.PutUint32(p[4:], uint32(len(groups)))
	le.PutUint32(p[8:], uint32(len(p)-footHeadBytes))
	le.PutUint32(p[12:], uint32(len(tab)))
	for block := range slices.Chunk(tab, tableBlock) {
		sum := crc32.Update(s.seed, castagnoli, block)
		sums = append(sums, sum)
		p = le.AppendUint32(p, sum)
	}
	le.PutUint32(p[16:], footSum(p, s.seed))
	at = len(p)
	return append(p, tab...), at, sums
}

// footSum is the checksum of all that stands before the tables.
func footSum(p []byte, seed uint32) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, p[:16]), castagnoli, p[footHeadBytes:])
}

func (c *contents) appendItem(p []byte) []byte {
	flags := uint32(0)
	for i, set := range []bool{c.deleted, c.void > 0, c.hasLast, c.bounds != nil, c.state != nil, c.snap != nil} {
		if set {
			flags |= 1 << i
		}
	}
	p = le.AppendUint64(p, c.group)
	for _, n := range []int{int(flags), int(c.rowCount), int(c.sparseCount), len(c.runs), len(c.terms), len(c.moved),
		len(c.objects), len(c.removed)} {
		p = le.AppendUint32(p, uint32(n))
	}
	for _, n := range []uint64{uint64(c.rowBytes), uint64(c.sparseBytes), c.sparseLow, c.sparseHigh} {
		p = le.AppendUint64(p, n)
	}
	if c.void > 0 {
		p = le.AppendUint64(p, c.void)
	}
	if c.hasLast {
		p = le.AppendUint64(p, c.last)
	}
	if b := c.bounds; b != nil {
		for _, n := range []uint64{b.index, b.term, b.last, b.released} {
			p = le.AppendUint64(p, n)
		}
	}
	if s := c.state; s != nil {
		for _, n := range []uint64{s.Term, s.Vote, s.Commit} {
			p = le.AppendUint64(p, n)
		}
	}
	if s := c.snap; s != nil {
		b := encodeSnapshot(s)
		for _, n := range []uint64{s.Index, s.Term, uint64(len(b))} {
			p = le.AppendUint64(p, n)
		}
		p = append(p, b...)
		p = append(p, make([]byte, alignUp(len(b), 8)-len(b))...)
	}
	for _, r := range c.runs {
		p = le.AppendUint64(le.AppendUint64(p, r.first), uint64(r.count))
	}
	for _, t := range c.terms {
		p = le.AppendUint64(le.AppendUint64(p, t.from), t.term)
	}
	for _, m := range c.moved {
		p = le.AppendUint64(le.AppendUint64(le.AppendUint64(p, m.first), m.term), uint64(m.count))
	}
	for _, o := range c.objects {
		p = le.AppendUint32(le.AppendUint32(le.AppendUint64(p, o.key), o.off), o.length)
	}
	for _, key := range c.removed {
		p = le.AppendUint64(p, key)
	}
	return p
}

// errFooter says that a footer is not what was written.
var errFooter = errors.New("the footer is damaged")

// readFooter reads the directory of a footer, whose batch of length bytes begins at off and has the link
// last, into the segment. It returns errFooter, wrapped, when a byte of it is not what was written.
func (s *segment) readFooter(off, length int64, last link) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errFooter, fmt.Sprintf(format, args...))
	}
	read := func(p []byte, off int64) error {
		err := readFull(s.file, p, off)
		if errors.As(err, new(*CorruptError)) {
			return bad("%v", err)
		}
		return err
	}
	const head = batchBytes + recordBytes + footHeadBytes
	if off < dataOffset || length < head || off+length > s.capacity {
		return bad("the catalog places it at %d with %d bytes", off, length)
	}
	var b [head]byte
	if err := read(b[:], off); err != nil {
		return fmt.Errorf("read footer: %w", err)
	}
	h, ok := decodeBatchHeader(b[:], s.seed)
	if !ok || h.crc != last.crc || h.lsn != last.lsn || int64(s.file.padded(int(h.length))) != length {
		return bad("another batch stands at %d", off)
	}
	rec, err := decodeRecordHeader(b[batchBytes:], s.seed)
	if err != nil || rec.kind != kindFooter {
		return bad("no footer record stands at %d", off+batchBytes)
	}
	p := b[batchBytes+recordBytes:]
	groups, dir, tab := le.Uint32(p[4:]), le.Uint32(p[8:]), le.Uint32(p[12:])
	blocks := (int64(tab) + tableBlock - 1) / tableBlock
	front := footHeadBytes + int64(dir) + 4*blocks
	if le.Uint32(p) != footMagic || le.Uint32(p[20:]) != 0 || int64(groups) > int64(dir)/footItemBytes || front+int64(tab) != int64(rec.length) || int64(rec.length) > length {
		return bad("its lengths contradict each other")
	}
	at := off + batchBytes + recordBytes
	all := make([]byte, front)
	if err := read(all, at); err != nil {
		return fmt.Errorf("read footer: %w", err)
	}
	if footSum(all, s.seed) != le.Uint32(all[16:]) {
		return bad("its directory has a wrong checksum")
	}
	d := &footReader{b: all[footHeadBytes : footHeadBytes+int64(dir)], contents: make(map[uint64]*contents, groups)}
	if err := d.read(groups, tab); err != nil {
		return bad("%v", err)
	}
	t := &tables{off: at + front, length: tab, sums: make([]uint32, blocks)}
	for i := range t.sums {
		t.sums[i] = le.Uint32(all[footHeadBytes+int64(dir)+4*int64(i):])
	}
	s.groups, s.tables = d.contents, t
	return nil
}

// footReader decodes a directory whose checksum was found good.
type footReader struct {
	b        []byte
	contents map[uint64]*contents
	err      error
}

func (d *footReader) uint64() uint64 {
	if len(d.b) < 8 {
		d.err, d.b = errors.New("its directory is cut short"), nil
		return 0
	}
	v := le.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// pair returns two numbers of four bytes.
func (d *footReader) pair() (uint32, uint32) {
	v := d.uint64()
	return uint32(v), uint32(v >> 32)
}

// count checks that n things of size bytes can follow.
func (d *footReader) count(n uint32, size int) int {
	if int64(n)*int64(size) > int64(len(d.b)) && d.err == nil {
		d.err = errors.New("its directory is too short for what it counts")
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *footReader) read(groups, tab uint32) error {
	rows, sparse := uint64(0), uint64(0)
	var order []*contents
	for range groups {
		c := d.item()
		if d.err != nil {
			return d.err
		}
		if n := len(order); n > 0 && order[n-1].group >= c.group {
			return errors.New("its groups are not sorted")
		}
		order = append(order, c)
		d.contents[c.group] = c
		c.rowsAt = uint32(rows)
		rows += uint64(c.rowCount) * rowBytes
	}
	sparse = (rows + sparseBytes - 1) &^ (sparseBytes - 1)
	for _, c := range order {
		c.sparseAt = uint32(sparse)
		sparse += uint64(c.sparseCount) * sparseBytes
	}
	if sparse != uint64(tab) || len(d.b) > 0 {
		return errors.New("its directory does not fit its tables")
	}
	return nil
}

func (d *footReader) item() *contents {
	c := &contents{group: d.uint64()}
	flags, rows := d.pair()
	sparse, runs := d.pair()
	terms, moved := d.pair()
	objects, removed := d.pair()
	c.rowCount, c.sparseCount = rows, sparse
	c.rowBytes, c.sparseBytes = int64(d.uint64()), int64(d.uint64())
	c.sparseLow, c.sparseHigh = d.uint64(), d.uint64()
	c.deleted = flags&footDeleted != 0
	if flags&footVoid != 0 {
		c.void = d.uint64()
	}
	if c.hasLast = flags&footLast != 0; c.hasLast {
		c.last = d.uint64()
	}
	if flags&footBounds != 0 {
		c.bounds = &bounds{index: d.uint64(), term: d.uint64(), last: d.uint64(), released: d.uint64()}
	}
	if flags&footState != 0 {
		c.state = &HardState{Term: d.uint64(), Vote: d.uint64(), Commit: d.uint64()}
	}
	if flags&footSnapshot != 0 {
		index, term, n := d.uint64(), d.uint64(), d.uint64()
		if n < snapshotBytes || n > uint64(len(d.b)) {
			d.err = errors.New("its directory is cut short")
			return c
		}
		c.snap = decodeSnapshot(index, term, d.b[:n])
		d.b = d.b[min(alignUp(int(n), 8), len(d.b)):]
	}
	total := uint64(0)
	for range d.count(runs, 16) {
		r := fileRun{d.uint64(), uint32(d.uint64())}
		if r.count == 0 || r.first <= c.high || r.first > maxIndex {
			d.err = errors.New("its runs of entries are not sorted")
		}
		c.runs = append(c.runs, r)
		c.low = c.runs[0].first
		c.high = r.first + uint64(r.count) - 1
		total += uint64(r.count)
	}
	if total != uint64(rows) && d.err == nil {
		d.err = errors.New("its runs of entries are not as long as their table")
	}
	for range d.count(terms, 16) {
		c.terms = append(c.terms, termRun{d.uint64(), d.uint64()})
	}
	for range d.count(moved, 24) {
		c.moved = append(c.moved, movedRun{d.uint64(), d.uint64(), uint32(d.uint64())})
	}
	for range d.count(objects, 16) {
		key := d.uint64()
		off, length := d.pair()
		c.objects = append(c.objects, objectRow{key, row{off, length}})
	}
	for range d.count(removed, 8) {
		c.removed = append(c.removed, d.uint64())
	}
	return c
}

// shrink forgets what the group tables and the footer have, too.
func (c *contents) shrink() {
	c.runs, c.terms, c.moved, c.bounds, c.state, c.snap = nil, nil, nil, nil, nil, nil
	c.rows, c.sparse = rowTable{}, nil
}

// blockCache keeps checked blocks of the tables of footers in memory, up to a number; the oldest go
// first.
type blockCache struct {
	mu     sync.Mutex
	blocks map[blockKey][]byte
	ring   []blockKey
	next   int
}

type blockKey struct {
	seg   uint32
	block uint32
}

// cacheBlocks is how many blocks the cache holds: 2 MiB.
const cacheBlocks = 512

func (c *blockCache) get(key blockKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[key]
}

func (c *blockCache) put(key blockKey, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks == nil {
		c.blocks = make(map[blockKey][]byte)
	}
	if _, ok := c.blocks[key]; ok {
		return
	}
	if len(c.ring) < cacheBlocks {
		c.ring = append(c.ring, key)
	} else {
		delete(c.blocks, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % cacheBlocks
	}
	c.blocks[key] = b
}

// table returns the bytes from at on up to the end of their block.
func (l *Log) table(s *segment, t *tables, at uint32) ([]byte, error) {
	key := blockKey{s.id, at / tableBlock}
	b := l.cache.get(key)
	if b == nil {
		start := int64(key.block) * tableBlock
		b = make([]byte, min(tableBlock, int64(t.length)-start))
		err := readFull(s.file, b, t.off+start)
		if errors.As(err, new(*CorruptError)) {
			return nil, fmt.Errorf("%w: table block %d: %w", errFooter, key.block, err)
		}
		if err != nil {
			return nil, fmt.Errorf("read footer of %s: %w", s.file.Name(), err)
		}
		if crc32.Update(s.seed, castagnoli, b) != t.sums[key.block] {
			return nil, fmt.Errorf("%w: table block %d has a wrong checksum", errFooter, key.block)
		}
		l.cache.put(key, b)
	}
	return b[at%tableBlock:], nil
}

// readRow reads a row of an entry.
func (l *Log) readRow(s *segment, t *tables, at uint32) (row, error) {
	b, err := l.table(s, t, at)
	if err != nil {
		return row{}, err
	}
	return row{le.Uint32(b), le.Uint32(b[4:])}, nil
}

func decodeSparse(b []byte) sparseRow {
	index := le.Uint64(b)
	return sparseRow{index &^ logBit, row{le.Uint32(b[8:]), le.Uint32(b[12:])}, index&logBit != 0}
}

// readSparse returns the rows of an index in a sorted table of count rows, the oldest first.
func (l *Log) readSparse(s *segment, t *tables, at, count uint32, index uint64) ([]sparseRow, error) {
	lo, hi := uint32(0), count
	for lo < hi {
		mid := (lo + hi) / 2
		b, err := l.table(s, t, at+mid*sparseBytes)
		if err != nil {
			return nil, err
		}
		if decodeSparse(b).index < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	var out []sparseRow
	for ; lo < count; lo++ {
		b, err := l.table(s, t, at+lo*sparseBytes)
		if err != nil {
			return nil, err
		}
		r := decodeSparse(b)
		if r.index != index {
			break
		}
		out = append(out, r)
	}
	return out, nil
}
