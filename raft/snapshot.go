package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/raft/core"
)

// A stored snapshot is a run of objects: the machine's state in pieces of Config.ChunkBytes, and a last
// one, the manifest, that names the machine's objects which belong to it.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	// inlineRestore is the size of a state that the worker restores itself.
	inlineRestore = 1 << 20
	// putsInFlight is how many objects of a state are on their way to the disk at once.
	putsInFlight = 4
	// markBytes is the data between two marks.
	markBytes = 1 << 20
)

// snapshotState is what a group knows of its snapshots. It is owned by who runs the core.
type snapshotState struct {
	taken       bool         // snapshots are taken: the machine is a Snapshotter
	toRestore   *Snapshot    // the machine is to be restored from it before anything else
	held        []core.Entry // to be applied after that
	appliedTerm uint64       // term of the entry applied last

	kept      []*keptSnapshot // with their objects in the store, oldest first; the last one is current
	nextKey   uint64          // of the host's objects
	bytes     int64           // data applied since the last snapshot was captured
	marks     []mark
	ticks     int    // as a leader
	total     int64  // data applied at all, for marks
	compacted uint64 // entries up to here were given to Compact
	incoming  *incoming
	renew     bool // the stored one is damaged: the next one is taken although nothing was applied since
}

// keptSnapshot is a snapshot whose objects must stay.
type keptSnapshot struct {
	Snapshot
	state   State        // what it was written from, until it was released; nil after a restart
	sending atomic.Int32 // transfers that read it
}

// mark says how much data was applied with an entry and all before it.
type mark struct {
	index uint64
	total int64
}

func (s *snapshotState) current() *keptSnapshot {
	if len(s.kept) == 0 {
		return nil
	}
	return s.kept[len(s.kept)-1]
}

// nothing is the Retainer of machines whose state is all that they need.
type nothing struct{}

func (nothing) Live(_, _ uint64, _ func(uint64, []Range) bool) error { return nil }
func (nothing) LiveBytes(_, _ uint64) int64                          { return 0 }

// prepareSnapshots looks what is stored beside the log.
func (g *Group) prepareSnapshots() error {
	store := g.host.snapshots
	if store == nil {
		return nil
	}
	_, snapshotter := g.machine.(Snapshotter)
	stored, ok := store.StoredSnapshot(g.log)
	if ok && !snapshotter {
		return fmt.Errorf("group %d has a snapshot of entry %d, which its machine cannot restore", g.id, stored.Index)
	}
	s := &g.snaps
	s.taken = snapshotter
	first, _ := store.Bounds(g.log)
	s.compacted = max(first, 1) - 1
	if !ok {
		g.retain()
	} else {
		s.toRestore = &stored
		s.kept = []*keptSnapshot{{Snapshot: stored}}
	}
	s.nextKey = descriptorKey + 1
	keys := store.ObjectKeys(g.log)
	at, _ := slices.BinarySearch(keys, MachineObjects)
	own := keys[at:]
	if len(own) > 0 {
		s.nextKey = max(s.nextKey, own[len(own)-1]+1)
	}
	if err := g.resumeIncoming(own); err != nil {
		// It is only a copy of what another replica has.
		g.cfg.Logger.Warn("raft transfer", "group", uint64(g.id), "err", err)
	}
	g.deleteStrays(own)
	return nil
}

// retain tells the store who knows what is needed of the entries before the log. Before the machine has the
// state of the stored snapshot it does not know.
func (g *Group) retain() {
	if r, ok := g.machine.(Retainer); ok {
		g.host.snapshots.Retain(g.log, r)
	} else if _, ok := g.machine.(Snapshotter); ok {
		g.host.snapshots.Retain(g.log, nothing{})
	}
}

// deleteStrays deletes the host's objects that belong to nothing: a crash left them.
func (g *Group) deleteStrays(own []uint64) {
	var strays []uint64
	for _, key := range own {
		known := g.snaps.incoming != nil && (key == descriptorKey || g.snaps.incoming.snap.has(key))
		for _, k := range g.snaps.kept {
			known = known || k.has(key)
		}
		if !known {
			strays = append(strays, key)
		}
	}
	if len(strays) > 0 {
		g.host.snapshots.DeleteObjects(g.log, strays...)
	}
}

// has reports whether an object is part of the snapshot.
func (s *Snapshot) has(key uint64) bool { return key >= s.Objects && key-s.Objects < uint64(s.Count) }

// keys returns the keys of the snapshot's objects.
func (s *Snapshot) keys() []uint64 {
	keys := make([]uint64, s.Count)
	for i := range keys {
		keys[i] = s.Objects + uint64(i)
	}
	return keys
}

