package raft

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/raft/core"
)

// A transfer brings a snapshot to a replica that needs entries which are gone: the objects of the state,
// the machine's objects, and what is left of the entries before the snapshot. The sender offers it; the
// receiver says from where on it wants it, and again whenever more is durable; both ends may be
// restarted in between. See DESIGN.md, "Snapshots".

// place is a place in a transfer. Places are ordered.
type place struct {
	phase uint64
	n     uint64 // number of the object, or index of the entry
	off   uint64 // in the entry's data
}

// The phases of a transfer.
const (
	phaseState   uint64 = iota // objects of the snapshot, the manifest last
	phaseObjects               // of the machine, in the order of the manifest
	phaseEntries               // parts of entries
	phaseEnd
	phaseNone
)

func (a place) compare(b place) int {
	return cmp.Or(cmp.Compare(a.phase, b.phase), cmp.Compare(a.n, b.n), cmp.Compare(a.off, b.off))
}

// What a recHave says beside the place.
const (
	haveMore   uint64 = iota // everything before the place is durable
	haveResume               // the same, and send from there on, as a new run
	haveAll                  // done
	haveBusy                 // offer it later
	haveNo                   // it is not wanted
)

const (
	offerPatience    = 2 * time.Second
	transferPatience = 5 * time.Second
	transferEnd      = 30 * time.Second
	busyPause        = time.Second
)

type sendState uint8

const (
	sendWaiting sendState = iota // for its turn
	sendOffered
	sendRunning
	sendOver
)

// sending is a transfer from here. Its fields are guarded by transfers.mu.
type sending struct {
	id   uint64
	g    *Group
	p    *peer
	msg  core.Message
	kept *keptSnapshot

	state    sendState
	after    time.Time // not before
	heard    time.Time // of the receiver
	run      uint64    // named by the receiver when it said where to go on
	seq      uint64    // of the next piece in it
	next     place
	unacked  []sentPiece
	inFlight int
	pumping  bool
	keys     []uint64 // the machine's objects; owned by pump
	reading  Damage   // what is being read; At 0: of the state; owned by pump
	// readAt reads parts of entries; owned by pump, and nil before the first of them.
	readAt func(index uint64, off int, p []byte) error
}

// sentPiece is a piece that is not durable at the receiver.
type sentPiece struct {
	end  place
	size int
}

// transfers are the transfers of a host, in both directions.
type transfers struct {
	host *Host

	mu        sync.Mutex // taken with no other lock held
	nextID    uint64
	sending   []*sending
	receiving map[*Group]time.Time // when there was a piece
}

func (ts *transfers) init(h *Host) {
	ts.host, ts.nextID, ts.receiving = h, h.incarnation, make(map[*Group]time.Time)
}

// start begins to send the snapshot that a MsgSnap of a group's core names. The caller owns the core.
func (ts *transfers) start(g *Group, p *peer, m *core.Message) {
	at := slices.IndexFunc(g.snaps.kept, func(k *keptSnapshot) bool {
		return k.Index == m.Snapshot.Index && k.Term == m.Snapshot.Term
	})
	if at < 0 { // it is not durable yet, or not any more the current one
		to := m.To // the message is reused by the next Ready
		g.call(func() { g.core.SnapshotSent(to, false) })
		return
	}
	ts.mu.Lock()
	for _, t := range ts.sending {
		if t.g == g && t.msg.To == m.To && t.state != sendOver {
			t.state = sendOver
			t.kept.sending.Add(-1)
		}
	}
	ts.nextID++
	k := g.snaps.kept[at]
	k.sending.Add(1)
	msg := *m
	ts.sending = append(ts.sending, &sending{id: ts.nextID, g: g, p: p, msg: msg, kept: k})
	ts.mu.Unlock()
	ts.schedule()
}

// schedule offers transfers whose turn it is.
func (ts *transfers) schedule() {
	now := ts.host.cfg.Now()
	ts.mu.Lock()
	ts.sending = slices.DeleteFunc(ts.sending, func(t *sending) bool { return t.state == sendOver })
	under := 0
	for _, t := range ts.sending {
		if t.state != sendWaiting {
			under++
		}
	}
	var offers []*sending
	for _, t := range ts.sending {
		if t.state == sendWaiting && under < ts.host.cfg.MaxTransfers && !now.Before(t.after) {
			t.state, t.heard = sendOffered, now
			under++
			offers = append(offers, t)
		}
	}
	ts.mu.Unlock()
	for _, t := range offers {
		ts.offer(t)
	}
}

