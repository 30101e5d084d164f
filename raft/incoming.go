package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/raft/core"
)

// descriptorKey is the object that describes the snapshot which is being received, for a restart.
const descriptorKey = MachineObjects

const (
	descriptorVersion = 2 // 1: without what was skipped
	// descriptorEvery is how much data of entries may be asked for once more after a restart.
	descriptorEvery = 16 << 20
	// answerEvery is how many bytes become durable between two answers.
	answerEvery = 256 << 10
	// receivePatience is how long a transfer without a piece keeps others waiting.
	receivePatience = 10 * time.Second
)

// incoming is a snapshot that is being received. It is owned by who runs the core.
type incoming struct {
	id   uint64
	from *peer
	msg  core.Message
	snap Snapshot // with the keys that it has here
	keys []uint64 // of the machine's objects, once the manifest is here

	skipped  uint64 // entries up to here are not asked for, as the log has them
	next     place  // the piece that is expected
	durable  place  // everything before it is
	pending  int    // pieces on their way to the disk
	unsaid   int    // durable bytes since the last answer
	unnoted  int    // bytes of entries since the descriptor was written
	run      uint64 // names the pieces that were sent since it was said where to go on
	seq      uint64 // of the next one of them
	ended    bool   // all pieces are here
	checking bool
	stepped  bool // the core was told
}

// admit asks whether another snapshot may be received, and notes that one is.
func (ts *transfers) admit(g *Group) bool {
	now := ts.host.cfg.Now()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for other, at := range ts.receiving {
		if now.Sub(at) > receivePatience {
			delete(ts.receiving, other)
		}
	}
	if _, ok := ts.receiving[g]; !ok && len(ts.receiving) >= ts.host.cfg.MaxTransfers {
		return false
	}
	ts.receiving[g] = now
	return true
}

// newID returns a number that is not used again.
func (ts *transfers) newID() uint64 {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.nextID++
	return ts.nextID
}

// received notes that a group does not receive any more.
func (ts *transfers) received(g *Group) {
	ts.mu.Lock()
	delete(ts.receiving, g)
	ts.mu.Unlock()
}

// offered is told by the leader that it has a snapshot for this replica.
func (g *Group) offered(in *inbound) {
	id, count, bytes, checksum := in.num[0], in.num[1], in.num[2], in.num[3]
	answer := func(code uint64) {
		g.worker.out.record(g, in.from, recHave, id, phaseState, 0, 0, code, 0)
	}
	s, m := &g.snaps, &in.msg
	if _, ok := g.machine.(Snapshotter); !ok || m.Term < g.term || m.To != g.replica ||
		count < 1 || count > 1<<31 || bytes > 1<<62 || checksum > 1<<32-1 {
		answer(haveNo)
		return
	}
	g.wakeUp()
	if m.Snapshot.Index <= g.applied {
		answer(haveAll)
		g.stepMessage(m) // and the core tells the leader what it has
		return
	}
	if s.toRestore != nil || s.incoming != nil && (s.incoming.checking || s.incoming.stepped) || !g.host.transfers.admit(g) {
		answer(haveBusy)
		return
	}
	c := s.incoming
	if c == nil || c.snap.Index != m.Snapshot.Index || c.snap.Term != m.Snapshot.Term || c.snap.Bytes != int64(bytes) ||
		c.snap.Checksum != uint32(checksum) || c.snap.Count != int(count) {
		g.discardIncoming()
		c = &incoming{snap: Snapshot{
			SnapshotMeta: *m.Snapshot, Objects: s.nextKey, Count: int(count), Bytes: int64(bytes), Checksum: uint32(checksum),
		}}
		s.nextKey += 1 << 32
		s.incoming = c
		c.msg = *m
		g.describeIncoming()
	}
	c.id, c.from, c.msg = id, in.from, *m
	g.resume(c.durable)
}

// stepMessage gives a message to the core that the host keeps from it otherwise.
func (g *Group) stepMessage(m *core.Message) {
	if err := g.core.Step(m); err != nil {
		g.cfg.Logger.Warn("raft message", "group", uint64(g.id), "err", err)
	}
}