// noteApplied notes an applied entry, for the time of the next snapshot.
func (g *Group) noteApplied(e *core.Entry) {
	s := &g.snaps
	if !s.taken {
		return
	}
	s.bytes += int64(len(e.Data))
	s.total += int64(len(e.Data))
	if n := len(s.marks); len(e.Data) > 0 && s.total >= markBytes && (n == 0 || s.total-s.marks[n-1].total >= markBytes) {
		s.marks = append(s.marks, mark{e.Index, s.total})
	}
}

// maybeSnapshot captures a state when the log has become long.
func (g *Group) maybeSnapshot() {
	s := &g.snaps
	limit := g.cfg.SnapshotBytes
	if k := s.current(); k != nil {
		limit = max(limit, g.cfg.SnapshotFactor*k.Bytes)
	}
	if s.bytes >= limit {
		g.snapshotNow()
	}
}

// Snapshot asks for a snapshot of the machine now, whatever the size of the log. It does nothing for a
// machine that is no Snapshotter.
func (g *Group) Snapshot() { g.call(g.snapshotNow) }

func (g *Group) snapshotNow() {
	s := &g.snaps
	if !s.taken || g.isSaving() || s.toRestore != nil || g.applied == 0 {
		return
	}
	if k := s.current(); k != nil && k.Index >= g.applied && !s.renew {
		return
	}
	s.renew = false
	state, err := g.machine.(Snapshotter).Snapshot()
	if err != nil {
		g.cfg.Logger.Warn("raft snapshot", "group", uint64(g.id), "err", err)
		s.bytes = 0
		return
	}
	sv := &saving{
		g: g, state: state, base: s.nextKey, quit: make(chan struct{}), room: make(chan struct{}, putsInFlight),
		meta: SnapshotMeta{Index: g.applied, Term: s.appliedTerm, Members: g.members},
	}
	s.bytes = 0
	s.nextKey += 1 << 32 // keys are not scarce
	g.mu.Lock()
	g.saving = sv
	g.mu.Unlock()
	g.host.background(sv.run)
}

// renewSnapshot replaces the stored snapshot, which is damaged.
func (g *Group) renewSnapshot() {
	g.cfg.Logger.Error("the stored state is damaged and is written anew", "group", uint64(g.id))
	g.snaps.renew = true
	g.snapshotNow()
}

func (g *Group) isSaving() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saving != nil
}

// saving is a captured state on its way to the store.
type saving struct {
	g     *Group
	state State
	meta  SnapshotMeta
	base  uint64
	once  sync.Once
	quit  chan struct{} // closed when the rest is not wanted
	room  chan struct{} // one for each object that is not durable

	// Owned by run.
	buf      []byte
	count    int
	bytes    int64
	checksum uint32
}

var errNotWanted = errors.New("the snapshot is not wanted any more")

func (sv *saving) cancel() { sv.once.Do(func() { close(sv.quit) }) }

// run writes the state out. It is called in the background.
func (sv *saving) run() {
	g := sv.g
	err := g.guard(func() error {
		if _, err := sv.state.WriteTo(sv); err != nil {
			return err
		}
		if err := sv.put(sv.buf); err != nil {
			return err
		}
		return sv.put(encodeManifest(sv.state.Objects()))
	})
	g.call(func() { g.saved(sv, err) })
}

// Write implements io.Writer for the state.
func (sv *saving) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if sv.buf == nil {
			sv.buf = make([]byte, 0, min(sv.g.cfg.ChunkBytes, max(len(p), 4<<10)))
		}
		part := p[:min(len(p), sv.g.cfg.ChunkBytes-len(sv.buf))]
		sv.buf = append(sv.buf, part...)
		p = p[len(part):]
		if len(sv.buf) == sv.g.cfg.ChunkBytes {
			if err := sv.put(sv.buf); err != nil {
				return 0, err
			}
			sv.buf = nil
		}
	}
	return n, nil
}

// put stores an object, when few enough are on their way.
func (sv *saving) put(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	g := sv.g
	if !g.cfg.Manual { // which has nobody else who could make room
		select {
		case sv.room <- struct{}{}:
		case <-sv.quit:
			return errNotWanted
		case <-g.cfg.LogFailed:
			return ErrLogFailed
		case <-g.host.closing:
			return ErrStopped
		}
	}
	key := sv.base + uint64(sv.count)
	sv.count++
	sv.bytes += int64(len(data))
	sv.checksum = crc32.Update(sv.checksum, castagnoli, data)
	g.call(func() {
		g.host.snapshots.PutObject(g.log, key, data, func() {
			select {
			case <-sv.room:
			default:
			}
		})
	})
	return nil
}

