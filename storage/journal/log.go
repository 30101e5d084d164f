package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is one entry of a group's log.
type Entry struct {
	Index, Term uint64
	Type        uint8 // opaque to the journal
	Data        []byte
}

// HardState is what a raft group must not forget besides its entries.
type HardState struct {
	Term, Vote, Commit uint64
}

// Write is what one group appends at once; with nothing in it it only waits. It becomes durable whole
// or not at all, unless it is larger than a segment: then it becomes durable in the order of the fields,
// one entry after the other, and Commit only with the last.
type Write struct {
	Group uint64
	// Snapshot replaces the group's stored snapshot. Its objects were put before.
	Snapshot *Snapshot
	// Reset voids the log, which goes on after entry Snapshot.Index. What the entries up to the commit
	// index of the hard state hold, and up to Keep, and what was installed, stays readable by ReadAt, as after
	// Compact.
	Reset bool
	Keep  uint64
	// Entries follow each other; Entries[0].Index <= last+1. A smaller index voids the stored
	// suffix from there on.
	Entries []Entry
	// State is nil when unchanged.
	State *HardState
	// Done is called after the fdatasync that covers this write returned nil, in the order of
	// Append, on the goroutine that syncs: it must be quick and must not call Close. nil: no one
	// waits, the write is synced together with later ones, or within a second.
	Done func()
}

// Log is the node's journal. All methods may be called concurrently.
//
//  1. Batches are written one at a time: batch n+1 is not written before the sync of batch n
//     returned nil.
//  2. Done is called for a write only after all writes appended before it are durable.
//  3. After the first failed write or sync nothing is written and nothing is acknowledged.
//  4. A byte that Entries returns was checked against its checksum, or comes from memory.
type Log struct {
	cfg      Config
	node     uint64
	maxItem  int           // room of the largest record in an empty segment of SegmentBytes
	wake     chan struct{} // wakes run
	ahead    chan struct{} // wakes aheadLoop
	prepare  chan struct{} // wakes prepareLoop
	reclaim  chan struct{} // wakes reclaimLoop
	stop     chan struct{} // closed by Close
	drained  chan struct{} // closed when run has ended
	failed   chan struct{} // closed with the first fatal error
	closeOne sync.Once
	wg       sync.WaitGroup

	cache blockCache

	// Owned by run.
	batch     *builder
	latest    link        // the latest durable batch of the log
	idle      *time.Timer // set while the mark is due
	lazy      *time.Timer // set while only writes wait for which nobody waits
	lazyFrom  time.Time   // since when they wait; zero: none do
	lastWrite time.Time   // of a batch
	freed     bool        // something was released or deleted, and reclaimLoop was not told yet
	freedAt   time.Time   // when it was told

	// hand guards what aheadLoop may use while syncing says that run syncs a batch, and what is run's own
	// else. Taken before mu.
	hand    sync.Mutex
	syncing atomic.Bool
	next    *builder // the batch after that one
	writer  writer

	// Owned by prepareLoop.
	prepareAt time.Time // not before, after the disk was full

	// Owned by reclaimLoop.
	mover     mover
	reclaimAt time.Time // not before, after the catalog had no room
	noRoom    bool      // that was logged
	scrub     scrubber

	leave atomic.Uint32 // a segment that is to be left when there is another one

	keys keys // set by Open
	turn int  // of Work

	// acks is held while Done is called, so that none is called after OnFatal. Taken before mu, never
	// over I/O.
	acks sync.Mutex

	// mu guards the tables; it is never held over I/O or a callback.
	mu              sync.RWMutex
	groups          map[uint64]*group
	dropped         map[uint64]uint32 // dropped groups: segment of the GROUPDEL record, 0: queued
	fill            queue             // what is appended goes here
	flight          queue             // what run is writing
	segs            map[uint32]*segment
	retain          map[uint64]Retainer       // by group
	gone            map[uint32]manifestRecord // reclaimed segments that the manifest still names
	active          *segment
	appended, moved int64       // as in Stats
	enqueued        uint64      // number of items that were queued
	entryID         uint64      // of the next entry that is queued
	durable         uint64      // how many of them are durable
	ready           []*segment  // prepared, empty, in order of use
	spares          []*segment  // reclaimed, in order of use
	taken           []time.Time // when the latest segments became active
	nextID          uint32      // number of the next segment
	starved         bool        // run waits for a segment
	hurt            bool        // some segments are damaged
	full            error       // why the last try to prepare a segment failed, if for lack of space
	err             error       // fatal
	closed          bool
}

