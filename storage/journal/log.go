package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
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

// Write is what one group appends at once; with neither entries nor state it only waits. It becomes
// durable whole or not at all, unless it is larger than a segment: then entries become durable one
// after the other, and Commit only with the last.
type Write struct {
	Group uint64
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
	maxItem  int // what fits in an empty segment of SegmentBytes
	wake     chan struct{}
	prepare  chan struct{} // wakes prepareLoop
	reclaim  chan struct{} // wakes reclaimLoop
	stop     chan struct{} // closed by Close
	drained  chan struct{} // closed when run has ended
	failed   chan struct{} // closed with the first fatal error
	closeOne sync.Once
	wg       sync.WaitGroup

	// Owned by run.
	batch builder
	idle  *time.Timer // set while the mark is due
	lazy  *time.Timer // set while only writes wait for which nobody waits

	// acks is held while Done is called, so that none is called after OnFatal. Taken before mu, never
	// over I/O.
	acks sync.Mutex

	// mu guards the tables; it is never held over I/O or a callback.
	mu      sync.RWMutex
	groups  map[uint64]*group
	dropped map[uint64]uint32 // dropped groups: segment of the GROUPDEL record, 0: queued
	fill    queue             // what is appended goes here
	flight  queue             // what run is writing
	segs    map[uint32]*segment
	gone    map[uint32]manifestRecord // reclaimed segments that the manifest still names
	active  *segment
	ready   []*segment // prepared, empty, in order of use
	nextID  uint32     // number of the next segment
	starved bool       // run waits for a segment
	full    error      // why the last try to prepare a segment failed, if for lack of space
	err     error      // fatal
	closed  bool
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
	l.wg.Go(l.run)
	l.wg.Go(l.prepareLoop)
	l.wg.Go(l.reclaimLoop)
	return l, nil
}

func newLog(cfg Config) *Log {
	return &Log{
		cfg:     cfg,
		node:    cfg.Catalog.NodeID(),
		maxItem: int(cfg.SegmentBytes) - dataOffset - batchBytes,
		wake:    make(chan struct{}, 1),
		prepare: make(chan struct{}, 1),
		reclaim: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		drained: make(chan struct{}),
		failed:  make(chan struct{}),
		groups:  make(map[uint64]*group),
		dropped: make(map[uint64]uint32),
		segs:    make(map[uint32]*segment),
		gone:    make(map[uint32]manifestRecord),
		nextID:  1,
		idle:    time.NewTimer(markDelay),
		lazy:    time.NewTimer(lazyDelay),
	}
}

// Append queues a write and returns; it never waits for I/O. It owns w.Entries' Data from now on:
// the bytes must not change any more. After a fatal error, Close or a Drop of the group the write
// is forgotten and Done is not called. An index gap and an entry that Admit refuses are bugs of the
// caller and panic.
func (l *Log) Append(w Write) {
	if len(w.Entries) == 0 && w.State == nil && w.Done == nil {
		return
	}
	if l.enqueue(w) {
		signal(l.wake)
	}
}

// enqueue takes a write into the tables and the queue, unless the log has ended or the group was
// dropped.
func (l *Log) enqueue(w Write) (wake bool) {
	l.mu.Lock()
	defer l.mu.Unlock() // also when checkLocked panics: another group must not suffer from it
	if l.err != nil || l.closed {
		return false
	}
	if _, ok := l.dropped[w.Group]; ok {
		return false
	}
	g := l.groups[w.Group]
	if g == nil {
		g = newGroup(w.Group)
	}
	it := item{group: g, entries: len(w.Entries), bytes: l.checkLocked(g, w.Entries), done: w.Done}
	if len(w.Entries) > 0 || w.State != nil {
		l.groups[w.Group] = g
	}
	for _, e := range w.Entries {
		id := l.fill.base + uint64(len(l.fill.entries))
		l.fill.entries = append(l.fill.entries, queued{Entry: e, group: g})
		g.put(e.Index, e.Term, place{off: uint32(id), length: uint32(len(e.Data))})
	}
	if w.State != nil {
		it.state, it.hasState = *w.State, true
		it.bytes += recordSize(8)
		if it.bytes > l.maxItem {
			// The write will not be one batch. Term and vote go before its entries and the commit
			// index after them, so that a crash in between leaves a state that raft could have had.
			early := item{group: g, state: *w.State, hasState: true, bytes: recordSize(8)}
			early.state.Commit = min(w.State.Commit, g.state.Commit)
			wake = l.enqueueLocked(early, false)
		}
		g.state, g.hasState = *w.State, true
	}
	return l.enqueueLocked(it, w.Done != nil) || wake
}

// checkLocked panics when entries may not be appended to a group, and returns their room in a
// batch.
func (l *Log) checkLocked(g *group, entries []Entry) (bytes int) {
	next := g.last() + 1
	for i, e := range entries {
		if e.Index < g.base || e.Index > next || i > 0 && e.Index != next {
			panic(fmt.Sprintf("BUG: journal: group %d appends entry %d, it has %d to %d",
				g.id, e.Index, g.base, g.last()))
		}
		size := recordSize(len(e.Data))
		if size > l.maxItem {
			panic(fmt.Sprintf("BUG: journal: group %d appends an entry of %d bytes; Admit refuses it",
				g.id, len(e.Data)))
		}
		next = e.Index + 1
		bytes += size
	}
	return bytes
}

// enqueueLocked queues an item and reports whether run must be woken: at once for an urgent one,
// else to start the clock after which it is written anyway.
func (l *Log) enqueueLocked(it item, urgent bool) (wake bool) {
	wake = len(l.fill.items) == 0 || urgent && !l.fill.urgent
	l.fill.items = append(l.fill.items, it)
	l.fill.bytes += int64(it.bytes)
	l.fill.urgent = l.fill.urgent || urgent
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
	wake := l.enqueueLocked(item{group: g, special: kindGroupDel, bytes: recordSize(0), done: done}, done != nil)
	l.mu.Unlock()
	if wake {
		signal(l.wake)
	}
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
	return g.base, g.last()
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
	segs := l.segs
	l.segs = make(map[uint32]*segment)
	l.mu.Unlock()
	var errs []error
	for _, s := range segs {
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