func (g *Group) answerIncoming(code uint64) {
	c := g.snaps.incoming
	c.unsaid = 0
	g.worker.out.record(g, c.from, recHave, c.id, c.durable.phase, c.durable.n, c.durable.off, code, c.run)
}

// resume asks for everything from a place on, before which all is durable, but for what is here already. What is on its
// way belongs to an earlier run, and is ignored.
func (g *Group) resume(at place) {
	c := g.snaps.incoming
	if skip := g.lacking(); skip.compare(at) >= 0 {
		at = skip
		if at.phase == phaseEntries {
			c.skipped = at.n - 1
		}
	}
	c.durable, c.next, c.ended = at, at, false
	c.run, c.seq = g.host.transfers.newID(), 0
	g.answerIncoming(haveResume)
}

// lacking is the place before which this replica has everything, received or not: the machine's objects, and
// what is needed of the entries that it has applied, as an entry's needed parts only become fewer (Retainer).
// Zero: it does not know, or has nothing.
func (g *Group) lacking() place {
	c := g.snaps.incoming
	if c.durable.compare(place{phaseState, uint64(c.snap.Count), 0}) < 0 {
		return place{} // of the objects
	}
	switch n := c.present(g); {
	case n < len(c.keys) && n > 0:
		return place{phaseObjects, uint64(n), 0}
	case n == len(c.keys) && g.applied > 0:
		return place{phaseEntries, g.applied + 1, 0}
	}
	return place{}
}

// present is how many of the machine's objects are there, up to the first that is not.
func (c *incoming) present(g *Group) (n int) {
	keys := g.host.snapshots.ObjectKeys(g.log)
	for n < len(c.keys) {
		if _, ok := slices.BinarySearch(keys, c.keys[n]); !ok {
			break
		}
		n++
	}
	return n
}

// discardIncoming forgets what was received.
func (g *Group) discardIncoming() {
	c := g.snaps.incoming
	if c == nil {
		return
	}
	g.snaps.incoming = nil
	g.host.transfers.received(g)
	g.host.snapshots.DeleteObjects(g.log, append(c.objects(g), descriptorKey)...)
}

// objects returns the keys under which parts of the state are stored.
func (c *incoming) objects(g *Group) []uint64 {
	keys := g.host.snapshots.ObjectKeys(g.log)
	return slices.DeleteFunc(slices.Clone(keys), func(key uint64) bool { return !c.snap.has(key) })
}

// piece takes a piece of a snapshot.
func (g *Group) piece(in *inbound) {
	c := g.snaps.incoming
	at := place{in.num[1], in.num[2], in.num[3]}
	if c == nil || c.id != in.num[0] || c.from != in.from || c.ended || in.num[6] != c.run {
		return
	}
	g.election.elapsed = 0 // the leader is busy with this replica
	g.host.transfers.admit(g)
	if in.num[7] != c.seq {
		g.resume(c.durable)
		return
	}
	end, err := g.storePiece(c, at, in)
	if err != nil {
		g.cfg.Logger.Warn("raft transfer", "group", uint64(g.id), "from", c.msg.From, "err", err)
		g.worker.out.record(g, c.from, recHave, c.id, 0, 0, 0, haveNo, 0)
		g.discardIncoming()
		return
	}
	c.seq++
	c.next = end
	if at.phase == phaseEnd {
		c.ended = true
		g.finishIncoming()
	}
}

// expects reports whether a piece can be the next one: objects come without gaps, entries with them.
func (c *incoming) expects(at place) bool {
	switch at.phase {
	case phaseState:
		return at == c.next
	case phaseObjects:
		return at == c.next || at.n == 0 && c.next == place{phaseState, uint64(c.snap.Count), 0}
	case phaseEntries, phaseEnd:
		return c.keys != nil && at.compare(c.next) >= 0 &&
			(c.next.phase >= phaseEntries || c.next.phase == phaseObjects && c.next.n == uint64(len(c.keys)) ||
				len(c.keys) == 0 && c.next.phase == phaseState && c.next.n == uint64(c.snap.Count))
	}
	return false
}