// offer tells the receiver what there is.
func (ts *transfers) offer(t *sending) {
	h := ts.host
	var b builder
	start := b.begin(h.incarnation, recOffer, t.g.id)
	b.uvarints(t.id, uint64(t.kept.Count), uint64(t.kept.Bytes), uint64(t.kept.Checksum))
	b.meta = t.msg.AppendHeader(b.meta)
	b.end(start)
	h.cfg.Transport.Send(t.p.node, LaneControl, b.parts())
}

// have takes the word of a receiver. The caller owns the group's core.
func (ts *transfers) have(g *Group, in *inbound) {
	id, at, code, run := in.num[0], place{in.num[1], in.num[2], in.num[3]}, in.num[4], in.num[5]
	now := ts.host.cfg.Now()
	ts.mu.Lock()
	i := slices.IndexFunc(ts.sending, func(t *sending) bool {
		return t.id == id && t.g == g && t.p == in.from && t.state != sendOver
	})
	if i < 0 {
		ts.mu.Unlock()
		return
	}
	t := ts.sending[i]
	t.heard = now
	pump := false
	switch code {
	case haveMore, haveResume:
		for len(t.unacked) > 0 && t.unacked[0].end.compare(at) <= 0 {
			t.inFlight -= t.unacked[0].size
			t.unacked = t.unacked[1:]
		}
		if code == haveResume {
			t.state, t.next, t.unacked, t.inFlight = sendRunning, at, nil, 0
			t.run, t.seq = run, 0
		}
		pump = t.state == sendRunning
	case haveBusy:
		t.state, t.after = sendWaiting, now.Add(busyPause)
	default:
		t.state = sendOver
	}
	over := t.state == sendOver
	ts.mu.Unlock()
	switch {
	case over:
		ts.over(t, code == haveAll)
	case pump:
		ts.pump(t)
	}
}

// over tells the group that a transfer has ended. The caller owns its core.
func (ts *transfers) over(t *sending, ok bool) {
	t.kept.sending.Add(-1)
	t.g.core.SnapshotSent(t.msg.To, ok)
	t.g.dropOldSnapshots()
	t.g.wakeUp()
	ts.schedule()
}

// giveUp ends a transfer that does not go on.
func (ts *transfers) giveUp(t *sending, err error) {
	ts.mu.Lock()
	was := t.state
	t.state = sendOver
	ts.mu.Unlock()
	if was == sendOver {
		return
	}
	ts.host.cfg.Logger.Warn("raft transfer", "group", uint64(t.g.id), "to", t.msg.To, "err", err)
	t.g.call(func() { ts.over(t, false) })
}

// stopped ends a group's transfers: it does not lead any more.
func (ts *transfers) stopped(g *Group) {
	ts.mu.Lock()
	for _, t := range ts.sending {
		if t.g == g && t.state != sendOver {
			t.state = sendOver
			t.kept.sending.Add(-1)
		}
	}
	delete(ts.receiving, g)
	ts.mu.Unlock()
}

// connected is told whether a node can be reached.
func (ts *transfers) connected(p *peer, up bool) {
	if !up {
		return
	}
	now := ts.host.cfg.Now()
	var offers []*sending
	ts.mu.Lock()
	for _, t := range ts.sending {
		if t.p == p && (t.state == sendOffered || t.state == sendRunning) {
			t.state, t.heard = sendOffered, now
			offers = append(offers, t)
		}
	}
	ts.mu.Unlock()
	for _, t := range offers {
		ts.offer(t)
	}
}

// drained is told that there is room for bulk.
func (ts *transfers) drained(p *peer) {
	ts.mu.Lock()
	var some []*sending
	for _, t := range ts.sending {
		if t.p == p && t.state == sendRunning {
			some = append(some, t)
		}
	}
	ts.mu.Unlock()
	for _, t := range some {
		ts.pump(t)
	}
}