// saved is called when all objects of a state are on their way to the disk.
func (g *Group) saved(sv *saving, err error) {
	g.mu.Lock()
	wanted := g.saving == sv
	g.mu.Unlock()
	snap := Snapshot{SnapshotMeta: sv.meta, Objects: sv.base, Count: sv.count, Bytes: sv.bytes, Checksum: sv.checksum}
	if !wanted || err != nil {
		if wanted {
			g.cfg.Logger.Warn("raft snapshot", "group", uint64(g.id), "err", err)
			g.mu.Lock()
			g.saving = nil
			g.mu.Unlock()
		}
		g.host.snapshots.DeleteObjects(g.log, snap.keys()...)
		sv.state.Abandon()
		return
	}
	g.cfg.Log.Append(Write{Group: g.log, Snapshot: &snap, Done: func() {
		g.call(func() { g.snapshotDurable(sv, snap) })
	}})
}

// snapshotDurable is called when the store will find the snapshot after a crash.
func (g *Group) snapshotDurable(sv *saving, snap Snapshot) {
	g.mu.Lock()
	wanted := g.saving == sv
	if wanted {
		g.saving = nil
	}
	g.mu.Unlock()
	if !wanted { // the log was replaced meanwhile, and the store's snapshot with it
		g.host.snapshots.DeleteObjects(g.log, snap.keys()...)
		sv.state.Abandon()
		return
	}
	g.snaps.kept = append(g.snaps.kept, &keptSnapshot{Snapshot: snap, state: sv.state})
	g.dropOldSnapshots()
	g.compactBehind()
}

// dropOldSnapshots deletes what the store has of snapshots that are neither current nor being sent, and
// tells the machine when only the current one is left.
func (g *Group) dropOldSnapshots() {
	current := g.snaps.current()
	g.snaps.kept = slices.DeleteFunc(g.snaps.kept, func(k *keptSnapshot) bool {
		if k == current || k.sending.Load() > 0 {
			return false
		}
		g.host.snapshots.DeleteObjects(g.log, k.keys()...)
		if k.state != nil {
			k.state.Abandon()
		}
		return true
	})
	if len(g.snaps.kept) == 1 && current.state != nil {
		current.state.Release()
		current.state = nil
	}
}

// compactBehind cuts the log behind the current snapshot, but for what replicas that are alive still
// need, up to Config.CompactMargin.
func (g *Group) compactBehind() {
	k := g.snaps.current()
	if k == nil || k.Index <= g.snaps.compacted {
		return
	}
	upTo := uint64(0) // a follower does not know who needs what
	if g.leadTerm != 0 {
		upTo = k.Index
		for _, r := range g.core.Status().Progress {
			if p := g.peerOf(r.Replica); p != nil && p.currentState() != PeerDead {
				upTo = min(upTo, r.Match)
			}
		}
	} else if g.solo {
		upTo = k.Index
	}
	g.compact(max(upTo, g.marginIndex(k.Index)))
}

// compactAll cuts the log behind the current snapshot: all replicas that are alive have everything.
func (g *Group) compactAll() {
	if k := g.snaps.current(); k != nil {
		g.compact(k.Index)
	}
}

func (g *Group) compact(upTo uint64) {
	if upTo <= g.snaps.compacted {
		return
	}
	g.snaps.compacted = upTo
	g.host.snapshots.Compact(g.log, upTo)
	g.core.Compacted()
	g.snaps.marks = slices.DeleteFunc(g.snaps.marks, func(m mark) bool { return m.index < upTo })
}

// marginIndex returns the last entry before which CompactMargin bytes and more lie between it and index.
func (g *Group) marginIndex(index uint64) uint64 {
	s := &g.snaps
	last := 0
	for last < len(s.marks) && s.marks[last].index <= index {
		last++
	}
	if last == 0 {
		return 0
	}
	total := s.marks[last-1].total
	found := uint64(0)
	for _, m := range s.marks[:last] {
		if total-m.total < g.cfg.CompactMargin {
			break
		}
		found = m.index
	}
	return found
}