// Open recovers the log in cfg.Dir, or makes a new one, and starts its goroutines. When
// acknowledged data is damaged it changes nothing and returns an error that wraps a *CorruptError.
func Open(cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := newLog(cfg)
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	if !cfg.Manual {
		l.wg.Go(l.run)
		l.wg.Go(l.aheadLoop)
		l.wg.Go(l.prepareLoop)
		l.wg.Go(l.reclaimLoop)
	}
	return l, nil
}

func newLog(cfg Config) *Log {
	return &Log{
		cfg:     cfg,
		node:    cfg.Catalog.NodeID(),
		maxItem: logRoom(cfg.SegmentBytes) - batchBytes - footRoom(footGroupMax+footEntryMax+footMovedMax),
		retain:  make(map[uint64]Retainer),
		wake:    make(chan struct{}, 1),
		ahead:   make(chan struct{}, 1),
		batch:   new(builder),
		next:    new(builder),
		prepare: make(chan struct{}, 1),
		reclaim: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		drained: make(chan struct{}),
		failed:  make(chan struct{}),
		groups:  make(map[uint64]*group),
		dropped: make(map[uint64]uint32),
		segs:    make(map[uint32]*segment),
		gone:    make(map[uint32]manifestRecord),
		mover:   mover{kept: make(map[uint32]int64)},
		nextID:  1,
		idle:    time.NewTimer(markDelay),
		lazy:    time.NewTimer(lazyDelay),
	}
}

// Append queues a write and returns; it never waits for I/O. It owns w.Entries and their Data from now on:
// they must not change any more. After a fatal error, Close or a Drop of the group the write
// is forgotten and Done is not called. An index gap, a Reset that goes back and an entry that Admit
// refuses are bugs of the caller and panic.
func (l *Log) Append(w Write) {
	if len(w.Entries) == 0 && w.State == nil && w.Snapshot == nil && w.Done == nil {
		return
	}
	l.rouse(l.enqueue(w))
}

// enqueue takes a write into the tables and the queue, unless the log has ended or the group was
// dropped.
func (l *Log) enqueue(w Write) (wake wake) {
	l.mu.Lock()
	defer l.mu.Unlock() // also when a check panics: another group must not suffer from it
	if l.err != nil || l.closed {
		return 0
	}
	if _, ok := l.dropped[w.Group]; ok {
		return 0
	}
	g := l.groups[w.Group]
	if g == nil {
		g = newGroup(w.Group)
	}
	first, last := g.base, g.last
	if w.Reset {
		checkReset(g, w.Snapshot)
		first, last = w.Snapshot.Index+1, w.Snapshot.Index
	}
	it := item{group: g, entries: w.Entries, done: w.Done}
	l.checkLocked(g, w.Entries, first, last, &it)
	if len(w.Entries) > 0 || w.State != nil || w.Snapshot != nil {
		l.groups[w.Group] = g
	}
	commit := g.state.Commit
	if w.Snapshot != nil {
		l.enqueueSnapshotLocked(g, &w, &it)
		commit = max(commit, min(w.Snapshot.Index, g.base-1))
	}
	if len(w.Entries) > 0 {
		g.put(w.Entries, l.entryID)
	}
	if w.State != nil {
		it.state, it.hasState = *w.State, true
		it.add(8, footGroupMax)
		if l.oversize(&it) {
			// The write will not be one batch. Term and vote go before its entries and the commit
			// index after them, so that a crash in between leaves a state that raft could have had.
			early := item{group: g, snapshot: it.snapshot, special: it.special, bounds: it.bounds}
			early.state, early.hasState = *w.State, true
			early.state.Commit = min(w.State.Commit, commit)
			early.add(8, footGroupMax)
			if it.snapshot != nil {
				early.add(len(it.snapshot.payload), footGroupMax+footSnapshotBytes(g.snap))
				early.add(boundsBytes, 0)
				it.snapshot, it.special = nil, 0
			}
			wake = l.enqueueLocked(early, false)
		}
		g.state, g.hasState = *w.State, true
	}
	return l.enqueueLocked(it, w.Done != nil) | wake
}