// storePiece stores a piece and returns the place after it.
func (g *Group) storePiece(c *incoming, at place, in *inbound) (end place, err error) {
	if !c.expects(at) {
		return at, fmt.Errorf("a piece of phase %d, %d, %d after one of %d, %d, %d",
			at.phase, at.n, at.off, c.next.phase, c.next.n, c.next.off)
	}
	store, data := g.host.snapshots, in.data
	durable := func(end place) func() {
		c.pending++
		size := len(data)
		return func() { g.call(func() { g.pieceDurable(c, end, size) }) }
	}
	switch at.phase {
	case phaseState:
		if len(data) == 0 {
			return at, errors.New("an object is empty")
		}
		end = place{phaseState, at.n + 1, 0}
		if end.n == uint64(c.snap.Count) {
			if c.keys, err = decodeManifest(data); err != nil {
				return at, err
			}
		}
		store.PutObject(g.log, c.snap.Objects+at.n, data, durable(end))
	case phaseObjects:
		if at.n >= uint64(len(c.keys)) || c.keys[at.n] != in.num[4] {
			return at, fmt.Errorf("object %d is the %d-th", in.num[4], at.n)
		}
		end = place{phaseObjects, at.n + 1, 0}
		store.PutObject(g.log, in.num[4], data, durable(end))
	case phaseEntries:
		ranges, bytes, err := decodeRanges(data, in.num[5])
		if err != nil || at.n == 0 || at.n > c.snap.Index {
			return at, fmt.Errorf("parts of entry %d: %w", at.n, err)
		}
		last := ranges[len(ranges)-1]
		end = place{phaseEntries, at.n, uint64(last.Off) + uint64(last.Len)}
		store.Install(g.log, at.n, in.num[4], uint32(in.num[5]), ranges, bytes, durable(end))
		if c.unnoted += len(data); c.unnoted >= descriptorEvery {
			c.unnoted = 0
			g.describeIncoming()
		}
	case phaseEnd:
		end = place{phaseNone, 0, 0}
	}
	return end, nil
}

// decodeRanges takes the ranges off a piece of an entry; size is that of the whole entry.
func decodeRanges(data []byte, size uint64) (ranges []Range, rest []byte, err error) {
	d := decoder{rest: data}
	n := d.uvarint()
	if n == 0 || n > uint64(len(data)) || size > 1<<32-1 {
		return nil, nil, fmt.Errorf("%d ranges of %d bytes", n, size)
	}
	sum, from := uint64(0), uint64(0)
	for range n {
		off, length := d.uvarint(), d.uvarint()
		if d.failed || off < from || length == 0 || off > size || length > size-off {
			return nil, nil, fmt.Errorf("range of %d bytes at %d of %d", length, off, size)
		}
		from = off + length
		sum += length
		ranges = append(ranges, Range{uint32(off), uint32(length)})
	}
	if sum != uint64(len(d.rest)) {
		return nil, nil, fmt.Errorf("ranges of %d bytes with %d", sum, len(d.rest))
	}
	return ranges, d.rest, nil
}

// pieceDurable is called when a piece is on the disk.
func (g *Group) pieceDurable(c *incoming, end place, size int) {
	if g.snaps.incoming != c {
		return
	}
	c.pending--
	if end.compare(c.durable) > 0 {
		c.durable = end
	}
	if end == (place{phaseState, uint64(c.snap.Count), 0}) || end == (place{phaseObjects, uint64(len(c.keys)), 0}) {
		if skip := g.lacking(); skip.compare(c.next) > 0 {
			g.resume(skip)
		}
	}
	if c.unsaid += size; c.unsaid >= answerEvery || c.pending == 0 {
		g.answerIncoming(haveMore)
	}
	g.finishIncoming()
}