// replaceLog adds to a write what makes a received snapshot the beginning of the log. It returns
// whether the machine is to be restored from it.
func (g *Group) replaceLog(w *Write, meta *SnapshotMeta) (restore bool) {
	s := &g.snaps
	w.Reset = true
	g.last = meta.Index
	s.compacted = meta.Index
	s.marks = nil
	if in := s.incoming; in != nil && in.stepped && in.snap.Index == meta.Index && in.snap.Term == meta.Term {
		snap := in.snap
		w.Snapshot, w.Keep = &snap, in.skipped
		s.incoming = nil
		g.host.transfers.received(g)
		g.mu.Lock()
		sv := g.saving
		g.saving = nil
		g.mu.Unlock()
		if sv != nil {
			sv.cancel()
		}
		s.kept = append(s.kept, &keptSnapshot{Snapshot: snap})
		s.toRestore = &snap
		g.host.snapshots.Retain(g.log, nil) // until it is restored
		done := w.Done
		w.Done = func() {
			g.call(func() {
				g.host.snapshots.DeleteObjects(g.log, descriptorKey)
				g.dropOldSnapshots()
			})
			done()
		}
		return true
	}
	if k := s.current(); k != nil && k.Index == meta.Index {
		// The log ended before the stored snapshot: a crash came between the two.
		snap := k.Snapshot
		w.Snapshot = &snap
		return false
	}
	panic(fmt.Sprintf("BUG: no state is stored for the snapshot of entry %d", meta.Index))
}

// runRestore restores the machine: by the worker if that is quick, or by somebody who stands in for it.
func (g *Group) runRestore() {
	job := func() {
		err := g.guard(g.restore)
		g.leave(true, err)
	}
	if g.snaps.toRestore.Bytes <= inlineRestore {
		job()
		return
	}
	g.host.background(job)
}

// restore gives the machine a stored state.
func (g *Group) restore() error {
	if g.stopping.Load() {
		return nil
	}
	s := &g.snaps
	snap, held := *s.toRestore, s.held
	s.toRestore, s.held = nil, nil
	r := &stateReader{store: g.host.snapshots, group: g.log, snap: &snap, stop: g.stopping.Load}
	err := g.machine.(Snapshotter).Restore(snap.Index, r)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // to its end, where the checksum is compared
	}
	if err != nil {
		if g.stopping.Load() {
			return nil
		}
		return fmt.Errorf("raft: group %d: restore the state after entry %d: %w", g.id, snap.Index, err)
	}
	g.retain()
	g.applied, s.appliedTerm, s.bytes = snap.Index, snap.Term, 0
	g.changeIndex = snap.Index
	g.setMembers(g.core.Status().Members)
	g.mu.Lock()
	g.shown.applied = max(g.shown.applied, g.applied)
	g.mu.Unlock()
	if len(held) > 0 {
		if _, err := g.apply(held); err != nil {
			return err
		}
	}
	return nil
}

// stateReader reads the state of a stored snapshot.
type stateReader struct {
	store    SnapshotStore
	group    uint64
	snap     *Snapshot
	stop     func() bool
	rest     []byte
	next     int
	checksum uint32
}

// Read implements io.Reader.
func (r *stateReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.stop() {
			return 0, ErrStopped
		}
		data, err := r.object()
		if err != nil {
			return 0, err
		}
		if r.next == r.snap.Count { // the manifest
			if r.checksum != r.snap.Checksum {
				return 0, fmt.Errorf("the checksum is %08x, not %08x", r.checksum, r.snap.Checksum)
			}
			return 0, io.EOF
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// object returns the next object, nil after the last one.
func (r *stateReader) object() ([]byte, error) {
	if r.next == r.snap.Count {
		return nil, nil
	}
	data, err := r.store.Object(r.group, r.snap.Objects+uint64(r.next))
	if err != nil {
		return nil, err
	}
	r.next++
	r.checksum = crc32.Update(r.checksum, castagnoli, data)
	return data, nil
}

// A manifest is its version, the number of the machine's objects, and their keys, ascending; numbers are
// uvarints.
const manifestVersion = 1

func encodeManifest(keys []uint64) []byte {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	b := []byte{manifestVersion}
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, key := range keys {
		b = binary.AppendUvarint(b, key)
	}
	return b
}

func decodeManifest(b []byte) ([]uint64, error) {
	d := decoder{rest: b}
	version, n := d.byte(), d.uvarint()
	if version != manifestVersion || n > uint64(len(d.rest)) {
		return nil, fmt.Errorf("manifest of version %d with %d bytes names %d objects", version, len(b), n)
	}
	keys := make([]uint64, n)
	for i := range keys {
		keys[i] = d.uvarint()
		if keys[i] >= MachineObjects || i > 0 && keys[i] <= keys[i-1] {
			return nil, fmt.Errorf("manifest names object %d at place %d", keys[i], i)
		}
	}
	if d.failed || len(d.rest) > 0 {
		return nil, fmt.Errorf("manifest of %d bytes is damaged", len(b))
	}
	return keys, nil
}