// checkReset panics when a log may not go on after a snapshot.
func checkReset(g *group, s *Snapshot) {
	if s == nil {
		panic(fmt.Sprintf("BUG: journal: group %d is reset without a snapshot", g.id))
	}
	if s.Index+1 < g.base {
		panic(fmt.Sprintf("BUG: journal: group %d goes back to snapshot %d, its first entry is %d", g.id, s.Index, g.base))
	}
}

// enqueueSnapshotLocked takes the snapshot of a write, and its reset, into the tables and its item.
func (l *Log) enqueueSnapshotLocked(g *group, w *Write, it *item) {
	s := *w.Snapshot
	s.Members = slices.Clone(s.Members)
	g.snap = &s // its segment is that of the one before until it is durable
	it.snapshot = snapshotBlob(&s)
	it.add(len(it.snapshot.payload), footGroupMax+footSnapshotBytes(&s))
	if !w.Reset {
		return
	}
	keep := max(min(max(g.state.Commit, w.Keep), g.last, s.Index), g.base-1)
	g.reset(keep, s.Index, s.Term, it.snapshot)
	it.special = kindBounds
	it.bounds = bounds{index: s.Index, term: s.Term, last: keep, released: g.released}
	it.add(boundsBytes, 0)
}

// oversize reports whether an item has no room in an empty segment of SegmentBytes.
func (l *Log) oversize(it *item) bool {
	return int(roundUp(int64(batchBytes+it.bytes), blockContent))+footRoom(it.foot) > logRoom(l.cfg.SegmentBytes)
}

// logRoom is the room for batches in a segment.
func logRoom(size int64) int { return int(size-dataOffset) / blockBytes * blockContent }

// checkLocked panics when entries may not be appended to a group whose log goes from first to last, and
// accounts for them.
func (l *Log) checkLocked(g *group, entries []Entry, first, last uint64, it *item) {
	next := last + 1
	for i := range entries {
		e := &entries[i]
		if e.Index < first || e.Index > next || i > 0 && e.Index != next {
			panic(fmt.Sprintf("BUG: journal: group %d appends entry %d, it has %d to %d", g.id, e.Index, first, last))
		}
		if recordSize(len(e.Data)) > l.maxItem {
			panic(fmt.Sprintf("BUG: journal: group %d appends an entry of %d bytes; Admit refuses it",
				g.id, len(e.Data)))
		}
		next = e.Index + 1
		foot := footEntryMax
		if i == 0 {
			foot += footGroupMax
		} else if e.Term != entries[i-1].Term {
			foot += 16
		}
		it.add(len(e.Data), foot)
	}
}

// wake says who has to be woken.
type wake uint8

const (
	wakeRun wake = 1 << iota
	wakeAhead
)

// rouse wakes them. No lock is held.
func (l *Log) rouse(w wake) {
	if w&wakeRun != 0 {
		signal(l.wake)
	}
	if w&wakeAhead != 0 {
		signal(l.ahead)
	}
}