// tick looks after transfers that do not go on.
func (ts *transfers) tick() {
	now := ts.host.cfg.Now()
	var offers, dead []*sending
	ts.mu.Lock()
	if len(ts.sending) == 0 {
		ts.mu.Unlock()
		return
	}
	for _, t := range ts.sending {
		silent := now.Sub(t.heard)
		switch {
		case t.state != sendOffered && t.state != sendRunning:
		case silent > transferEnd:
			dead = append(dead, t)
		case t.state == sendOffered && silent > offerPatience,
			t.state == sendRunning && silent > transferPatience:
			t.state = sendOffered // heard stays: the end comes when it is offered in vain
			offers = append(offers, t)
		}
	}
	ts.mu.Unlock()
	for _, t := range offers {
		ts.offer(t)
	}
	for _, t := range dead {
		ts.giveUp(t, fmt.Errorf("node %d did not answer for %s", t.p.node, transferEnd))
	}
	ts.schedule()
	for _, p := range ts.host.peers.all() {
		ts.drained(p)
	}
}

// pump lets the transfer send what the receiver has room for.
func (ts *transfers) pump(t *sending) {
	ts.mu.Lock()
	begin := !t.pumping
	t.pumping = true
	ts.mu.Unlock()
	if begin {
		ts.host.background(func() {
			if err := t.g.guard(func() error { return ts.send(t) }); err != nil {
				ts.giveUp(t, err)
			}
		})
	}
}

// send sends pieces while it may.
func (ts *transfers) send(t *sending) error {
	h := ts.host
	for {
		ts.mu.Lock()
		at, run, seq := t.next, t.run, t.seq
		if t.state != sendRunning || at.phase > phaseEnd || t.inFlight >= h.cfg.TransferWindow ||
			t.inFlight > 0 && h.cfg.Transport.Room(t.p.node, LaneBulk) < h.cfg.ChunkBytes {
			t.pumping = false
			ts.mu.Unlock()
			return nil
		}
		ts.mu.Unlock()
		var b builder
		var pieces []sentPiece
		next := at
		for next.phase <= phaseEnd && b.bytes() < h.cfg.ChunkBytes {
			before := b.bytes()
			var err error
			p := piece{b: &b, run: run, seq: seq}
			if next, err = t.piece(&p, next); errors.Is(err, ErrDamaged) {
				ts.repair(t, err)
				return nil
			}
			if err != nil {
				ts.mu.Lock()
				t.pumping = false
				ts.mu.Unlock()
				return err
			}
			seq = p.seq
			pieces = append(pieces, sentPiece{next, b.bytes() - before})
		}
		sent := b.empty() || h.cfg.Transport.Send(t.p.node, LaneBulk, b.parts())
		ts.mu.Lock()
		if !sent {
			t.pumping = false // until it has drained, or the next tick
			ts.mu.Unlock()
			return nil
		}
		if t.run == run {
			t.next, t.seq = next, seq
			for _, p := range pieces {
				if p.size > 0 {
					t.unacked = append(t.unacked, p)
					t.inFlight += p.size
				}
			}
		}
		ts.mu.Unlock()
	}
}

// repair has repaired what a transfer reads, which goes on then. It is called by pump, which ends.
func (ts *transfers) repair(t *sending, cause error) {
	goOn := func(err error) {
		if err != nil {
			ts.giveUp(t, fmt.Errorf("%w (%w)", cause, err))
		}
		ts.mu.Lock()
		t.pumping = false
		ts.mu.Unlock()
		ts.pump(t)
	}
	if t.reading.At == 0 {
		t.g.call(t.g.renewSnapshot) // nobody else has this one
		goOn(errors.New("the stored state is damaged"))
		return
	}
	ts.host.repairs.start(t.g, t.reading, goOn)
}

// piece is a frame to which a piece is added.
type piece struct {
	b        *builder
	run, seq uint64 // of the next piece
}