// finishIncoming compares the checksum of the whole when all is durable, and then tells the core.
func (g *Group) finishIncoming() {
	c := g.snaps.incoming
	if !c.ended || c.pending > 0 || c.checking {
		return
	}
	c.checking = true
	g.host.background(func() {
		r := stateReader{store: g.host.snapshots, group: g.log, snap: &c.snap, stop: g.stopping.Load}
		err := g.guard(func() error {
			for {
				data, err := r.object()
				if err != nil || data == nil {
					return err
				}
			}
		})
		if err == nil && r.checksum != c.snap.Checksum {
			err = fmt.Errorf("the checksum is %08x, not %08x", r.checksum, c.snap.Checksum)
		}
		g.call(func() { g.checked(c, err) })
	})
}

// checked is called when the whole of a snapshot was read back.
func (g *Group) checked(c *incoming, err error) {
	if g.snaps.incoming != c {
		return
	}
	if err != nil {
		g.cfg.Logger.Warn("raft transfer", "group", uint64(g.id), "from", c.msg.From, "err", err)
		g.worker.out.record(g, c.from, recHave, c.id, 0, 0, 0, haveNo, 0)
		g.discardIncoming()
		return
	}
	g.worker.out.record(g, c.from, recHave, c.id, phaseEnd, 0, 0, haveAll, 0)
	c.stepped = true
	g.stepMessage(&c.msg)
	g.call(func() { // after the next Ready
		if g.snaps.incoming == c {
			g.discardIncoming() // the core had no use for it
		}
	})
}

// describeIncoming stores what the snapshot is that is being received, and how much is there.
func (g *Group) describeIncoming() {
	c := g.snaps.incoming
	b := []byte{descriptorVersion}
	for _, n := range []uint64{
		c.snap.Objects, uint64(c.snap.Count), uint64(c.snap.Bytes), uint64(c.snap.Checksum),
		c.durable.phase, c.durable.n, c.durable.off, c.skipped,
	} {
		b = binary.AppendUvarint(b, n)
	}
	g.host.snapshots.PutObject(g.log, descriptorKey, c.msg.AppendHeader(b), nil)
}

// resumeIncoming looks for a snapshot that was being received before a restart.
func (g *Group) resumeIncoming(own []uint64) error {
	if _, ok := slices.BinarySearch(own, descriptorKey); !ok {
		return nil
	}
	store := g.host.snapshots
	data, err := store.Object(g.log, descriptorKey)
	if err != nil {
		return err
	}
	d := decoder{rest: data}
	version := d.byte()
	c := &incoming{}
	c.snap.Objects = d.uvarint()
	c.snap.Count, c.snap.Bytes, c.snap.Checksum = int(d.uvarint()), int64(d.uvarint()), uint32(d.uvarint())
	noted := place{d.uvarint(), d.uvarint(), d.uvarint()}
	if version >= 2 {
		c.skipped = d.uvarint()
	}
	if d.failed || version < 1 || version > descriptorVersion {
		return fmt.Errorf("descriptor of version %d with %d bytes is damaged", version, len(data))
	}
	if c.msg, err = core.DecodeMessage(d.rest); err != nil {
		return err
	}
	if c.msg.Snapshot == nil || c.snap.Count < 1 || c.snap.Objects <= descriptorKey {
		return errors.New("descriptor of no snapshot")
	}
	c.snap.SnapshotMeta = *c.msg.Snapshot
	// Its keys are taken, though none may be in use yet.
	g.snaps.nextKey = max(g.snaps.nextKey, c.snap.Objects+uint64(c.snap.Count))
	for c.durable.n < uint64(c.snap.Count) {
		if _, ok := slices.BinarySearch(own, c.snap.Objects+c.durable.n); !ok {
			break
		}
		c.durable.n++
	}
	if c.durable.n == uint64(c.snap.Count) {
		data, err := store.Object(g.log, c.snap.Objects+c.durable.n-1)
		if err != nil {
			return err
		}
		if c.keys, err = decodeManifest(data); err != nil {
			return err
		}
		n := c.present(g)
		c.durable = place{phaseObjects, uint64(n), 0}
		if n == len(c.keys) && noted.phase == phaseEntries {
			c.durable = noted
		}
	}
	if stored, ok := store.StoredSnapshot(g.log); ok && stored.Index >= c.snap.Index {
		return nil // it has become the group's
	}
	g.snaps.incoming = c
	return nil
}