// enqueueLocked queues an item and tells who must be woken: run at once for an urgent one, else to start
// the clock after which it is written anyway; aheadLoop when there is enough for it to do.
func (l *Log) enqueueLocked(it item, urgent bool) (wake wake) {
	if len(l.fill.items) == 0 || urgent && !l.fill.urgent {
		wake = wakeRun
	}
	it.id = l.entryID
	l.entryID += uint64(len(it.entries))
	l.fill.items = append(l.fill.items, it)
	l.enqueued++
	l.fill.bytes += int64(it.bytes)
	l.fill.urgent = l.fill.urgent || urgent
	if l.aheadLocked() {
		wake |= wakeAhead
	}
	return wake
}

// Drop deletes a group durably; done, if not nil, is called like Write.Done. The group is gone for
// readers at once. Its id must not be used again.
func (l *Log) Drop(group uint64, done func()) {
	l.mu.Lock()
	if _, ok := l.dropped[group]; l.err != nil || l.closed || ok && done == nil {
		l.mu.Unlock()
		return
	}
	g := l.groups[group]
	if g == nil {
		g = newGroup(group)
	}
	g.dropped = true
	delete(l.groups, group)
	if _, ok := l.dropped[group]; !ok {
		l.dropped[group] = 0
	}
	delete(l.retain, group)
	wake := l.enqueueLocked(groupDelItem(g, done), done != nil)
	l.mu.Unlock()
	l.rouse(wake)
}

// groupDelItem is a GROUPDEL record.
func groupDelItem(g *group, done func()) item {
	it := item{group: g, special: kindGroupDel, done: done}
	it.add(0, footGroupMax)
	return it
}

// Groups returns the ids of all groups, sorted.
func (l *Log) Groups() []uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Sorted(maps.Keys(l.groups))
}

// State returns the latest hard state of a group, queued ones included; false when it has none.
func (l *Log) State(group uint64) (HardState, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return HardState{}, false
	}
	return g.state, g.hasState
}

// Bounds returns the first and last index of a group, queued entries included; first is last+1 when
// it has no entries, and 1, 0 when the group is unknown.
func (l *Log) Bounds(group uint64) (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return 1, 0
	}
	return g.base, g.last
}

// Stats is what a log did and holds.
type Stats struct {
	Appended int64 // bytes of the batches written since Open, with what was moved
	Moved    int64 // bytes of data that were appended again to give segments back
	Segments int   // that hold something, or are ready to
	Bytes    int64 // size of these segments together
}

// Stats returns what the log did since Open, and what it holds.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	st := Stats{Appended: l.appended, Moved: l.moved, Segments: len(l.segs)}
	for _, s := range l.segs {
		st.Bytes += s.size
	}
	return st
}

// Err returns the fatal error that stopped the log, or nil.
func (l *Log) Err() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.err
}

// Failed is closed when the log has stopped for good: Err tells why, and no more Done is called.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Close writes and syncs what is queued, waits for the goroutines and closes the files. It returns
// the fatal error, if there was one, or ErrFull when the disk had no room for what was queued.
func (l *Log) Close() error {
	var err error
	l.closeOne.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.stop)
		if l.cfg.Manual {
			l.drain()
		}
		l.wg.Wait()
		err = errors.Join(l.Err(), l.unwritten(), l.closeFiles())
	})
	return err
}

func (l *Log) unwritten() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if n := len(l.fill.items) + len(l.flight.items); n > 0 && l.err == nil {
		return fmt.Errorf("%w: %d writes were not stored", ErrFull, n)
	}
	return nil
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	segs, spares := l.segs, l.spares
	l.segs, l.spares = make(map[uint32]*segment), nil
	l.mu.Unlock()
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(segs)) {
		errs = append(errs, segs[id].release())
	}
	for _, s := range spares {
		errs = append(errs, s.release())
	}
	return errors.Join(errs...)
}

// fail stops the log for good after the first fatal error.
func (l *Log) fail(err error) {
	l.acks.Lock()
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = fmt.Errorf("journal: stopped: %w", err)
		err = l.err
		close(l.failed)
	}
	l.mu.Unlock()
	l.acks.Unlock()
	if first {
		l.cfg.OnFatal(err)
	}
}

// signal wakes the receiver of a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