// piece adds the piece at a place to a frame, if there is one, and returns the next place.
func (t *sending) piece(b *piece, at place) (next place, err error) {
	g, store := t.g, t.g.host.snapshots
	t.reading = Damage{}
	switch at.phase {
	case phaseState:
		if at.n >= uint64(t.kept.Count) {
			return place{phaseObjects, 0, 0}, nil
		}
		data, err := store.Object(g.log, t.kept.Objects+at.n)
		if err != nil {
			return at, err
		}
		t.add(b, at, 0, 0, data)
		return place{phaseState, at.n + 1, 0}, nil
	case phaseObjects:
		if t.keys == nil {
			data, err := store.Object(g.log, t.kept.Objects+uint64(t.kept.Count)-1)
			if err != nil {
				return at, err
			}
			if t.keys, err = decodeManifest(data); err != nil {
				return at, err
			}
		}
		if at.n >= uint64(len(t.keys)) {
			return place{phaseEntries, 1, 0}, nil
		}
		t.reading = Damage{Object: true, At: t.keys[at.n]}
		data, err := store.Object(g.log, t.keys[at.n])
		if err != nil {
			return at, err
		}
		t.add(b, at, t.keys[at.n], 0, data)
		return place{phaseObjects, at.n + 1, 0}, nil
	case phaseEntries:
		return t.entryPiece(b, at)
	default:
		t.add(b, at, 0, 0, nil)
		return place{phaseNone, 0, 0}, nil
	}
}

// entryPiece adds needed parts of the first entry at or after a place that has any, up to ChunkBytes.
func (t *sending) entryPiece(b *piece, at place) (next place, err error) {
	g, store := t.g, t.g.host.snapshots
	r, ok := g.machine.(Retainer)
	if !ok {
		return place{phaseEnd, 0, 0}, nil
	}
	index, parts := uint64(0), []Range(nil)
	err = r.Live(at.n, t.kept.Index+1, func(i uint64, live []Range) bool {
		from := uint64(0)
		if i == at.n {
			from = at.off
		}
		parts = parts[:0]
		for _, p := range live {
			lo, hi := max(uint64(p.Off), from), uint64(p.Off)+uint64(p.Len)
			if lo < hi {
				parts = append(parts, Range{uint32(lo), uint32(hi - lo)})
			}
		}
		index = i
		return len(parts) == 0
	})
	if err != nil {
		return at, err
	}
	if len(parts) == 0 {
		return place{phaseEnd, 0, 0}, nil
	}
	t.reading = Damage{At: index}
	term, size, err := store.Stat(g.log, index)
	if err != nil {
		return at, err
	}
	room := uint32(g.cfg.ChunkBytes)
	next = place{phaseEntries, index + 1, 0}
	for i := range parts {
		if parts[i].Len > room {
			parts[i].Len = room
			next = place{phaseEntries, index, uint64(parts[i].Off) + uint64(room)}
			parts = parts[:i+1]
			break
		}
		if room -= parts[i].Len; room == 0 && i+1 < len(parts) {
			next = place{phaseEntries, index, uint64(parts[i+1].Off)}
			parts = parts[:i+1]
			break
		}
	}
	parts = slices.DeleteFunc(parts, func(p Range) bool { return p.Len == 0 })
	head, sum := binary.AppendUvarint(nil, uint64(len(parts))), 0
	for _, p := range parts {
		head = binary.AppendUvarint(head, uint64(p.Off))
		head = binary.AppendUvarint(head, uint64(p.Len))
		sum += int(p.Len)
	}
	data := append(make([]byte, 0, len(head)+sum), head...)
	for _, p := range parts {
		n := len(data)
		data = data[:n+int(p.Len)]
		if err := t.readEntry(index, int(p.Off), data[n:]); err != nil {
			return at, err
		}
	}
	t.add(b, place{phaseEntries, index, uint64(parts[0].Off)}, term, uint64(size), data)
	return next, nil
}

// readEntry fills p with a part of an entry.
func (t *sending) readEntry(index uint64, off int, p []byte) error {
	if t.readAt == nil {
		store, log := t.g.host.snapshots, t.g.log
		if bulk, ok := store.(BulkStore); ok {
			t.readAt = bulk.Bulk(log)
		} else {
			t.readAt = func(index uint64, off int, p []byte) error { return store.ReadAt(log, index, off, p) }
		}
	}
	return t.readAt(index, off, p)
}

func (t *sending) add(p *piece, at place, a, c uint64, data []byte) {
	start := p.b.begin(t.g.host.incarnation, recPiece, t.g.id)
	p.b.uvarints(t.id, at.phase, at.n, at.off, a, c, p.run, p.seq)
	p.b.data(data)
	p.b.end(start)
	p.seq++
}
